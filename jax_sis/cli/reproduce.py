"""The commands `reproduce` and `audit`, which work by stages."""

import dataclasses
from typing import Annotated

from jax_sis.cli.options import get_devices_ready
from jax_sis.cli.parsing import Command
from jax_sis.reproduction.audit.config import AuditConfig
from jax_sis.reproduction.config import ReproduceConfig
from jax_sis.runtime.command_line import Option


@dataclasses.dataclass(frozen=True, kw_only=True)
class StagesOptions:
  """What to do instead of the study.

  Attributes:
    is_plan: run nothing: list the stages, what is done and what the rest takes.
  """

  is_plan: Annotated[bool, Option(name="plan")] = False


def run_reproduce(config: ReproduceConfig, options: StagesOptions) -> None:
  if options.is_plan and config.is_summary:
    raise ValueError("--plan and --summary must not both be given; each runs nothing and shows something else.")
  get_devices_ready()
  from jax_sis.reproduction import program

  (program.show_plan if options.is_plan else program.reproduce)(config)


def run_audit(config: AuditConfig, options: StagesOptions) -> None:
  get_devices_ready(config.num_devices)
  from jax_sis.reproduction.audit import program

  (program.show_plan if options.is_plan else program.audit)(config)


COMMANDS = {
  "reproduce": Command(
    settings=(ReproduceConfig, StagesOptions),
    run_fn=run_reproduce,
    description="""\
The study of Carter et al. (NeurIPS 2021) on CIFAR-10, in one command: classifiers are trained on whole images, on the
5 % of the pixels that backward selection leaves and on 5 % at random, and each is tested on each; subsets of one
classifier are shown to others; an ensemble and input dropout are compared by the size of their subsets; what may leak
is controlled; and a sample says what exact orders would change. With --preset imagenet, instead, what trained
classifiers of photographs need: how few pixels, whether they lie at the border, and what border, centre and random
pixels say by themselves, beside leak controls. It prints the tables and the paper's claims beside the
numbers found here, and writes study.json, study.csv, pictures and report.html, one page that needs no network.

Each stage is one of the other commands, and its folder in OUT/stages is named after its settings and what its inputs
hold. So what is done is not done again, an interrupted study goes on with the same command, and a stage whose inputs
changed runs again and says why.
""",
    tables={
      "presets": {
        "smoke": "every kind of stage, adversarial training included, on a few hundred images, in minutes. It proves "
        "that everything runs, and nothing about classifiers.",
        "budget": "ResNet-20, ten epochs a training, sixteen pixels a step of the gradient search: some hours on two "
        "cores.",
        "paper": "the paper's architectures and recipes and exact orders of every image, for accelerators.",
        "imagenet": "one or more trained classifiers on a folder of photographs, 100 pixels a step: minutes on an "
        "accelerator, some hours on two cores.",
      }
    },
    examples=(
      "reproduce --preset smoke --data-dir DATA --out runs/smoke",
      "reproduce --preset budget --data-dir DATA --out runs/study --plan",
      "reproduce --preset budget --data-dir DATA --out runs/study",
      "reproduce --preset imagenet --data photos --checkpoint imagenet --checkpoint other --out runs/photos",
    ),
  ),
  "audit": Command(
    settings=(AuditConfig, StagesOptions),
    run_fn=run_audit,
    description="""\
Can this classifier be trusted? For each class: how often it is right, what the pixels that suffice share, what its
logit is made of, how many images hang on that and what taking it away does; and a list of what to look at first, by how
many images of other classes each thing turns into its class by itself. It writes audit.html, one page with the pictures
that needs no network, and audit.json (all numbers).

It is made of the commands ranking, find, clusters, controls and components, by stages as reproduce has them: it says at
the start what each takes, what is done is not done again, and the same command goes on with an unfinished audit.
""",
    tables={
      "presets": {
        "full": "to decide: at most 10,000 images judged and 5,000 searched. Under an hour on two cores with a "
        "ResNet-20.",
        "smoke": "a first look, at 1,000 and 600 images, in minutes.",
      }
    },
    examples=(
      "audit --data cifar10 --train-split train --data-dir DATA --plan",
      "audit --data cifar10 --train-split train --data-dir DATA --out runs/audit",
      "audit runs/mine/classifier --data photos/ --resize --preset smoke",
      "audit --model nets.py:load --data images.npy",
    ),
    groups={
      "image": "checkpoint model_function data data_dir split train_split resize background",
      "output": "out",
      "device": "num_devices",
    },
  ),
}
