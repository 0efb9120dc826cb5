"""What `accelerator.py` runs of jax_sis: the classifiers, and compiled searches of them."""

import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from accelerator_report import make_noise, place
from PIL import Image

from jax_sis import Gradient, classifiers
from jax_sis.classifiers import checkpoint
from jax_sis.core.backselect import run_backward
from jax_sis.core.problem import Problem, make_problem
from jax_sis.core.searches import Phase, backward_sizes
from jax_sis.runs.roofline import count_work

# JAX's matmul precision for each of ours; in bf16 parameters and inputs are bfloat16, too.
MATMUL_PRECISIONS = {"highest": "highest", "default": "default", "bf16": "default"}


class Network(NamedTuple):
  """A frozen classifier, and what a step of a gradient search on one image costs at least.

  Attributes:
    predict_fn: the frozen network.
    params: its arrays, on the host.
    size: rows and columns of its images.
    num_classes: of its logits.
    flops: of the products and sums of all layers, forward and back to the mask.
    values: numbers that convolutions read and write, each layer's inputs and outputs once, forward and back.
  """

  predict_fn: Any
  params: Any
  size: int
  num_classes: int
  flops: float
  values: float


def embedded_network() -> Network:
  """The embedded ResNet-20."""
  predict_fn, params = classifiers.freeze(checkpoint.load_classifier(checkpoint.EMBEDDED_CLASSIFIER).module)
  return make_network(predict_fn, params, size=32, num_classes=10)


def resnet50(size: int) -> Network:
  """A ResNet-50 with random weights, which take as long as trained ones."""
  predict_fn, params = classifiers.freeze(classifiers.build("resnet50", num_classes=1000))
  return make_network(predict_fn, params, size=size, num_classes=1000)


def make_network(predict_fn: Any, params: Any, *, size: int, num_classes: int) -> Network:
  flops, values = count_work(predict_fn, params, (size, size, 3))
  return Network(predict_fn, jax.tree.map(np.asarray, params), size, num_classes, 2 * flops, 2 * values)


def sample_images() -> np.ndarray:
  """The embedded CIFAR-10 images as normalised inputs `[24, 32, 32, 3]`."""
  classifier = checkpoint.load_classifier(checkpoint.EMBEDDED_CLASSIFIER)
  folder = pathlib.Path(checkpoint.__file__).parents[1] / "assets" / "cifar10_test_sample"
  files = sorted(folder.glob("*/*.png"), key=lambda path: path.stem)
  images = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in files])
  return np.asarray(classifier.normalisation.apply(images), np.float32)


def place_problem(network: Network, inputs: np.ndarray, targets: np.ndarray, device: Any, dtype: Any = None) -> Problem:
  """The question on a device; in another floating point type if one is given."""
  placed = place(network.params, device, dtype), place(inputs, device, dtype), place(targets, device)
  grid = (network.size, network.size, 1)
  with jax.default_device(device):
    return make_problem(network.predict_fn, *placed, baseline=0.0, grid=grid, score="log_odds")


class CompiledSearch(NamedTuple):
  """A gradient search that is compiled for one batch.

  Attributes:
    run: starts it and waits for the ranks, in NumPy.
    order: starts it and gives the whole order.
    facts: seconds of compiling, steps, and MiB of temporaries.
  """

  run: Callable[[], np.ndarray]
  order: Callable[[], Any]
  facts: dict[str, Any]


def compile_search(
  problem: Problem,
  *,
  per_step: int,
  precision: str,
  num_steps: int | None = None,
  compiler_options: dict[str, Any] | None = None,
) -> CompiledSearch:
  """The gradient search of the first steps, of all where None."""
  sizes = backward_sizes(problem.num_features, per_step)
  sizes = sizes if num_steps is None else sizes[-num_steps:]
  started = time.perf_counter()
  with jax.default_matmul_precision(MATMUL_PRECISIONS[precision]):
    lowered = run_backward.lower(problem, phases=(Phase(Gradient(per_step=per_step), sizes),))
    compiled = lowered.compile(compiler_options)
  facts = {"compile_s": round(time.perf_counter() - started, 1), "steps": len(sizes)}
  facts["temporary_mib"] = temporary_mib(compiled)
  return CompiledSearch(
    lambda: np.asarray(compiled(problem).rank), lambda: jax.block_until_ready(compiled(problem)), facts
  )


def temporary_mib(compiled: Any) -> float:
  return round(compiled.memory_analysis().temp_size_in_bytes / 2**20, 1)


def compile_noise_search(
  network: Network, device: Any, *, batch_size: int, precision: str, **options: Any
) -> CompiledSearch:
  """`compile_search` on a batch of noise."""
  dtype = jnp.bfloat16 if precision == "bf16" else None
  images, targets = make_noise(batch_size, network.size, network.num_classes)
  problem = place_problem(network, images, targets, device, dtype)
  return compile_search(problem, precision=precision, **options)
