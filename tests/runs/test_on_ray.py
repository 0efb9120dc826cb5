"""A run on a Ray cluster of three hosts on this machine, which come, go and die, and what a cluster refuses."""

import importlib.util
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator

import cluster_model
import numpy as np
import pytest
from cluster_runs import (
  NUM_UNITS,
  WAIT_SECONDS,
  environ_of,
  find_straight,
  num_done,
  running,
  same_bytes,
  start,
  stored_by,
  wait_until,
)


class Hosts:
  """The cluster of ray_hosts.py."""

  def __init__(self, process: "subprocess.Popen[str]"):
    self._process = process
    self.address = self._read()
    assert self.address, "Ray did not start; a busy machine keeps it from doing so in time"

  def tell(self, word: str) -> None:
    assert self._process.stdin is not None
    print(word, file=self._process.stdin, flush=True)
    self._read()

  def _read(self) -> str:
    assert self._process.stdout is not None
    return self._process.stdout.readline().strip()


@pytest.fixture(scope="module")
def hosts(repository: pathlib.Path) -> Iterator[Hosts]:
  if importlib.util.find_spec("ray") is None:
    pytest.skip("needs the extra [ray]")
  command = [sys.executable, str(repository / "tests/ray_hosts.py")]
  with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
    yield Hosts(process)
    process.communicate(timeout=WAIT_SECONDS)


def start_on(hosts: Hosts, out: pathlib.Path | str, computed: pathlib.Path) -> "subprocess.Popen[str]":
  return start(out, computed, "--engine", "ray", "--address", hosts.address)


@pytest.mark.slow
def test_hosts_and_drivers_die_and_the_bytes_stay_the_same(hosts: Hosts, tmp_path: pathlib.Path):
  straight, out, computed = find_straight(tmp_path / "straight"), tmp_path / "run", tmp_path / "computed"

  driver = start_on(hosts, out, computed)
  wait_until(lambda: num_done(out) >= 3, driver)
  os.kill(wait_until(lambda: running(computed), driver)[0], signal.SIGKILL)
  wait_until(lambda: num_done(out) >= 6, driver)
  hosts.tell("remove")
  hosts.tell("add")
  wait_until(lambda: num_done(out) >= 11, driver)
  driver.kill()
  _, errors = driver.communicate()
  assert errors.count("is gone; its work goes to others.") >= 1, errors

  driver = start_on(hosts, out, computed)
  wait_until(lambda: num_done(out) >= 16, driver)
  driver.send_signal(signal.SIGINT)
  _, errors = driver.communicate(timeout=WAIT_SECONDS)
  assert driver.returncode == 130, errors
  assert errors.endswith("jax-sis find: interrupted; the same command goes on where it stopped.\n")
  assert num_done(out) < NUM_UNITS

  driver = start_on(hosts, out, computed)
  output, errors = driver.communicate(timeout=WAIT_SECONDS)
  assert driver.returncode == 0, errors
  assert "images are done already in" in output
  assert same_bytes(straight, out)
  counts = np.bincount([unit for unit, _ in stored_by(computed)])
  assert len(counts) == NUM_UNITS
  # A worker stores one unit at a time, and what one was storing that was ended is computed again: of one that was
  # killed, one that lost its host, and three whose driver was killed or interrupted, twice.
  assert counts.sum() <= NUM_UNITS + 2 + 2 * 3


@pytest.mark.slow
def test_what_hosts_cannot_see_is_refused(hosts: Hosts, tmp_path: pathlib.Path):
  process = start_on(hosts, "memory://run", tmp_path / "computed")
  output, errors = process.communicate(timeout=WAIT_SECONDS)
  assert (process.returncode, output) == (2, "")
  assert "--out must be a folder that all hosts see, but what was just written into 'memory://run' is not" in errors


@pytest.mark.slow
def test_of_two_commands_at_one_run_the_newer_one_goes_on(hosts: Hosts, tmp_path: pathlib.Path):
  out, computed = tmp_path / "run", tmp_path / "computed"
  older = start_on(hosts, out, computed)
  wait_until(lambda: num_done(out) >= 3, older)
  newer = start_on(hosts, out, computed)
  _, errors = older.communicate(timeout=WAIT_SECONDS)
  assert older.returncode == 2
  assert f"jax-sis find: only the newest 'jax-sis find' goes on in '{out}', and another was begun after this" in errors
  assert num_done(out) < NUM_UNITS
  _, errors = newer.communicate(timeout=WAIT_SECONDS)
  assert newer.returncode == 0, errors
  assert num_done(out) == NUM_UNITS
  assert same_bytes(find_straight(tmp_path / "straight"), out)


MODEL = ("--model", cluster_model.OPTIONS[1])


def run_on(hosts: Hosts | None, place: pathlib.Path, *words: str) -> str:
  """What a command prints that ends well, on the hosts or in one process."""
  engine = [] if hosts is None else ["--engine", "ray", "--address", hosts.address]
  finished = subprocess.run(
    [sys.executable, "-m", "jax_sis", *words, *MODEL, *engine],
    check=False,
    cwd=place,
    env=environ_of(place / "computed", seconds=0),
    capture_output=True,
    text=True,
    timeout=WAIT_SECONDS,
  )
  assert finished.returncode == 0, finished.stderr
  assert (" is at work." in finished.stderr) == (hosts is not None)
  return finished.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
  ("words", "files"),
  [
    (
      ("disjoint", "--patch", "8", "--threshold", "0.6", "--max-subsets", "2"),
      ("disjoint.jsonl", "disjoint.csv", "spec.json"),
    ),
    (("evaluate", "--corruptions", "made", "--limit", "2"), ("metrics.csv", "spec.json")),
    (
      ("attributions", "--patch", "8", "--threshold", "0.6", "--images", "4", "--methods", "sis", "random"),
      ("attributions.csv", "spec.json"),
    ),
  ],
)
def test_other_programs_find_the_same_on_hosts(
  hosts: Hosts, tmp_path: pathlib.Path, words: tuple[str, ...], files: tuple[str, ...]
):
  run_on(None, tmp_path, *words, "--batch", "1", "--out", "local", "--devices", "1")
  run_on(hosts, tmp_path, *words, "--batch", "1", "--out", "ray")
  for file in files:
    assert (tmp_path / "ray" / file).read_bytes() == (tmp_path / "local" / file).read_bytes(), file


@pytest.mark.slow
def test_what_is_asked_of_a_run_is_the_same_on_hosts(hosts: Hosts, tmp_path: pathlib.Path):
  run = tmp_path / "run"
  run_on(None, tmp_path, "find", *cluster_model.OPTIONS[2:-1], "0.6", "--out", str(run), "--devices", "1")
  held = ("holds", str(run), "--attributions", "random", "--conditions", "noise", "added", "--images", "4", "--draws")
  tables = []
  for place in (None, hosts):
    run_on(place, tmp_path, "controls", str(run), "--limit", "6", "--wrong-class", "2", "--max-features", "4")
    run_on(place, tmp_path, *held, "5", "--batch", "1", "--out", "local" if place is None else "ray")
    out = tmp_path / ("local" if place is None else "ray")
    tables.append([(run / "controls.csv").read_bytes(), (out / "holds.csv").read_bytes()])
  assert tables[0] == tables[1]
