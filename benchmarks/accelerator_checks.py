"""Sections of `accelerator.py`: the device, its rates, and whether searches find there what they find on a CPU."""

import importlib.metadata
import importlib.util
import os
import statistics
import subprocess
import sys
import time
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from accelerator_jax import Network, compile_search, embedded_network, place_problem, sample_images
from accelerator_report import Report, import_peer, place, time_once

from jax_sis import sufficient_subsets
from jax_sis.core.certify import run_certify
from jax_sis.core.forward import run_forward
from jax_sis.core.minimise import DEFAULT_SETTINGS, run_minimise
from jax_sis.core.searches import Forward
from jax_sis.core.subsets import Status
from jax_sis.runtime import devices
from jax_sis.runtime.device_program import map_devices

LIBRARIES = (
  "jax",
  "jaxlib",
  "jax-cuda13-plugin",
  "jax-cuda12-plugin",
  "libtpu",
  "flax",
  "orbax-checkpoint",
  "numpy",
  "torch",
)
OPTIONAL_MODULES = ("grain", "tensorflow_datasets", "array_record", "tensorstore", "tyro", "rich", "torchvision")


def state_facts(report: Report, device: Any, torch: Any) -> None:
  """Versions, the card, its memory, and whether the mapping over devices works without a warning."""
  versions = {}
  for name in LIBRARIES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      versions[name] = None
  report.emit(
    "facts",
    python=sys.version.split()[0],
    versions=versions,
    missing=[name for name in OPTIONAL_MODULES if importlib.util.find_spec(name) is None],
    platform=device.platform,
    device_kind=device.device_kind,
    num_devices=jax.device_count(),
    cores=os.cpu_count(),
    bytes_limit=(device.memory_stats() or {}).get("bytes_limit"),
    xla_flags=os.environ.get("XLA_FLAGS", ""),
    torch=None if torch is None else torch.__version__,
  )
  query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem,power.limit"]
  try:
    shown = subprocess.run([*query, "--format=csv,noheader"], capture_output=True, text=True, check=False)
    report.emit("facts", nvidia_smi=shown.stdout.strip())
  except OSError as error:
    report.emit("facts", nvidia_smi=None, reason=str(error))
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    local = devices.local_devices()
    mapped = map_devices(lambda scale, row: row * scale, local, in_axes=(None, 0))
    jax.block_until_ready(mapped(2.0, np.ones((len(local), 8), np.float32)))
  report.emit(
    "facts",
    available_bytes=devices.available_bytes(local),
    warnings_of_mapping=sorted({f"{item.category.__name__}: {str(item.message)[:160]}" for item in caught}),
  )


def measure_rates(report: Report, device: Any, torch: Any, *, size: int) -> dict[str, float]:
  """Multiplies matrices of `size` in each precision, and copies memory.

  Returns:
    What rooflines are made of: operations a second for "highest", "default" and "bf16", and "bytes" a second.
  """
  with jax.default_device(device):
    random = jax.random.normal(jax.random.key(0), (size, size))
    long = jnp.ones(8 * size * size)
  cases = {
    "highest": (jnp.float32, "highest"),
    "high": (jnp.float32, "high"),
    "default": (jnp.float32, "default"),
    "bf16": (jnp.bfloat16, "default"),
  }
  functions = {}
  for name, (dtype, precision) in cases.items():
    matrix = random.astype(dtype)
    with jax.default_matmul_precision(precision):
      product = jax.jit(lambda left, right: left @ right).lower(matrix, matrix).compile()
    functions[name] = lambda product=product, matrix=matrix: jax.block_until_ready(
      [product(matrix, matrix) for _ in range(5)]
    )
  copy = jax.jit(lambda array: array + 1.0)
  functions["copy"] = lambda: jax.block_until_ready([copy(long) for _ in range(5)])
  seconds = report.time_in_turn("rates", functions, 3)
  rates = {name: 5 * 2 * size**3 / value for name, value in seconds.items() if name != "copy"}
  rates["bytes"] = 5 * 2 * long.nbytes / seconds["copy"]
  tflops = {name: round(value / 1e12, 2) for name, value in rates.items() if name != "bytes"}
  report.emit("rates", library="jax", matmul=size, tflops=tflops, copy_gb_per_s=round(rates["bytes"] / 1e9, 1))
  if torch is not None and device.platform == "gpu":
    seconds = report.time_in_turn("rates", import_peer().make_matmuls(size), 3)
    tflops = {name: round(5 * 2 * size**3 / value / 1e12, 2) for name, value in seconds.items()}
    report.emit("rates", library="torch", matmul=size, tflops=tflops)
  return rates


