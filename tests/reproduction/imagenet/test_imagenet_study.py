"""The study of photographs: its figures beside plain NumPy, and the whole of it in a tiny form."""

import dataclasses
import json
import pathlib
import re
import shutil
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_classifier

import jax_sis
from jax_sis import results
from jax_sis.classifiers import checkpoint
from jax_sis.core.subsets import Status
from jax_sis.data import images
from jax_sis.reproduction import program
from jax_sis.reproduction.config import ReproduceConfig
from jax_sis.reproduction.imagenet import asking, outcome, reading
from jax_sis.reproduction.imagenet.setting import make_search
from jax_sis.reproduction.imagenet.stages import PhotographsStage, choose_confident, make_stages
from jax_sis.runs.presets import settle_preset
from jax_sis.statistics.matching import match_by_confidence

SAMPLE = pathlib.Path(jax_sis.__file__).parent / "assets" / "cifar10_test_sample"


@pytest.fixture(scope="module")
def searched(tiny_run: pathlib.Path) -> reading.Searched:
  return reading.read_searched(tiny_run)


@pytest.fixture(scope="module")
def needed(searched: reading.Searched) -> np.ndarray:
  """The 10 % needed most, two of sixteen squares, from the ranks."""
  return (searched.store.read("rank", searched.indices) < 2).reshape(-1, 4, 4)


def test_sizes_are_those_of_the_masks(searched: reading.Searched):
  for threshold in (0.9, 0.5):
    masks = searched.store.read(f"mask_threshold_{threshold}", searched.indices)
    shares = sorted(row.sum() / 16 for row in masks if row.any())
    found = outcome.measure_sizes(searched, threshold)
    assert found.with_subset.count == len(shares)
    assert found.mean.value == pytest.approx(sum(shares) / len(shares))
    assert found.median == pytest.approx(np.median(shares))
    assert (found.smallest, found.largest) == (shares[0], shares[-1])


def test_the_border_is_compared_with_even_use_and_with_a_random_class_on_the_same_images(
  searched: reading.Searched, needed: np.ndarray
):
  ring = np.ones((4, 4), bool)
  ring[1:3, 1:3] = False
  shares = [(mask & ring).sum() / mask.sum() for mask in needed]
  other = reading.Searched(**{**vars(searched), **{name: value[::2] for name, value in arrays_of(searched).items()}})
  confident, every = outcome.measure_borders(searched, other)
  assert every.share.value == pytest.approx(np.mean(shares))
  assert every.even == 0.75
  assert every.over_even.value == pytest.approx(np.mean(shares) - 0.75)
  assert confident.share.value == pytest.approx(np.mean(np.array(shares)[searched.confidence >= 0.9]))
  # The same masks again, on every other image.
  assert every.random_class is not None and every.over_random_class is not None
  assert every.random_class.value == pytest.approx(np.mean(shares[::2]))
  assert (every.over_random_class.value, every.over_random_class.num_images) == (0, len(shares[::2]))


def arrays_of(searched: reading.Searched) -> dict[str, Any]:
  return {name: value for name, value in vars(searched).items() if name != "store"}


def test_parts_are_judged_by_the_class_of_the_whole_image_and_by_the_label(searched: reading.Searched):
  generator = np.random.default_rng(0)
  said = {
    name: {"predicted": generator.integers(0, 10, len(searched)).tolist(), "confidence": [0.25] * len(searched)}
    for name in asking.PARTS
  }
  said["needed"]["predicted"] = searched.predicted.tolist()
  found = outcome.read_parts(searched, {"said": said})
  parts = {(part.images, part.what): part for part in found}
  assert parts[outcome.ALL, "needed"].kept.value == 1
  whole, border = searched.predicted.tolist(), said["border"]["predicted"]
  rows = [i for i in range(len(whole)) if searched.confidence[i] >= 0.9]
  part = parts[outcome.CONFIDENT, "border"]
  assert part.kept.count == sum(border[i] == whole[i] for i in rows)
  assert part.right.count == sum(border[i] == searched.label[i] for i in rows)
  assert part.area == 0.75
  for difference, other in ((part.over_as_many, "many_pixels"), (part.over_centre, "centre")):
    differences = [(border[i] == whole[i]) - (said[other]["predicted"][i] == whole[i]) for i in rows]
    assert difference is not None and difference.value == pytest.approx(np.mean(differences))
  assert parts[outcome.ALL, "inside"].over_as_many is None
  assert part.confidence.value == 0.25


