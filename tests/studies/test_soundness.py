"""Completeness and soundness: by a plain loop, after a kill, by hand, and what is refused."""

import csv
import json
import pathlib
import re
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_classifier
from PIL import Image

import jax_sis
from jax_sis.classifiers import checkpoint, frozen
from jax_sis.cli import main
from jax_sis.data.sources import SAMPLE_DIR
from jax_sis.studies.soundness import program
from jax_sis.studies.soundness.config import SoundnessConfig
from jax_sis.studies.soundness.judge import spread_sizes
from jax_sis.studies.soundness.summaries import Asked, summarise

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")
NAMES = ("airplane/test_00003", "cat/test_00000", "ship/test_00001")
BROKEN = "cat/broken"
THRESHOLD = 0.6
SETTINGS: dict[str, Any] = {
  "threshold": THRESHOLD,
  "per_step": 2,
  "patch": 8,
  "batch_size": 2,
  "num_classes": 3,
  "num_devices": 2,
  "orders": ("gradient", "random"),
}


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
  root = tmp_path_factory.mktemp("where")
  for name in (*NAMES, BROKEN):
    path = root / "images" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    source = SAMPLE_DIR / f"{NAMES[0] if name == BROKEN else name}.png"
    path.write_bytes(source.read_bytes()[: 100 if name == BROKEN else None])
  with jax.numpy_rank_promotion("allow"):
    return {"checkpoint": tiny_classifier.save(root / "tiny"), "data": str(root / "images")}


def ask(out: pathlib.Path, where: dict[str, str], **options: Any) -> dict[str, Any]:
  with jax.numpy_rank_promotion("allow"):
    return program.soundness(SoundnessConfig(out=str(out), **where, **{**SETTINGS, **options}))


@pytest.fixture(scope="module")
def run(where: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, dict[str, Any]]:
  out = tmp_path_factory.mktemp("run") / "out"
  return out, ask(out, where)


def look_along(predict_fn: Any, params: Any, inputs: Any, rank: Any, target: int) -> list[float]:
  """The confidence in a class on the first squares of an order, on the mean colour, size by size."""
  along = []
  for size in range(1, 17):
    kept = np.kron(np.asarray(rank).reshape(4, 4) < size, np.ones((8, 8)))[None, ..., None]
    logits = predict_fn(params, inputs * kept.astype(np.float32))
    along.append(float(jax.nn.softmax(logits)[0, target]))
  return along


def test_areas_and_sizes_are_those_of_a_plain_loop(run: tuple[pathlib.Path, dict[str, Any]], where: dict[str, str]):
  _, answer = run
  classifier = checkpoint.load_classifier(where["checkpoint"])
  predict_fn, params = frozen.freeze(classifier.module)
  found = {image["id"]: image for image in answer["orders"]["gradient"]["images"]}
  sizes_seen = []
  for name in NAMES:
    inputs = jnp.asarray(classifier.normalisation.apply(np.asarray(Image.open(SAMPLE_DIR / f"{name}.png"))[None]))
    probabilities = np.asarray(jax.nn.softmax(predict_fn(params, inputs)))[0]
    image = found[f"{name}.png"]
    likeliest = np.argsort(-probabilities)[:3]
    assert image["classes"] == [classifier.class_names[number] for number in likeliest]
    np.testing.assert_allclose(image["confidence"], probabilities[likeliest], atol=1e-5)
    for place, target in enumerate(likeliest):
      order = jax_sis.backselect(
        predict_fn, params, inputs, int(target), search=jax_sis.Gradient(per_step=2), grid=(4, 4, 1)
      )
      along = look_along(predict_fn, params, inputs, order.rank[0], target)
      assert image["area"][place] == pytest.approx(np.mean(along), abs=1e-5)
      expected = next((size for size, confidence in enumerate(along, 1) if confidence >= THRESHOLD), None)
      assert image["size"][place] == expected
      sizes_seen.append(expected)
  # Some classes have a subset and others none.
  assert None in sizes_seen
  assert any(size not in (None, 16) for size in sizes_seen)


def test_an_image_that_cannot_be_read_is_left_out(run: tuple[pathlib.Path, dict[str, Any]]):
  out, answer = run
  assert answer["num_images"] == len(NAMES)
  assert list(answer["left_out"]) == [f"{BROKEN}.png"]
  assert json.loads((out / "soundness.json").read_text()) == answer
  with (out / "soundness.csv").open(newline="") as file:
    assert len(list(csv.DictReader(file))) == 2 * 3 * len(NAMES)
  with Image.open(out / "soundness.png") as picture:
    assert picture.width > 600


