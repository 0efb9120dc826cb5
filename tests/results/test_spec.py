"""Specifications of runs: what differs is named, and a missing setting is not the same as one that is None."""

import pathlib
import re

import pytest

from jax_sis.results.spec import find_differences, settle_spec


@pytest.mark.parametrize(
  ("stored", "asked", "differences"),
  [
    ({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 2}}, []),
    ({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}}, ["b.c: 2 there, 3 asked"]),
    ({"b": {"c": 2}}, {"b": None}, ["b: {'c': 2} there, None asked"]),
    ({"a": None}, {}, ["a: None there, nothing asked"]),
    ({}, {"a": None}, ["a: nothing there, None asked"]),
    (
      {"a": 1, "z": 2},
      {"z": 3, "b": 4},
      ["a: 1 there, nothing asked", "b: nothing there, 4 asked", "z: 2 there, 3 asked"],
    ),
  ],
)
def test_differences_are_named(stored: dict[str, object], asked: dict[str, object], differences: list[str]):
  assert find_differences(stored, asked) == differences


def test_a_folder_with_a_setting_that_is_not_asked_is_refused_by_its_name(tmp_path: pathlib.Path):
  """Such a folder was refused without a reason."""
  spec = {"format": "made/1", "limit": None}
  assert settle_spec(tmp_path, spec) == spec
  assert settle_spec(tmp_path, spec) == spec
  with pytest.raises(ValueError, match=re.escape("holds another run (limit none there, nothing here); name")):
    settle_spec(tmp_path, {"format": "made/1"})


def test_a_machine_with_other_releases_is_told_which(tmp_path: pathlib.Path):
  begun = {"format": "made/1", "versions": {"jax_sis": "1.0", "jax": "0.9"}}
  settle_spec(tmp_path, begun)
  message = "(jax_sis '1.0' there, '1.1' here); all machines of a run need the same releases; name another folder"
  with pytest.raises(ValueError, match=re.escape(message)):
    settle_spec(tmp_path, {**begun, "versions": {"jax_sis": "1.1", "jax": "0.9"}})
  with pytest.raises(ValueError, match=re.escape("(limit nothing there, 1 here, JAX '0.9' there, '0.8' here); name")):
    settle_spec(tmp_path, {**begun, "limit": 1, "versions": {"jax_sis": "1.0", "jax": "0.8"}})
