"""A classifier tried out before a command searches it."""

import types
from typing import Any

import jax
import pytest
import toys

from jax_sis.classifiers.on_images import ClassifierOnImages


def predict_softmax(params: Any, inputs: Any) -> Any:
  return jax.nn.softmax(toys.predict_tanh(params, inputs))


@pytest.mark.usefixtures("without_type_checks")
def test_a_command_refuses_a_classifier_that_gives_probabilities():
  _, params = toys.images_and_params(shape=(4, 4, 3))
  opened: Any = types.SimpleNamespace(
    classifier=types.SimpleNamespace(input_shape=(4, 4, 3)),
    predict_fn=toys.predict_tanh,
    params=params,
    class_names=("cat", "dog", "ship"),
    precision="highest",
  )
  ClassifierOnImages.check_classifier(opened)
  opened.predict_fn = predict_softmax
  with pytest.raises(ValueError, match="^predict_fn must return logits, got values that all lie in 0..1 and sum to 1"):
    ClassifierOnImages.check_classifier(opened)
