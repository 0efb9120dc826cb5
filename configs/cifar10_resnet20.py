"""The `budget` recipe: ResNet-20 on CIFAR-10 to 91 % in 34 minutes on two cores; the checkpoint in `jax_sis/assets`.

    jax-sis train configs/cifar10_resnet20.py --data-dir DATA --out runs/cifar10_resnet20

Trains on all 50,000 training images; the checkpoint is that of the final epoch, and no test image is looked at.
The first 18 epochs see images at 24x24, which costs about half of 32x32.
"""

from jax_sis.training.config import Augmentation, Stage, TrainConfig, TriangularSchedule

config = TrainConfig(
  model="resnet20",
  dataset="cifar10",
  stages=(Stage(epochs=18, resolution=24), Stage(epochs=14, resolution=32)),
  batch_size=128,
  num_devices=2,
  schedule=TriangularSchedule(peak=0.15, warmup_epochs=3),
  weight_decay=5e-4,
  augmentation=Augmentation(crop_padding=3, border="reflect", flip="alternating"),
  seed=0,
)