def test_a_killed_run_goes_on(run: tuple[pathlib.Path, dict[str, Any]], where: dict[str, str], tmp_path: pathlib.Path):
  out, answer = run
  lines = (out / program.LINES_FILE).read_bytes().splitlines(keepends=True)
  # A line a batch of a device and order.
  assert len(lines) == 4
  first = json.loads(lines[0])
  first["images"][0]["area"][0] = 0.5
  (tmp_path / "spec.json").write_bytes((out / "spec.json").read_bytes())
  (tmp_path / program.LINES_FILE).write_bytes(json.dumps(first).encode() + b"\n" + lines[1][:30])
  resumed = ask(tmp_path, where, num_devices=1, orders=("gradient",))
  images, expected = (one["orders"]["gradient"]["images"] for one in (resumed, answer))
  assert images[0]["area"] == [0.5, *expected[0]["area"][1:]]
  assert images[1:] == expected[1:]
  with pytest.raises(ValueError, match=re.escape("holds another run (num classes 3 there, 4 here)")):
    ask(tmp_path, where, num_classes=4)


def test_completeness_and_soundness_by_hand():
  image = Asked(
    id="a",
    error="",
    label=None,
    classes=["cat", "dog", "ship"],
    confidence=[0.8, 0.19, 0.01],
    area=[0.6, 0.76, 0.05],
    size=[8, 4, None],
  )
  assert image.completeness == pytest.approx(0.75)
  np.testing.assert_allclose(image.soundness, [0.25, 1.0])
  summary = summarise("one", [image] * 6, seed=0)
  numbers = (summary.completeness, summary.soundness, summary.worst, summary.is_largest, summary.size_ratio)
  assert [one.value for one in numbers] == pytest.approx([0.75, 0.625, 0.25, 0.0, 2.0])
  assert summary.has_other.count == 6


def test_sizes_are_spread_evenly():
  assert spread_sizes(1024, 32) == tuple(range(0, 1025, 32))
  assert spread_sizes(5, 32) == tuple(range(6))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (["--classes", "1"], "--classes must be 2 at least, the predicted one and another, got 1."),
    (["--orders", "lime"], "--orders must be of gradient, gradient_images, .*, got lime."),
    (["--orders", "random", "random"], "--orders must name each order once"),
  ],
)
def test_wrong_settings_are_refused(options: list[str], message: str, capsys: pytest.CaptureFixture[str]):
  assert main.main(["soundness", *options]) == 2
  assert re.search(message, " ".join(capsys.readouterr().err.split()))


@pytest.mark.slow
def test_an_order_found_with_other_images_behind_is_read_on_the_mean_colour_as_others_are(
  tmp_path: pathlib.Path, where: dict[str, str]
):
  answer = ask(tmp_path / "out", {**where, "data": "sample"}, orders=("gradient_images",), num_images=24)
  classifier = checkpoint.load_classifier(where["checkpoint"])
  predict_fn, params = frozen.freeze(classifier.module)
  pictures = np.unique([np.asarray(Image.open(path)) for path in SAMPLE_DIR.glob("*/*.png")], axis=0)
  found = answer["orders"]["gradient_images"]["images"][0]
  path = next(SAMPLE_DIR.glob(f"*/{found['id']}.png"))
  inputs = jnp.asarray(classifier.normalisation.apply(np.asarray(Image.open(path))[None]))
  target = classifier.class_names.index(found["classes"][0])
  search = {"search": jax_sis.Gradient(per_step=2), "grid": (4, 4, 1)}
  order = jax_sis.backselect(
    predict_fn,
    params,
    inputs,
    target,
    completion=jax_sis.completions.Images(pool=classifier.normalisation.apply(pictures), num_draws=8),
    keys=jax.random.fold_in(jax.random.key(0), zlib.crc32(found["id"].encode()) & 0x7FFFFFFF)[None],
    **search,
  )
  along = look_along(predict_fn, params, inputs, order.rank[0], target)
  assert found["area"][0] == pytest.approx(np.mean(along), abs=1e-5)
  assert (order.rank != jax_sis.backselect(predict_fn, params, inputs, target, **search).rank).any()


def test_other_images_are_refused_where_there_are_too_few(tmp_path: pathlib.Path, where: dict[str, str]):
  with pytest.raises(ValueError, match="must be 8 different ones"):
    ask(tmp_path / "out", where, orders=("gradient_images",))
