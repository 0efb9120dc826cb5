"""ResNet-20 on pixel subsets of CIFAR-10, in 20 epochs of 32x32 images.

It has not been run whole yet; at the throughput in docs/results/benchmarks.md, two cores take half an hour. What ten
epochs give stands in docs/results, from `jax-sis reproduce --preset budget`.

    jax-sis train configs/cifar10_resnet20_subset.py --data-dir DATA --subset RUN --subset-fraction 0.05 --out runs/bs
    jax-sis train configs/cifar10_resnet20_subset.py --data-dir DATA --random-fraction 0.05 --out runs/random
    jax-sis train configs/cifar10_resnet20_subset.py --data-dir DATA --out runs/full

RUN is a run of `find` on `--data cifar10 --split train`. The third trains on whole images, to compare. There is no
stage of smaller images, since resizing would mix the pixels that are shown with what stands for the others.
"""

from jax_sis.training.config import Augmentation, Stage, TrainConfig, TriangularSchedule

config = TrainConfig(
  model="resnet20",
  dataset="cifar10",
  stages=(Stage(epochs=20, resolution=32),),
  batch_size=128,
  num_devices=2,
  schedule=TriangularSchedule(peak=0.15, warmup_epochs=3),
  weight_decay=5e-4,
  augmentation=Augmentation(crop_padding=3, border="reflect", flip="alternating"),
  seed=0,
)
