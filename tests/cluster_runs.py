"""Runs of `find` in processes that tests start, watch and end, and what is left of them."""

import os
import pathlib
import subprocess
import time
from collections.abc import Callable
from typing import Any

import cluster_model
import pytest
from listening import LISTENING

from jax_sis import results

SECONDS_A_UNIT = 1.0
WAIT_SECONDS = 300
NUM_UNITS = 24


def environ_of(computed: pathlib.Path, seconds: float = SECONDS_A_UNIT) -> dict[str, str]:
  """The environment of such a process, which counts its units in this file."""
  said = {cluster_model.SECONDS: str(seconds), cluster_model.COMPUTED: str(computed)}
  return {**os.environ, "JAX_PLATFORMS": "cpu", **said}


def start(
  out: pathlib.Path | str, computed: pathlib.Path, *options: str, seconds: float = SECONDS_A_UNIT
) -> "subprocess.Popen[str]":
  command = [*LISTENING, "find", *cluster_model.OPTIONS, "--out", str(out), *options]
  environ = environ_of(computed, seconds)
  return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def find_straight(out: pathlib.Path) -> pathlib.Path:
  """What the others are compared with: one process, from the beginning to the end."""
  process = start(out, out.with_name("computed_straight"), seconds=0)
  _, errors = process.communicate(timeout=WAIT_SECONDS)
  assert process.returncode == 0, errors
  return out


def wait_until(condition_fn: Callable[[], Any], process: "subprocess.Popen[str]") -> Any:
  """What the condition gives, once it holds; the process that it is waited for is ended where that takes too long."""
  end = time.monotonic() + WAIT_SECONDS
  while not (found := condition_fn()):
    if time.monotonic() > end or process.poll() is not None:
      process.kill()
      pytest.fail(f"it never came to that: {process.communicate()}")
    time.sleep(0.05)
  return found


def num_done(out: pathlib.Path) -> int:
  return len(results.open(out).done_units()) if (out / "settings.json").exists() else 0


def stored_by(computed: pathlib.Path) -> list[tuple[int, int]]:
  """The units that were computed and begun to be stored, in that order, and the processes that did so."""
  lines = computed.read_text().splitlines() if computed.exists() else []
  return [(int(unit), int(process)) for unit, process in map(str.split, lines)]


def running(computed: pathlib.Path) -> list[int]:
  """The processes that have stored something and are there, the one that did so last first."""
  processes = dict.fromkeys(process for _, process in reversed(stored_by(computed)))
  return [process for process in processes if pathlib.Path(f"/proc/{process}").exists()]


def same_bytes(left: pathlib.Path, right: pathlib.Path) -> bool:
  """Whether two runs hold the same, beside their settings, which name their folders."""
  names = [sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()) for run in (left, right)]
  names = [[name for name in those if name != "settings.json"] for those in names]
  return names[0] == names[1] and all((left / name).read_bytes() == (right / name).read_bytes() for name in names[0])
