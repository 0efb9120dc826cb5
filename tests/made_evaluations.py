"""Evaluations with made-up predictions."""

import json
import pathlib
from collections.abc import Mapping

import numpy as np

from jax_sis.evaluation import predictions


def write_evaluation(folder: pathlib.Path, right: Mapping[tuple[str, int], np.ndarray]) -> None:
  """The files of an evaluation of images of class 0, of which these are right; written in the opposite order."""
  folder.mkdir(parents=True)
  for condition, is_correct in right.items():
    ids = [f"test_{index}" for index in range(len(is_correct))]
    logits = np.where(is_correct[:, None], [[2.0, 0.0]], [[0.0, 2.0]])
    found = predictions.make_predictions(ids, logits, np.zeros(len(ids), np.int32))
    predictions.write(folder, condition, found.select(np.arange(len(ids))[::-1]))
  conditions = [{"corruption": name, "severity": severity} for name, severity in right if severity]
  clean = {"negative_log_likelihood": 0.5, "expected_calibration_error": 0.1, "class_count": {"a": 1, "b": 1}}
  (folder / "metrics.json").write_text(json.dumps({"clean": clean, "conditions": conditions}))
