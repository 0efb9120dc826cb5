"""How the inputs of published weights are made, which no file of weights says: size, framing and normalisation."""

import dataclasses
import os
import pathlib
from typing import Literal

from jax_sis.data.images import Framing, WholePixels
from jax_sis.data.normalisation import IMAGENET_NORMALISATION, Normalisation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
  """How a classifier's input is made.

  Attributes:
    name: interpolation, pixels a side, pixels of the shorter side of which these are the middle, and whose numbers are
      made of them where they are not ImageNet's.
    size: pixels a side.
    framing: what is shown of an image of another size.
    normalisation: what is made of its pixels.
  """

  name: str
  size: int
  framing: Framing
  normalisation: Normalisation

  def __str__(self) -> str:
    mean, std = (", ".join(f"{value:.3f}" for value in values) for values in dataclasses.astuple(self.normalisation))
    return f"{self.name} (the {say_framing(self.size, self.framing)}; less {mean}, by {std})"


def say_framing(size: int, framing: Framing) -> str:
  """`middle 224 pixels of 256 of the shorter side, bicubic`."""
  if framing.interpolation == "none":
    return f"middle {size} pixels as they are"
  return f"middle {size} pixels of {size / framing.crop:.0f} of the shorter side, {framing.interpolation}"


NORMALISATIONS = {
  "imagenet": IMAGENET_NORMALISATION,
  "half": Normalisation(mean=(0.5,) * 3, std=(0.5,) * 3),
  # TensorFlow's (pixel - 127) / 128.
  "lite": Normalisation(mean=(127 / 255,) * 3, std=(128 / 255,) * 3),
}


def make_recipe(
  interpolation: Literal["bilinear", "bicubic"],
  size: int,
  short_side: int,
  numbers: str = "imagenet",
  whole_pixels: WholePixels = "resized",
) -> Recipe:
  suffix = "" if numbers == "imagenet" else f"-{numbers}"
  return Recipe(
    name=f"{interpolation}-{size}-{short_side}{suffix}",
    size=size,
    framing=Framing(crop=size / short_side, interpolation=interpolation, whole_pixels=whole_pixels),
    normalisation=NORMALISATIONS[numbers],
  )


OF_TORCHVISION = make_recipe("bilinear", 224, 256)
# Its second weights, and those of ConvNeXt.
OF_TORCHVISION_V2 = make_recipe("bilinear", 224, 232)
OF_TIMM = make_recipe("bicubic", 224, 256)
# Of timm's transformers, and the same of DeiT.
OF_VIT, OF_DEIT = make_recipe("bicubic", 224, 248, "half"), make_recipe("bicubic", 224, 248)
# The authors' sizes, of which TensorFlow shows 32 pixels less, in whole pixels of the original. Its bilinear
# interpolation leaves out pixels where it shrinks an image; Pillow's bicubic one is nearest to it, which timm found.
LITE = tuple(make_recipe("bicubic", size, size + 32, "lite", "original") for size in (224, 240, 260, 280, 300))
LITE_OF_TIMM = (
  make_recipe("bicubic", 224, 256, "half"),
  make_recipe("bicubic", 240, 272, "half"),
  make_recipe("bicubic", 260, 292, "half"),
  make_recipe("bilinear", 300, 331, "half"),
  make_recipe("bilinear", 380, 413, "half"),
)
OTHERS = (
  make_recipe("bilinear", 224, 236),
  # Torchvision's normalisation is undone inside, as the weights are TensorFlow's.
  make_recipe("bilinear", 299, 342, "half"),
  # Of the authors' SqueezeNet in the package ndf. Caffe squeezes the image into a square of 256 pixels, of which these
  # are the middle; this is the nearest that does not.
  make_recipe("bilinear", 227, 256),
  make_recipe("bicubic", 224, 235),
  # Transformers' ViT squeezes the whole image into a square, which distorts it; this is the nearest that does not.
  make_recipe("bilinear", 224, 224, "half"),
)
RECIPES = {
  recipe.name: recipe
  for recipe in (OF_TORCHVISION, OF_TORCHVISION_V2, OF_TIMM, OF_VIT, OF_DEIT, *LITE, *LITE_OF_TIMM, *OTHERS)
}
# By architecture, and whose names the weights have, `` for all others: the recipe of the most used ones.
PUBLISHED: dict[str, dict[str, Recipe]] = {
  **{
    name: {"": OF_TORCHVISION, "transformers": OF_TIMM}
    for name in ("resnet18_imagenet", "resnet34", "resnet50", "resnet101")
  },
  "inception_v3": {"": RECIPES["bilinear-299-342-half"]},
  "squeezenet1_1": {"": OF_TORCHVISION, "ndf": RECIPES["bilinear-227-256"]},
  "convnext_t": {"": OF_TIMM, "torchvision": RECIPES["bilinear-224-236"]},
  "vit_s_16": {"": OF_VIT, "transformers": RECIPES["bilinear-224-224-half"]},
  "vit_b_16": {"": OF_VIT, "torchvision": OF_TORCHVISION, "transformers": RECIPES["bilinear-224-224-half"]},
  **{
    f"deit_{size}{kind}": {"": OF_DEIT, "transformers": OF_TIMM}
    for size in ("tiny", "small", "base")
    for kind in ("", "_distilled")
  },
  **{
    f"efficientnet_lite{number}": {"": recipe, "timm": of_timm}
    for number, (recipe, of_timm) in enumerate(zip(LITE, LITE_OF_TIMM, strict=True))
  },
  "efficientnet_b0": {"": OF_TIMM},
  "tf_efficientnet_b0": {"": OF_TIMM},
  "mobilenet_v2": {"": OF_TORCHVISION, "timm": OF_TIMM},
  "mobilenet_v3_large": {"": OF_TORCHVISION},
  "mobilenet_v3_small": {"": OF_TORCHVISION},
  "mobilenetv3_large_100": {"": OF_TIMM},
  "mobilenetv3_small_100": {"": OF_TIMM},
}
# The beginnings of torchvision's files whose weights have another recipe than others of their architecture.
V2_FILES = ("resnet50-11ad3fa6", "resnet101-cd907fc2", "mobilenet_v2-7ebf99e0", "mobilenet_v3_large-5c1a4163")


def find_recipe(name: str | None, *, model_name: str, source: str, path: str | os.PathLike[str] = "") -> Recipe | None:
  """The recipe of this name, or else that of the published weights of an architecture; None where there are none.

  Args:
    name: a key of RECIPES, or None.
    model_name: a key of `classifiers.ARCHITECTURES`.
    source: whose names the weights have, see `naming.Naming`.
    path: the file of weights, whose name can say more.

  Raises:
    ValueError: there is no recipe of this name.
  """
  if name is not None:
    if name not in RECIPES:
      raise ValueError(f"--recipe must be one of {', '.join(RECIPES)}, got {name!r}.")
    return RECIPES[name]
  if pathlib.Path(path).name.startswith(V2_FILES):
    return OF_TORCHVISION_V2
  of_model = PUBLISHED.get(model_name, {})
  return of_model.get(source, of_model.get(""))
