"""What a classifier is shown to see why a subset works: the subset, changed in one way at a time."""

import dataclasses
import functools
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float

from jax_sis.data.normalisation import Normalisation
from jax_sis.studies.controls import fills

# The reference of all controls, and what is left without any feature.
SUBSET, EMPTY = "subset", "empty"
# A feature and the eight around it, in height and width.
AROUND = np.ones((3, 3, 1), bool)
WHITE = 255.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """One image and what its controls are made of.

  Attributes:
    image: normalised.
    mask: its subset, True where a feature is kept.
    baseline: what the search showed in place of the others.
    other: another image; None where there is none.
    normalisation: of bytes.
    draw_key: seed and id, from which every control draws for itself.
  """

  image: Float[np.ndarray, "H W C"]
  mask: Bool[np.ndarray, "h w 1"]
  baseline: Float[np.ndarray, "H W C"]
  other: Float[np.ndarray, "H W C"] | None
  normalisation: Normalisation
  draw_key: tuple[int, int]

  def generator(self, name: str) -> np.random.Generator:
    """The random numbers of one control of this image."""
    return np.random.default_rng((*self.draw_key, stable_hash(name)))


class Shown(NamedTuple):
  """What a control shows.

  Attributes:
    mask: the features that show the content.
    content: an image.
    fill: what the other features show.
  """

  mask: Bool[np.ndarray, "h w 1"]
  content: Float[np.ndarray, "H W C"]
  fill: Float[np.ndarray, "H W C"]


