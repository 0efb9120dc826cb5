"""What the command line takes: every command's options, with their help."""

import argparse

from jax_sis.cli import classifiers, datasets, find, reproduce, runs, studies
from jax_sis.version import __version__

DESCRIPTION = """\
Which few pixels are enough for an image classifier's answer? jax-sis finds the sufficient input subset (SIS) of each
image: a small set of pixels on which the classifier alone, everything else masked, is still confident. Where such a
set shows nothing that a person could recognise, the classifier overinterprets (Carter et al., NeurIPS 2021).
"""
EPILOG = """\
examples:
  jax-sis find                                        the embedded ResNet-20 on 24 CIFAR-10 test images
  jax-sis find --search smallest --out small          only the smallest evidence
  jax-sis find --data photos/ --resize --out answer   your own images
  jax-sis evaluate --corruptions made                 how often it is right, and how sure, also on corrupted images
  jax-sis bench --batch 8 32                          how fast this machine is
"""


def make_parser() -> argparse.ArgumentParser:
  """The command line."""
  parser = argparse.ArgumentParser(
    prog="jax-sis", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--version", action="version", version=f"jax-sis {__version__}")
  commands = parser.add_subparsers(dest="command", required=True, metavar="command", title="commands")
  find.add_find(commands)
  find.add_plan(commands)
  runs.add_verify(commands)
  runs.add_controls(commands)
  runs.add_status(commands)
  runs.add_export(commands)
  runs.add_analyse(commands)
  studies.add_attributions(commands)
  studies.add_disjoint(commands)
  runs.add_report(commands)
  classifiers.add_evaluate(commands)
  classifiers.add_bench(commands)
  classifiers.add_train(commands)
  classifiers.add_checkpoint(commands)
  reproduce.add_reproduce(commands)
  datasets.add_data(commands)
  return parser
