"""Every search lowers for GPUs and TPUs, without calls out of the program, collectives, float64, or forms for a CPU."""

import dataclasses
import functools
import unittest.mock
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import lowering
import pytest
import tiny_classifier
from jax import lax

import jax_sis
from jax_sis import classifiers
from jax_sis.classifiers import checkpoint, conv
from jax_sis.runtime import device_program, devices

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")

NUM_IMAGES = 4
PLATFORMS = pytest.mark.parametrize("platform", lowering.PLATFORMS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
  """A frozen network of 32x32 images, and the mask's shape."""

  predict_fn: Callable[..., Any]
  params: Any
  grid: tuple[int, int, int]


@pytest.fixture(scope="module")
def tiny_network() -> Network:
  """All of its layers are narrow enough to have forms of their own on a CPU."""
  tiny_classifier.register()
  with jax.numpy_rank_promotion("allow"):
    predict_fn, params = classifiers.freeze(classifiers.build(tiny_classifier.NAME, num_classes=10))
  return Network(predict_fn=predict_fn, params=params, grid=(8, 8, 1))


@pytest.fixture(scope="module")
def embedded_network() -> Network:
  with jax.numpy_rank_promotion("allow"):
    predict_fn, params = classifiers.freeze(checkpoint.load_classifier(checkpoint.EMBEDDED_CLASSIFIER).module)
  return Network(predict_fn=predict_fn, params=params, grid=(32, 32, 1))


def minimise_backward(predict_fn: Any, params: Any, inputs: Any, **options: Any) -> Any:
  order = jax_sis.backselect(predict_fn, params, inputs, search=jax_sis.Gradient(per_step=16), **options)
  return jax_sis.minimise(predict_fn, params, inputs, jax_sis.sufficient_subsets(order, 0.9), order=order)


def certify_backward(predict_fn: Any, params: Any, inputs: Any, **options: Any) -> Any:
  order = jax_sis.backselect(predict_fn, params, inputs, search=jax_sis.Gradient(per_step=16), **options)
  return jax_sis.certify(predict_fn, params, inputs, jax_sis.sufficient_subsets(order, 0.9), pair_partners=2)


def backward(search: Any) -> Callable[..., Any]:
  return functools.partial(jax_sis.backselect, search=search)


def collection(search: Any) -> Callable[..., Any]:
  return functools.partial(jax_sis.sis_collection, search=search, max_subsets=2, minimised=True, batch_size=2)


SEARCHES: dict[str, Callable[..., Any]] = {
  "gradient": backward(jax_sis.Gradient()),
  "gradient, batched": backward(jax_sis.Gradient(per_step=16)),
  "screened": backward(jax_sis.Screened()),
  "screened, after gradients": backward(jax_sis.Screened(gradient_until=32)),
  "exact": backward(jax_sis.Exact()),
  "forward": jax_sis.forward_select,
  "smallest": jax_sis.smallest_subsets,
  "minimise": minimise_backward,
  "certify": certify_backward,
  "collection, backward": collection(jax_sis.Gradient(per_step=16)),
  "collection, forward": collection(jax_sis.Forward()),
}


def lower_search(name: str, network: Network, *platforms: str) -> dict[str, str]:
  def search(params: Any, inputs: Any) -> Any:
    return SEARCHES[name](network.predict_fn, params, inputs, grid=network.grid)

  inputs = jax.ShapeDtypeStruct((NUM_IMAGES, 32, 32, 3), jnp.float32)
  return lowering.lower(search, network.params, inputs, platforms=platforms)


def lower_plain(name: str, network: Network, platform: str) -> str:
  """The search's program with JAX's own convolutions."""
  plain = dataclasses.replace(network, predict_fn=lowering.with_plain_convolutions(network.predict_fn))
  return lower_search(name, plain, platform)[platform]


def check_search(name: str, network: Network) -> None:
  lowering.check_programs(lower_search(name, network, *lowering.PLATFORMS), lower_plain(name, network, "tpu"))


# The others are made of the same parts.
QUICK_SEARCHES = ("gradient", "screened", "exact", "smallest", "certify")


@pytest.mark.parametrize(
  "name", [name if name in QUICK_SEARCHES else pytest.param(name, marks=pytest.mark.slow) for name in SEARCHES]
)
def test_searches_lower_for_accelerators(name: str, tiny_network: Network):
  check_search(name, tiny_network)


@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHES)
def test_searches_of_the_embedded_network_lower_for_accelerators(name: str, embedded_network: Network):
  check_search(name, embedded_network)