ShowFn = Callable[[Case], Shown | None]
FillFn = Callable[[Case], Float[np.ndarray, "H W C"] | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Control:
  """One way to look at a subset.

  Attributes:
    title: what tables and figures call it.
    group: `subset`, `around`, `fill`, `shape`, `place` or `rest`: what is changed.
    show_fn: makes what is shown; None where that cannot be made.
    reference: the control to compare its share with: nothing, or one that shows less of the image.
  """

  title: str
  group: str
  show_fn: ShowFn
  reference: str = EMPTY

  def show(self, case: Case) -> Shown | None:
    """What is shown; None where that cannot be made, or a subset that is the whole image leaves nothing to change."""
    if case.mask.all() and self.show_fn not in (show_subset, show_nothing, show_blurred):
      return None
    return self.show_fn(case)


def stable_hash(text: str) -> int:
  """A number of 32 bits that stands for a text, on every machine the same."""
  return zlib.crc32(text.encode())


def expand(mask: Bool[np.ndarray, "h w 1"], shape: tuple[int, ...]) -> Bool[np.ndarray, "H W C"]:
  """One value a feature -> one an element of the image."""
  for axis, length in enumerate(shape):
    mask = np.repeat(mask, length // mask.shape[axis], axis)
  return mask


def find_present(case: Case, shown: Shown | None) -> Float[np.ndarray, "H W"]:
  """1 where the classifier sees something under a removal inside it: everywhere, where the control shows a fill."""
  height, width, _ = case.image.shape
  if shown is None or shown.fill is not case.baseline:
    return np.ones((height, width), case.image.dtype)
  return expand(shown.mask, (height, width, 1))[:, :, 0].astype(case.image.dtype)


def show_subset(case: Case) -> Shown:
  return Shown(case.mask, case.image, case.baseline)


def show_dilated(case: Case, *, times: int) -> Shown:
  return Shown(scipy.ndimage.binary_dilation(case.mask, AROUND, times), case.image, case.baseline)


def show_with_fill(case: Case, *, fill_fn: FillFn) -> Shown | None:
  fill = fill_fn(case)
  return None if fill is None else Shown(case.mask, case.image, fill)


def fill_colour(case: Case, *, value: float) -> Float[np.ndarray, "H W C"]:
  return fills.colour(value, case.normalisation, case.image.shape)


def fill_blurred(case: Case) -> Float[np.ndarray, "H W C"]:
  return fills.blur(case.image)


def fill_noise(case: Case) -> Float[np.ndarray, "H W C"]:
  return fills.noise(case.generator("fill_noise"), case.normalisation, case.image.shape)


def fill_imputed(case: Case) -> Float[np.ndarray, "H W C"]:
  kept = expand(case.mask, case.image.shape)[:, :, 0]
  return fills.impute_linearly(case.image, kept, case.generator("fill_linear"))


def show_shape_in_mean(case: Case) -> Shown:
  """The mask's shape, all of it in the mean colour of the kept pixels."""
  colour = case.image.mean((0, 1), where=expand(case.mask, case.image.shape))
  return Shown(case.mask, np.broadcast_to(colour, case.image.shape), case.baseline)


def show_shape_in_white(case: Case) -> Shown:
  return Shown(case.mask, fill_colour(case, value=WHITE), case.baseline)


def show_random(case: Case) -> Shown:
  """As many features, anywhere."""
  order = case.generator("random").permutation(case.mask.size)
  return Shown((order < case.mask.sum()).reshape(case.mask.shape), case.image, case.baseline)


def show_moved(case: Case) -> Shown | None:
  """The mask elsewhere: moved by a random number of rows and columns, not none of both, around the borders."""
  height, width = case.mask.shape[:2]
  if height * width == 1:
    return None
  offset = divmod(int(case.generator("moved").integers(1, height * width)), width)
  return Shown(np.roll(case.mask, offset, (0, 1)), case.image, case.baseline)


def show_moved_in_white(case: Case) -> Shown | None:
  moved = show_moved(case)
  return None if moved is None else Shown(moved.mask, fill_colour(case, value=WHITE), case.baseline)


def show_complement(case: Case) -> Shown:
  return Shown(~case.mask, case.image, case.baseline)


def show_nothing(case: Case) -> Shown:
  return Shown(np.zeros_like(case.mask), case.image, case.baseline)


def show_blurred(case: Case) -> Shown:
  """The blurred image with nothing of the subset in it: what that fill says by itself."""
  return Shown(np.zeros_like(case.mask), case.image, fill_blurred(case))


def filled(title: str, fill_fn: FillFn) -> Control:
  return Control(title=title, group="fill", show_fn=functools.partial(show_with_fill, fill_fn=fill_fn))


CONTROLS: dict[str, Control] = {
  SUBSET: Control(title="the subset itself", group="subset", show_fn=show_subset),
  "dilated_1": Control(title="with 1 cell around it", group="around", show_fn=functools.partial(show_dilated, times=1)),
  "dilated_2": Control(
    title="with 2 cells around it", group="around", show_fn=functools.partial(show_dilated, times=2)
  ),
  "fill_black": filled("the rest black", functools.partial(fill_colour, value=0.0)),
  "fill_grey": filled("the rest grey", functools.partial(fill_colour, value=fills.MIDDLE_GREY)),
  "fill_mean": filled("the rest its mean colour", lambda case: fills.own_mean(case.image)),
  "fill_blur": filled("the rest blurred", fill_blurred),
  "fill_noise": filled("the rest noise", fill_noise),
  "fill_other": filled("the rest another image", lambda case: case.other),
  "fill_linear": filled("the rest imputed (ROAD)", fill_imputed),
  "shape_mean": Control(title="its shape in its mean colour", group="shape", show_fn=show_shape_in_mean),
  "shape_white": Control(
    title="its shape in white", group="shape", show_fn=show_shape_in_white, reference="moved_white"
  ),
  "moved_white": Control(title="its shape moved, in white", group="shape", show_fn=show_moved_in_white),
  "random": Control(title="as many cells at random", group="place", show_fn=show_random),
  "moved": Control(title="its shape moved elsewhere", group="place", show_fn=show_moved),
  "complement": Control(title="all but the subset", group="rest", show_fn=show_complement),
  EMPTY: Control(title="nothing", group="rest", show_fn=show_nothing),
  "blur_alone": Control(title="nothing, blurred image", group="rest", show_fn=show_blurred),
}
NAMES = tuple(CONTROLS)
