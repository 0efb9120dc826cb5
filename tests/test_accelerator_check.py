"""The program that checks an accelerator, as a CPU can run it."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
def test_the_check_of_an_accelerator_runs_on_a_cpu_and_keeps_its_budget():
  sections = ["facts", "rates", "correctness", "profile", "find"]
  command = [sys.executable, "benchmarks/accelerator.py", "--tiny", "--without-torch", "--only", *sections]
  environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
  done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
  assert done.returncode == 0, done.stderr
  lines = [json.loads(line) for line in done.stdout.splitlines()]
  assert lines[-1]["section"] == "end"
  assert lines[-1]["failures"] == []
  assert [line["section"] for line in lines if line.get("done")] == sections
  checks = [line for line in lines if "check" in line]
  assert len(checks) > 10
  assert all(line["passed"] for line in checks)
  late = subprocess.run(
    [*command, "--budget", "0"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
  )
  skipped = [line["section"] for line in map(json.loads, late.stdout.splitlines()) if "skipped" in line]
  assert skipped == sections
