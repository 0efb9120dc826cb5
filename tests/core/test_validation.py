"""What users bring in the place of a classifier, a search or an argument: taken where it is clear, else refused."""

import functools
import re
import types
import warnings
from collections.abc import Callable
from typing import Any

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from flax import linen, nnx

import jax_sis
from jax_sis import Exact, Forward, Gradient
from jax_sis.classifiers.on_images import ClassifierOnImages

# Beartype is off, so that our own messages show.
pytestmark = pytest.mark.usefixtures("without_type_checks")

IMAGES, PARAMS = toys.images_and_params(30)
# Of no type, to be called wrongly.
calls: Any = jax_sis


@functools.cache
def plain_order() -> jax_sis.FeatureOrder:
  """By the defaults; not made where tests are only collected, as every process of a session does."""
  return jax_sis.backselect(toys.predict_tanh, PARAMS, IMAGES)


def refuses(message: str) -> Any:
  return pytest.raises(ValueError, match=f"^{re.escape(message)}")


def backselect(predict_fn: Any = toys.predict_tanh, inputs: Any = IMAGES, *args: Any, **options: Any) -> Any:
  return jax_sis.backselect(predict_fn, PARAMS, inputs, *args, **options)


# Probabilities in the place of logits.

PROBABILITIES = (
  "predict_fn must return logits, got values that all lie in 0..1 and sum to 1 in each row: these are probabilities; "
  "return what the softmax is taken of, or jnp.log of them."
)


def predict_softmax(params: Any, inputs: Any) -> Any:
  return jax.nn.softmax(toys.predict_tanh(params, inputs))


def predict_half_softmax(params: Any, inputs: Any) -> Any:
  return predict_softmax(params, inputs).astype(jnp.bfloat16)


def predict_one_hot(params: Any, inputs: Any) -> Any:
  return jax.nn.one_hot(toys.predict_tanh(params, inputs).argmax(-1), 3)


def predict_two_sigmoids(params: Any, inputs: Any) -> Any:
  probability = jax.nn.sigmoid(toys.predict_tanh(params, inputs)[:, :1])
  return jnp.concatenate([1 - probability, probability], axis=1)


def predict_sigmoid(params: Any, inputs: Any) -> Any:
  return jax.nn.sigmoid(toys.predict_tanh(params, inputs))


@pytest.mark.parametrize(
  "predict_fn",
  [predict_softmax, predict_half_softmax, predict_one_hot, predict_two_sigmoids],
  ids=lambda fn: fn.__name__,
)
@pytest.mark.parametrize("num_images", [1, 3])
def test_probabilities_are_refused(predict_fn: Any, num_images: int):
  with refuses(PROBABILITIES):
    backselect(predict_fn, IMAGES[:num_images])


@pytest.mark.parametrize(
  "search_fn",
  [
    jax_sis.forward_select,
    jax_sis.smallest_subsets,
    jax_sis.sis_collection,
    lambda *given: calls.attribute(*given, method=jax_sis.Occlusion()),
    lambda *given: calls.order_by_scores(*given, jnp.ones((3, 12))),
  ],
)
def test_every_search_refuses_probabilities(search_fn: Any):
  with refuses(PROBABILITIES):
    search_fn(predict_softmax, PARAMS, IMAGES)


def test_every_command_refuses_probabilities():
  opened: Any = types.SimpleNamespace(
    classifier=types.SimpleNamespace(input_shape=(4, 3, 2)),
    predict_fn=toys.predict_tanh,
    params=PARAMS,
    class_names=("cat", "dog", "ship"),
    precision="highest",
    grid=(4, 3, 1),
  )
  ClassifierOnImages.check_classifier(opened)
  opened.predict_fn = predict_softmax
  with refuses(PROBABILITIES):
    ClassifierOnImages.check_classifier(opened)


def test_logs_of_probabilities_are_logits():
  order = backselect(lambda params, inputs: jnp.log(predict_softmax(params, inputs)))
  np.testing.assert_array_equal(order.rank, plain_order().rank)


def test_probabilities_are_not_looked_for_where_values_are_traced():
  order = jax.jit(lambda images: backselect(predict_softmax, images))(IMAGES)
  assert order.rank.shape == (3, 12)


def test_values_of_a_sigmoid_are_warned_of():
  with pytest.warns(UserWarning, match=r"lie in 0\.\.1, as those of a sigmoid do; return what the sigmoid is taken of"):
    backselect(predict_sigmoid)


def test_logits_that_are_zero_on_the_masked_input_are_not_warned_of():
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    jax_sis.backselect(toys.predict_linear, toys.linear_params([0.25, 0.5]), jnp.ones((2, 2)))


# Modules of libraries.


class NnxModel(nnx.Module):
  """One layer."""

  def __init__(self) -> None:
    self.head = nnx.Linear(24, 3, rngs=nnx.Rngs(0))

  def __call__(self, inputs: Any) -> Any:
    """Logits."""
    return self.head(inputs.reshape(inputs.shape[0], -1))


class NoModel(equinox.Module):
  """Holds an array, and cannot be called."""

  weights: Any


@pytest.mark.parametrize(
  ("make_fn", "named"),
  [
    (NnxModel, "flax.nnx module NnxModel; predict_fn, params = jax_sis.classifiers.adapters.from_nnx(module)"),
    (
      lambda: linen.Dense(3),
      "flax.linen module Dense; predict_fn, params = jax_sis.classifiers.adapters.from_linen(module, va",
    ),
    (
      lambda: equinox.nn.MLP(24, 3, 4, 1, key=jax.random.key(0)),
      "equinox module MLP; predict_fn, params = jax_sis.classifiers.adapters.from_equinox(module)",
    ),
    (lambda: NoModel(jnp.ones(3)), "equinox module NoModel; "),
  ],
)
def test_a_module_in_the_place_of_a_function_is_told_its_adapter(make_fn: Callable[[], Any], named: str):
  with refuses(f"predict_fn must be a function (params, inputs) -> logits, got the {named}"):
    backselect(make_fn())