def test_wrong_predictions_are_compared_with_right_ones_of_the_same_confidence(searched: reading.Searched):
  at_threshold = next(one for one in outcome.compare_right(searched) if one.what == "size at 0.9")
  has_subset = searched.status == Status.OK
  is_right = searched.predicted == searched.label
  expected = match_by_confidence(
    searched.num_kept[has_subset] / 16, is_right[has_subset], searched.confidence[has_subset]
  )
  assert at_threshold.matched == expected


def test_parts_cover_what_they_say(searched: reading.Searched, needed: np.ndarray):
  parts = asking.make_parts(searched)
  assert list(parts) == list(asking.PARTS)
  np.testing.assert_array_equal(parts["needed"], needed)
  np.testing.assert_array_equal(parts["needed_border"] | parts["needed_inside"], needed)
  np.testing.assert_array_equal(parts["inside"], ~parts["border"])
  assert not parts["nothing"].any()
  assert set(parts["pixels"].sum((1, 2)).tolist()) == set(parts["squares"].sum((1, 2)).tolist()) == {2}
  assert set(parts["many_pixels"].sum((1, 2)).tolist()) == {parts["border"][0].sum()}


def test_a_random_class_is_searched_for_on_images_that_are_sure_of_theirs(searched: reading.Searched):
  sure = [name for name, confidence in zip(searched.ids, searched.confidence, strict=True) if confidence >= 0.9]
  assert choose_confident(searched, 1000) == tuple(sure)
  some = choose_confident(searched, 3)
  assert (some[0], some[-1], len(some)) == (sure[0], sure[-1], 3)
  unsure = dataclasses.replace(searched, confidence=np.full(len(searched), 0.5))
  assert choose_confident(unsure, 1000) == tuple(searched.ids)


def test_parts_are_shown_again_where_there_are_others(tiny_checkpoint: str):
  made = {stage.name: stage.settings(None) for stage in make_stages(str(SAMPLE), (tiny_checkpoint,))}
  assert made["tiny-parts"]["shown"] == list(asking.PARTS)


def test_a_classifier_is_shown_what_a_mask_keeps_and_the_baseline_elsewhere():
  inputs = jnp.arange(16.0).reshape(1, 4, 4, 1)
  masks = jnp.zeros((1, 4, 4, 1), bool).at[0, 3, 3].set(True)

  def predict(params: Any, shown: Any) -> Any:
    return jnp.stack([shown.sum((1, 2, 3)), 0 * shown.sum((1, 2, 3))], 1)

  predicted, confidence = reading.judge_masked(predict, -1.0, None, inputs, masks, jnp.array([1]))
  # The last pixel is 15, and fifteen others show -1: both logits are 0.
  assert (int(predicted[0]), float(confidence[0])) == (0, 0.5)


def test_a_mask_of_one_crop_is_shown_in_another_crop_at_the_same_place():
  whole, box = (20, 30), (5.0, 2.0, 25.0, 18.0)
  mask = np.random.default_rng(0).random((16, 20)) < 0.3
  np.testing.assert_array_equal(reading.move_mask(mask, whole, box, (16, 20), box), mask)
  other = images.find_central_box(whole, (20, 20), images.WHOLE_FRAMING)
  moved = reading.move_mask(mask, whole, box, (20, 20), other)
  for row in range(20):
    for column in range(20):
      there = (row - 2, column + 5 - 5)
      inside = 0 <= there[0] < 16 and 0 <= there[1] < 20
      assert moved[row, column] == (inside and mask[there])


@pytest.mark.parametrize("is_random_class", [False, True])
def test_the_search_is_the_papers_whatever_find_takes_for_photographs(is_random_class: bool):
  config = make_search(is_random_class=is_random_class)
  assert config.search == jax_sis.Gradient(per_step=100)
  assert settle_preset(config, (224, 224, 3)) is config


