"""Rankings by a region: by hand, blind to all else, after a kill, beside other data sets, and what is refused."""

import csv
import json
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_classifier
from PIL import Image

from jax_sis.classifiers import checkpoint, component_file, frozen
from jax_sis.cli import main
from jax_sis.core.scores import log_odds
from jax_sis.studies.ranking import program
from jax_sis.studies.ranking.config import RankingConfig
from jax_sis.studies.ranking.regions import read_region
from jax_sis.studies.ranking.summaries import Judged, rank_data

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")
LABELS = np.array([0, 0, 3, 3, 3, 8])
SETTINGS: dict[str, Any] = {"batch_size": 3, "num_devices": 1}
BORDER = read_region("border", (32, 32))


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
  """The tiny classifier, and images of which the first two differ in the middle only."""
  root = tmp_path_factory.mktemp("where")
  images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
  images[1] = np.where(BORDER[..., None], images[0], images[1])
  np.save(root / "made_data.npy", images)
  np.save(root / "made_labels.npy", LABELS)
  with jax.numpy_rank_promotion("allow"):
    return {"checkpoint": tiny_classifier.save(root / "tiny"), "data": str(root / "made_data.npy")}


def rank(out: pathlib.Path, where: dict[str, str], **options: Any) -> program.Ranking:
  with jax.numpy_rank_promotion("allow"):
    return program.study(RankingConfig(out=str(out), **where, **{**SETTINGS, **options}))


@pytest.fixture(scope="module")
def run(where: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, program.Ranking]:
  out = tmp_path_factory.mktemp("run") / "out"
  return out, rank(out, where)


