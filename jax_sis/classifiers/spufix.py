"""Makes the classifier from whose logits components are taken away: a checkpoint, or of a user's function a model."""

import dataclasses
import os
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jax_sis.classifiers import Classifier, FixConfig, Fixed, ImageModel
from jax_sis.classifiers.checkpoint import hash_arrays
from jax_sis.classifiers.component_file import Component, read_components
from jax_sis.classifiers.fixed import take_away
from jax_sis.classifiers.linear_head import FeaturesFn, HeadFn
from jax_sis.classifiers.model_function import make_arrays
from jax_sis.core.types import Params


def remove_components(classifier: Classifier, removed: Sequence[Component]) -> Classifier:
  """The same classifier without these components, which `checkpoint.save_classifier` writes as any other."""
  config = FixConfig(
    base=classifier.model_name,
    num_features=len(removed[0].weights),
    classes=tuple(one.class_number for one in removed),
    components=tuple(one.number for one in removed),
  )
  module = Fixed(classifier.module, config)
  module.directions[...] = jnp.asarray(np.stack([one.weights for one in removed]).astype(np.float32))
  module.offsets[...] = jnp.asarray([one.offset for one in removed], jnp.float32)
  module.eval()
  return dataclasses.replace(classifier, model_name=config.model_name, module=module, fix=config)


@dataclasses.dataclass(frozen=True)
class FixedPredictor:
  """The `predict_fn` of a model of a user's without some components."""

  features_fn: FeaturesFn
  head_fn: HeadFn
  classes: tuple[int, ...]

  def __call__(self, params: Params, inputs: Float[Array, "B ..."]) -> Float[Array, "B K"]:
    own, fix = params
    features = self.features_fn(own, inputs)
    return take_away(self.head_fn(own, features), features, fix["directions"], fix["offsets"], self.classes)


def fix_model(model: ImageModel, path: str | os.PathLike[str]) -> ImageModel:
  """A model of a user's function without the components in `fixed.npz`, which `jax-sis components` writes of it.

  >>> def load_fixed():
  ...   return fix_model(load(), "jax-sis-components/fixed.npz")

  Args:
    model: with features_fn and head_fn.
    path: the file.

  Raises:
    ValueError: the file cannot be read or is of another model, or the model lacks these functions.
  """
  if model.features_fn is None or model.head_fn is None:
    raise ValueError("model must have features_fn and head_fn, from which its components come.")
  components = read_components(path, model=hash_arrays(make_arrays(model.params)))
  fix = {
    "directions": jnp.asarray(np.stack([one.weights for one in components])),
    "offsets": jnp.asarray([one.offset for one in components], jnp.float32),
  }
  classes = tuple(one.class_number for one in components)
  return dataclasses.replace(
    model,
    predict_fn=FixedPredictor(model.features_fn, model.head_fn, classes),
    params=(model.params, fix),
    features_fn=None,
    head_fn=None,
  )
