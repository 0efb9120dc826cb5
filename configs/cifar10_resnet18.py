"""ResNet-18 on CIFAR-10 by the recipe of Carter et al. (2021, section 3): 200 epochs, made for an accelerator.

    jax-sis train configs/cifar10_resnet18.py --data-dir DATA --out runs/cifar10_resnet18

`--set seed=1` gives another member of an ensemble, `--set keep_pixels=0.8` the paper's input dropout.
"""

from jax_sis.training.config import Stage, StepSchedule, TrainConfig

config = TrainConfig(
  model="resnet18",
  dataset="cifar10",
  stages=(Stage(epochs=200, resolution=32),),
  batch_size=128,
  schedule=StepSchedule(initial=0.1, milestones=(60, 120, 160), factor=0.2),
  weight_decay=5e-4,
)
