"""How the inputs of published weights are made: size, framing and normalisation."""

import dataclasses

from jax_sis.data.images import Framing
from jax_sis.data.normalisation import Normalisation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
  """How a classifier's input is made.

  Attributes:
    name: what it is called.
    size: pixels a side.
    framing: what is shown of an image of another size.
    normalisation: what is made of its pixels.
  """

  name: str
  size: int
  framing: Framing
  normalisation: Normalisation


# TensorFlow's: 32 pixels more than are shown, and (pixel - 127) / 128. Its bilinear interpolation leaves out pixels
# where it shrinks; Pillow's bicubic one is nearest to it, which timm found.
LITE_NORMALISATION = Normalisation(mean=(127 / 255,) * 3, std=(128 / 255,) * 3)


def efficientnet_lite(size: int) -> Recipe:
  return Recipe(
    name="efficientnet_lite",
    size=size,
    framing=Framing(crop=size / (size + 32), interpolation="bicubic", whole_pixels="original"),
    normalisation=LITE_NORMALISATION,
  )


RECIPES = {
  f"efficientnet_lite{number}": efficientnet_lite(size) for number, size in enumerate((224, 240, 260, 280, 300))
}
