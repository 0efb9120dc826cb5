"""Components: by hand, on the tiny classifier, after a kill, the fixed classifier, and what is refused."""

import json
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_runs import GRADIENT, find_tiny

from jax_sis.classifiers import Classifier, checkpoint, component_file, frozen, import_checkpoint, spufix
from jax_sis.classifiers.on_images import open_on_images
from jax_sis.data.cifar_c import CLASS_NAMES
from jax_sis.data.normalisation import IMAGENET_NORMALISATION
from jax_sis.runs import verify
from jax_sis.statistics.separation import separate
from jax_sis.studies.components import program
from jax_sis.studies.components.config import ComponentsConfig
from jax_sis.studies.components.evidence import LINES_FILE
from jax_sis.studies.components.principal import find_components
from jax_sis.studies.components.seeker import ComponentPredictor

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")
# The sample has two or three images of each class.
SETTINGS: dict[str, Any] = {
  "num_components": 1,
  "num_searched": 1,
  "num_images": 2,
  "search": "gradient",
  "per_step": 1,
  "patch": 8,
  "batch_size": 4,
  "num_devices": 2,
  "classes": ("automobile", "dog"),
}


def ask(out: pathlib.Path, checkpoint_dir: str, **options: Any) -> dict[str, Any]:
  with jax.numpy_rank_promotion("allow"):
    return program.study(ComponentsConfig(out=str(out), checkpoint=checkpoint_dir, **{**SETTINGS, **options}))


@pytest.fixture(scope="module")
def run(tiny_checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, dict[str, Any]]:
  out = tmp_path_factory.mktemp("components") / "out"
  return out, ask(out, tiny_checkpoint)


def test_components_sum_to_the_logit_and_are_found_where_they_were_put():
  rng = np.random.default_rng(0)
  axis = np.array([0.6, 0.8, 0.0])
  kernel = np.array([1.0, 2.0, -1.0])
  weighted = 5 + rng.normal(size=(2000, 1)) * 3 * axis + rng.normal(size=(2000, 3)) * 0.1
  found = find_components(weighted / kernel, kernel, 0.5)
  np.testing.assert_allclose(np.abs(found.axes[0]), axis, atol=0.01)
  assert found.shares[0] > 0.99
  assert found.shares.sum() == pytest.approx(1)
  others = rng.normal(size=(7, 3))
  np.testing.assert_allclose(found.project(others).sum(1) + found.constant, others @ kernel + 0.5)
  direction = found.direction(1)
  np.testing.assert_allclose(others @ direction.weights - direction.offset, found.project(others)[:, 1])


def test_separation_by_hand():
  found = separate(np.array([3.0, 1.0, 1.0]), np.array([2.0, 1.0]))
  assert found.area == pytest.approx((2 + 0.5 + 0.5) / 6)
  assert found.precision == pytest.approx((1 + 2 * 3 / 5) / 3)
  assert separate(np.array([]), np.array([1.0])).area is None


def test_what_is_said_of_images_is_what_the_classifier_says(
  run: tuple[pathlib.Path, dict[str, Any]], tiny_checkpoint: str
):
  out, answer = run
  images = open_on_images(ComponentsConfig(checkpoint=tiny_checkpoint, **SETTINGS), batch_size=4)
  assert [one["name"] for one in answer["classes"]] == ["automobile", "dog"]
  with np.load(out / "features" / "00000000.npz") as archive:
    features, labels, places = archive["features"], archive["label"], archive["place"]
  module = checkpoint.load_classifier(tiny_checkpoint).module
  for one in answer["classes"]:
    number = CLASS_NAMES.index(one["name"])
    kernel, bias = np.asarray(module.head.kernel[...])[:, number], float(module.head.bias[...][number])
    found = find_components(features[labels == number], kernel, bias)
    component = one["components"][0]
    assert one["identity_error"] < 1e-4
    values = found.project(features)[:, 0]
    assert component["share"] == pytest.approx(found.shares[0])
    largest = np.flatnonzero(labels != number)[np.argmax(values[labels != number])]
    assert component["others"][0]["place"] == places[largest]
    inputs = jnp.asarray(images.normalise(images.source[int(places[largest])]["image"][None]))
    logits = images.predict_fn(images.params, inputs)
    assert component["others"][0]["confidence"] == pytest.approx(float(jax.nn.softmax(logits)[0, number]), abs=1e-5)


