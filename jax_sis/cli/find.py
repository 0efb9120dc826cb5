"""The options of `find` and `plan`."""

import argparse

from jax_sis.cli.options import add_ids_option, add_image_options, add_number_of_devices

FIND_DESCRIPTION = """\
Finds the sufficient input subset of every image and the smallest evidence for the same answer, prints a table as it
goes and writes a folder: gallery.png (image, subsets, order), summary.csv, summary.json, and results.zarr with the
whole order, its confidences and the smallest subsets. The same command again goes on with an unfinished run.

Columns of the table: confidence is that of the target class on the whole image. For each kind of subset (SIS: read from
the search's order of all pixels; smallest: the smallest evidence found) pixels and share are its size, and "alone" is
the confidence on the subset with the rest masked, from a fresh evaluation. The certificate says whether that suffices,
and how many of the pixels could each be dropped (1-minimal: none) or that no smaller subset exists (known of one pixel,
and of two once every single pixel was tried).
"""
FIND_EPILOG = """\
examples:
  jax-sis find
  jax-sis find --search smallest --thorough --out smallest
  jax-sis find --checkpoint runs/mine/classifier --data cifar10 --data-dir DATA --split 'test[:64]' --out runs/sis
  jax-sis find --data photos/ --resize --target cat --threshold 0.9
"""
PLAN_DESCRIPTION = """\
Says what `find` with the same options will do, before it does: images, steps, floating-point operations, bytes, and an
estimate of the time from a short timed probe on this machine. It writes nothing into the results folder.
"""
PLAN_EPILOG = """\
examples:
  jax-sis plan --data cifar10 --data-dir DATA --search gradient --per-step 4 --certificate alone
  jax-sis plan --checkpoint runs/resnet50 --data imagenet2012 --data-dir DATA --split train --resize \\
    --search gradient --per-step 100 --certificate alone --save mask --mask-fraction 0.1 --workers 64
"""


def add_find(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
  """`jax-sis find`."""
  parser = commands.add_parser(
    "find",
    help="find the sufficient input subset of each image",
    description=FIND_DESCRIPTION,
    epilog=FIND_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add_search_options(parser)
  workers = parser.add_argument_group("several machines")
  workers.add_argument(
    "--shard",
    metavar="I/N",
    help="do part I of N, counted from 0 (default: as srun, mpirun or a TPU pod started this process; else all)",
  )
  workers.add_argument(
    "--take-over",
    action="store_true",
    help="when the own part is done, do what other workers have not done yet, be they slow or dead",
  )
  workers.add_argument(
    "--distributed",
    action="store_true",
    help="join the other processes by jax.distributed first, where devices only start together; one dead process then "
    "ends all",
  )


def add_plan(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
  """`jax-sis plan`."""
  parser = commands.add_parser(
    "plan",
    help="say what a run of find will cost",
    description=PLAN_DESCRIPTION,
    epilog=PLAN_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add_search_options(parser)
  parser.add_argument_group("estimate").add_argument(
    "--workers", type=int, default=1, metavar="N", help="machines like this one that share the run (default: 1)"
  )


def add_search_options(parser: argparse.ArgumentParser) -> None:
  """Options on what is searched, how and where."""
  what = parser.add_argument_group("what to look at")
  add_image_options(what, kinds="an image file, a folder of images")
  add_ids_option(what)
  how = parser.add_argument_group("the question and the search")
  how.add_argument(
    "--threshold",
    type=float,
    default=0.99,
    metavar="P",
    help="the probability that a subset must reach (default: %(default)s)",
  )
  how.add_argument(
    "--target",
    default="predicted",
    help="whose confidence is kept up: 'predicted', 'label', or a class by name or number (default: %(default)s)",
  )
  how.add_argument(
    "--search",
    choices=("gradient", "screened", "exact", "smallest", "both"),
    default="both",
    help="gradient: one gradient ranks all pixels (the paper's; seconds an image); screened: the gradient and earlier "
    "trials name a few pixels, forward passes choose (exact's size; some ten seconds); exact: every pixel is tried "
    "at every step (minutes); smallest: pixels are added to the masked image, then dropped and exchanged (the smallest "
    "subsets; seconds, no order); both: gradient and smallest side by side (default: %(default)s)",
  )
  how.add_argument(
    "--thorough",
    action="store_true",
    help="look for the smallest subsets with four times the candidates and more exchanges (several times as long)",
  )
  how.add_argument(
    "--per-step",
    type=int,
    default=1,
    metavar="K",
    help="pixels that a step of the gradient search masks (default: %(default)s)",
  )
  how.add_argument(
    "--score",
    choices=("log_odds", "probability"),
    default="log_odds",
    help="what the search keeps up; probability is the original authors' and ties at 1.0 (default: %(default)s)",
  )
  how.add_argument(
    "--baseline",
    type=float,
    default=0.0,
    metavar="X",
    help="what a masked pixel shows, in normalised units (default: %(default)s, the data's mean colour)",
  )
  how.add_argument(
    "--patch", type=int, default=1, metavar="N", help="mask squares of N x N pixels together (default: %(default)s)"
  )
  how.add_argument(
    "--certificate",
    choices=("full", "alone"),
    default="full",
    help="full: evaluate each subset afresh, drop each of its pixels, look for smaller ones; alone: only the first of "
    "these, for large runs, since the others may take longer than the search (default: %(default)s)",
  )
  how.add_argument(
    "--precision",
    choices=("highest", "high", "default"),
    default="highest",
    help="of matrix products in the searches, on accelerators: highest is float32, default the fastest (TF32, "
    "bfloat16); certificates always have the highest (default: %(default)s)",
  )
  output = parser.add_argument_group("output")
  output.add_argument(
    "--out",
    default="jax-sis-results",
    metavar="DIR",
    help="results folder, or the URL of one in a bucket: gs://, s3://, s3+http://HOST:PORT/BUCKET/PATH "
    "(default: %(default)s)",
  )
  output.add_argument(
    "--save",
    choices=("order", "mask", "both"),
    default="order",
    help="keep each image's whole order and confidences, the masks of subsets in bits, or both (default: %(default)s)",
  )
  output.add_argument(
    "--mask-threshold",
    type=float,
    nargs="+",
    default=(),
    metavar="P",
    help="masks of the subsets at these confidences (default: at --threshold)",
  )
  output.add_argument(
    "--mask-fraction",
    type=float,
    nargs="+",
    default=(),
    metavar="S",
    help="masks of these shares of the pixels, the most needed ones, such as 0.05",
  )
  output.add_argument(
    "--unit",
    type=int,
    metavar="M",
    help="images that are stored together, a multiple of the batch (default: by the number of images, at most 256)",
  )
  output.add_argument(
    "--gallery", type=int, default=24, metavar="N", help="images that the gallery shows (default: %(default)s)"
  )
  devices = parser.add_argument_group("devices")
  devices.add_argument(
    "--batch",
    type=parse_batch,
    default=None,
    metavar="B|auto",
    help="images a device at a time; it is part of what the run is (default: auto, by the memory and the images)",
  )
  add_number_of_devices(devices)


def parse_batch(text: str) -> int | None:
  """A number of images, or None for `auto`."""
  if text == "auto":
    return None
  if not text.isdecimal():
    raise argparse.ArgumentTypeError(f"must be a number or 'auto', got {text!r}")
  return int(text)
