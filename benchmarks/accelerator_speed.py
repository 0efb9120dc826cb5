"""Sections of `accelerator.py` that time searches, beside PyTorch on the same card where it is there."""

import collections
import contextlib
import functools
import glob
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from accelerator_jax import (
  Network,
  compile_noise_search,
  embedded_network,
  place_problem,
  sample_images,
  temporary_mib,
)
from accelerator_report import (
  PRECISIONS_BY_TORCH_NAME,
  TORCH_NAMES,
  Report,
  import_peer,
  make_noise,
  peak_mib,
  time_once,
)
from jax import lax

from jax_sis import Gradient
from jax_sis.classifiers import layers
from jax_sis.core.minimise import DEFAULT_SETTINGS
from jax_sis.core.searches import Forward
from jax_sis.core.smallest import run_smallest
from jax_sis.core.subsets import Status
from jax_sis.runs.config import FindConfig
from jax_sis.runs.device_search import ImageSearch
from jax_sis.runtime import devices
from jax_sis.runtime.device_program import DeviceProgram

BYTES = {"highest": 4, "default": 4, "bf16": 2}


def add_roofline(network: Network, rates: dict[str, float], precision: str, rate: float) -> dict[str, Any]:
  """The rate as operations, and its share of what the matmul rate and the memory's allow.

  The memory bound counts what each convolution reads and writes once, forward and back.
  """
  compute_bound = rates[precision] / network.flops
  memory_bound = rates["bytes"] / (network.values * BYTES[precision])
  bound = "compute" if compute_bound < memory_bound else "memory"
  return {
    "image_steps_per_s": round(rate, 1),
    "tflops": round(rate * network.flops / 1e12, 2),
    "roofline": bound,
    "share_of_roofline": round(rate / min(compute_bound, memory_bound), 3),
  }


def time_gradient(
  report: Report,
  section: str,
  network: Network,
  device: Any,
  rates: dict[str, float],
  model: Any,
  *,
  batch_size: int,
  per_step: int,
  num_steps: int,
  precisions: tuple[str, ...],
  is_compiled: bool = False,
) -> None:
  """Gradient searches of one batch by us and by PyTorch, in turn; `model` is PyTorch's, None where it is not there."""
  runs, facts = {}, {}
  for precision in precisions:
    name = f"jax {precision}"
    with report.part(section, variant=name, batch=batch_size):
      options = {"per_step": per_step, "num_steps": num_steps, "precision": precision}
      search = compile_noise_search(network, device, batch_size=batch_size, **options)
      runs[name], facts[name] = search.run, search.facts
  if model is not None:
    images, targets = make_noise(batch_size, network.size, network.num_classes)
    options = {"per_step": per_step, "num_steps": num_steps, "precisions": precisions, "is_compiled": is_compiled}
    runs |= import_peer().make_runs(report, section, model, images, targets, **options)
  seconds = report.time_in_turn(section, runs, 3)
  for name, value in seconds.items():
    word = name.split()[-1]
    precision = PRECISIONS_BY_TORCH_NAME.get(word, word)
    roofline = add_roofline(network, rates, precision, batch_size * num_steps / value)
    times = {}
    if name.startswith("jax"):
      peers = {
        peer: seconds[peer] / value
        for peer in seconds
        if peer.startswith("torch") and peer.endswith(f" {TORCH_NAMES[precision]}")
      }
      authors = {peer: times for peer, times in peers.items() if "authors" in peer}
      best = {peer: times for peer, times in peers.items() if "authors" not in peer}
      times = {f"times_{peer.removeprefix('torch ')}": round(ratio, 2) for peer, ratio in peers.items()}
      if authors and best:
        report.headlines.append(
          f"{section}, batch {batch_size}, {precision}: {roofline['image_steps_per_s']:,.0f} image-steps/s, "
          f"{roofline['share_of_roofline']:.2f} of the {roofline['roofline']} roofline, "
          f"{min(authors.values()):.2f} x authors' way, {min(best.values()):.2f} x best PyTorch"
        )
    milliseconds = round(1e3 * value / num_steps, 3)
    report.emit(
      section, variant=name, batch=batch_size, ms_per_step=milliseconds, **roofline, **facts.get(name, {}), **times
    )
  if model is not None:
    report.emit(section, batch=batch_size, torch_peak_mib=import_peer().peak_mib(), jax_peak_mib=peak_mib(device))