def test_a_function_compiled_by_equinox_is_no_module():
  order = backselect(equinox.filter_jit(toys.predict_tanh))
  np.testing.assert_array_equal(order.rank, plain_order().rank)


# Searches and answers of the wrong kind.

BACKWARD = "search must be Gradient(...), Screened(...) or Exact(...); forward_select takes Forward(...), got "
SUBSETS = "subsets must be Subsets, as sufficient_subsets(order, threshold) gives, got FeatureOrder."


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda *given: calls.backselect(*given, search=Forward()), BACKWARD + "Forward."),
    (lambda *given: calls.backselect(*given, search=Gradient), BACKWARD + "the class Gradient itself."),
    (lambda *given: calls.backselect(*given, search="gradient"), BACKWARD + "'gradient'."),
    (lambda *given: calls.backselect(*given, search=None), BACKWARD + "NoneType."),
    (
      lambda *given: calls.forward_select(*given, search=Exact()),
      "search must be Forward(...); backselect takes Gradient(...), Screened(...) or Exact(...), got Exact.",
    ),
    (
      lambda *given: calls.sis_collection(*given, search="exact"),
      "search must be Forward(...), Gradient(...), Screened(...) or Exact(...), got 'exact'.",
    ),
    (
      lambda *given: calls.smallest_subsets(*given, effort=Forward()),
      "effort must be QUICK, THOROUGH or Effort(forward=Forward(...), exchanges=...), got Forward.",
    ),
    (
      lambda *given: calls.smallest_subsets(*given, effort=calls.Effort(Gradient(), ())),
      "effort.forward must be Forward(...), got Gradient.",
    ),
    (
      lambda *given: calls.smallest_subsets(*given, threshold=[0.5, 0.6, 0.7]),
      "threshold must be one number for smallest_subsets, got shape (3,); sufficient_subsets(order, threshold) takes "
      "one for each image.",
    ),
    (lambda *given: calls.certify(*given, plain_order()), SUBSETS),
    (lambda *given: calls.minimise(*given, plain_order()), SUBSETS),
    (
      lambda *_: calls.sufficient_subsets(0.5, plain_order()),
      "order must be a FeatureOrder, as backselect gives, got float.",
    ),
    (
      lambda *_: calls.insertion_area(calls.keep_fraction(plain_order(), 0.5)),
      "order must be a FeatureOrder, as backselect gives, got Subsets.",
    ),
  ],
)
def test_what_is_of_the_wrong_kind_is_refused(call: Any, message: str):
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    call(toys.predict_tanh, PARAMS, IMAGES)


# Arguments whose meaning is clear.


@pytest.mark.parametrize(
  "targets", [[2, 0, 1], (2, 0, 1), np.array([2, 0, 1], np.int64), np.array([2, 0, 1], np.uint8)]
)
def test_targets_may_be_a_list(targets: Any):
  assert backselect(targets=targets).target.tolist() == [2, 0, 1]


def test_one_target_is_meant_for_all_inputs():
  expected = backselect(targets=[1, 1, 1])
  for target in (1, np.int64(1), jnp.asarray(1)):
    np.testing.assert_array_equal(backselect(targets=target).rank, expected.rank)


def test_a_target_that_32_bits_cannot_hold_is_out_of_range():
  with refuses("targets must lie in 0..2, the classifier's classes, got 4294967296."):
    backselect(targets=np.full(3, 2**32))


@pytest.mark.parametrize("targets", [[True, False, True], [0.0, 1.0, 2.0], ["cat"] * 3, np.eye(3, dtype=int)])
def test_targets_that_are_no_class_numbers_are_refused(targets: Any):
  with refuses("targets must be one integer class for each of the 3 inputs, got "):
    backselect(targets=targets)


AVAILABLE = np.arange(36).reshape(3, 12) % 5 > 0


@pytest.mark.parametrize("shape", [(3, 12), (3, 4, 3, 1), (3, 4, 3)])
def test_available_features_may_be_given_by_place(shape: tuple[int, ...]):
  expected = backselect(available=AVAILABLE)
  np.testing.assert_array_equal(backselect(available=AVAILABLE.reshape(shape)).rank, expected.rank)


@pytest.mark.parametrize("shape", [(12,), (4, 3, 1), (4, 3), (1, 12), (1, 4, 3)])
def test_one_mask_of_available_features_is_meant_for_all_inputs(shape: tuple[int, ...]):
  expected = backselect(available=AVAILABLE[[1, 1, 1]])
  np.testing.assert_array_equal(backselect(available=AVAILABLE[1].reshape(shape)).rank, expected.rank)


def test_scores_may_be_given_by_place():
  scores = np.random.default_rng(0).normal(size=(3, 12)).astype(np.float32)
  expected = jax_sis.order_by_scores(toys.predict_tanh, PARAMS, IMAGES, scores)
  by_place = jax_sis.order_by_scores(toys.predict_tanh, PARAMS, IMAGES, scores.reshape(3, 4, 3))
  np.testing.assert_array_equal(by_place.rank, expected.rank)


def test_a_grid_may_leave_the_channels_out():
  assert backselect(grid=(2, 3)).grid == (2, 3, 1)
