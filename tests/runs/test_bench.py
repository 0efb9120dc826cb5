"""The throughput of a machine: of any search, of any classifier, for people and as JSON."""

import json
from typing import Any

import pytest

from jax_sis.runs import bench
from jax_sis.runs.options import BenchOptions

FAST: dict[str, Any] = {"batch_sizes": (1,), "num_runs": 2, "num_devices": 1}
# Of a forward pass of the tiny classifier, two a product: 3 -> 4 -> 4 -> 4 channels at 32x32, 4 -> 8 -> 8 at 16x16, and
# ten classes.
FLOPS = 2 * (1024 * 9 * (3 * 4 + 4 * 4 + 4 * 4) + 256 * 9 * (4 * 8 + 8 * 8) + 8 * 10)

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")


@pytest.mark.parametrize("search", ["gradient", "exact"])
def test_the_steps_of_a_backward_search_are_timed(
  search: Any, tiny_checkpoint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
  monkeypatch.setattr(bench, "MATMUL_SIZE", 64)
  (measured,) = bench.bench(
    BenchOptions(checkpoint_dir=tiny_checkpoint, search=search, num_steps=1, is_json=True, **FAST)
  )
  printed = capsys.readouterr()
  found = json.loads(printed.out)
  assert (found["device"], found["platform"], found["num_devices"]) == ("cpu", "cpu", 1)
  assert (found["model"]["name"], found["search"]["name"]) == ("tiny", search)
  assert found["matmul_flops_per_second"] > 0
  assert found["measurements"] == [vars(measured)]
  assert measured.image_steps_per_second and measured.matmul_share
  num_steps = {"gradient": 1025, "exact": 1024 * 1025 / 2 / 1024}[search]
  assert measured.seconds_per_image * measured.image_steps_per_second == pytest.approx(num_steps, rel=0.01)
  # A step of the exact search tries 1,024 features. XLA may leave none of them out.
  per_step = {"gradient": 2, "exact": 1025}[search]
  flops = measured.matmul_share * found["matmul_flops_per_second"] / measured.image_steps_per_second / per_step
  assert flops == pytest.approx(FLOPS)
  assert measured.image_steps_per_second < {"gradient": 1e5, "exact": 1e4}[search]
  assert "of matmul" in printed.err


@pytest.mark.slow
@pytest.mark.parametrize("search", ["screened", "smallest"])
def test_other_searches_are_timed(search: Any, tiny_checkpoint: str, capsys: pytest.CaptureFixture[str]):
  (measured,) = bench.bench(BenchOptions(checkpoint_dir=tiny_checkpoint, search=search, **FAST))
  assert measured.seconds_per_image > 0
  assert (measured.image_steps_per_second is None) == (measured.matmul_share is None) == (search == "smallest")
  title, _, heads, line = capsys.readouterr().out.splitlines()
  assert {"screened": "Screened(", "smallest": "Forward("}[search] in title
  assert len(heads) == len(line)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"num_steps": 0}, r"^--steps must be positive, got 0\.$"),
    ({"num_runs": 0}, r"^--runs must be positive, got 0\.$"),
    ({"search": "smallest", "num_steps": 3}, "^--steps must come with a backward search, got --search smallest, which"),
  ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str):
  with pytest.raises(ValueError, match=message):
    BenchOptions(**options)
