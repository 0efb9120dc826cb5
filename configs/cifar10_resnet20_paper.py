"""ResNet-20 on CIFAR-10 by the recipe of Carter et al. (2021, section 3): 200 epochs of 32x32 images.

    jax-sis train configs/cifar10_resnet20_paper.py --data-dir DATA --out runs/cifar10_resnet20_paper

The shorter recipe that made the embedded classifier is in configs/cifar10_resnet20.py.
"""

from jax_sis.training.config import Stage, StepSchedule, TrainConfig

config = TrainConfig(
  model="resnet20",
  dataset="cifar10",
  stages=(Stage(epochs=200, resolution=32),),
  batch_size=128,
  schedule=StepSchedule(initial=0.1, milestones=(60, 120, 160), factor=0.2),
  weight_decay=5e-4,
)
