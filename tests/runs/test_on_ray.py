"""A run on a Ray cluster of three hosts on this machine, which come, go and die, and what a cluster refuses."""

import importlib.util
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from test_find_model import MODEL

from jax_sis import results
from jax_sis.runs import on_ray
from jax_sis.runtime import ray_cluster

# Each of 24 images is a unit.
OPTIONS = "--search gradient --patch 8 --batch 1 --unit 1 --certificate alone --gallery 0 --threshold 0.9"
# In whose process a unit takes long enough for something to happen meanwhile, and is counted.
SLOW_MODEL = f"""{MODEL}
import os, pathlib, time
from jax_sis import results
write_unit = results.Results.write_unit
def write_slowly(store, unit, rows):
  time.sleep(float(os.environ["JAX_SIS_TEST_SECONDS"]))
  with pathlib.Path(__file__).with_name("computed").open("a") as file:
    file.write(f"{{unit}}\\n")
  write_unit(store, unit, rows)
results.Results.write_unit = write_slowly
"""
SECONDS_A_UNIT = 1.0
WAIT_SECONDS = 120


def test_hosts_get_fewer_units_towards_the_end_and_one_writes_the_outcome(tiny_half_run: pathlib.Path):
  queue = on_ray.UnitQueue(str(tiny_half_run))
  assert queue.take(2) is None
  # Half of its eight units are done.
  assert queue.begin(launch_size=30) == 12
  tasks = [queue.take(2) for _ in range(4)]
  assert tasks == [(1,), (3,), (5,), (7,)]
  assert queue.take(2) is None
  for task in tasks[:3]:
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
    queue.put_back(queue.take(1))
  with pytest.raises(ValueError, match=r"^workers must outlive their work, but 5 of them died of unit 1; "):
    queue.put_back(queue.take(1))


@pytest.mark.parametrize("address", ["head", "ray://head:10001", ":6379", "head:port"])
def test_what_is_no_address_is_refused(address: str):
  with pytest.raises(ValueError, match="--address must be HOST:PORT of the head of a Ray cluster, such as "):
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


@pytest.fixture
def model(tmp_path: pathlib.Path) -> str:
  (tmp_path / "mine.py").write_text(SLOW_MODEL)
  return f"{tmp_path}/mine.py:load"


def start(
  out: pathlib.Path | str, model: str, *options: str, seconds: float = SECONDS_A_UNIT
) -> "subprocess.Popen[str]":
  words = ["-m", "jax_sis", "find", "--model", model, *OPTIONS.split(), "--out", str(out), *options]
  environ = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_SIS_TEST_SECONDS": str(seconds)}
  return subprocess.Popen(
    [sys.executable, *words], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )


def start_on(hosts: Hosts, out: pathlib.Path | str, model: str) -> "subprocess.Popen[str]":
  return start(out, model, "--engine", "ray", "--address", hosts.address)


def wait_until(condition_fn: Callable[[], Any], process: "subprocess.Popen[str]") -> Any:
  """What the condition gives, once it holds."""
  end = time.monotonic() + WAIT_SECONDS
  while not (found := condition_fn()):
    assert time.monotonic() < end
    assert process.poll() is None, process.communicate()
    time.sleep(0.05)
  return found


def num_done(out: pathlib.Path) -> int:
  return len(results.open(out).done_units()) if (out / "spec.json").exists() else 0


def running(out: pathlib.Path) -> list[int]:
  """The processes of the workers that are at work."""
  records = [json.loads(path.read_text()) for path in (out / "workers").glob("*.json")]
  return [record["pid"] for record in records if record["state"] == "running"]


def same_bytes(left: pathlib.Path, right: pathlib.Path) -> bool:
  """Whether two runs hold the same, beside what says who did it."""
  names = [
    sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file() and path.parent.name != "workers")
    for run in (left, right)
  ]
  names = [[name for name in those if name != "settings.json"] for those in names]
  return names[0] == names[1] and all((left / name).read_bytes() == (right / name).read_bytes() for name in names[0])


@pytest.mark.slow
def test_hosts_and_drivers_die_and_the_bytes_stay_the_same(hosts: Hosts, model: str, tmp_path: pathlib.Path):
  straight, out = tmp_path / "straight", tmp_path / "run"
  local = start(straight, model, seconds=0)
  assert local.wait(WAIT_SECONDS) == 0, local.communicate()
  (tmp_path / "computed").unlink()

  driver = start_on(hosts, out, model)
  wait_until(lambda: num_done(out) >= 3, driver)
  os.kill(wait_until(lambda: running(out), driver)[0], signal.SIGKILL)
  wait_until(lambda: num_done(out) >= 6, driver)
  hosts.tell("remove")
  hosts.tell("add")
  wait_until(lambda: num_done(out) >= 11, driver)
  driver.kill()
  _, errors = driver.communicate()
  assert errors.count("is gone; its work goes to others.") >= 1, errors

  driver = start_on(hosts, out, model)
  wait_until(lambda: num_done(out) >= 16, driver)
  driver.send_signal(signal.SIGINT)
  _, errors = driver.communicate(timeout=WAIT_SECONDS)
  assert driver.returncode == 130, errors
  assert errors.endswith("jax-sis find: interrupted; the same command goes on where it stopped.\n")
  assert num_done(out) < 24

  driver = start_on(hosts, out, model)
  output, errors = driver.communicate(timeout=WAIT_SECONDS)
  assert driver.returncode == 0, errors
  assert "images are done already in" in output
  assert same_bytes(straight, out)
  computed = np.bincount(np.array((tmp_path / "computed").read_text().split(), int))
  assert len(computed) == 24
  # Of each host that was ended, at most what it was storing.
  assert computed.sum() <= 24 + 2 + 2 * 3


@pytest.mark.slow
def test_what_hosts_cannot_see_or_another_command_hands_out_is_refused(
  hosts: Hosts, model: str, tmp_path: pathlib.Path
):
  process = start_on(hosts, "memory://run", model)
  output, errors = process.communicate(timeout=WAIT_SECONDS)
  assert (process.returncode, output) == (2, "")
  assert "--out must be a folder that all hosts see, but what was just written into 'memory://run' is not" in errors
  code = "import sys, time; from jax_sis.runtime import ray_cluster\n"
  code += "with ray_cluster.connect(sys.argv[1], claim=sys.argv[2]): print('held', flush=True); time.sleep(120)"
  command = [sys.executable, "-c", code, hosts.address, str(tmp_path / "run")]
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
    assert holder.stdout is not None
    holder.stdout.readline()
    process = start_on(hosts, tmp_path / "run", model)
    _, errors = process.communicate(timeout=WAIT_SECONDS)
    holder.kill()
  assert process.returncode == 2
  assert "only one command at a time may hand out the work of" in errors
