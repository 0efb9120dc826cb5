"""The main job in a bucket whose server is busy, slow, loses connections and is away: the same bytes as on a disk."""

import contextlib
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Iterator

import numpy as np
import pytest
from cluster_runs import NUM_UNITS, WAIT_SECONDS, find_straight, start, stored_by, wait_until
from fault_proxy import Fault, FaultProxy

from jax_sis import results
from jax_sis.runs import export, status, verify

pytestmark = pytest.mark.slow

RATE = 0.05
SECONDS_A_UNIT = 0.1
AWAY_SECONDS = 5
GCS_URL = "TENSORSTORE_GCS_HTTP_URL"


class Bucket:
  """One that is reached through a proxy that goes wrong, and for comparison without.

  Attributes:
    proxy: before the server.
    shown: where the run is, through the proxy.
    straight: where it is without.
  """

  def __init__(self, kind: str, location: str, proxy: FaultProxy, name: str):
    self.proxy = proxy
    self.straight = f"{location}/{name}"
    self.shown = self.straight if kind == "gcs" else f"s3+{proxy.url}/bucket/{name}"

  @contextlib.contextmanager
  def failing(self) -> Iterator[None]:
    """What is opened or started within goes through the proxy. Google's has no place in the location."""
    with pytest.MonkeyPatch.context() as environment:
      environment.setenv(GCS_URL, self.proxy.url)
      yield

  def num_done(self) -> int:
    return len(results.open_folder(self.straight).list("results.zarr/done/c/"))


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes | None]:
  """What a run on a disk holds, undisturbed."""
  return contents(str(find_straight(tmp_path_factory.mktemp("disk") / "run")))


@pytest.fixture
def bucket(kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
  location = request.getfixturevalue(f"{kind}_bucket")
  # Processes that are started here notice so soon that nothing is answered any more.
  monkeypatch.setenv("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", "3")
  target = os.environ[GCS_URL] if kind == "gcs" else location.removeprefix("s3+").removesuffix("/bucket")
  with FaultProxy(target, rate=RATE, seed=1) as proxy:
    yield Bucket(kind, location, proxy, "faults")


def contents(location: str) -> dict[str, bytes | None]:
  """All that a run holds, beside its settings, which name its folder."""
  folder = results.open_folder(location)
  names = [name for name in folder.list() if name != "settings.json"]
  return dict(zip(names, folder.read_many(names), strict=True))


@pytest.mark.parametrize(
  ("kind", "signum", "away"), [("s3", signal.SIGKILL, Fault.LOST), ("gcs", signal.SIGINT, Fault.NEVER)]
)
def test_a_run_in_a_bucket_that_fails_loses_and_doubles_nothing(
  signum: signal.Signals,
  away: Fault,
  bucket: Bucket,
  straight: dict[str, bytes | None],
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
):
  def find() -> "subprocess.Popen[str]":
    with bucket.failing():
      return start(bucket.shown, tmp_path / "computed", seconds=SECONDS_A_UNIT)

  process = find()
  wait_until(lambda: bucket.num_done() >= 5, process)
  with bucket.proxy.always(away):
    # Long enough for what is being stored to notice.
    time.sleep(1)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=WAIT_SECONDS)
  assert process.returncode == (-signum if signum == signal.SIGKILL else 128 + signum), errors
  assert bucket.num_done() < NUM_UNITS

  process = find()
  wait_until(lambda: bucket.num_done() >= 12, process)
  with bucket.proxy.always(away):
    time.sleep(AWAY_SECONDS)
  output, errors = process.communicate(timeout=WAIT_SECONDS)
  assert process.returncode == 0, errors
  assert "images are done already" in output
  assert contents(bucket.straight) == straight
  counts = np.bincount([unit for unit, _ in stored_by(tmp_path / "computed")])
  assert (len(counts), counts.min()) == (NUM_UNITS, 1)
  # The unit that was being stored.
  assert counts.sum() <= NUM_UNITS + 1
  assert len(bucket.proxy.counts) > 3

  with bucket.failing():
    status.status(bucket.shown)
    assert verify.verify(bucket.shown, num_sampled=0)
    export.export(bucket.shown, to=str(tmp_path / "run.csv"))
  assert f"{NUM_UNITS} of {NUM_UNITS} images done (100.0%); the run is finished" in capsys.readouterr().out
  assert (tmp_path / "run.csv").read_text().count("\n") == NUM_UNITS + 1
