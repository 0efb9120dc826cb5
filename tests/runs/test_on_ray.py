"""A run on a Ray cluster of three hosts on this machine, which come, go and die, and what a cluster refuses."""

import importlib.util
import os
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from cluster_runs import (
  NUM_UNITS,
  WAIT_SECONDS,
  find_straight,
  num_done,
  running,
  same_bytes,
  start,
  stored_by,
  wait_until,
)

from jax_sis.runs import on_ray
from jax_sis.runtime import ray_cluster


def test_hosts_get_fewer_units_towards_the_end_and_one_writes_the_outcome(tiny_half_run: pathlib.Path):
  queue = on_ray.UnitQueue(str(tiny_half_run))
  assert queue.take(2) is None
  # Half of its eight units are done.
  assert queue.begin(launch_size=30) == 12
  tasks = [queue.take(2) for _ in range(4)]
  assert tasks == [(1,), (3,), (5,), (7,)]
  assert queue.take(2) is None
  for task in ((1,), (3,), (5,)):
    queue.finish(task, on_ray.Done(text="", num_images=3, seconds=1))
  # What a dead worker had not stored.
  queue.put_back((0, 7))
  assert queue.take(1) == (7,)
  assert queue.take(1) is None
  queue.finish((7,), on_ray.Done(text="", num_images=3, seconds=1))
  assert queue.take(1) == on_ray.OUTCOME
  queue.put_back(on_ray.OUTCOME)
  assert queue.take(1) == on_ray.OUTCOME
  queue.finish(on_ray.OUTCOME, on_ray.Done(text="", num_images=0, seconds=1))
  assert queue.take(1) is None


def test_a_unit_that_ends_every_worker_ends_the_run(tiny_half_run: pathlib.Path):
  queue = on_ray.UnitQueue(str(tiny_half_run))
  queue.begin(launch_size=1)
  for _ in range(on_ray.MAX_LOSSES - 1):
    assert queue.take(4) == (1,)
    queue.put_back((1,))
  with pytest.raises(ValueError, match=r"^workers must outlive their work, but 5 of them died of unit 1; "):
    queue.put_back((1,))


@pytest.mark.parametrize("address", ["head", "ray://head:10001", ":6379", "head:port"])
def test_what_is_no_address_is_refused(address: str):
  with pytest.raises(ValueError, match=r"^--address must be HOST:PORT of the head of a Ray cluster, such as "):
    ray_cluster.check_address(address)


def test_an_address_where_nobody_listens_is_refused():
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(
      ValueError, match=f"^--address must be that of a Ray cluster that runs, but '{address}' is not: "
    ):
      ray_cluster.check_address(address)


class Hosts:
  """The cluster of ray_hosts.py."""

  def __init__(self, process: "subprocess.Popen[str]"):
    self._process = process
    self.address = self._read()

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
def test_what_hosts_cannot_see_or_another_command_hands_out_is_refused(hosts: Hosts, tmp_path: pathlib.Path):
  process = start_on(hosts, "memory://run", tmp_path / "computed")
  output, errors = process.communicate(timeout=WAIT_SECONDS)
  assert (process.returncode, output) == (2, "")
  assert "--out must be a folder that all hosts see, but what was just written into 'memory://run' is not" in errors
  code = "import sys, time; from jax_sis.runtime import ray_cluster\n"
  code += "with ray_cluster.connect(sys.argv[1], claim=sys.argv[2]): print('held', flush=True); time.sleep(120)"
  command = [sys.executable, "-c", code, hosts.address, str(tmp_path / "run")]
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
    assert holder.stdout is not None
    holder.stdout.readline()
    process = start_on(hosts, tmp_path / "run", tmp_path / "computed")
    _, errors = process.communicate(timeout=WAIT_SECONDS)
    holder.kill()
  assert process.returncode == 2
  assert "only one command at a time may hand out the work of" in errors