def test_evidence_is_what_the_classifier_says_of_the_border_on_the_mean_colour(
  run: tuple[pathlib.Path, program.Ranking], where: dict[str, str]
):
  classifier = checkpoint.load_classifier(where["checkpoint"])
  predict_fn, params = frozen.freeze(classifier.module)
  inputs = jnp.asarray(classifier.normalisation.apply(np.load(where["data"])))
  alone = predict_fn(params, inputs * jnp.asarray(BORDER, jnp.float32)[None, ..., None])
  whole = np.asarray(jax.nn.softmax(predict_fn(params, inputs)))
  (judged,) = run[1].judged.values()
  expected = log_odds(alone, jnp.asarray(LABELS, jnp.int32))
  np.testing.assert_allclose([image.evidence for image in judged], expected, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose([image.probability for image in judged], whole[np.arange(6), LABELS], atol=1e-5)
  assert [image.alone for image in judged] == np.asarray(alone).argmax(1).tolist()
  assert [image.predicted for image in judged] == whole.argmax(1).tolist()
  cats = run[1].data[0].classes[1]
  assert cats.name == "cat"
  by_evidence = sorted((2, 3, 4), key=lambda place: -expected[place])
  assert (cats.most, cats.least) == ((str(by_evidence[0]),), (str(by_evidence[-1]),))


@pytest.mark.parametrize("options", [{}, {"removal": "layer"}, {"completion": "noise", "num_draws": 2}], ids=str)
def test_evidence_does_not_depend_on_what_is_not_shown(
  options: dict[str, Any],
  run: tuple[pathlib.Path, program.Ranking],
  where: dict[str, str],
  tmp_path: pathlib.Path,
):
  found = rank(tmp_path, where, **options) if options else run[1]
  (judged,) = found.judged.values()
  # Two images of one border, to which draws must be the same.
  assert judged[0].evidence == pytest.approx(judged[1].evidence, rel=1e-5)
  assert abs(np.log(judged[0].probability / judged[1].probability)) > 1
  assert judged[2].evidence != pytest.approx(judged[3].evidence, rel=1e-3)


def test_a_killed_run_goes_on_and_takes_a_folder_beside(
  run: tuple[pathlib.Path, program.Ranking],
  where: dict[str, str],
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
):
  lines = (run[0] / program.LINES_FILE).read_bytes().splitlines(keepends=True)
  assert len(lines) == 2
  first = json.loads(lines[0])
  first["images"][0]["evidence"] = 50.0
  out = tmp_path / "out"
  out.mkdir()
  (out / "spec.json").write_bytes((run[0] / "spec.json").read_bytes())
  (out / program.LINES_FILE).write_bytes(json.dumps(first).encode() + b"\n" + lines[1][:30])
  for number in (3, 8):
    folder = tmp_path / "v2" / str(number)
    folder.mkdir(parents=True)
    for name in "ab":
      Image.fromarray(np.full((32, 32, 3), 20 * number + ord(name) // 2, np.uint8)).save(folder / f"{name}.png")
  beside = str(tmp_path / "v2")
  answer = program.ranking(RankingConfig(out=str(out), **where, **SETTINGS, beside=(beside,)))
  first_data, second = answer["data"]
  assert first_data["classes"][0]["most"] == ["0"]
  assert [one["name"] for one in second["classes"]] == ["cat", "ship"]
  assert second["beyond"]["mean"] == pytest.approx(second["accuracy"]["share"] - first_data["accuracy"]["share"])
  printed = capsys.readouterr().out
  assert re.search(r"^\S*made_data\.npy +6 .*\n\S*v2 +4 ", printed, re.MULTILINE)
  with (out / "ranking.csv").open(newline="") as file:
    rows = list(csv.DictReader(file))
  assert [row["image"] for row in rows if row["data"] == beside] == ["3/a.png", "3/b.png", "8/a.png", "8/b.png"]
  assert {path.name for path in out.iterdir()} >= {"ranking.json", "ranking.png", "ends.png"}
  Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "v2" / "3" / "c.png")
  with pytest.raises(ValueError, match=r"since the images of '.*v2' have changed since they were ranked there"):
    rank(out, where, beside=(beside,))


def test_a_component_ranks_by_how_much_of_it_an_image_holds(where: dict[str, str], tmp_path: pathlib.Path):
  classifier = checkpoint.load_classifier(where["checkpoint"])
  inputs = jnp.asarray(classifier.normalisation.apply(np.load(where["data"])))
  features = np.asarray(classifier.module.penultimate(inputs))
  weights = np.random.default_rng(1).normal(size=(2, features.shape[1])).astype(np.float32)
  # Ships have a first component, but no second.
  parts = [
    component_file.Component(
      class_number=number, number=place, weights=weights[place - 1] * (number + 1), offset=float(number)
    )
    for number, place in ((0, 1), (0, 2), (3, 1), (3, 2), (8, 1))
  ]
  model = checkpoint.hash_params(classifier)
  (tmp_path / component_file.NAME).write_bytes(component_file.encode_components(parts, model=model))
  found = rank(tmp_path / "out", where, components=str(tmp_path), component=2)
  (judged,) = found.judged.values()
  expected = [features[place] @ weights[1] * (label + 1) - label for place, label in enumerate(LABELS[:5])]
  np.testing.assert_allclose([image.evidence for image in judged[:5]], expected, rtol=1e-4, atol=1e-4)
  assert judged[5].error == "its class has no such component"
  (ranked,) = found.data
  by_value = sorted((2, 3, 4), key=lambda place: -expected[place])
  assert (ranked.classes[1].most, ranked.classes[1].least) == ((str(by_value[0]),), (str(by_value[-1]),))
  assert [one.accuracy.num_images for one in ranked.classes] == [2, 3]
  assert (ranked.alone, ranked.called, ranked.share_called) == (None, "", None)
  chosen: dict[str, Any] = {"components": str(tmp_path), "component": 2}
  answer = program.ranking(RankingConfig(out=str(tmp_path / "out"), **where, **SETTINGS, **chosen))
  assert (answer["component"], answer["region"], answer["num_pixels"]) == (2, None, None)
  assert "of whose class component 2 says most" in answer["reading"]
  with pytest.raises(ValueError, match=re.escape(f"--component must be one of the 2 of a class in {tmp_path}, got 3.")):
    rank(tmp_path / "none", where, components=str(tmp_path), component=3)
  (tmp_path / component_file.NAME).write_bytes(component_file.encode_components(parts, model="another"))
  with pytest.raises(ValueError, match=r"--components must be .* of the same classifier: .* are another one's"):
    rank(tmp_path / "none", where, components=str(tmp_path), component=2)


def test_a_gap_is_the_accuracy_of_the_ends_and_its_mean_that_of_the_classes():
  # Of class a the images with much evidence are right, of class b all are.
  images = [
    Judged(id=f"{place:03}", label=label, predicted=label if label or place < 60 else 1, evidence=-place, alone=1)
    for label in (0, 1)
    for place in range(100)
  ]
  found = rank_data("made", images, ("a", "b"), ends=0.1, first=None)
  first, second = found.classes
  assert (first.highest.count, first.lowest.count, first.gap.value) == (10, 0, 1.0)
  assert first.most == tuple(f"{place:03}" for place in range(10))
  assert first.least[0] == "099"
  # Newcombe's interval by hand: Wilson's of 10 and of 0 in 10 reach .2775 from their ends.
  assert first.gap.low == pytest.approx(1 - 0.2775 * 2**0.5, abs=1e-3)
  assert second.gap.value == 0
  assert found.gap.value == 0.5
  below = np.hypot(1 - first.gap.numbers[1], second.gap.numbers[1]) / 2
  assert found.gap.numbers[1] == pytest.approx(0.5 - below)
  assert found.share_called is not None
  assert found.alone is not None
  assert (found.called, found.share_called.value, found.alone.value) == ("b", 1.0, 0.5)


def test_regions_are_borders_squares_and_masks_in_files(tmp_path: pathlib.Path):
  assert BORDER.sum() == 32 * 32 - 22 * 22
  assert read_region("border:1", (4, 6)).tolist() == [[True] * 6, *[[True, *[False] * 4, True]] * 2, [True] * 6]
  square = read_region("square:1,2,2", (4, 6))
  assert np.argwhere(square).tolist() == [[1, 2], [1, 3], [2, 2], [2, 3]]
  np.save(tmp_path / "mask.npy", square)
  Image.fromarray(np.where(square, 255, 0).astype(np.uint8)).save(tmp_path / "mask.png")
  for name in ("mask.npy", "mask.png"):
    assert (read_region(str(tmp_path / name), (4, 6)) == square).all()
  np.save(tmp_path / "other.npy", np.full((4, 6), 2))
  for text, message in {
    "square:3,0,2": "--region must lie within 4 rows and 6 columns, got square:3,0,2.",
    "border:0": "--region must show some pixels and not all, got border:0, which is 0 of 24.",
    "border:9": "which is 24 of 24.",
    "edges": "--region must be border, border:N, square:ROW,COLUMN,SIDE or a file, got 'edges', which is not there.",
    str(tmp_path / "other.npy"): "--region must be a mask of zeros and ones, got others in",
  }.items():
    with pytest.raises(ValueError, match=re.escape(message)):
      read_region(text, (4, 6))
  with pytest.raises(ValueError, match=r"--region must be a mask of \[8, 8\] pixels, got \[4, 6\]"):
    read_region(str(tmp_path / "mask.png"), (8, 8))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (["--ends", "0.6"], "--ends must be above 0 and at most 0.5, got 0.6."),
    (["--completion", "images"], "--completion images must come with --pool"),
    (["--pool", "p"], "--pool must come with --completion, which is left out."),
    (["--completion", "noise", "--removal", "layer"], "--completion must not come with --removal layer"),
    (["--component", "2"], "--component and --components must come together, got only one of them."),
    (["--component", "2", "--components", "c", "--region", "border:2"], "--component must not come with --region"),
    (["--beside", "a", "a"], "--beside must name each data set once, and not --data, got a a."),
  ],
)
def test_wrong_options_are_refused(options: list[str], message: str, capsys: pytest.CaptureFixture[str]):
  assert main.main(["ranking", "--devices", "8", *options]) == 2
  assert capsys.readouterr().err.startswith(f"jax-sis ranking: {message}")


