"""Options that several commands share."""

import argparse


def add_image_options(group: "argparse._ArgumentGroup", *, kinds: str) -> None:
  """The classifier and the images that it looks at.

  Args:
    group: gets the options.
    kinds: what `--data` may be, beside the sample and a TFDS name.
  """
  group.add_argument("--checkpoint", metavar="DIR", help="a classifier's folder (default: the embedded ResNet-20)")
  group.add_argument(
    "--data",
    default="sample",
    help=f"'sample' (embedded CIFAR-10 test images), {kinds}, or a TFDS name such as cifar10 (default: %(default)s)",
  )
  group.add_argument("--data-dir", metavar="DIR", help="the folder that holds the TFDS data set (default: TFDS's own)")
  group.add_argument("--split", default="test", help="the TFDS split, for example 'test[:64]' (default: %(default)s)")
  group.add_argument(
    "--resize", action="store_true", help="show the middle of images of another size, brought to the classifier's"
  )


def add_ids_option(group: "argparse._ArgumentGroup") -> None:
  """`--ids`."""
  group.add_argument(
    "--ids", metavar="FILE", help="only the images that this text file names, an id a line, in its order (default: all)"
  )


def add_device_options(parser: argparse.ArgumentParser, *, batch_default: int | tuple[int, ...]) -> None:
  """Options on where a search runs."""
  group = parser.add_argument_group("devices")
  several = isinstance(batch_default, tuple)
  group.add_argument(
    "--batch",
    type=int,
    nargs="+" if several else None,
    default=batch_default,
    metavar="B",
    help=f"images a device at a time{', a line of the table each' if several else ''} "
    f"(default: {' '.join(map(str, batch_default)) if several else batch_default})",
  )
  add_number_of_devices(group)


def add_number_of_devices(group: "argparse._ArgumentGroup") -> None:
  """`--devices`."""
  group.add_argument(
    "--devices", type=int, metavar="D", help="devices to use (default: all; on a CPU one device a core)"
  )


def add_subset_options(parser: argparse.ArgumentParser) -> None:
  """Options on which pixels of each image are shown."""
  group = parser.add_argument_group("pixel subsets: show some pixels of each image alone")
  group.add_argument(
    "--subset",
    metavar="RUN",
    help="those of a run of find on these images: its folder, or a file that export --to FILE.npz --masks NAME wrote",
  )
  group.add_argument(
    "--subset-fraction", type=float, metavar="S", help="of that run, this share of the pixels, the most needed ones"
  )
  group.add_argument(
    "--subset-threshold",
    type=float,
    metavar="P",
    help="of that run, the subset that reaches this confidence (default: the run's)",
  )
  group.add_argument(
    "--subset-answer",
    choices=("sis", "smallest"),
    help="of that run, the subset read from the order of all pixels, or the smallest evidence found (default: sis)",
  )
  group.add_argument(
    "--random-fraction", type=float, metavar="S", help="instead of --subset, this share of the pixels at random"
  )
  group.add_argument(
    "--subset-seed", type=int, metavar="N", help="fixes, with an image's id, which random ones these are (default: 0)"
  )
  group.add_argument(
    "--fill",
    type=float,
    metavar="X",
    help="what the other pixels show, in normalised units, also if the run masked with another value (default: 0, the "
    "data's mean colour, and then the run must have used it, too)",
  )
