"""Commands on the classifier that a function makes: as in Python, and refused once that has changed."""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
from tiny_runs import GRADIENT, find_tiny

import jax_sis
from jax_sis import results
from jax_sis.data import sources
from jax_sis.evaluation import evaluate
from jax_sis.evaluation.config import EvaluateConfig
from jax_sis.report import gallery
from jax_sis.runs import plan, verify
from jax_sis.runs.config import FindConfig
from jax_sis.runs.options import PlanOptions
from jax_sis.studies.attributions import program as attributions
from jax_sis.studies.attributions.config import AttributionsConfig
from jax_sis.studies.controls import program as controls
from jax_sis.studies.controls.config import ControlsConfig
from jax_sis.studies.disjoint import program as disjoint
from jax_sis.studies.disjoint.config import DisjointConfig

MODEL = """
import jax
import jax.numpy as jnp
import numpy as np

from jax_sis.classifiers import ImageModel, Normalisation
from jax_sis.data.cifar_c import CLASS_NAMES

def predict(params, images):
  return jnp.tanh(images).reshape(images.shape[0], -1) @ params["kernel"] + params["bias"][None]

def load():
  kernel = 0.05 * np.random.default_rng(0).normal(size=(3072, 10)).astype(np.float32)
  return ImageModel(
    predict_fn=predict,
    params={"kernel": kernel, "bias": np.zeros(10, np.float32)},
    input_shape=(32, 32, 3),
    normalisation=Normalisation(mean=(0.5, 0.45, 0.4), std=(0.25, 0.25, 0.25)),
    class_names=CLASS_NAMES,
  )
"""
OTHER_PARAMETERS = MODEL.replace("default_rng(0)", "default_rng(1)")
OTHER_PROGRAM = MODEL.replace("jnp.tanh(images)", "jnp.tanh(2 * images)")
SMALL: dict[str, Any] = {**GRADIENT, "checkpoint": None, "batch_size": 12, "unit_size": 12}


