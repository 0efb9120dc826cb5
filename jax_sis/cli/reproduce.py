"""The options of `reproduce`."""

import argparse

REPRODUCE_DESCRIPTION = """\
The study of Carter et al. (NeurIPS 2021) on CIFAR-10, in one command: classifiers are trained on whole images, on the
5 % of the pixels that backward selection leaves and on 5 % at random, and each is tested on each; subsets of one
classifier are shown to others; an ensemble and input dropout are compared by the size of their subsets; what may leak
is controlled; and a sample says what exact orders would change. It prints the tables and the paper's claims beside the
numbers found here, and writes study.json, study.csv, pictures and report.html, one page that needs no network.

Each stage is one of the other commands, and its folder in OUT/stages is named after its settings and what its inputs
hold. So what is done is not done again, an interrupted study goes on with the same command, and a stage whose inputs
changed runs again and says why.

  smoke   every kind of stage, adversarial training included, on a few hundred images, in minutes. It proves that
          everything runs, and nothing about classifiers.
  budget  ResNet-20, ten epochs a training, sixteen pixels a step of the gradient search: some hours on two cores.
  paper   the paper's architectures and recipes and exact orders of every image, for accelerators.
"""
REPRODUCE_EPILOG = """\
examples:
  jax-sis reproduce --preset smoke --data-dir DATA --out runs/smoke
  jax-sis reproduce --preset budget --data-dir DATA --out runs/study --plan
  jax-sis reproduce --preset budget --data-dir DATA --out runs/study
"""


def add_reproduce(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
  """`jax-sis reproduce`."""
  parser = commands.add_parser(
    "reproduce",
    help="run the paper's study of CIFAR-10",
    description=REPRODUCE_DESCRIPTION,
    epilog=REPRODUCE_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--preset", choices=("smoke", "budget", "paper"), required=True, help="the size of the study")
  parser.add_argument("--data-dir", metavar="DIR", help="the folder that holds TFDS's cifar10 (default: TFDS's own)")
  parser.add_argument("--out", metavar="DIR", help="the study's folder (default: jax-sis-study-PRESET)")
  instead = parser.add_mutually_exclusive_group()
  instead.add_argument(
    "--plan", action="store_true", help="run nothing: list the stages, what is done and what the rest takes"
  )
  instead.add_argument(
    "--summary", action="store_true", help="run nothing: write tables and report of the stages that are done"
  )
