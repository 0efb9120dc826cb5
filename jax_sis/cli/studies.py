"""The options of the commands that study a classifier on images without a run of `find`: `attributions`, `disjoint`."""

import argparse

from jax_sis.cli.options import add_device_options, add_ids_option, add_image_options

ATTRIBUTIONS_DESCRIPTION = """\
What does a search add to an attribution? Ranks the pixels of the same images by searches, by attribution methods and at
random, and asks each order the same: how many of its first pixels suffice for the threshold, and how confidence goes
while pixels are shown (insertion) or masked (deletion) in that order. The images are the first ones of the data of
which the classifier is that confident as a whole.

methods, of which the first named is what the others are compared with:
  sis                   gradient search, one pixel a step
  sis_batched           the same, --per-step pixels a step
  screened              gradient and forward passes choose (some ten core-seconds an image; only where named)
  smallest              the smallest evidence that jax-sis find looks for; a size, but no order
  gradient_x_input      one gradient at the whole image, times the image
  integrated_gradients  Sundararajan et al. 2017, 64 gradients
  grad_cam              Selvaraju et al. 2017; left out where the classifier has no one last feature map, as ensembles
  occlusion             what the log-odds lose without a pixel
  occlusion_5x5         the same for a window around it (Zeiler and Fergus 2014)
  rise                  Petsiuk et al. 2018, 4,000 random masks, of the probability as there
  rise_log_odds         the same of the log-odds (only where named)
  random                an order by chance

It prints a table with paired bootstrap intervals and its reading, and writes attributions.json (all numbers),
attributions.csv (a line a method and image) and attributions.png. Each method is kept as it is done: the same command
again goes on with those that are missing, and so does one that names more methods.
"""
ATTRIBUTIONS_EPILOG = """\
examples:
  jax-sis attributions
  jax-sis attributions --data cifar10 --data-dir DATA --images 32 --out runs/attributions
  jax-sis attributions --checkpoint runs/mine/classifier --data cifar10 --data-dir DATA --methods sis grad_cam random
"""

DISJOINT_DESCRIPTION = """\
How many separate reasons does a classifier have for its answer? Finds a sufficient subset of each image, takes its
pixels away, and looks for the next one in what is left, until that does not suffice (SIS-collection, Carter et al.
2019): disjoint subsets, each of which alone makes the classifier confident. The search is the gradient's, so that the
number is a lower bound of what there is.

It prints how many images have how many subsets and how often the classifier is right about them; the size of the
subset found first, second, and so on; and whether wrong predictions have fewer than right ones, as they are and at the
same confidence. It writes disjoint.json (all numbers), disjoint.csv (a line an image) and disjoint.png. The same
command again goes on with an unfinished run.
"""
DISJOINT_EPILOG = """\
examples:
  jax-sis disjoint
  jax-sis disjoint --data cifar10 --data-dir DATA --split 'test[:1000]' --out runs/disjoint
  jax-sis disjoint --data cifar10 --data-dir DATA --images 100 --per-step 1 --minimised --max-subsets 64
"""


def add_attributions(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
  """`jax-sis attributions`."""
  parser = commands.add_parser(
    "attributions",
    help="compare searches with attribution methods by the same curves",
    description=ATTRIBUTIONS_DESCRIPTION,
    epilog=ATTRIBUTIONS_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  what = parser.add_argument_group("what to look at")
  add_image_options(what, kinds="an image file, a folder of images")
  add_ids_option(what)
  what.add_argument(
    "--images",
    type=int,
    default=16,
    metavar="N",
    help="the first N images of which the classifier is confident enough (default: %(default)s)",
  )
  how = parser.add_argument_group("the question")
  add_threshold_option(how)
  how.add_argument("--methods", nargs="+", metavar="NAME", help="see above (default: all but those that say otherwise)")
  how.add_argument(
    "--per-step",
    type=int,
    default=16,
    metavar="K",
    help="pixels that a step of sis_batched masks (default: %(default)s)",
  )
  add_patch_option(how)
  how.add_argument(
    "--seed", type=int, default=0, metavar="S", help="of all that is random, intervals among it (default: %(default)s)"
  )
  add_out_option(parser, default="jax-sis-attributions")
  add_device_options(parser, batch_default=4)


def add_disjoint(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
  """`jax-sis disjoint`."""
  parser = commands.add_parser(
    "disjoint",
    help="count the disjoint sufficient subsets of each image",
    description=DISJOINT_DESCRIPTION,
    epilog=DISJOINT_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  what = parser.add_argument_group("what to look at")
  add_image_options(what, kinds="an image file, a folder of images")
  add_ids_option(what)
  what.add_argument("--images", type=int, metavar="N", help="the first N images (default: all)")
  how = parser.add_argument_group("the question and the search")
  add_threshold_option(how)
  how.add_argument(
    "--per-step",
    type=int,
    default=16,
    metavar="K",
    help="pixels that a search step masks (default: %(default)s)",
  )
  how.add_argument(
    "--max-subsets",
    type=int,
    default=16,
    metavar="R",
    help="the number at which an image is done; images that reach it are counted apart (default: %(default)s)",
  )
  how.add_argument(
    "--minimised",
    action="store_true",
    help="drop and exchange pixels of each subset before they are taken away: smaller and more subsets, slower",
  )
  add_patch_option(how)
  how.add_argument("--seed", type=int, default=0, metavar="S", help="of all intervals (default: %(default)s)")
  add_out_option(parser, default="jax-sis-disjoint")
  add_device_options(parser, batch_default=16)


def add_threshold_option(group: "argparse._ArgumentGroup") -> None:
  """`--threshold`."""
  group.add_argument(
    "--threshold",
    type=float,
    default=0.99,
    metavar="P",
    help="the probability that a subset must reach (default: %(default)s)",
  )


def add_patch_option(group: "argparse._ArgumentGroup") -> None:
  """`--patch`."""
  group.add_argument(
    "--patch", type=int, default=1, metavar="N", help="mask squares of N x N pixels together (default: %(default)s)"
  )


def add_out_option(parser: argparse.ArgumentParser, *, default: str) -> None:
  """`--out`."""
  output = parser.add_argument_group("output")
  output.add_argument("--out", default=default, metavar="DIR", help="results folder (default: %(default)s)")
