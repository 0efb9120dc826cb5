"""Rounds of `find --engine ray` on three hosts that lose workers, hosts and the command at random times.

PYTHONPATH=tests python benchmarks/ray_rounds.py --data-dir DATA --out ROUNDS [--rounds 20]

300 CIFAR-10 test images, the embedded ResNet-20, 75 units that are stored slowly, so that a round lasts. In each round
these come in random order and at random times: a worker is killed, a host is removed, a host is added, and the command
is killed and given again. The hosts are one machine (tests/ray_hosts.py). All files of the store are then compared with
those of a run by one process, and `ROUNDS/rounds.jsonl` gets a line: what happened at how many units, how many units
were begun to be stored in all, and whether every byte is the same. The same command goes on after the last line.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import cluster_model
from cluster_runs import WAIT_SECONDS, num_done, running, same_bytes, stored_by, wait_until
from ray_forecast import cluster_process

from jax_sis import results
from jax_sis.classifiers import ImageModel, checkpoint, freeze

NUM_IMAGES, UNIT_SIZE = 300, 4
NUM_UNITS = NUM_IMAGES // UNIT_SIZE
SECONDS_A_UNIT = 1.0
NUM_HOSTS = 3
EVENTS = ("worker killed", "host removed", "host added", "command killed")
# A worker stores one unit at a time. A host has one worker, and a killed command loses those of all.
MOST_TWICE = {"worker killed": 1, "host removed": 1, "host added": 0, "command killed": NUM_HOSTS + 1}


def load() -> ImageModel:
  """The embedded classifier, in a process that stores slowly and says what it stores."""
  slow: Any = cluster_model.write_slowly
  results.Results.write_unit = slow
  classifier = checkpoint.load_classifier(checkpoint.EMBEDDED_CLASSIFIER)
  predict_fn, params = freeze(classifier.module)
  return ImageModel(
    predict_fn=predict_fn,
    params=params,
    input_shape=classifier.input_shape,
    normalisation=classifier.normalisation,
    class_names=classifier.class_names,
  )


class Rounds:
  """What all rounds share."""

  def __init__(self, options: argparse.Namespace):
    self._data_dir = options.data_dir
    self._out: pathlib.Path = options.out
    self.straight = self._out / "straight"

  def start(self, out: pathlib.Path, computed: pathlib.Path, *engine: str, seconds: float) -> "subprocess.Popen[str]":
    words = ("--model", f"{pathlib.Path(__file__).resolve()}:load", "--data", "cifar10", "--data-dir", self._data_dir)
    sizes = ("--split", f"test[:{NUM_IMAGES}]", "--unit", str(UNIT_SIZE), "--batch", str(UNIT_SIZE), "--gallery", "0")
    search = ("--search", "gradient", "--per-step", "64", "--certificate", "alone", "--out", str(out))
    variables = {cluster_model.SECONDS: str(seconds), cluster_model.COMPUTED: str(computed), "JAX_PLATFORMS": "cpu"}
    with (self._out / "log").open("ab") as log:
      return subprocess.Popen(
        [sys.executable, "-m", "jax_sis", "find", *words, *sizes, *search, *engine],
        env={**os.environ, **variables},
        stdout=log,
        stderr=log,
        text=True,
      )

  def find_straight(self) -> None:
    """The run by one process."""
    process = self.start(self.straight, self._out / "computed", "--devices", "1", seconds=0)
    assert process.wait() == 0, "the run by one process failed; see the log"

  def play(self, number: int, address: str, hosts: "subprocess.Popen[str]") -> dict[str, Any]:
    """One round."""
    place = self._out / f"round-{number}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    out, computed = place / "run", place / "computed"
    chance = random.Random(number)
    moments = sorted(chance.sample(range(1, NUM_UNITS - 1), len(EVENTS)))
    happened: list[tuple[str, int]] = []
    began = time.monotonic()
    engine = ("--engine", "ray", "--address", address)
    command = self.start(out, computed, *engine, seconds=SECONDS_A_UNIT)
    for moment, event in zip(moments, chance.sample(EVENTS, len(EVENTS)), strict=True):
      wait_until(lambda moment=moment: num_done(out) >= moment, command)
      time.sleep(chance.uniform(0, SECONDS_A_UNIT))
      happened.append((event, num_done(out)))
      match event:
        case "worker killed":
          os.kill(chance.choice(wait_until(lambda: running(computed), command)), signal.SIGKILL)
        case "host removed":
          tell(hosts, "remove")
        case "host added":
          tell(hosts, "add")
        case _:
          command.kill()
          command.wait()
          command = self.start(out, computed, *engine, seconds=SECONDS_A_UNIT)
    assert command.wait(WAIT_SECONDS) == 0, f"round {number} failed; see the log"
    return {
      "round": number,
      "happened": happened,
      "seconds": round(time.monotonic() - began, 1),
      "begun": len(stored_by(computed)),
      "most": NUM_UNITS + sum(MOST_TWICE.values()),
      "same": same_bytes(self.straight, out),
    }


def tell(hosts: "subprocess.Popen[str]", word: str) -> None:
  assert hosts.stdin is not None and hosts.stdout is not None
  print(word, file=hosts.stdin, flush=True)
  hosts.stdout.readline()


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--data-dir", required=True, help="the TFDS folder with cifar10")
  parser.add_argument("--out", required=True, type=pathlib.Path, help="the folder for rounds.jsonl and the runs")
  parser.add_argument("--rounds", type=int, default=20, help="(default: %(default)s)")
  options = parser.parse_args()
  options.out = options.out.resolve()
  options.out.mkdir(parents=True, exist_ok=True)
  lines = options.out / "rounds.jsonl"
  num_played = len(lines.read_text().splitlines()) if lines.exists() else 0
  rounds = Rounds(options)
  rounds.find_straight()
  # Hosts read this file, and with it the tests' ones, from folders of their own.
  with cluster_process(os.pathsep.join(sys.path)) as hosts:
    assert hosts.stdout is not None
    address = hosts.stdout.readline().strip()
    for number in range(num_played, options.rounds):
      line = json.dumps(rounds.play(number, address, hosts))
      with lines.open("a") as file:
        print(line, file=file)
      print(line, flush=True)


if __name__ == "__main__":
  main()
