"""Which classifiers can be split before a linear last layer, and the model of a user's without some components."""

import dataclasses
import pathlib
import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_sis.classifiers import (
  Classifier,
  Ensemble,
  EnsembleConfig,
  ImageModel,
  Normalisation,
  checkpoint,
  frozen,
  model_function,
)
from jax_sis.classifiers.component_file import Component, encode_components
from jax_sis.classifiers.linear_head import find_linear_head
from jax_sis.classifiers.resnet import ResNet, ResNetConfig
from jax_sis.classifiers.spufix import fix_model
from jax_sis.classifiers.squeezenet import SqueezeNet, SqueezeNetConfig
from jax_sis.classifiers.vit import ViT, ViTConfig

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")
PLAIN = Normalisation(mean=(0.0,) * 3, std=(1.0,) * 3)
TRANSFORMER = ViTConfig(width=8, depth=1, num_heads=2, image_size=8, patch_size=4, is_distilled=True, num_classes=4)


def make_classifier(module: Any, side: int) -> Classifier:
  return Classifier(
    model_name=type(module).__name__,
    module=module,
    class_names=("a", "b", "c", "d"),
    normalisation=PLAIN,
    input_shape=(side, side, 3),
  )


def make_resnet() -> ResNet:
  return ResNet(ResNetConfig(blocks=(1,), widths=(4,), num_classes=4), rngs=nnx.Rngs(0))


@pytest.mark.slow
def test_a_distilled_transformer_is_linear_in_both_tokens():
  classifier = make_classifier(ViT(TRANSFORMER, rngs=nnx.Rngs(0)), 8)
  predict_fn, params = frozen.freeze(classifier.module)
  head = find_linear_head(classifier, predict_fn, params)
  assert head.kernel.shape == (16, 4)
  inputs = jnp.asarray(np.random.default_rng(1).normal(size=(3, 8, 8, 3)).astype(np.float32))
  logits = np.asarray(head.features_fn(params, inputs)) @ head.kernel + head.bias
  np.testing.assert_allclose(logits, predict_fn(params, inputs), atol=1e-5)


@pytest.mark.parametrize(
  ("make_fn", "side", "reason"),
  [
    (lambda: SqueezeNet(SqueezeNetConfig(num_classes=4), rngs=nnx.Rngs(0)), 32, "are means of rectified maps"),
    (lambda: Ensemble([make_resnet()] * 2, EnsembleConfig(members=("a", "a"))), 8, "have features of their own"),
  ],
)
def test_others_are_refused_with_the_reason(make_fn: Any, side: int, reason: str):
  classifier = make_classifier(make_fn(), side)
  with pytest.raises(ValueError, match=f"cannot be split into features and a linear last layer: .*{reason}"):
    find_linear_head(classifier, *frozen.freeze(classifier.module))


def predict(params: Any, images: Any) -> Any:
  return read_out(params, find_features(params, images))


def find_features(params: Any, images: Any) -> Any:
  return images.mean((1, 2))


def read_out(params: Any, features: Any) -> Any:
  return features @ params["kernel"]


MODEL = ImageModel(
  predict_fn=predict,
  params={"kernel": jnp.arange(6.0).reshape(3, 2)},
  input_shape=(8, 8, 3),
  normalisation=PLAIN,
  features_fn=find_features,
  head_fn=read_out,
)


def split_model(model: ImageModel) -> Any:
  loaded = model_function.name_classes(model, model_name="m:f")
  return find_linear_head(loaded, loaded.predict_fn, loaded.params)


def test_a_users_functions_are_tried():
  np.testing.assert_allclose(split_model(MODEL).kernel, MODEL.params["kernel"], atol=1e-6)
  with pytest.raises(ValueError, match=re.escape("its ImageModel has no features_fn")):
    split_model(dataclasses.replace(MODEL, head_fn=None))
  with pytest.raises(ValueError, match="its logits are no linear function of its features"):
    split_model(dataclasses.replace(MODEL, head_fn=lambda params, features: (features @ params["kernel"]) ** 2))


def test_a_users_model_is_fixed_by_a_file(tmp_path: pathlib.Path):
  weights = np.array([1.0, 0.0, -1.0])
  path = tmp_path / "fixed.npz"
  component = Component(class_number=1, number=1, weights=weights, offset=0.25)
  model = dataclasses.replace(MODEL, params={**MODEL.params, "a plain number": 2.0})
  # As commands know it.
  params = model_function.name_classes(model, model_name="m:f").params
  path.write_bytes(encode_components([component], model=checkpoint.hash_arrays(params)))
  fixed = fix_model(model, path)
  inputs = jnp.asarray(np.random.default_rng(2).normal(size=(6, 8, 8, 3)).astype(np.float32)) * 5
  features = np.asarray(inputs.mean((1, 2)))
  expected = features @ np.asarray(MODEL.params["kernel"])
  expected[:, 1] -= np.maximum(features @ weights - 0.25, 0)
  np.testing.assert_allclose(fixed.predict_fn(fixed.params, inputs), expected, atol=1e-5)
  assert (features @ weights > 0.25).any()
  with pytest.raises(ValueError, match="path must be a file of components as `jax-sis components` writes it"):
    fix_model(MODEL, tmp_path / "none.npz")
  with pytest.raises(ValueError, match="path must be of this classifier, but the components in"):
    fix_model(MODEL, path)
