"""Gradient search, k = 1, ResNet-20 at 32x32, all cores: image-steps a second beside PyTorch, runs interleaved."""

import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from jax_sis.classifiers import checkpoint, frozen
from jax_sis.core import masking
from jax_sis.core.searches import Gradient, backward_sizes
from jax_sis.runs import bench
from jax_sis.runtime import devices

NUM_STEPS = 16
NUM_ROUNDS = 7
JAX_BATCH_SIZES = (2, 4, 8, 16)
PYTORCH_BATCH_SIZES = (8, 16, 32, 64)
# Forward pass and input gradient of one 32x32 image.
FLOP_PER_IMAGE_STEP = 164e6
INPUT_SHAPE = (32, 32, 3)


def make_jax_runs() -> dict[str, tuple[int, Callable[[], Any]]]:
  """Images a run and the run itself, for each batch size a device."""
  classifier = checkpoint.load_classifier(checkpoint.EMBEDDED_CLASSIFIER)
  predict_fn, params = frozen.freeze(classifier.module)
  local_devices = devices.local_devices()
  sizes = backward_sizes(masking.num_features((32, 32, 1)), 1)[-NUM_STEPS:]
  runs = {}
  for batch_size in JAX_BATCH_SIZES:
    program = bench.compile_steps(
      predict_fn,
      params,
      INPUT_SHAPE,
      batch_size=batch_size,
      search=Gradient(),
      sizes=sizes,
      local_devices=local_devices,
    )
    inputs = np.random.default_rng(0).normal(size=(program.launch_size, *INPUT_SHAPE)).astype(np.float32)
    name = f"jax_sis, {len(local_devices)} devices, {batch_size} images each"
    runs[name] = (
      program.launch_size,
      lambda program=program, inputs=inputs: jax.block_until_ready(program.start(inputs).outputs),
    )
  return runs


def make_pytorch_runs() -> tuple[dict[str, tuple[int, Callable[[], Any]]], dict[str, str]]:
  """The same for every PyTorch variant, and the reasons why some cannot run here."""
  sys.path.insert(0, str(pathlib.Path(__file__).parent))
  import pytorch_peer

  pytorch_peer.use_all_cores()
  runs, reasons = {}, {}
  for variant in pytorch_peer.make_variants(pytorch_peer.random_model(0), num_steps=NUM_STEPS):
    for batch_size in PYTORCH_BATCH_SIZES:
      name = f"PyTorch {variant.name}, batch {batch_size}"
      try:
        runs[name] = (batch_size, variant.make_fn(batch_size))
      except pytorch_peer.UnavailableError as error:
        reasons[name] = str(error)
  return runs, reasons


def best_rate(rates: dict[str, float], start: str) -> float:
  """The highest rate of the variants whose name begins so."""
  return max(rate for name, rate in rates.items() if name.startswith(start))


# torch.compile runs deprecated parts of PyTorch itself.
@pytest.mark.filterwarnings("ignore:.*torch:DeprecationWarning")
def test_image_steps_beside_pytorch(benchmark: Any):
  pytest.importorskip("torch", reason="the peer needs PyTorch: pip install torch")
  jax_runs = make_jax_runs()
  pytorch_runs, reasons = make_pytorch_runs()
  runs = {**jax_runs, **pytorch_runs}
  times: dict[str, list[float]] = {name: [] for name in runs}
  matmul_rates: list[float] = []

  def run_round() -> None:
    for name, (_, run) in runs.items():
      started = time.perf_counter()
      run()
      times[name].append(time.perf_counter() - started)
    matmul_rates.append(bench.measure_matmul(devices.local_devices(), num_runs=2))

  benchmark.pedantic(run_round, rounds=NUM_ROUNDS, warmup_rounds=1)
  # The first round warmed up what is timed.
  rates = {name: num_images * NUM_STEPS / statistics.median(times[name][1:]) for name, (num_images, _) in runs.items()}
  matmul_rate = statistics.median(matmul_rates[1:])
  jax_best = best_rate(rates, "jax_sis")
  ratios = {
    "over the authors' way": jax_best / best_rate(rates, "PyTorch authors"),
    "over the best PyTorch": jax_best / best_rate(rates, "PyTorch best"),
    "share of the float32 matmul rate": jax_best * FLOP_PER_IMAGE_STEP / matmul_rate,
  }
  benchmark.extra_info.update(
    image_steps_per_second=rates, matmul_flop_per_second=matmul_rate, ratios=ratios, not_run=reasons
  )
  print(f"\nfloat32 matmul of {bench.MATMUL_SIZE}: {matmul_rate / 1e9:.0f} GFLOP/s")
  for name, rate in rates.items():
    print(f"{rate:8.0f} image-steps/s  {name}")
  for name, reason in reasons.items():
    print(f"{'-':>8} image-steps/s  {name}: {reason}")
  for name, ratio in ratios.items():
    print(f"{ratio:8.2f} x {name}")