def test_images_without_labels_cannot_be_ranked(where: dict[str, str], tmp_path: pathlib.Path):
  np.save(tmp_path / "bare.npy", np.load(where["data"])[:3])
  with pytest.raises(ValueError, match=r"none of the 3 of '.*bare\.npy' can be ranked: it has no label"):
    rank(tmp_path / "out", {**where, "data": str(tmp_path / "bare.npy")})


@pytest.mark.slow
def test_the_border_on_the_mean_colour_is_called_a_truck(
  published_module: Any, shared_dir: pathlib.Path, tmp_path: pathlib.Path
):
  from jax_sis.classifiers import Classifier
  from jax_sis.data.cifar_c import CLASS_NAMES
  from jax_sis.data.normalisation import Normalisation

  classifier = Classifier(
    model_name="resnet20",
    module=published_module,
    class_names=CLASS_NAMES,
    normalisation=Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    input_shape=(32, 32, 3),
  )
  checkpoint.save_classifier(tmp_path / "published", classifier)
  data: dict[str, Any] = {"data": "cifar10", "data_dir": str(shared_dir / "data/tfds")}
  found = program.study(RankingConfig(out=str(tmp_path / "out"), checkpoint=str(tmp_path / "published"), **data))
  (ranked,) = found.data
  assert ranked.share_called is not None
  assert (ranked.called, ranked.share_called.num_images) == ("truck", 10_000)
  assert ranked.share_called.count == pytest.approx(4453, abs=3)
  assert ranked.gap.value == pytest.approx(0.082, abs=0.003)
  gaps = {one.name: one.gap.value for one in ranked.classes}
  assert gaps["frog"] == pytest.approx(0.14, abs=0.011)
  assert gaps["dog"] == pytest.approx(-0.04, abs=0.011)
