"""The options of `data`."""

import argparse

DATA_DESCRIPTION = """\
Data sets on this machine. `find --data` and `train` read TFDS data sets in array_record form; nothing here needs
TensorFlow or a network.
"""
PREPARE_DESCRIPTION = """\
Makes a TFDS data set from the original archive, with the images, labels, names and ids that TFDS itself would give. It
takes well under a minute and 140 MB of disk. An interrupted run leaves no data set; the same command begins anew.
"""
PREPARE_EPILOG = """\
examples:
  jax-sis data prepare cifar10 --from cifar-10-binary.tar.gz --data-dir DATA
  jax-sis data prepare cifar100 --from downloads/cifar-100-binary/ --data-dir DATA
"""


def add_data(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
  """`jax-sis data`, a group of commands."""
  parser = commands.add_parser(
    "data",
    help="make data sets ready",
    description=DATA_DESCRIPTION,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  subcommands = parser.add_subparsers(
    dest="data_command", required=True, metavar="command", title="commands", help="what to do"
  )
  prepare = subcommands.add_parser(
    "prepare",
    help="make a TFDS data set from the original CIFAR archive",
    description=PREPARE_DESCRIPTION,
    epilog=PREPARE_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  prepare.set_defaults(command="data prepare")
  prepare.add_argument("name", choices=("cifar10", "cifar100"), help="the data set: cifar10 or cifar100")
  prepare.add_argument(
    "--from",
    dest="source",
    required=True,
    metavar="PATH",
    help="the original archive, binary version (such as cifar-10-binary.tar.gz), or the folder that it unpacks to",
  )
  prepare.add_argument("--data-dir", metavar="DIR", help="the TFDS folder that gets it (default: TFDS's own)")
