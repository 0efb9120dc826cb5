"""`find --question`: what is stored, told and verified of subsets without which the class is lost."""

import pathlib
import re
import sys
from typing import Any

import numpy as np
import pytest
from tiny_runs import THRESHOLD, find_tiny

from jax_sis import Status
from jax_sis.runs import invariants
from jax_sis.runs.config import FindConfig, settings_from_json, settings_to_json
from jax_sis.runs.table import make_rows
from jax_sis.runs.verify import verify

MARGIN = 0.5
# With all masked it says nothing, so that every class can be lost.
MODEL = """
import numpy as np

from jax_sis.classifiers import ImageModel, Normalisation
from jax_sis.data.cifar_c import CLASS_NAMES

def predict(params, images):
  return images.reshape(images.shape[0], -1) @ params

def load():
  return ImageModel(
    predict_fn=predict,
    params=0.05 * np.random.default_rng(0).normal(size=(3072, 10)).astype(np.float32),
    input_shape=(32, 32, 3),
    normalisation=Normalisation(mean=(0.5, 0.45, 0.4), std=(0.25, 0.25, 0.25)),
    class_names=CLASS_NAMES,
  )
"""
NO_ORDER: dict[str, Any] = {"search": None, "saved": "order", "mask_thresholds": (), "mask_fractions": ()}


@pytest.mark.slow
@pytest.mark.parametrize(("question", "certificate"), [("both", "full"), ("contrastive", "alone")])
def test_find_stores_what_is_asked(
  question: str,
  certificate: str,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
  monkeypatch: pytest.MonkeyPatch,
):
  monkeypatch.setattr(sys, "path", list(sys.path))
  (tmp_path / "mine.py").write_text(MODEL)
  options = {"question": question, "margin": MARGIN, "certificate": certificate, "gallery": 2, **NO_ORDER}
  options |= {"checkpoint": None, "model_function": f"{tmp_path / 'mine.py'}:load"}
  store = find_tiny(tmp_path / "run", **options)
  printed = capsys.readouterr().out
  assert "another class is ahead by 0.5 in log-odds" in printed and f"{question}: " in printed
  assert store.spec["question"] == question and store.spec["margin"] == MARGIN
  fields = {name: store.read(name) for name in store.fields}
  is_ok = fields[f"{question}_status"] == Status.OK
  assert is_ok.any() and (fields[f"{question}_mask"].sum(1) == fields[f"{question}_num_kept"]).all()
  lost_by, alone = fields[f"{question}_lost_by"][is_ok], fields[f"{question}_certified_confidence"][is_ok]
  assert (lost_by >= MARGIN - 1e-4).all() and (question == "contrastive" or (alone >= THRESHOLD - 1e-4).all())
  assert fields[f"{question}_is_sufficient"][is_ok].all()
  rows = make_rows(fields, tuple("abcdefghij"), num_features=16)
  told = rows[int(np.flatnonzero(is_ok)[0])].answers[question].certificate
  assert told.startswith({"both": "sufficient and contrastive, ", "contrastive": "contrastive"}[question])
  assert verify(str(tmp_path / "run"), num_sampled=1)


def test_what_does_not_fit_together_is_found():
  # Answered, not by the margin, not alone, no subset.
  lost_by, alone = np.array([0.7, 0.4, 0.7, np.nan], np.float32), np.array([0.95, 0.95, 0.5, np.nan], np.float32)
  status = np.array([Status.OK] * 3 + [Status.NOT_REACHED], np.int8)
  spec = {"threshold": THRESHOLD, "margin": MARGIN}

  def broken(kind: str, is_sufficient: list[bool], lost_by: Any = lost_by) -> dict[str, list[bool]]:
    fields = {"status": status, "certified_confidence": alone, "lost_by": lost_by, "is_sufficient": is_sufficient}
    rows = {f"{kind}_{name}": np.asarray(values) for name, values in fields.items()}
    found = invariants.check_sufficient(rows, kind, spec)
    return {one.field.removeprefix(f"{kind}_"): one.is_broken.tolist() for one in found if one.is_broken.any()}

  assert not broken("both", [True, False, False, False])
  assert not broken("contrastive", [True, False, True, False])
  assert broken("both", [True, True, True, False]) == {"is_sufficient": [False, True, True, False]}
  assert broken("contrastive", [True, False, True, False], np.where(status == 0, lost_by, 0)) == {
    "lost_by": [False, False, False, True]
  }


def test_settings_keep_the_question_and_leave_out_the_common_one():
  asked = FindConfig(question="both", margin=2.0)
  assert settings_from_json(settings_to_json(asked)) == FindConfig(question="both", margin=2.0)
  assert not {"question", "margin"} & set(settings_to_json(FindConfig()))


@pytest.mark.parametrize(
  ("settings", "text"),
  [
    ({"question": "both", "smallest": None}, "--question both must come with --search smallest or both"),
    ({"question": "both", "score": "probability"}, 'score must be "log_odds"'),
    ({"margin": 3.0}, "margin must come with question="),
  ],
)
def test_questions_that_cannot_be_asked_are_refused(settings: dict[str, Any], text: str):
  with pytest.raises(ValueError, match=re.escape(text)):
    FindConfig(**settings)
