"""Models of other libraries, as a user writes them: the same logits and gradients, by our convolutions."""

import re
from typing import Any

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax import lax

import jax_sis
from jax_sis.classifiers import adapters

pytestmark = pytest.mark.usefixtures("allow_rank_promotion", "without_type_checks")

INPUTS = jnp.asarray(np.random.default_rng(0).normal(size=(2, 12, 12, 3)), jnp.float32)


class NnxModel(nnx.Module):
  """Two convolutions, batch norm, dropout."""

  def __init__(self, rngs: nnx.Rngs):
    self.conv1 = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
    self.norm = nnx.BatchNorm(8, rngs=rngs)
    self.conv2 = nnx.Conv(8, 6, (3, 3), feature_group_count=2, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)
    self.head = nnx.Linear(6, 4, rngs=rngs)

  def __call__(self, inputs: Any) -> Any:
    """Logits."""
    hidden = self.conv2(jax.nn.relu(self.norm(self.conv1(inputs))))
    return self.head(self.dropout(hidden.mean((1, 2))))


class LinenModel(linen.Module):
  """The same in Linen, compiled and rematerialised in part."""

  @linen.compact
  def __call__(self, inputs: Any, train: bool = True) -> Any:
    """Logits."""
    hidden = linen.remat(linen.Conv)(8, (3, 3), strides=2)(inputs)
    hidden = jax.nn.relu(linen.BatchNorm(use_running_average=not train)(hidden))
    hidden = linen.jit(linen.Conv)(6, (5, 5))(hidden)
    return linen.Dense(4)(linen.Dropout(0.5, deterministic=not train)(hidden.mean((1, 2))))


class EquinoxModel(equinox.Module):
  """The same in Equinox, channels first."""

  conv: equinox.nn.Conv2d
  norm: equinox.nn.BatchNorm
  head: equinox.nn.Linear

  def __init__(self, key: Any):
    first, second = jax.random.split(key)
    self.conv = equinox.nn.Conv2d(3, 8, 3, stride=2, padding=((1, 0), (1, 1)), key=first)
    self.norm = equinox.nn.BatchNorm(8, "batch", mode="batch")
    self.head = equinox.nn.Linear(8, 4, key=second)

  def __call__(self, inputs: Any, state: Any) -> Any:
    """Logits of one example, and the state."""
    hidden, state = self.norm(self.conv(inputs), state)
    return self.head(jax.nn.relu(hidden).mean((1, 2))), state


def make_nnx() -> tuple[Any, Any, Any]:
  """The pair, and the model's own logits."""
  model = NnxModel(nnx.Rngs(0))
  model.train()
  pair = adapters.from_nnx(model)
  assert not model.norm.use_running_average
  model.eval()
  graphdef, state = nnx.split(model)
  return *pair, nnx.merge(graphdef, state)


def make_linen() -> tuple[Any, Any, Any]:
  model = LinenModel()
  variables = model.init(jax.random.key(0), INPUTS, train=False)
  return *adapters.from_linen(model, variables, train=False), lambda inputs: model.apply(variables, inputs, train=False)


def make_equinox() -> tuple[Any, Any, Any]:
  model, state = equinox.nn.make_with_state(EquinoxModel)(jax.random.key(0))
  inference = equinox.nn.inference_mode(model)
  # Statistics of a batch, as training leaves them.
  examples = jnp.moveaxis(INPUTS, -1, 1)
  _, state = jax.vmap(model, in_axes=(0, None), out_axes=(0, None), axis_name="batch")(examples, state)
  pair = adapters.from_equinox(model, state)
  return *pair, lambda inputs: jax.vmap(lambda example: inference(example, state)[0])(jnp.moveaxis(inputs, -1, 1))


MAKERS = pytest.mark.parametrize("make_fn", [make_nnx, make_linen, make_equinox])


@MAKERS
def test_logits_and_input_gradients_are_the_models_own(make_fn: Any):
  predict_fn, params, own_fn = make_fn()
  weights = jnp.asarray(10 * np.random.default_rng(1).normal(size=(2, 4)), jnp.float32)
  results = [
    jax.jit(jax.value_and_grad(lambda inputs, logits_fn=logits_fn: (logits_fn(inputs) * weights).sum()))(INPUTS)
    for logits_fn in (lambda inputs: predict_fn(params, inputs), own_fn)
  ]
  assert np.abs(results[1][1]).max() > 1e-3
  for ours, own in zip(*results, strict=True):
    np.testing.assert_allclose(ours, own, rtol=1e-4, atol=1e-5)


@MAKERS
def test_the_pair_is_hashable_and_equal_when_made_again(make_fn: Any):
  first, second = make_fn()[0], make_fn()[0]
  assert first == second
  assert hash(first) == hash(second)


@MAKERS
def test_a_search_runs_on_the_pair(make_fn: Any):
  predict_fn, params, _ = make_fn()
  order = jax_sis.backselect(predict_fn, params, INPUTS, search=jax_sis.Gradient(per_step=4), grid=(4, 4, 1))
  assert order.finite.all()


@MAKERS
def test_no_plain_convolution_is_left_to_jaxs_own_gradient(make_fn: Any):
  predict_fn, params, own_fn = make_fn()

  def text(logits_fn: Any) -> str:
    return jax.jit(jax.grad(lambda inputs: logits_fn(inputs).sum())).lower(INPUTS).as_text()

  # JAX's gradient of a strided convolution is dilated; ours is not.
  assert "lhs_dilate = [2, 2]" in text(own_fn)
  assert "lhs_dilate = [2, 2]" not in text(lambda inputs: predict_fn(params, inputs))
  assert not re.search("feature_group_count = [^1]", text(lambda inputs: predict_fn(params, inputs)))