def test_pixels_raise_the_component_and_are_judged_as_they_are(
  run: tuple[pathlib.Path, dict[str, Any]], tiny_checkpoint: str
):
  _, answer = run
  images = open_on_images(ComponentsConfig(checkpoint=tiny_checkpoint, **SETTINGS), batch_size=4)
  seen = []
  for one in answer["classes"]:
    number = CLASS_NAMES.index(one["name"])
    for image in answer["evidence"][f"{one['name']} #1"]["images"]:
      kept = np.isin(np.arange(16), image["features"]).reshape(4, 4).repeat(8, 0).repeat(8, 1)[..., None]
      inputs = images.normalise(images.source[image["place"]]["image"][None]) * kept
      logits = images.predict_fn(images.params, jnp.asarray(inputs, jnp.float32))
      assert image["confidence"]["alone"] == pytest.approx(float(jax.nn.softmax(logits)[0, number]), abs=1e-4)
      assert image["has"]["alone"] == (image["status"] == "OK") or not image["features"]
      seen.append(image["status"])
  assert "OK" in seen


def test_a_components_head_is_even_at_its_level():
  predictor = ComponentPredictor(lambda params, inputs: inputs * params)
  head = {"weights": jnp.array([2.0]), "offset": jnp.array(1.0), "level": jnp.array(3.0), "spread": jnp.array(8.0)}
  np.testing.assert_allclose(predictor((jnp.array(1.0), head), jnp.array([[2.0], [3.0]])), [[0, 0], [1, 0]])


def test_a_killed_run_goes_on(run: tuple[pathlib.Path, dict[str, Any]], tiny_checkpoint: str, tmp_path: pathlib.Path):
  out, answer = run
  for name in ("spec.json", "features/00000000.npz"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes((out / name).read_bytes())
  lines = (out / LINES_FILE).read_bytes().splitlines(keepends=True)
  first = json.loads(lines[0])
  first["images"][0]["unseen_has"] = 0.125
  (tmp_path / LINES_FILE).write_bytes(json.dumps(first).encode() + b"\n" + lines[1][:30])
  resumed = ask(tmp_path, tiny_checkpoint)["evidence"]
  assert resumed["automobile #1"]["images"][0]["unseen_has"] == 0.125
  assert resumed["dog #1"]["images"][0]["features"] == answer["evidence"]["dog #1"]["images"][0]["features"]
  with pytest.raises(ValueError, match=re.escape("holds another run (completion 'mean' there, 'images' here)")):
    ask(tmp_path, tiny_checkpoint, completion="images")


def test_a_marked_component_is_taken_away_by_a_classifier_as_any_other(
  run: tuple[pathlib.Path, dict[str, Any]], tiny_checkpoint: str, tmp_path: pathlib.Path
):
  out, answer = run
  assert answer["fix"] is None
  marks = json.loads((out / "labels.json").read_text())
  assert [line["is_spurious"] for line in marks["components"]] == [False, False]
  marks["components"][1]["is_spurious"] = True
  labels = tmp_path / "marks.json"
  labels.write_text(json.dumps(marks))
  fixed_answer = ask(out, tiny_checkpoint, labels=str(labels))
  assert fixed_answer["fix"]["removed"] == ["dog #1"]
  fixed = checkpoint.load_classifier(out / "fixed")
  predict_fn, params = frozen.freeze(fixed.module)
  images = open_on_images(ComponentsConfig(checkpoint=tiny_checkpoint, **SETTINGS), batch_size=4)
  inputs = jnp.asarray(images.normalise(np.stack([images.source[place]["image"] for place in range(24)])))
  features_fn, head_fn = (frozen.FrozenPart(images.predict_fn.graphdef, part) for part in ("penultimate", "read_out"))  # pyright: ignore
  features = np.asarray(features_fn(images.params, inputs))
  number = CLASS_NAMES.index("dog")
  module = checkpoint.load_classifier(tiny_checkpoint).module
  labelled = np.array([images.source[place]["label"] for place in range(24)])
  kernel, bias = np.asarray(module.head.kernel[...])[:, number], float(module.head.bias[...][number])
  value = find_components(features[labelled == number], kernel, bias).project(features)[:, 0]
  expected = np.array(head_fn(images.params, jnp.asarray(features)))
  expected[:, number] -= np.maximum(value, 0)
  logits = np.asarray(predict_fn(params, inputs))
  np.testing.assert_allclose(logits, expected, atol=1e-3)
  assert (value > 0.1).any()
  assert fixed_answer["fix"]["fixed_accuracy"]["count"] == int((logits.argmax(1) == labelled).sum())
  # It can be split for Grad-CAM as its base, but not for components.
  maps_fn, classify_fn = frozen.split(predict_fn, params)
  np.testing.assert_allclose(classify_fn(params, maps_fn(params, inputs)), logits, atol=1e-4)
  with pytest.raises(ValueError, match="components were removed from it"):
    ask(tmp_path / "again", str(out / "fixed"))
  with pytest.raises(ValueError, match="must not have components removed"):
    import_checkpoint.join_ensemble([out / "fixed", tiny_checkpoint], average="logits", out_dir=tmp_path / "joined")


def test_a_fixed_classifier_is_searched_and_verified_as_any_other(
  run: tuple[pathlib.Path, dict[str, Any]], tiny_checkpoint: str, tmp_path: pathlib.Path
):
  classifier = checkpoint.load_classifier(tiny_checkpoint)
  parts = component_file.read_components(run[0] / component_file.NAME, model=checkpoint.hash_params(classifier))
  assert [(CLASS_NAMES[one.class_number], one.number) for one in parts] == [("automobile", 1), ("dog", 1)]
  fixed = spufix.remove_components(classifier, parts)
  checkpoint.save_classifier(tmp_path / "fixed", fixed)
  store = find_tiny(tmp_path / "found", str(tmp_path / "fixed"), **GRADIENT, num_devices=1)
  images = open_on_images(ComponentsConfig(checkpoint=tiny_checkpoint, **SETTINGS), batch_size=4)
  inputs = jnp.asarray(images.normalise(np.stack([images.source[place]["image"] for place in range(24)])))
  logits = np.asarray(jax.jit(fixed.module)(inputs))
  np.testing.assert_array_equal(store.read("predicted"), logits.argmax(1))
  confidence = store.read("full_confidence")
  np.testing.assert_allclose(confidence, np.asarray(jax.nn.softmax(logits)).max(1), atol=1e-4)
  before = jax.nn.softmax(images.predict_fn(images.params, inputs)).max(1)
  assert np.abs(confidence - np.asarray(before)).max() > 1e-3
  assert verify.verify(str(tmp_path / "found"), num_sampled=1, num_devices=1)


def test_labels_of_another_classifier_are_refused(
  run: tuple[pathlib.Path, dict[str, Any]], tiny_checkpoint: str, tmp_path: pathlib.Path
):
  out, _ = run
  marks = json.loads((out / "labels.json").read_text())
  path = tmp_path / "marks.json"
  wrong = [
    ({**marks, "of": {**marks["of"], "model": {"name": "tiny", "sha256": "0"}}}, "is of others (model differs)"),
    ({**marks, "components": [{"class": "cat", "component": 1, "is_spurious": True}]}, "marks cat #1"),
    ({**marks, "components": [{"class": "dog", "component": 1, "is_spurious": "yes"}]}, "must be true or false"),
  ]
  for content, message in wrong:
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=re.escape(message)):
      ask(out, tiny_checkpoint, labels=str(path))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (
      {"num_components": 10},
      "--data must hold more images of a class than the 10 components of it that are shown, but",
    ),
    ({"classes": ("plane",)}, "--classes must name classes of the classifier (airplane, "),
    ({"num_images": 3}, "--images must be even"),
  ],
)
def test_what_does_not_fit_is_refused(
  options: dict[str, Any], message: str, run: tuple[pathlib.Path, dict[str, Any]], tiny_checkpoint: str
):
  with pytest.raises(ValueError, match=re.escape(message)):
    ask(run[0], tiny_checkpoint, **options)


