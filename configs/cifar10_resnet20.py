"""ResNet-20 on CIFAR-10, the checkpoint that ships in `jax_sis/assets`.

    jax-sis train configs/cifar10_resnet20.py --data-dir DATA --out runs/cifar10_resnet20

Trains on all 50,000 training images; the checkpoint is that of the final epoch, and no test image is looked at.
The first 18 epochs see images at 24x24, which costs about half of 32x32.
"""

from jax_sis.config import Stage, TrainConfig

config = TrainConfig(
  model="resnet20",
  dataset="cifar10",
  stages=(Stage(epochs=18, resolution=24), Stage(epochs=14, resolution=32)),
  batch_size=128,
  num_shards=2,
  peak_learning_rate=0.15,
  warmup_epochs=3,
  weight_decay=5e-4,
  crop_padding=3,
  seed=0,
)