def compare_orders(ranks: np.ndarray, others: np.ndarray) -> dict[str, float]:
  """How alike two orders are: identical images, rank correlation, overlap of the 5 % needed most."""
  num_kept = ranks.shape[1] // 20
  pairs = list(zip(ranks, others, strict=True))
  correlations = [float(np.corrcoef(one, other)[0, 1]) for one, other in pairs]
  overlaps = [float(((one < num_kept) & (other < num_kept)).sum() / num_kept) for one, other in pairs]
  return {
    "identical_images": round(float((ranks == others).all(1).mean()), 4),
    "equal_ranks": round(float((ranks == others).mean()), 4),
    "rank_correlation_mean": round(statistics.mean(correlations), 5),
    "rank_correlation_min": round(min(correlations), 5),
    "overlap_of_5_percent_mean": round(statistics.mean(overlaps), 4),
  }


def check_searches(report: Report, device: Any, *, num_images: int, per_step: int, chunk_size: int) -> None:
  """Orders in each precision beside the CPU's at the highest, and the smallest evidence with its certificate."""
  section = "correctness"
  network = embedded_network()
  inputs = sample_images()[:num_images]
  host = jax.devices("cpu")[0]
  with jax.default_matmul_precision("highest"):
    logits, on_device = (
      np.asarray(jax.jit(network.predict_fn)(place(network.params, where), place(inputs, where)))
      for where in (host, device)
    )
  largest = float(np.abs(logits - on_device).max())
  report.check(section, "logits at highest agree with the CPU's", largest < 1e-3, largest_difference=largest)
  targets = logits.argmax(1).astype(np.int32)
  orders = {}
  for name, where, precision in (
    ("cpu highest", host, "highest"),
    ("device highest", device, "highest"),
    ("device default", device, "default"),
    ("device bf16", device, "bf16"),
  ):
    with report.part(section, order=name):
      dtype = jnp.bfloat16 if precision == "bf16" else None
      problem = place_problem(network, inputs, targets, where, dtype)
      search = compile_search(problem, per_step=per_step, precision=precision)
      orders[name] = search.order()
      is_same = bool((search.run() == np.asarray(orders[name].rank)).all())
      report.emit(section, order=name, search_s=round(time_once(search.run), 3), images=len(inputs), **search.facts)
      report.check(section, f"{name}: the same bits twice", is_same)
  for name, order in orders.items():
    check_order(report, network, name, order, orders["cpu highest"], inputs=inputs, logits=logits, host=host)
  with report.part(section, what="batch"):
    half = place_problem(network, inputs[: len(inputs) // 2], targets[: len(inputs) // 2], device)
    ranks = compile_search(half, per_step=per_step, precision="highest").run()
    whole = np.asarray(orders["device highest"].rank)[: len(ranks)]
    report.emit(section, what="half the batch against the whole", **compare_orders(whole, ranks))
  sizes = {}
  for name, where, copies in (("cpu", host, 64), ("device", device, chunk_size)):
    with report.part(section, what=f"smallest on {name}"):
      problem = place_problem(network, inputs[: len(inputs) // 3], targets[: len(inputs) // 3], where)
      sizes[name] = check_smallest(report, name, problem, chunk_size=copies)
  if len(sizes) == 2:
    equal = float((sizes["cpu"] == sizes["device"]).mean())
    means = {f"mean_{name}": float(found.mean()) for name, found in sizes.items()}
    report.emit(section, what="smallest: device against CPU", equal_sizes=equal, **means)


def check_order(
  report: Report,
  network: Network,
  name: str,
  order: Any,
  reference: Any,
  *,
  inputs: np.ndarray,
  logits: np.ndarray,
  host: Any,
) -> None:
  """One order's invariants, its likeness to the reference, and six of its confidences computed again on the host."""
  section = "correctness"
  ranks, confidence = np.asarray(order.rank), np.asarray(order.confidence, np.float32)
  is_whole = (np.sort(ranks, axis=1) == np.arange(ranks.shape[1])).all()
  report.check(section, f"{name}: every rank once", is_whole)
  is_finite = np.asarray(order.finite).all() and np.isfinite(confidence).all()
  report.check(section, f"{name}: all numbers finite", is_finite)
  found, expected = (np.asarray(sufficient_subsets(one, 0.99).num_kept) for one in (order, reference))
  report.emit(
    section,
    order=name,
    against="cpu highest",
    mean_pixels_at_99=round(float(found[found > 0].mean()), 1) if (found > 0).any() else None,
    equal_subset_sizes=round(float((found == expected).mean()), 4),
    **compare_orders(np.asarray(reference.rank), ranks),
  )
  if name == "device highest":
    correlation = compare_orders(np.asarray(reference.rank), ranks)["rank_correlation_mean"]
    report.check(section, f"{name}: orders are like the CPU's", correlation > 0.9, rank_correlation_mean=correlation)
  if "bf16" in name:
    return
  targets, sizes = logits.argmax(1), np.asarray(order.sizes)
  worst = 0.0
  for index in np.linspace(0, len(sizes) - 1, 6).astype(int):
    kept = (ranks < sizes[index]).reshape(len(inputs), *inputs.shape[1:3], 1)
    with jax.default_matmul_precision("highest"):
      masked = place((inputs * kept).astype(np.float32), host)
      fresh = jax.nn.softmax(jax.jit(network.predict_fn)(place(network.params, host), masked))
    worst = max(worst, float(np.abs(np.asarray(fresh)[np.arange(len(inputs)), targets] - confidence[:, index]).max()))
  # TF32 keeps ten bits of a factor.
  limit = 5e-2 if "default" in name else 1e-3
  report.check(section, f"{name}: confidences again on the CPU", worst < limit, largest_difference=worst)


def check_smallest(report: Report, name: str, problem: Any, *, chunk_size: int) -> np.ndarray:
  """Grows, minimises and certifies the smallest evidence; returns its sizes."""
  settings = DEFAULT_SETTINGS._replace(chunk_size=chunk_size)

  def search() -> tuple[Any, Any]:
    with jax.default_matmul_precision("highest"):
      order = run_forward(problem, search=Forward(candidates=settings.candidates, chunk_size=chunk_size))
      subsets = run_minimise(problem, sufficient_subsets(order, 0.99), None, settings=settings)
      return subsets, jax.block_until_ready(run_certify(problem, subsets, 1e-3, chunk_size=chunk_size))

  started = time.perf_counter()
  subsets, certificate = search()
  seconds = time.perf_counter() - started
  is_found = np.asarray(subsets.status) == Status.OK
  sizes = np.asarray(subsets.num_kept)
  what = f"smallest on {name}"
  report.emit("correctness", what=what, seconds_with_compiling=round(seconds, 1), sizes=sizes[is_found].tolist())
  is_right = np.asarray(certificate.is_sufficient) & np.asarray(certificate.is_minimal)
  report.check("correctness", f"{what}: all certified 1-minimal", is_right[is_found].all())
  return sizes