@pytest.mark.parametrize(
  "options",
  [
    {"window_strides": (1, 2), "padding": "SAME"},
    {"window_strides": (1, 1), "padding": "SAME", "rhs_dilation": (2, 2)},
    {"window_strides": (2, 2), "padding": "SAME", "feature_group_count": 4},
    {"window_strides": (2, 1), "padding": "SAME", "feature_group_count": 2, "rhs_dilation": (1, 2)},
    {"window_strides": (1, 1), "padding": ((1, 1), (1, 1)), "lhs_dilation": (2, 2)},
    {"window_strides": (1, 1), "padding": "SAME", "batch_group_count": 2},
    {"window_strides": (1, 1), "padding": "SAME", "preferred_element_type": "float64"},
    {"window_strides": (2, 2), "padding": ((0, 1), (2, 0))},
    {"window_strides": (1, 1), "padding": ((-1, 0), (0, 0))},
    {"window_strides": (2, 2), "padding": "SAME", "dimension_numbers": ("NCHW", "OIHW", "NHWC")},
    {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": ("HWNC", "HWIO", "NCHW")},
  ],
)
def test_convolutions_of_every_kind_keep_their_results(options: dict[str, Any]):
  rng = np.random.default_rng(2)
  options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")} | options
  inputs_layout, kernel_layout, _ = options["dimension_numbers"]
  sizes = {"N": 2, "C": 4, "H": 7, "W": 6}
  kernel_sizes = {"O": 4, "I": 4 // options.get("feature_group_count", 1), "H": 3, "W": 3}
  inputs = jnp.asarray(rng.normal(size=[sizes[axis] for axis in inputs_layout]), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=[kernel_sizes[axis] for axis in kernel_layout]), jnp.float32)

  def predict(kernel: Any, inputs: Any) -> Any:
    return lax.conv_general_dilated(inputs, kernel, **options)

  with jax.enable_x64(options.get("preferred_element_type") == "float64"):
    actual, expected = adapters.use_fast_convolutions(predict)(kernel, inputs), predict(kernel, inputs)
  assert actual.dtype == expected.dtype
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_a_single_logit_becomes_two_whose_softmax_is_its_sigmoid(shape: tuple[int, ...]):
  def predict(params: Any, inputs: Any) -> Any:
    return (inputs @ params).reshape(shape)

  params, inputs = jnp.arange(3.0), jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
  two_fn = adapters.from_single_logit(predict)
  np.testing.assert_allclose(jax.nn.softmax(two_fn(params, inputs))[:, 1], jax.nn.sigmoid(inputs @ params), rtol=1e-6)
  order = jax_sis.backselect(two_fn, params, inputs, grid=(3,))
  assert order.finite.all()
  assert (two_fn, hash(two_fn)) == (adapters.from_single_logit(predict), hash(adapters.from_single_logit(predict)))
  with pytest.raises(
    ValueError, match=r"^predict_fn must give a single logit, \[B\] or \[B, 1\], got the shape \(5, 2\)"
  ):
    adapters.from_single_logit(two_fn)(params, inputs)


def test_a_precision_is_kept():
  def predict(kernel: Any, inputs: Any) -> Any:
    return lax.conv_general_dilated(inputs, kernel, (1, 1), "SAME", precision="highest")

  inputs, kernel = jnp.ones((1, 3, 8, 8)), jnp.ones((4, 3, 3, 3))
  fast_fn = adapters.use_fast_convolutions(predict)
  gradient_fn = jax.jit(jax.grad(lambda inputs: fast_fn(kernel, inputs).sum()))
  for function in (gradient_fn, jax.jit(lambda inputs: fast_fn(kernel, inputs))):
    text = function.trace(inputs).lower(lowering_platforms=("cuda",)).as_text()
    assert "precision HIGHEST" in text
    assert "precision DEFAULT" not in text


class TwoOutputs(linen.Module):
  """Logits and features, in a tuple or a dictionary."""

  names: tuple[str, ...] = ()

  @linen.compact
  def __call__(self, inputs: Any) -> Any:
    """Both."""
    features = linen.Conv(8, (3, 3))(inputs).mean((1, 2))
    outputs = linen.Dense(5)(features), features
    return dict(zip(self.names, outputs, strict=True)) if self.names else outputs


@pytest.mark.parametrize(
  ("names", "options", "got"),
  [
    ((), {}, "tuple; return the logits alone."),
    ((), {"mutable": ["batch_stats"]}, "tuple; return the logits alone."),
    (("logits", "features"), {}, "dict of features, logits; return the logits alone."),
  ],
)
def test_several_outputs_are_refused_in_the_words_that_a_plain_function_gets(
  names: tuple[str, ...], options: dict[str, Any], got: str
):
  module = TwoOutputs(names)
  variables = module.init(jax.random.key(0), INPUTS)
  message = "predict_fn must return logits of shape [2, K] with K >= 2 for 2 inputs, got " + got
  adapted = adapters.from_linen(module, variables, **options)

  def plain_fn(params: Any, inputs: Any) -> Any:
    return module.apply(params, inputs, **options)

  for predict_fn, params in (adapted, (plain_fn, variables)):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
      jax_sis.backselect(predict_fn, params, INPUTS)
