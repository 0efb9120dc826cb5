"""Compiles searches for a TPU v5e without one: memory, operations, seconds of compiling, and the bound that follows.

    pip install -e '.[tpu]'
    python benchmarks/ahead_of_time.py --out v5e.jsonl
    python benchmarks/ahead_of_time.py --out v5e.jsonl --only resnet50

libtpu compiles for a named topology on any Linux machine. A line of JSON for each program, each compiled in a process
of its own; one that does not fit the chip's memory, or is not compiled in time, says so. Of a gradient search,
operations and bytes are those of one step, since XLA counts the body of a loop once.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import accelerator_jax
import jax
import jax.numpy as jnp
import tpu_program
from jax.experimental import topologies

from jax_sis import QUICK, Gradient, backselect, smallest_subsets
from jax_sis.runs.config import FindConfig, Precision
from jax_sis.runs.device_search import ImageSearch
from jax_sis.runtime import device_program

TOPOLOGY = "v5e:2x2"
# libtpu asks for a machine's TPU unless it is told of one.
ENVIRONMENT = {
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "JAX_PLATFORMS": "cpu",
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
}
# One v5e chip, by its maker: bfloat16 operations and bytes of its memory a second.
PEAK_FLOPS = 197e12
PEAK_BYTES = 819e9
# Passes in bfloat16 that a product of float32 takes.
PASSES = {"highest": 6, "high": 3, "default": 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """A program: `search` is gradient, smallest or find (`jax-sis find` with its defaults, both searches)."""

  network: str
  search: str
  batch: int
  per_step: int = 1
  precision: Precision = "highest"

  @property
  def name(self) -> str:
    return f"{self.network}-{self.search}-{self.batch}-{self.precision}"


CASES = {
  case.name: case
  for case in (
    *(Case(network="resnet20", search="gradient", batch=batch) for batch in (16, 64, 256, 1024)),
    *(Case(network="resnet50", search="gradient", batch=batch, per_step=100) for batch in (1, 16, 64, 128, 256)),
    Case(network="resnet20", search="smallest", batch=16),
    *(Case(network="resnet20", search="find", batch=batch) for batch in (16, 256)),
    Case(network="resnet20", search="gradient", batch=256, precision="default"),
    Case(network="resnet50", search="gradient", batch=64, per_step=100, precision="default"),
  )
}


def main() -> None:
  """Writes a line for each program, and prints it."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--out", type=pathlib.Path, help="the file to which lines are added")
  parser.add_argument("--only", default="", help="programs whose name holds this")
  parser.add_argument("--limit", type=float, default=1200, help="seconds a program may take (default: %(default)s)")
  parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.case:
    print(json.dumps(compile_case(CASES[options.case])))
    return
  if options.out is None:
    parser.error("--out must name a file.")
  for name, case in CASES.items():
    if options.only in name:
      line = json.dumps({"case": name, **dataclasses.asdict(case), **run_case(name, options.limit)})
      print(line, flush=True)
      with options.out.open("a") as file:
        file.write(line + "\n")


def run_case(name: str, limit: float) -> dict[str, Any]:
  """What a process of its own found out within so many seconds."""
  command = [sys.executable, __file__, "--case", name]
  try:
    done = subprocess.run(
      command, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, timeout=limit, check=False
    )
  except subprocess.TimeoutExpired:
    return {"error": f"not compiled within {limit:.0f} s"}
  if done.returncode:
    return {"error": f"ended with {done.returncode}: {' '.join(done.stderr.split())[-500:]}"}
  return json.loads(done.stdout.splitlines()[-1])


def compile_case(case: Case) -> dict[str, Any]:
  device = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGY).devices[0]
  network = accelerator_jax.embedded_network() if case.network == "resnet20" else accelerator_jax.resnet50(224)
  inputs = jax.ShapeDtypeStruct((1, case.batch, network.size, network.size, 3), jnp.float32)
  classes = jax.ShapeDtypeStruct((1, case.batch), jnp.int32)
  started = time.perf_counter()
  mapped = device_program.map_devices(make_function(case, network), [device], in_axes=(None, 0, 0))
  lowered = mapped.lower(network.params, inputs, classes)
  facts = {
    "device": device.device_kind,
    "lower_s": round(time.perf_counter() - started, 1),
    "stablehlo_lines": lowered.as_text().count("\n"),
  }
  started, core_started = time.perf_counter(), time.process_time()
  message, compiled = "", None
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    message = str(error)
    if "RESOURCE_EXHAUSTED" not in message:
      raise
  facts |= {
    "compile_s": round(time.perf_counter() - started, 1),
    "compile_core_s": round(time.process_time() - core_started, 1),
    "fits": compiled is not None,
  }
  if compiled is None:
    return facts | asked_memory(message)
  facts |= describe_memory(compiled)
  return facts | (bound(case, network, compiled) if case.search == "gradient" else {})


def make_function(case: Case, network: accelerator_jax.Network) -> Callable[..., Any]:
  """What one device computes, of parameters, inputs and classes."""
  grid = (network.size, network.size, 1)
  if case.search == "find":
    return ImageSearch(config=FindConfig(precision=case.precision), predict_fn=network.predict_fn, grid=grid)

  def search(params: Any, inputs: jax.Array, targets: jax.Array) -> Any:
    arguments = network.predict_fn, params, inputs, targets
    with jax.default_matmul_precision(case.precision):
      if case.search == "smallest":
        return smallest_subsets(*arguments, effort=QUICK, grid=grid).mask
      order = backselect(*arguments, search=Gradient(per_step=case.per_step), grid=grid)
      return order.rank, order.confidence

  return search


def asked_memory(message: str) -> dict[str, Any]:
  """What the compiler says it would have needed."""
  used = re.search(r"Used ([\d.]+\w) of ([\d.]+\w) hbm", message)
  return {"needed": used[1], "available": used[2]} if used else {"message": " ".join(message.split())[:300]}


def describe_memory(compiled: Any) -> dict[str, int]:
  memory = compiled.memory_analysis()
  return {
    "argument_bytes": memory.argument_size_in_bytes,
    "output_bytes": memory.output_size_in_bytes,
    "temporary_bytes": memory.temp_size_in_bytes,
    "program_bytes": memory.generated_code_size_in_bytes,
  }


def bound(case: Case, network: accelerator_jax.Network, compiled: Any) -> dict[str, Any]:
  """Image-steps a second that a chip cannot exceed with this program, by its operations and by its memory traffic."""
  costs = compiled.cost_analysis()
  hbm_bytes = tpu_program.step_bytes(compiled.as_text())
  by_operations = PEAK_FLOPS / PASSES[case.precision] * case.batch / costs["flops"]
  by_memory = PEAK_BYTES * case.batch / hbm_bytes
  return {
    "layers_flops": network.flops,
    "step_flops": costs["flops"] / case.batch,
    "step_bytes_all": costs["bytes accessed"] / case.batch,
    "step_bytes_hbm": hbm_bytes / case.batch,
    "bound_by_operations": round(by_operations),
    "bound_by_memory": round(by_memory),
    "bound": "operations" if by_operations < by_memory else "memory",
    "image_steps_per_s": round(min(by_operations, by_memory)),
  }


if __name__ == "__main__":
  main()
