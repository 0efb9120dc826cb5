"""A small vision transformer on CIFAR-10, of 8x8 tokens of 4x4 pixels and 1.2 million parameters.

    jax-sis train configs/cifar10_vit_cifar.py --data-dir DATA --out runs/cifar10_vit_cifar

Trains on all 50,000 training images; the checkpoint is that of the final epoch, and no test image is looked at.
"""

from jax_sis.training.config import Augmentation, Stage, TrainConfig, TriangularSchedule

config = TrainConfig(
  model="vit_cifar",
  dataset="cifar10",
  stages=(Stage(epochs=16, resolution=32),),
  batch_size=128,
  num_devices=2,
  schedule=TriangularSchedule(peak=1e-3, warmup_epochs=2),
  optimizer="adamw",
  weight_decay=0.05,
  augmentation=Augmentation(crop_padding=3, border="reflect", flip="alternating"),
  seed=0,
)