def time_smallest(report: Report, device: Any, *, chunks: tuple[tuple[int, int], ...]) -> None:
  """Images a second of the smallest evidence, as `jax-sis find` looks for it, by copies a model call."""
  network = embedded_network()
  inputs = sample_images()
  with jax.default_matmul_precision("highest"):
    confidence = np.asarray(jax.nn.softmax(jax.jit(network.predict_fn)(network.params, inputs)))
  # Only images that have a subset to find, and moved copies of them to fill a batch.
  is_sure = confidence.max(1) >= 0.99
  inputs, targets = inputs[is_sure], confidence.argmax(1).astype(np.int32)[is_sure]
  sizes: dict[int, np.ndarray] = {}
  for chunk_size, num_images in chunks:
    if report.is_late("smallest", 30):
      return
    with report.part("smallest", chunk_size=chunk_size):
      repeats = -(-num_images // len(inputs))
      copies = np.concatenate([np.roll(inputs, shift, axis=2) for shift in range(repeats)])[:num_images]
      problem = place_problem(network, copies, np.tile(targets, repeats)[:num_images], device)
      search = Forward(candidates=DEFAULT_SETTINGS.candidates, chunk_size=chunk_size)
      started = time.perf_counter()
      with jax.default_matmul_precision("highest"):
        compiled = run_smallest.lower(problem, search=search, exchanges=DEFAULT_SETTINGS.exchanges).compile()
      compile_seconds = time.perf_counter() - started
      found = jax.block_until_ready(compiled(problem))
      seconds = time_once(lambda compiled=compiled, problem=problem: jax.block_until_ready(compiled(problem)))
      is_found = np.asarray(found.status) == Status.OK
      sizes[chunk_size] = np.where(is_found, np.asarray(found.num_kept), -1)
      rate = num_images / seconds
      report.emit(
        "smallest",
        chunk_size=chunk_size,
        images=num_images,
        at_a_time=min(max(chunk_size // search.candidates, 1), num_images),
        images_per_s=round(rate, 2),
        found=int(is_found.sum()),
        mean_pixels=round(float(sizes[chunk_size][is_found].mean()), 2) if is_found.any() else None,
        compile_s=round(compile_seconds, 1),
        temporary_mib=temporary_mib(compiled),
      )
      report.headlines.append(f"smallest evidence, {chunk_size} copies a call: {rate:.1f} images/s")
  for chunk_size, found in list(sizes.items())[1:]:
    first_chunk, first = next(iter(sizes.items()))
    count = min(len(found), len(first))
    equal = float((found[:count] == first[:count]).mean())
    report.emit("smallest", chunk_size=chunk_size, against=first_chunk, equal_sizes=equal)


def time_find(report: Report, *, batch_size: int, per_step: int) -> None:
  """The program that `jax-sis find --search gradient` launches, on all devices, from host arrays to host arrays."""
  network = embedded_network()
  for precision in ("highest", "default"):
    if report.is_late("find", 30):
      return
    with report.part("find", precision=precision):
      config = FindConfig(search=Gradient(per_step=per_step), smallest=None, certificate="alone", precision=precision)
      search = ImageSearch(config=config, predict_fn=network.predict_fn, grid=(32, 32, 1))
      program = DeviceProgram(search, network.params, local_devices=devices.local_devices(), batch_size=batch_size)
      images, _ = make_noise(program.launch_size, network.size, network.num_classes)
      requested = np.full(program.launch_size, -1, np.int32)
      compile_seconds = time_once(functools.partial(program.compile, images, requested))
      one = statistics.median(program.run(images, requested).seconds for _ in range(3))
      started = time.perf_counter()
      for _ in program.run_all((number, (images, requested)) for number in range(4)):
        pass
      ahead = (time.perf_counter() - started) / 4
      report.emit(
        "find",
        precision=precision,
        batch=batch_size,
        per_step=per_step,
        images_per_s=round(program.launch_size / one, 1),
        images_per_s_one_launch_ahead=round(program.launch_size / ahead, 1),
        host_share=round(1 - one / ahead, 4),
        compile_s=round(compile_seconds, 1),
        program_mib=round(devices.program_bytes(program.compiled) / 2**20, 1),
      )


def time_convolutions(report: Report, device: Any, *, batch_size: int, num_steps: int) -> None:
  """Our convolution's gradient beside JAX's own, in turn."""
  network = embedded_network()
  runs, facts = {}, {}
  for precision in ("highest", "default", "bf16"):
    for name, is_stock in (("ours", False), ("stock", True)):
      variant = f"{name} {precision}"
      with report.part("convolutions", variant=variant), stock_convolutions() if is_stock else contextlib.nullcontext():
        # Each variant traces a function of its own, since JAX remembers the traces of one function.
        own = network._replace(predict_fn=functools.partial(call, network.predict_fn))
        options = {"per_step": 1, "num_steps": num_steps, "precision": precision}
        search = compile_noise_search(own, device, batch_size=batch_size, **options)
        runs[variant], facts[variant] = search.run, search.facts
  for variant, seconds in report.time_in_turn("convolutions", runs, 3).items():
    rate = round(batch_size * num_steps / seconds)
    report.emit("convolutions", variant=variant, batch=batch_size, image_steps_per_s=rate, **facts[variant])


def call(predict_fn: Any, params: Any, inputs: Any) -> Any:
  return predict_fn(params, inputs)


@contextlib.contextmanager
def stock_convolutions() -> Iterator[None]:
  """Networks traced inside have `lax`'s convolutions and JAX's own gradients."""
  ours = layers.conv2d

  def stock(inputs: Any, kernel: Any, *, stride: int = 1, padding: Any = 0, groups: int = 1) -> Any:
    pads = (padding, padding) if isinstance(padding, int) else padding
    return lax.conv_general_dilated(
      inputs,
      kernel,
      (stride, stride),
      [(pad, pad) for pad in pads],
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      feature_group_count=groups,
    )

  layers.conv2d = stock
  try:
    yield
  finally:
    layers.conv2d = ours


def time_compiler_options(report: Report, device: Any, *, batch_sizes: tuple[int, ...], num_steps: int) -> None:
  """Small batches, where starting kernels is what takes the time, by how XLA starts them."""
  network = embedded_network()
  everything = "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,DYNAMIC_SLICE_FUSION,CONDITIONAL,WHILE"
  choices: dict[str, dict[str, Any]] = {
    "default": {},
    "no command buffers": {"xla_gpu_enable_command_buffer": ""},
    "command buffers for loops": {"xla_gpu_enable_command_buffer": everything, "xla_gpu_graph_min_graph_size": 1},
  }
  for batch_size in batch_sizes:
    runs = {}
    for name, compiler_options in choices.items():
      with report.part("compiler_options", variant=name, batch=batch_size):
        options = {"per_step": 1, "num_steps": num_steps, "precision": "default", "compiler_options": compiler_options}
        runs[name] = compile_noise_search(network, device, batch_size=batch_size, **options).run
    for name, seconds in report.time_in_turn("compiler_options", runs, 3).items():
      milliseconds = round(1e3 * seconds / num_steps, 3)
      report.emit("compiler_options", variant=name, batch=batch_size, ms_per_step=milliseconds)


def profile_search(report: Report, device: Any, *, cases: tuple[tuple[int, str], ...], num_steps: int) -> None:
  """Which kernels take the time of a gradient search, and how much of it the device is busy."""
  network = embedded_network()
  for batch_size, precision in cases:
    with report.part("profile", batch=batch_size, precision=precision):
      options = {"per_step": 1, "num_steps": num_steps, "precision": precision}
      search = compile_noise_search(network, device, batch_size=batch_size, **options)
      search.run()
      with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
          seconds = time_once(search.run)
        (path,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        busy, launches = read_kernels(path)
      total = sum(busy.values())
      top = [
        {"kernel": name[:110], "share": round(value / total, 3), "per_step": round(launches[name] / num_steps, 2)}
        for name, value in busy.most_common(20)
      ]
      report.emit(
        "profile",
        batch=batch_size,
        precision=precision,
        ms_per_step=round(1e3 * seconds / num_steps, 3),
        busy_ms_per_step=round(total / 1e6 / num_steps, 3),
        kernels_per_step=round(sum(launches.values()) / num_steps, 1),
        top=top,
      )


def read_kernels(path: str) -> tuple[collections.Counter[str], collections.Counter[str]]:
  """Nanoseconds and launches of each kernel in a profile."""
  busy: collections.Counter[str] = collections.Counter()
  launches: collections.Counter[str] = collections.Counter()
  for plane in jax.profiler.ProfileData.from_file(path).planes:
    if not plane.name.startswith("/device:"):
      continue
    for line in plane.lines:
      if not line.name.startswith("Stream"):
        continue
      for event in line.events:
        busy[event.name] += int(event.duration_ns)
        launches[event.name] += 1
  return busy, launches
