"""Checks and times jax_sis on an accelerator, beside PyTorch on the same one: lines of JSON, then a summary.

From the root of a checkout, with nothing installed but JAX, Flax, Orbax, NumPy and Pillow (PyTorch and torchvision are
used where they are there):

    PYTHONPATH=. python benchmarks/accelerator.py > accelerator.jsonl     # an H100: under 6 minutes
    PYTHONPATH=. python benchmarks/accelerator.py --tiny                  # a CPU: shows that all of it runs
    PYTHONPATH=. python benchmarks/accelerator.py --only facts rates gradient20

Sections run in the order of their worth; what the budget does not allow is named as skipped. A part that fails prints
"error", and the others go on. The exit code is 1 where a check failed or a part had an error. Image-steps a second are
images times steps of a gradient search: a step is one gradient, and the masking of `per_step` pixels.
"""

import os

# JAX takes three quarters of the memory at once otherwise, and PyTorch works on the same card.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import argparse
import contextlib
import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import accelerator_checks
import accelerator_speed
import jax
from accelerator_jax import embedded_network, resnet50
from accelerator_report import Report, import_peer

PRECISIONS = ("highest", "default", "bf16")


class Sizes(NamedTuple):
  """How much work the sections do: as an H100 wants it, and so little that a CPU can show that all of it runs."""

  matmul: int = 8192
  checked_images: int = 24
  checked_per_step: int = 8
  checked_chunk: int = 4096
  # The most telling ones, and those that follow when more is known.
  batches20: tuple[int, ...] = (1024, 64)
  more_batches20: tuple[int, ...] = (256, 8192, 1)
  compiled_batch: int = 1024
  # Image-steps in all of a timed run of ResNet-20, up to 32 steps.
  work20: int = 32 * 1024
  batch50: int = 128
  size50: int = 224
  steps50: int = 6
  precisions50: tuple[str, ...] = PRECISIONS
  # Masked copies a model call, and images.
  chunks: tuple[tuple[int, int], ...] = ((64, 16), (1024, 128), (4096, 256))
  find_batch: int = 1024
  find_per_step: int = 8
  profiled: tuple[tuple[int, str], ...] = ((1024, "default"), (1024, "bf16"), (64, "default"))
  launched_batches: tuple[int, ...] = (1, 64)
  timed_steps: int = 32


TINY = Sizes(
  matmul=256,
  checked_images=4,
  checked_per_step=256,
  checked_chunk=128,
  batches20=(4,),
  more_batches20=(2,),
  compiled_batch=4,
  work20=8,
  batch50=1,
  size50=64,
  steps50=2,
  precisions50=("highest",),
  chunks=((64, 1), (128, 2)),
  find_batch=2,
  find_per_step=256,
  profiled=((2, "default"),),
  launched_batches=(1,),
  timed_steps=2,
)


class Section(NamedTuple):
  """A part of the program; `needed` is how many seconds must be left to begin it."""

  run: Callable[[], Any]
  needed: int


def make_sections(report: Report, sizes: Sizes, device: Any, torch: Any, rates: dict[str, float]) -> dict[str, Section]:
  """The sections in the order of their worth; the second one fills in the rates that rooflines are drawn from."""

  def gradient20(batch_sizes: tuple[int, ...], *, is_compiled: bool = False) -> None:
    model = None if torch is None else import_peer().resnet20()
    network = embedded_network()
    for batch_size in batch_sizes:
      if report.is_late("gradient20", 45):
        return
      precisions = ("default", "bf16") if is_compiled else PRECISIONS
      num_steps = min(32, sizes.work20 // batch_size)
      options = {"per_step": 1, "num_steps": num_steps, "precisions": precisions, "is_compiled": is_compiled}
      accelerator_speed.time_gradient(
        report, "gradient20", network, device, rates, model, batch_size=batch_size, **options
      )

  def gradient50() -> None:
    model = None
    if torch is not None:
      with report.part("gradient50", what="torchvision"):
        model = import_peer().resnet50()
    options = {"batch_size": sizes.batch50, "num_steps": sizes.steps50, "precisions": sizes.precisions50}
    network = resnet50(sizes.size50)
    accelerator_speed.time_gradient(report, "gradient50", network, device, rates, model, per_step=100, **options)

  speed, part = accelerator_speed, functools.partial
  checked = {"num_images": sizes.checked_images, "per_step": sizes.checked_per_step, "chunk_size": sizes.checked_chunk}
  return {
    "facts": Section(part(accelerator_checks.state_facts, report, device, torch), 0),
    "rates": Section(
      lambda: rates.update(accelerator_checks.measure_rates(report, device, torch, size=sizes.matmul)), 10
    ),
    "correctness": Section(part(accelerator_checks.check_searches, report, device, **checked), 60),
    "gradient20": Section(part(gradient20, sizes.batches20), 30),
    "compiler_options": Section(
      part(
        speed.time_compiler_options, report, device, batch_sizes=sizes.launched_batches, num_steps=sizes.timed_steps
      ),
      30,
    ),
    "profile": Section(
      part(speed.profile_search, report, device, cases=sizes.profiled, num_steps=sizes.timed_steps), 30
    ),
    "smallest": Section(part(speed.time_smallest, report, device, chunks=sizes.chunks), 30),
    "gradient50": Section(gradient50, 60),
    "convolutions": Section(
      part(speed.time_convolutions, report, device, batch_size=sizes.compiled_batch, num_steps=sizes.timed_steps), 40
    ),
    "find": Section(part(speed.time_find, report, batch_size=sizes.find_batch, per_step=sizes.find_per_step), 30),
    "gradient20_more": Section(part(gradient20, sizes.more_batches20), 30),
    "torch_compile": Section(part(gradient20, (sizes.compiled_batch,), is_compiled=True), 60),
  }


def import_torch() -> Any:
  """PyTorch; None where it is not there."""
  with contextlib.suppress(ImportError):
    return importlib.import_module("torch")
  return None


def main() -> int:
  """Runs the sections; the exit code."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--tiny", action="store_true", help="so little work that a CPU can do it")
  parser.add_argument("--budget", type=float, default=330.0, help="seconds after which nothing new is begun")
  parser.add_argument("--only", nargs="+", metavar="SECTION", help="these sections alone")
  parser.add_argument("--without-torch", action="store_true", help="leave PyTorch out")
  options = parser.parse_args()
  report = Report(budget=options.budget)
  sizes = TINY if options.tiny else Sizes()
  torch = None if options.without_torch else import_torch()
  rates: dict[str, float] = {}
  sections = make_sections(report, sizes, jax.local_devices()[0], torch, rates)
  unknown = set(options.only or ()) - set(sections)
  if unknown:
    parser.error(f"--only must name sections, got {', '.join(sorted(unknown))}; there are {', '.join(sections)}.")
  for name, section in sections.items():
    if (options.only and name not in options.only) or report.is_late(name, section.needed):
      continue
    with report.part(name):
      section.run()
    report.emit(name, done=True)
    jax.clear_caches()
  report.emit("end", failures=report.failures)
  for line in (*report.headlines, *(f"FAILED {failure}" for failure in report.failures)):
    print(line, file=sys.stderr)
  return 1 if report.failures else 0


if __name__ == "__main__":
  sys.exit(main())