def test_the_study_does_not_depend_on_where_its_photographs_lie(tmp_path: pathlib.Path):
  shutil.copytree(SAMPLE / "cat", tmp_path / "here")
  shutil.copytree(SAMPLE / "cat", tmp_path / "there")
  here, there = (
    PhotographsStage(name="data", title="", work=1, place=str(tmp_path / one)) for one in ("here", "there")
  )
  assert here.settings(None) == there.settings(None)
  next((tmp_path / "there").iterdir()).unlink()
  assert here.settings(None) != there.settings(None)


def test_photographs_and_classifiers_are_for_their_preset():
  with pytest.raises(ValueError, match="--preset imagenet must come with --data, the folder of photographs"):
    ReproduceConfig(preset="imagenet")
  with pytest.raises(
    ValueError, match="--data, --checkpoint and --until are for --preset imagenet, got --preset smoke"
  ):
    ReproduceConfig(preset="smoke", data="photos")
  assert ReproduceConfig(preset="imagenet", data="photos").checkpoints == ("imagenet",)


def test_searches_come_first(tiny_checkpoint: str):
  names = [stage.name for stage in make_stages(str(SAMPLE), (tiny_checkpoint, tiny_checkpoint))]
  assert names[:5] == ["data", "tiny-classifier", "tiny-2-classifier", "tiny-orders", "tiny-2-orders"]
  assert names[5:9] == ["tiny-random-class", "tiny-2-random-class", "tiny-parts", "tiny-2-parts"]
  assert set(names[9:]) == {
    "tiny-shown-to-tiny-2", "tiny-2-shown-to-tiny", "tiny-orders-controls", "tiny-2-orders-controls"
  }  # fmt: skip


@pytest.mark.slow
def test_the_whole_study_on_a_few_images(
  tmp_path: pathlib.Path, tiny_checkpoint: str, allow_rank_promotion: None, capsys: pytest.CaptureFixture[str]
):
  config = ReproduceConfig(
    preset="imagenet",
    data=str(SAMPLE),
    checkpoints=(tiny_checkpoint, str(checkpoint.EMBEDDED_CLASSIFIER)),
    out=str(tmp_path / "study"),
  )
  program.reproduce(ReproduceConfig(**{**vars(config), "until": "resnet20-orders"}))
  assert "8 stages are not done yet" in (tmp_path / "study" / "report.html").read_text()
  capsys.readouterr()
  # The searches may come from another machine: only the folder travels.
  shutil.move(tmp_path / "study", tmp_path / "back")
  program.reproduce(ReproduceConfig(**{**vars(config), "out": str(tmp_path / "back")}))
  assert capsys.readouterr().out.count("Done already") == 5
  content = json.loads((tmp_path / "back" / "study.json").read_bytes())
  assert [one["label"] for one in content["outcomes"]] == [tiny_classifier.NAME, "resnet20"]
  of_resnet = content["outcomes"][1]
  assert of_resnet["certified"]["share"] == 1
  assert of_resnet["shown_to"][0]["chooser"] == tiny_classifier.NAME
  assert {leak["run"] for leak in of_resnet["leaks"]} == {"resnet20-orders"}
  check_own_pixels(tmp_path / "back", content)
  page = (tmp_path / "back" / "report.html").read_text()
  assert len(re.findall("<img ", page)) == 5
  assert "tiny" in page and "not done" not in page


def check_own_pixels(folder: pathlib.Path, content: dict[str, Any]) -> None:
  """What each part says, beside a plain evaluation of the embedded classifier on the same pixels."""
  (orders,) = (one["folder"] for one in content["stages"] if one["name"] == "resnet20-orders")
  searched = reading.read_searched(folder / orders)
  classifier = checkpoint.load_classifier(checkpoint.EMBEDDED_CLASSIFIER)
  pixels = [images.read_image(SAMPLE / name, background=(0, 0, 0)) for name in searched.ids]
  inputs = classifier.normalisation.apply(np.stack(pixels))
  masks = results.open(folder / orders).masks(searched.ids, fraction=0.1)
  logits = np.asarray(classifier.module(jnp.asarray(np.where(masks, inputs, 0).astype(np.float32))))
  needed = next(
    part for part in content["outcomes"][1]["parts"] if part["what"] == "needed" and part["images"] == "all"
  )
  assert needed["kept"]["count"] == (logits.argmax(1) == searched.predicted).sum()
  assert needed["right"]["count"] == (logits.argmax(1) == searched.label).sum()