@pytest.mark.slow
def test_two_components_carry_the_airplanes_of_the_published_network(
  published_module: Any, shared_dir: pathlib.Path, tmp_path: pathlib.Path
):
  if not (shared_dir / "data/tfds/cifar10").is_dir():
    pytest.skip("needs CIFAR-10")
  classifier = Classifier(
    model_name="resnet20",
    module=published_module,
    class_names=CLASS_NAMES,
    normalisation=IMAGENET_NORMALISATION,
    input_shape=(32, 32, 3),
  )
  checkpoint.save_classifier(tmp_path / "published", classifier)
  config = ComponentsConfig(
    out=str(tmp_path / "out"),
    checkpoint=str(tmp_path / "published"),
    data="cifar10",
    split="train[:8000]",
    data_dir=str(shared_dir / "data/tfds"),
    classes=("airplane", "ship"),
    num_searched=0,
  )
  airplane, ship = program.study(config)["classes"]
  # 56 and 40 %, and 91 %, on all 50,000.
  first, second = (one["share"] for one in airplane["components"][:2])
  assert first == pytest.approx(0.56, abs=0.05)
  assert second == pytest.approx(0.40, abs=0.05)
  assert ship["components"][0]["share"] > 0.85
  # The second is what birds on sky have.
  assert [image["label"] for image in airplane["components"][1]["others"]].count("bird") >= 6
  assert max(airplane["identity_error"], ship["identity_error"]) < 1e-4
