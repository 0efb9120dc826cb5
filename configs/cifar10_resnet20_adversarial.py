"""An adversarially trained ResNet-20 on CIFAR-10: PGD, L-infinity, radius 8/255, 7 steps of 2/255 (Madry et al. 2018).

    jax-sis train configs/cifar10_resnet20_adversarial.py --data-dir DATA --out runs/cifar10_resnet20_adversarial

A step costs eight of an ordinary training.
"""

from jax_sis.training.config import Pgd, Stage, StepSchedule, TrainConfig

config = TrainConfig(
  model="resnet20",
  dataset="cifar10",
  stages=(Stage(epochs=200, resolution=32),),
  batch_size=128,
  schedule=StepSchedule(initial=0.1, milestones=(60, 120, 160), factor=0.2),
  weight_decay=5e-4,
  adversarial=Pgd(radius=8 / 255, num_steps=7, step_size=2 / 255),
)
