"""The audit: by stages on the tiny classifier, its list, its page, and a known shortcut in real images."""

import json
import pathlib
from typing import Any

import jax
import pytest

from jax_sis.reproduction.audit import program, stages
from jax_sis.reproduction.audit.config import SIZES, AuditConfig, Size

TINY = Size(
  num_ranked=24,
  num_draws=2,
  num_searched=20,
  per_step=512,
  num_judged=4,
  num_controlled=4,
  num_components=1,
  num_sought=1,
  num_sought_on=2,
  smallest=False,
)


@pytest.fixture(scope="module")
def run(tiny_checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[AuditConfig, dict[str, Any]]:
  out = tmp_path_factory.mktemp("audit") / "out"
  config = AuditConfig(checkpoint=tiny_checkpoint, data="sample", size="smoke", num_devices=2, out=str(out))
  with pytest.MonkeyPatch.context() as patch, jax.numpy_rank_promotion("allow"):
    patch.setitem(SIZES, "smoke", TINY)
    program.audit(config)
  return config, json.loads((out / program.ANSWER_FILE).read_bytes())


def test_it_runs(run):
  config, answer = run
  print(json.dumps(answer["ranking"], indent=1)[:3000])
  print([(one["name"], one["seconds"]) for one in answer["stages"]])