def test_the_program_for_a_cpu_does_not_pass(tiny_network: Network):
  with pytest.raises(AssertionError):
    lowering.check_programs(lower_search("gradient", tiny_network, "cpu"), lower_plain("gradient", tiny_network, "cpu"))


# What the checks must see.


@pytest.mark.parametrize("form", ["blocked_conv", "summed_gradient"])
def test_a_form_for_a_cpu_is_seen(form: str, tiny_network: Network):
  by_platform = lax.platform_dependent

  def with_form(*arguments: Any, cpu: Any, default: Any) -> Any:
    return cpu(*arguments) if cpu.func.__name__ == form else by_platform(*arguments, cpu=cpu, default=default)

  def predict(params: Any, inputs: Any) -> Any:
    return tiny_network.predict_fn(params, inputs)

  with unittest.mock.patch.object(conv.lax, "platform_dependent", with_form):
    programs = lower_search("gradient", dataclasses.replace(tiny_network, predict_fn=predict), "tpu")
  assert lowering.find_faults(programs["tpu"]) == []
  expected = lowering.convolutions(lower_plain("gradient", tiny_network, "tpu"))
  assert lowering.convolutions(programs["tpu"]) != expected


@PLATFORMS
def test_a_callback_does_not_lower_for_an_accelerator(platform: str, tiny_network: Network):
  def predict(params: Any, inputs: Any) -> Any:
    jax.debug.print("{}", inputs[0, 0, 0, 0])
    return tiny_network.predict_fn(params, inputs)

  network = dataclasses.replace(tiny_network, predict_fn=predict)
  with pytest.raises(ValueError, match=f"different from the lowering platform {platform}"):
    lower_search("gradient", network, platform)
  assert lowering.find_faults(lower_search("gradient", network, "cpu")["cpu"]) == [
    "calls out of the program: custom_call"
  ]


@PLATFORMS
def test_a_collective_is_seen(platform: str):
  def total(inputs: Any) -> Any:
    return lax.psum(inputs, device_program.DEVICE_AXIS)

  mapped = device_program.map_devices(total, devices.local_devices(2))
  program = lowering.lower(mapped, jnp.ones((2, 3)), platforms=[platform])[platform]
  assert lowering.find_faults(program) == ["a collective: all_reduce"]


@PLATFORMS
def test_float64_is_seen(platform: str):
  with jax.enable_x64(True):
    program = lowering.lower(lambda inputs: inputs.astype(jnp.float64).sum(), jnp.ones(3), platforms=[platform])[
      platform
    ]
  assert lowering.find_faults(program) == ["float64"]


def test_precisions_are_read():
  def multiply(inputs: Any) -> Any:
    with jax.default_matmul_precision("highest"):
      product = inputs @ inputs
    return product @ inputs

  assert lowering.precisions(lowering.lower(multiply, jnp.ones((3, 3)), platforms=["tpu"])["tpu"]) == {
    "HIGHEST",
    "DEFAULT",
  }


def test_convolutions_are_read():
  def convolve(inputs: Any, kernel: Any) -> Any:
    return lowering.plain_conv2d(inputs, kernel, stride=2, padding=1)

  def gradient(inputs: Any, kernel: Any) -> Any:
    return jax.grad(lambda inputs: convolve(inputs, kernel).sum())(inputs)

  arguments = jnp.ones((2, 8, 6, 3)), jnp.ones((3, 3, 3, 5))
  forward = lowering.Convolution(
    batch=2, inputs=(8, 6), in_width=3, out_width=5, window=(3, 3), stride=(2, 2), dilation=(1, 1)
  )
  backward = lowering.Convolution(
    batch=2, inputs=(4, 3), in_width=5, out_width=3, window=(3, 3), stride=(1, 1), dilation=(2, 2)
  )
  assert lowering.convolutions(lowering.lower(convolve, *arguments, platforms=["tpu"])["tpu"]) == {forward: 1}
  assert lowering.convolutions(lowering.lower(gradient, *arguments, platforms=["tpu"])["tpu"]) == {backward: 1}
