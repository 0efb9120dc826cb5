"""The default job as a user starts it: time to the first rows and to the end, compile time, traces and memory."""

import dataclasses
import functools
import pathlib
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

from jax_sis.classifiers import checkpoint, frozen
from jax_sis.core import masking
from jax_sis.core.searches import Gradient, backward_sizes
from jax_sis.results import folder
from jax_sis.runs import bench, setup
from jax_sis.runs.config import FindConfig
from jax_sis.runtime import devices


def test_default_job_from_start_to_end(benchmark: Any, tmp_path: pathlib.Path):
  first_rows: list[float] = []

  def run_job() -> None:
    out = tmp_path / str(len(first_rows))
    started = time.perf_counter()
    command = [sys.executable, "-m", "jax_sis", "find", "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
      assert process.stdout is not None
      for line in process.stdout:
        if line.startswith("test_00000"):
          first_rows.append(time.perf_counter() - started)
    assert process.returncode == 0
    assert (out / "gallery.png").exists()

  benchmark.pedantic(run_job, rounds=3)
  benchmark.extra_info["seconds_to_first_row"] = first_rows
  print(f"\nfirst row after {', '.join(f'{seconds:.1f}' for seconds in first_rows)} s")


def test_compile_time_and_traces_of_the_default_job(benchmark: Any, tmp_path: pathlib.Path):
  opened = setup.make_job(FindConfig(out=str(tmp_path), batch_size=2), folder.open_folder(tmp_path))
  predict_fn = opened.search.predict_fn
  num_traces = 0

  def counted(params: Any, inputs: Any) -> Any:
    nonlocal num_traces
    num_traces += 1
    return predict_fn(params, inputs)

  opened = dataclasses.replace(opened, search=dataclasses.replace(opened.search, predict_fn=counted))
  program = benchmark.pedantic(lambda: setup.compile_search(opened), rounds=1)
  traces_of_one_shape = num_traces
  images = np.zeros((program.launch_size, *opened.classifier.input_shape), np.uint8)
  for _ in range(3):
    program.run(images, np.zeros(program.launch_size, np.int32))
  benchmark.extra_info["traces_of_the_model"] = traces_of_one_shape
  benchmark.extra_info["temporary_bytes"] = program.compiled.memory_analysis().temp_size_in_bytes
  assert num_traces == traces_of_one_shape
  print(f"\n{traces_of_one_shape} traces of the model in one compilation, none in three runs after it")


@pytest.mark.parametrize("per_step", [1, 64])
def test_peak_temporary_memory(benchmark: Any, per_step: int):
  classifier = checkpoint.load_classifier(checkpoint.EMBEDDED_CLASSIFIER)
  predict_fn, params = frozen.freeze(classifier.module)
  compile_search = functools.partial(
    bench.compile_steps,
    predict_fn,
    params,
    classifier.input_shape,
    batch_size=16,
    search=Gradient(per_step=per_step),
    sizes=backward_sizes(masking.num_features((32, 32, 1)), per_step),
    local_devices=devices.local_devices(),
  )
  program = benchmark.pedantic(compile_search, rounds=1)
  num_bytes = program.compiled.memory_analysis().temp_size_in_bytes
  benchmark.extra_info["temporary_bytes"] = num_bytes
  print(f"\nk = {per_step}: {num_bytes} temporary bytes a device, 16 images")
