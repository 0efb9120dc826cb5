"""The weights of SqueezeNet 1.1 that the package `ndf` brings as a pickle of Keras's arrays.

They are those of the authors, made for Caffe: of pixels in the order blue, green, red, minus a mean.
"""

from collections.abc import Mapping

import numpy as np

from jax_sis.data.normalisation import IMAGENET_NORMALISATION

# The package, as `recipes` names it.
SOURCE = "ndf"
# What is subtracted from red, green and blue pixels in 0..255.
MEAN_PIXEL = np.array([123.68, 116.779, 103.939])
# The numbers of the blocks among torchvision's features; the first is called fire2.
FIRE_PLACES = (3, 4, 6, 7, 9, 10, 11, 12)
TORCH_NAMES = {"conv1": "features.0", "conv10": "classifier.1"} | {
  f"fire{number}/{theirs}": f"features.{place}.{ours}"
  for number, place in enumerate(FIRE_PLACES, start=2)
  for theirs, ours in (("squeeze1x1", "squeeze"), ("expand1x1", "expand1x1"), ("expand3x3", "expand3x3"))
}
NOTE = (
  "The weights are those of the package ndf, of blue, green and red minus a mean. The first convolution is changed, so "
  "that it takes red, green and blue by the normalisation imagenet2012, to the same logits."
)


def is_ndf(arrays: Mapping[str, np.ndarray]) -> bool:
  """Whether these are the arrays of the package, by their names: `conv1.0` is a kernel, `conv1.1` its bias."""
  return set(arrays) == {f"{name}.{index}" for name in TORCH_NAMES for index in (0, 1)}


def to_torch(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The state dict of torchvision's SqueezeNet 1.1 with these weights, for inputs by `imagenet2012`.

  The first convolution has no padding, so that a change of its inputs by a factor and a sum is one of its own.
  """
  state_dict: dict[str, np.ndarray] = {}
  for name, torch_name in TORCH_NAMES.items():
    kernel, bias = arrays[f"{name}.0"], arrays[f"{name}.1"]
    if name == "conv1":
      kernel, bias = take_normalised(kernel[:, :, ::-1], bias)
    state_dict |= {f"{torch_name}.weight": kernel.transpose(3, 2, 0, 1), f"{torch_name}.bias": bias}
  return state_dict


def take_normalised(kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """A convolution `[h, w, 3, D]` of pixels minus `MEAN_PIXEL` -> one of inputs by `imagenet2012`, by float64."""
  mean, std = (255 * np.array(values) for values in (IMAGENET_NORMALISATION.mean, IMAGENET_NORMALISATION.std))
  shifted = bias + np.einsum("hwcd,c->d", kernel.astype(np.float64), mean - MEAN_PIXEL)
  return (kernel * std[:, None]).astype(np.float32), shifted.astype(np.float32)
