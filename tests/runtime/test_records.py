"""Dataclasses that come back from JSON as they went in."""

import dataclasses
import json
import pathlib
from typing import Any

import pytest
from made_runs import make_rows, make_run

from jax_sis.runtime.records import read_record
from jax_sis.studies.analysis.run import RunAnalysis, analyse_run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
  """What is in another."""

  share: float | None
  ends: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole:
  """What holds others."""

  name: str
  parts: dict[str, tuple[Part, ...]]
  is_so: bool


def test_an_analysis_comes_back(tmp_path: pathlib.Path):
  store = make_run(tmp_path / "run", make_rows(40, has_odd_ones=True, has_smallest=True))
  analysis = analyse_run(store, thresholds=(0.5,), has_class_curves=True)
  assert read_record(RunAnalysis, json.loads(json.dumps(dataclasses.asdict(analysis)))) == analysis


def test_whole_numbers_stand_for_others_and_unknown_keys_are_left_out():
  content = {"name": "x", "parts": {"a": [{"share": 1, "ends": [0, 2.5], "new": 3}, {"share": None}]}, "is_so": True}
  parts = (Part(share=1, ends=(0, 2.5)), Part(share=None))
  assert read_record(Whole, content) == Whole(name="x", parts={"a": parts}, is_so=True)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"name": None}, r"^file\.name must be str, got None\.$"),
    ({"is_so": 1}, r"^file\.is_so must be bool, got 1\.$"),
    ({"parts": {"a": [{}]}}, r"^file\.parts\.a\[0\] must have 'share', but lacks it; another version of jax_sis may"),
    ({"parts": {"a": [{"share": True}]}}, r"^file\.parts\.a\[0\]\.share must be float, got True\.$"),
    ({"parts": {"a": [{"share": 1.5, "ends": [1]}]}}, r"^file\.parts\.a\[0\]\.ends must be tuple, got \[1\]\.$"),
    ({"parts": {"a": 3}}, r"^file\.parts\.a must be tuple, got 3\.$"),
    ({"parts": []}, r"^file\.parts must be dict, got \[\]\.$"),
    ({"parts": {"a": ["x"]}}, r"^file\.parts\.a\[0\] must be an object, got 'x'\.$"),
  ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str):
  with pytest.raises(ValueError, match=message):
    read_record(Whole, {"name": "x", "parts": {}, "is_so": True, **change}, "file")
