"""Sufficient input subsets of JAX classifiers: which few features are enough for the model's answer?

subsets = jax_sis.smallest_subsets(predict_fn, params, images, threshold=0.99)
order = jax_sis.backselect(predict_fn, params, images, search=jax_sis.Gradient(per_step=1))
report = jax_sis.certify(predict_fn, params, images, subsets)
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jax_sis.core import completions, features, pictures
from jax_sis.core.attribution import attribute, order_by_scores
from jax_sis.core.attribution_methods import GradCam, GradientTimesInput, IntegratedGradients, Occlusion, Rise
from jax_sis.core.backselect import backselect
from jax_sis.core.certified import certified_subsets
from jax_sis.core.certify import Certificate, certify
from jax_sis.core.collection import sis_collection
from jax_sis.core.curves import deletion_area, deletion_confidence, insertion_area
from jax_sis.core.forward import forward_select
from jax_sis.core.guarantees import Guarantee, Verdict
from jax_sis.core.lattice import Lattice, lattice
from jax_sis.core.masking import mask_inputs
from jax_sis.core.minimise import minimise
from jax_sis.core.order import NOT_RANKED, FeatureOrder
from jax_sis.core.removal import with_presence
from jax_sis.core.saving import load, save
from jax_sis.core.searches import Exact, Forward, Gradient, Screened
from jax_sis.core.smallest import QUICK, THOROUGH, Effort, smallest_subsets
from jax_sis.core.stability import Stability, stability, stable_subsets
from jax_sis.core.subsets import Status, Subsets, keep_fraction, sufficient_subsets
from jax_sis.core.types import PredictFn, PresenceFn
from jax_sis.version import __version__

if TYPE_CHECKING:
  from matplotlib.figure import Figure

__all__ = [
  "NOT_RANKED",
  "QUICK",
  "THOROUGH",
  "Certificate",
  "Effort",
  "Exact",
  "FeatureOrder",
  "Forward",
  "GradCam",
  "Gradient",
  "GradientTimesInput",
  "Guarantee",
  "IntegratedGradients",
  "Lattice",
  "Occlusion",
  "PredictFn",
  "PresenceFn",
  "Rise",
  "Screened",
  "Stability",
  "Status",
  "Subsets",
  "Verdict",
  "__version__",
  "attribute",
  "backselect",
  "certified_subsets",
  "certify",
  "completions",
  "deletion_area",
  "deletion_confidence",
  "features",
  "forward_select",
  "insertion_area",
  "keep_fraction",
  "lattice",
  "load",
  "mask_inputs",
  "minimise",
  "order_by_scores",
  "save",
  "show",
  "sis_collection",
  "smallest_subsets",
  "stability",
  "stable_subsets",
  "sufficient_subsets",
  "with_presence",
]


def __dir__() -> list[str]:
  """The public names; the folders of the package are imported by name."""
  return __all__


def show(images: Any, found: Any, *, class_names: Sequence[str] | None = None, max_images: int = 16) -> "Figure":
  """Draws images beside what was found of them; a notebook shows it, and its `savefig` writes it.

  What a subset does not keep is painted in a colour that its pixels do not have, and which the picture names. Orders
  and attributions are heat maps, yellow (or red) where a feature is needed most. Features of a label map are drawn as
  lines on the image.

  Args:
    images: `[B, H, W, C]` of one or three channels, or `[B, H, W]`; bytes, numbers in 0..1, or any others, which are
      shown from the smallest to the largest. The inputs of the search do, and so do the images before they were
      normalised.
    found: of these images: an order, subsets, attributions `[B, F]` or `[B, h, w]`, or several of them, such as a
      collection: a list or tuple, or a mapping, whose names are the headings.
    class_names: what the classes are called.
    max_images: how many of the images are drawn, the first ones.

  Raises:
    ValueError: one of them cannot be drawn, or they are not of the same images.

  Examples:
    Scores of one's own beside two images:

    >>> import numpy as np
    >>> import jax_sis
    >>> images = np.zeros((2, 8, 8, 3), np.uint8)
    >>> scores = np.arange(2.0 * 8 * 8).reshape(2, 8, 8)
    >>> figure = jax_sis.show(images, {"my method": scores})
    >>> "my method" in [text.get_text() for text in figure.axes[0].texts]
    True
  """
  from jax_sis.display.beside import draw_columns

  if max_images < 1:
    raise ValueError(f"max_images must be at least 1, got {max_images}.")
  pixels = pictures.to_pixels(images)
  columns = pictures.make_columns(found, pixels.shape, class_names)
  shown = [(heading, values[:max_images], captions) for heading, values, captions in columns]
  labels = pictures.find_labels(found, pixels.shape)
  return draw_columns(
    pixels[:max_images],
    shown,
    labels=None if labels is None else labels[:max_images],
    num_left_out=max(0, len(pixels) - max_images),
  )
