"""Sufficient input subsets of JAX classifiers: which few features are enough for the model's answer?

subsets = jax_sis.smallest_subsets(predict_fn, params, images, threshold=0.99)
order = jax_sis.backselect(predict_fn, params, images, search=jax_sis.Gradient(per_step=1))
report = jax_sis.certify(predict_fn, params, images, subsets)
"""

from jax_sis.core.attribution import attribute, order_by_scores
from jax_sis.core.attribution_methods import GradCam, GradientTimesInput, IntegratedGradients, Occlusion, Rise
from jax_sis.core.backselect import backselect
from jax_sis.core.certify import Certificate, certify
from jax_sis.core.collection import sis_collection
from jax_sis.core.curves import deletion_area, deletion_confidence, insertion_area
from jax_sis.core.forward import forward_select
from jax_sis.core.masking import mask_inputs
from jax_sis.core.minimise import minimise
from jax_sis.core.order import NOT_RANKED, FeatureOrder
from jax_sis.core.saving import load, save
from jax_sis.core.searches import Exact, Forward, Gradient, Screened
from jax_sis.core.smallest import QUICK, THOROUGH, Effort, smallest_subsets
from jax_sis.core.subsets import Status, Subsets, keep_fraction, sufficient_subsets
from jax_sis.core.types import PredictFn
from jax_sis.version import __version__

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
  "IntegratedGradients",
  "Occlusion",
  "PredictFn",
  "Rise",
  "Screened",
  "Status",
  "Subsets",
  "__version__",
  "attribute",
  "backselect",
  "certify",
  "deletion_area",
  "deletion_confidence",
  "forward_select",
  "insertion_area",
  "keep_fraction",
  "load",
  "mask_inputs",
  "minimise",
  "order_by_scores",
  "save",
  "sis_collection",
  "smallest_subsets",
  "sufficient_subsets",
]


def __dir__() -> list[str]:
  """The public names; the folders of the package are imported by name."""
  return __all__