@pytest.fixture
def file(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
  """The model's file."""
  monkeypatch.setattr(sys, "path", list(sys.path))
  path = tmp_path / "mine.py"
  path.write_text(MODEL)
  return path


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """A finished run on it, whose file has moved since."""
  folder = tmp_path_factory.mktemp("model")
  (folder / "mine.py").write_text(MODEL)
  find_tiny(folder / "run", model_function=f"{folder}/mine.py:load", **SMALL)
  (folder / "mine.py").unlink()
  return folder / "run"


@pytest.fixture
def run(stored: pathlib.Path, tmp_path: pathlib.Path) -> str:
  """A copy of it."""
  return str(shutil.copytree(stored, tmp_path / "run"))


def test_a_run_holds_what_python_finds_and_both_digests(stored: pathlib.Path, file: pathlib.Path):
  run = results.open(stored)
  assert run.spec["model"]["name"] == "mine:load"
  assert len(run.spec["model"]["sha256"]) == len(run.spec["program"]) == 64
  source = sources.open_source(
    "sample", split=None, data_dir=None, class_names=(), input_shape=(32, 32, 3), mean_colour=(0, 0, 0)
  )
  namespace: dict[str, Any] = {}
  exec(MODEL, namespace)
  model = namespace["load"]()
  images = model.normalisation.apply(np.stack([source[index]["image"] for index in range(len(source))]))
  with jax.default_matmul_precision("highest"):
    order = jax_sis.backselect(model.predict_fn, model.params, images, grid=(4, 4, 1))
  np.testing.assert_array_equal(run.read("rank", np.arange(len(source))), order.rank)
  np.testing.assert_allclose(run.read("full_confidence", np.arange(24)), order.confidence[:, -1], rtol=1e-5)


@pytest.mark.parametrize(
  ("text", "changed"), [(OTHER_PARAMETERS, "its parameters"), (OTHER_PROGRAM, "what its predict_fn computes")]
)
def test_a_model_that_has_changed_is_refused(run: str, file: pathlib.Path, text: str, changed: str):
  file.write_text(text)
  said = f"--model mine:load has changed since the run began: {changed}; "
  name = f"{file}:load"
  with pytest.raises(ValueError, match=f"^out '{run}' holds another run .*; {said}"):
    find_tiny(run, model_function=name, **SMALL)
  with pytest.raises(
    ValueError, match=f"^what is at hand must be what '{run}' was made from, but .*; {said}name the right"
  ):
    verify.verify(run, model_function=name)


def test_a_run_is_verified_with_the_model_where_it_lies_now(
  run: str, file: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  with pytest.raises(ValueError, match=r"^--model must name an existing file, got '.*mine\.py', which is none in "):
    verify.verify(run)
  assert verify.verify(run, model_function=f"{file}:load", num_sampled=1)
  assert "2 of 2 finished units are sound (1 were computed again)" in capsys.readouterr().out
  with pytest.raises(ValueError, match=r"^--checkpoint and --model must not both be given"):
    verify.verify(run, model_function=f"{file}:load", checkpoint="c")


def test_the_report_and_the_controls_take_it(run: str, file: pathlib.Path):
  store = results.open(run)
  assert "must name an existing file" in gallery.read_images(store, [0]).missing
  shown = gallery.read_images(store, [0], model_function=f"{file}:load")
  assert (list(shown.pixels), shown.missing) == ([0], "")
  options = ControlsConfig(run_dir=run, model_function=f"{file}:load")
  assert controls.open_job(store, options).classifier.model_name == "mine:load"
  file.write_text(OTHER_PARAMETERS)
  with pytest.raises(ValueError, match=r"^--model must be the classifier of the run, mine:load with the SHA-256 "):
    controls.open_job(store, options)


def test_settings_of_runs_without_a_function_are_stored_as_before(tiny_run: pathlib.Path, stored: pathlib.Path):
  assert "model_function" not in json.loads((tiny_run / "settings.json").read_text())
  assert json.loads((stored / "settings.json").read_text())["model_function"].endswith("mine.py:load")


@pytest.mark.slow
def test_every_other_command_takes_it(tmp_path: pathlib.Path, file: pathlib.Path):
  images: dict[str, Any] = {"model_function": f"{file}:load", "num_devices": 2}
  cost = plan.plan(
    FindConfig(out=str(tmp_path / "plan"), search=jax_sis.Gradient(), smallest=None, patch=8, **images), PlanOptions()
  )
  assert cost.num_left == 24
  evaluate.evaluate(EvaluateConfig(out=str(tmp_path / "evaluation"), data=str(sources.SAMPLE_DIR), **images))
  assert json.loads((tmp_path / "evaluation" / "spec.json").read_text())["model"]["name"] == "mine:load"
  study: dict[str, Any] = {**images, "patch": 8, "threshold": 0.5, "num_images": 4}
  disjoint.disjoint(DisjointConfig(out=str(tmp_path / "disjoint"), **study))
  attributions.attributions(
    AttributionsConfig(out=str(tmp_path / "attributions"), methods=("sis", "grad_cam", "random"), **study)
  )
  left_out = json.loads((tmp_path / "attributions" / "attributions.json").read_text())["left_out"]
  assert "predict_fn must be what `freeze` returned" in left_out["grad_cam"]
  with pytest.raises(ValueError, match="must not both be given"):
    disjoint.disjoint(DisjointConfig(out=str(tmp_path / "both"), checkpoint="c", **study))


@pytest.mark.slow
def test_the_shell_finds_a_module_in_the_current_folder(tmp_path: pathlib.Path, file: pathlib.Path):
  def call(*words: str) -> subprocess.CompletedProcess[str]:
    command = [
      sys.executable,
      "-c",
      "import sys; sys.path.remove(''); from jax_sis.cli.main import main; sys.exit(main())",
    ]
    return subprocess.run([*command, *words], cwd=tmp_path, capture_output=True, text=True, check=False)

  search = ("--patch", "8", "--search", "gradient", "--certificate", "alone", "--gallery", "0", "--out", "out")
  assert call("find", "--model", "mine:load", *search).returncode == 0
  assert call("verify", "out").returncode == 0
  file.write_text(OTHER_PARAMETERS)
  for words in (("find", "--model", "mine:load", *search), ("verify", "out")):
    refused = call(*words)
    assert refused.returncode == 2
    assert "--model mine:load has changed since the run began: its parameters; " in refused.stderr


def test_a_folder_or_a_function_is_the_classifier_of_a_command(tmp_path: pathlib.Path):
  both = FindConfig(out=str(tmp_path / "run"), checkpoint="c", model_function="mine:load")
  for config in (both, dataclasses.replace(both, data="cifar10")):
    with pytest.raises(ValueError, match=r"^--checkpoint and --model must not both be given, got 'c' and 'mine:load'"):
      plan.plan(config, PlanOptions())
