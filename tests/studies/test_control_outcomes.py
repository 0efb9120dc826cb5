"""Leak controls against slow versions of what they show, and on classifiers whose answer under each one is known."""

import dataclasses
import itertools
import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jax_sis.core.subsets import Status
from jax_sis.data.normalisation import Normalisation
from jax_sis.studies.controls import fills
from jax_sis.studies.controls.kept import join
from jax_sis.studies.controls.outcomes import NO_IMAGE, Outcomes, Showing, choose_others
from jax_sis.studies.controls.summaries import find_fill_dependence, summarise, summarise_fills
from jax_sis.studies.controls.views import CONTROLS, NAMES, Case, expand
from jax_sis.studies.controls.wrong_class import PREDICTED, RANDOM, SECOND, ClassSearch, Towards, summarise_classes

# Middle grey is what the toys' searches show.
NORMALISATION = Normalisation(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
SIDE = 8
FILLS = tuple(name for name in NAMES if name.startswith("fill_"))


def make_case(mask: Any = None, *, image: Any = None, seed: int = 0, other: Any = None) -> Case:
  rng = np.random.default_rng(seed)
  image = rng.normal(size=(SIDE, SIDE, 3)).astype(np.float32) if image is None else image
  mask = rng.random((SIDE, SIDE, 1)) < 0.15 if mask is None else mask
  return Case(
    image=image,
    mask=mask,
    baseline=np.zeros_like(image),
    other=other,
    normalisation=NORMALISATION,
    draw_key=(seed, 12345),
  )


def show(name: str, case: Case) -> Any:
  return CONTROLS[name].show_fn(case)


def dilate_slowly(mask: np.ndarray, distance: int) -> np.ndarray:
  height, width, _ = mask.shape
  result = np.zeros_like(mask)
  for row, column, far_row, far_column in itertools.product(range(height), range(width), range(height), range(width)):
    if max(abs(row - far_row), abs(column - far_column)) <= distance and mask[far_row, far_column, 0]:
      result[row, column, 0] = True
  return result


def impute_slowly(image: np.ndarray, kept: np.ndarray) -> np.ndarray:
  height, width, num_channels = image.shape
  result = image.astype(float)
  system, known = np.eye(height * width), np.zeros((height * width, num_channels))
  for row, column in itertools.product(range(height), range(width)):
    this = row * width + column
    if kept[row, column]:
      known[this] = image[row, column]
      continue
    neighbours = []
    for far_row, far_column in itertools.product(range(row - 1, row + 2), range(column - 1, column + 2)):
      if (far_row, far_column) != (row, column) and 0 <= far_row < height and 0 <= far_column < width:
        weight = 2.0 if far_row == row or far_column == column else 1.0
        neighbours.append((far_row * width + far_column, weight))
    total = sum(weight for _, weight in neighbours)
    for place, weight in neighbours:
      system[this, place] -= weight / total
  result[:] = np.linalg.solve(system, known).reshape(image.shape)
  return result


@pytest.mark.parametrize(("name", "distance"), [("dilated_1", 1), ("dilated_2", 2)])
def test_dilation_puts_back_what_a_loop_finds_near(name: str, distance: int):
  for seed in range(5):
    case = make_case(seed=seed)
    np.testing.assert_array_equal(show(name, case).mask, dilate_slowly(case.mask, distance))
  corner = np.zeros((SIDE, SIDE, 1), bool)
  corner[0, 0] = True
  assert show(name, make_case(corner)).mask.sum() == (distance + 1) ** 2


@pytest.mark.parametrize("shape", [(6, 5), (1, 7), (9, 9)])
def test_imputation_solves_what_a_dense_system_solves(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch):
  rng = np.random.default_rng(sum(shape))
  image = rng.normal(size=(*shape, 3))
  kept = rng.random(shape) < 0.3
  kept[0, 0] = True
  noisy = fills.impute_linearly(image, kept, np.random.default_rng(1))
  np.testing.assert_array_equal(noisy[kept], image[kept])
  monkeypatch.setattr(fills, "IMPUTATION_NOISE", 0.0)
  exact = fills.impute_linearly(image, kept, np.random.default_rng(1))
  np.testing.assert_allclose(exact, impute_slowly(image, kept), atol=1e-10)
  difference = (noisy - exact)[~kept]
  assert 0.005 < difference.std() < 0.015


def test_inside_an_image_beside_counts_twice_as_much_as_diagonally(monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setattr(fills, "IMPUTATION_NOISE", 0.0)
  image = np.zeros((3, 3, 1))
  image[0, 1] = 1.0
  image[2, 2] = 10.0
  kept = np.ones((3, 3), bool)
  kept[1, 1] = False
  imputed = fills.impute_linearly(image, kept, np.random.default_rng(0))
  assert imputed[1, 1, 0] == pytest.approx(1 / 6 + 10 / 12)


def test_imputation_of_all_and_of_nothing():
  image = np.ones((3, 3, 1))
  assert fills.impute_linearly(image, np.ones((3, 3), bool), np.random.default_rng(0)) is image
  with pytest.raises(
    ValueError, match=r"^kept must hold at least one pixel that others can be imputed from, got none\.$"
  ):
    fills.impute_linearly(image, np.zeros((3, 3), bool), np.random.default_rng(0))


def test_fills_show_what_their_names_say():
  case = make_case(other=np.full((SIDE, SIDE, 3), 7, np.float32))
  np.testing.assert_allclose(show("fill_black", case).fill, -2)
  np.testing.assert_allclose(show("fill_grey", case).fill, 0, atol=1e-6)
  np.testing.assert_allclose(show("fill_mean", case).fill[3, 4], case.image.reshape(-1, 3).mean(0), rtol=1e-5)
  np.testing.assert_array_equal(show("fill_other", case).fill, case.other)
  bytes_shown = NORMALISATION.invert(show("fill_noise", case).fill)
  np.testing.assert_allclose(bytes_shown, np.round(bytes_shown), atol=1e-3)
  assert bytes_shown.min() < 30
  assert bytes_shown.max() > 225
  blurred = show("fill_blur", case).fill
  np.testing.assert_allclose(blurred.mean((0, 1)), case.image.mean((0, 1)), atol=0.1)
  assert blurred.std() < 0.5 * case.image.std()
  for name in FILLS:
    np.testing.assert_array_equal(show(name, case).mask, case.mask)
    np.testing.assert_array_equal(show(name, case).content, case.image)


def test_a_blurred_step_is_the_gaussian_integral():
  image = np.zeros((32, 32, 3), np.float32)
  image[:, 16:] = 1
  # Half a pixel from the step, at a standard deviation of 4 pixels: the normal distribution function at 1/8.
  np.testing.assert_allclose(fills.blur(image)[16, 16], 0.5497, atol=0.003)


def test_shapes_show_one_colour():
  case = make_case()
  kept = expand(case.mask, case.image.shape)
  mean = show("shape_mean", case)
  np.testing.assert_allclose(
    np.unique(np.broadcast_to(mean.content, kept.shape).reshape(-1, 3), axis=0),
    [case.image[case.mask[..., 0]].mean(0)],
    rtol=1e-5,
  )
  np.testing.assert_allclose(show("shape_white", case).content, 2)
  for name in ("shape_mean", "shape_white"):
    np.testing.assert_array_equal(show(name, case).mask, case.mask)
    np.testing.assert_array_equal(show(name, case).fill, case.baseline)


def test_the_shape_moves_around_the_borders_and_never_stays():
  # No shape that a shift brings onto itself.
  mask = np.zeros((SIDE, SIDE, 1), bool)
  mask[0, :3] = mask[1, 0] = True
  found = set()
  for seed in range(300):
    moved = show("moved", make_case(mask, seed=seed)).mask
    offsets = [
      offset
      for offset in itertools.product(range(SIDE), range(SIDE))
      if np.array_equal(np.roll(mask, offset, (0, 1)), moved)
    ]
    assert len(offsets) == 1
    found.add(offsets[0])
  assert (0, 0) not in found
  assert len(found) > 50
  assert show("moved", make_case(np.ones((1, 1, 1), bool))) is None


def test_random_features_are_as_many_and_evenly_spread():
  mask = np.zeros((SIDE, SIDE, 1), bool)
  mask[:2, :4] = True
  masks = np.array([show("random", make_case(mask, seed=seed)).mask for seed in range(400)])
  assert (masks.sum((1, 2, 3)) == 8).all()
  # Each feature is in an eighth of them, 50 of 400.
  counts = masks.sum(0)
  assert counts.min() > 25
  assert counts.max() < 80


def test_complement_and_nothing():
  case = make_case()
  np.testing.assert_array_equal(show("complement", case).mask, ~case.mask)
  assert not show("empty", case).mask.any()
  assert not show("blur_alone", case).mask.any()
  np.testing.assert_array_equal(show("blur_alone", case).fill, fills.blur(case.image))


def predict_shape(template: Any, inputs: Any) -> Any:
  """Class 1 where exactly the template's pixels differ from the background."""
  is_shown = (jnp.abs(inputs).sum(-1) > 1e-3).astype(inputs.dtype)
  score = 8 * (
    (is_shown * template[None]).sum((1, 2)) - template.sum() + 0.5 - (is_shown * (1 - template)[None]).sum((1, 2))
  )
  return jnp.stack([jnp.zeros_like(score), score], axis=1)


def predict_pixel(limit: Any, inputs: Any) -> Any:
  """Class 1 where the red of the pixel in row 2, column 3 is above the limit."""
  score = 8 * (inputs[:, 2, 3, 0] - limit)
  return jnp.stack([jnp.zeros_like(score), score], axis=1)


def evaluate(predict_fn: Any, params: Any, inputs: Any, masks: Any, **options: Any) -> Outcomes:
  count = len(inputs)
  settings: dict[str, Any] = {
    "ids": [f"image {number}" for number in range(count)],
    "predicted": np.arange(count, dtype=np.int32) % 2,
    "normalisation": NORMALISATION,
    "threshold": 0.9,
  }
  targets = options.pop("targets", np.ones(count, np.int32))
  settings |= {"predict_fn": predict_fn, "params": params, "inputs": inputs, "masks": masks, "targets": targets}
  showing = Showing(**{**settings, **options})
  return join([showing(start) for start in range(0, count, showing.batch_size)])


def column(outcomes: Outcomes, field: str, name: str) -> np.ndarray:
  return getattr(outcomes, field)[:, NAMES.index(name)]


def test_a_classifier_that_sees_only_the_shape_is_found_out():
  template = np.zeros((SIDE, SIDE, 1), bool)
  template[1, 1:4] = template[4, 6] = True
  inputs = np.random.default_rng(0).normal(size=(6, SIDE, SIDE, 3)).astype(np.float32)
  masks = np.broadcast_to(template, (6, *template.shape))
  outcomes = evaluate(predict_shape, jnp.asarray(template[..., 0], jnp.float32), inputs, masks)
  # Middle grey is the search's own fill here.
  passing = {"subset", "fill_grey", "shape_mean", "shape_white"}
  for name in NAMES:
    assert column(outcomes, "is_sufficient", name).tolist() == [name in passing] * 6, name
    assert column(outcomes, "keeps_class", name).tolist() == [name in passing] * 6, name
  assert column(outcomes, "confidence", "subset") == pytest.approx(1 / (1 + np.exp(-4)))
  assert find_fill_dependence(outcomes).is_one_only.all()
  fill_summary = summarise_fills(outcomes)
  assert fill_summary.one_fill_only is not None
  assert (fill_summary.one_fill_only.count, fill_summary.num_images) == (6, 6)


def test_a_classifier_that_sees_one_pixel_only_is_found_out():
  rng = np.random.default_rng(0)
  inputs = rng.normal(size=(6, SIDE, SIDE, 3)).astype(np.float32)
  inputs[:, 2, 3, 0] = 5
  inputs[:, 6, 6] = -3
  masks = np.zeros((6, SIDE, SIDE, 1), bool)
  masks[:, 2, 3] = masks[:, 6, 6] = True
  outcomes = evaluate(predict_pixel, jnp.asarray(4.0), inputs, masks)
  passing = {"subset", "dilated_1", "dilated_2", *FILLS}
  for name in set(NAMES) - {"random", "moved", "moved_white"}:
    assert column(outcomes, "is_sufficient", name).tolist() == [name in passing] * 6, name
  # They pass exactly where they happen to show that pixel.
  for name in ("random", "moved"):
    shown = [
      show(name, dataclasses.replace(make_case(masks[i], image=inputs[i]), draw_key=(0, crc_of(f"image {i}")))).mask
      for i in range(6)
    ]
    assert column(outcomes, "is_sufficient", name).tolist() == [bool(mask[2, 3, 0]) for mask in shown]
  dependence = find_fill_dependence(outcomes)
  assert dependence.is_every.all()
  assert not dependence.is_one_only.any()


def test_a_subset_that_is_the_whole_image_is_evidence_of_nothing():
  rng = np.random.default_rng(0)
  inputs = rng.normal(size=(3, SIDE, SIDE, 3)).astype(np.float32)
  inputs[:, 2, 3, 0] = 5
  masks = np.zeros((3, SIDE, SIDE, 1), bool)
  masks[:, 2, 3] = masks[1] = True
  outcomes = evaluate(predict_pixel, jnp.asarray(4.0), inputs, masks)
  for name in NAMES:
    is_made = ~np.isnan(column(outcomes, "confidence", name))
    assert is_made.tolist() == [True, name in ("subset", "empty", "blur_alone"), True], name
  by_name = {summary.name: summary for summary in summarise(outcomes)}
  assert (by_name["subset"].num_images, by_name["fill_noise"].num_images) == (3, 2)
  assert summarise_fills(outcomes).num_images == 2


def test_the_white_shape_is_judged_by_the_same_shape_moved():
  case = make_case(seed=3)
  moved, white = show("moved", case), show("moved_white", case)
  np.testing.assert_array_equal(white.mask, moved.mask)
  np.testing.assert_allclose(white.content, 2)
  template = np.zeros((SIDE, SIDE, 1), bool)
  template[1, 1:4] = template[4, 6] = True
  inputs = np.random.default_rng(0).normal(size=(6, SIDE, SIDE, 3)).astype(np.float32)
  masks = np.broadcast_to(template, (6, *template.shape))
  outcomes = evaluate(predict_shape, jnp.asarray(template[..., 0], jnp.float32), inputs, masks)
  by_name = {summary.name: summary for summary in summarise(outcomes)}
  change = by_name["shape_white"].keeps_class_over_reference
  assert change is not None
  assert change.value == 1 - column(outcomes, "keeps_class", "moved_white").mean()


def crc_of(text: str) -> int:
  """CRC-32, bit by bit."""
  value = 0xFFFFFFFF
  for byte in text.encode():
    value ^= byte
    for _ in range(8):
      value = value >> 1 ^ (0xEDB88320 if value & 1 else 0)
  return value ^ 0xFFFFFFFF


def random_question(count: int = 7) -> tuple[Any, Any, Any, dict[str, Any]]:
  rng = np.random.default_rng(3)
  inputs = rng.normal(size=(count, SIDE, SIDE, 3)).astype(np.float32)
  masks = rng.random((count, 4, 4, 1)) < 0.3
  masks[:, 0, 0] = True
  weights = jnp.asarray(rng.normal(size=(SIDE * SIDE * 3, 3)) / 4, jnp.float32)
  named = {
    "ids": [f"test_{number:05}" for number in range(count)],
    "predicted": rng.integers(0, 3, count).astype(np.int32),
    "targets": rng.integers(0, 3, count).astype(np.int32),
  }
  return weights, inputs, masks, named


def predict_linear(weights: Any, inputs: Any) -> Any:
  return inputs.reshape(inputs.shape[0], -1) @ weights


@pytest.mark.parametrize("batch_size", [1, 3, 7, 20])
def test_neither_batch_nor_order_changes_an_answer(batch_size: int):
  weights, inputs, masks, named = random_question()
  expected = evaluate(predict_linear, weights, inputs, masks, **named)
  order = np.random.default_rng(0).permutation(len(inputs))
  shuffled = {
    "ids": [named["ids"][i] for i in order],
    "predicted": named["predicted"][order],
    "targets": named["targets"][order],
  }
  outcomes = evaluate(predict_linear, weights, inputs[order], masks[order], batch_size=batch_size, **shuffled)
  np.testing.assert_allclose(outcomes.confidence, expected.confidence[order], atol=1e-6)
  for field in ("keeps_class", "is_sufficient", "num_shown"):
    np.testing.assert_array_equal(getattr(outcomes, field), getattr(expected, field)[order])
  np.testing.assert_allclose(outcomes.fill_distance, expected.fill_distance[order], rtol=1e-6)
  np.testing.assert_array_equal(order[outcomes.other], expected.other[order])


def test_company_changes_the_other_image_only_and_the_seed_what_is_drawn():
  weights, inputs, masks, named = random_question()
  expected = evaluate(predict_linear, weights, inputs, masks, **named)
  part = {name: values[:3] for name, values in named.items()}
  outcomes = evaluate(predict_linear, weights, inputs[:3], masks[:3], **part)
  same = [place for place, name in enumerate(NAMES) if name != "fill_other"]
  np.testing.assert_allclose(outcomes.confidence[:, same], expected.confidence[:3, same], atol=1e-6)
  other_seed = evaluate(predict_linear, weights, inputs, masks, seed=1, **named)
  changed = {name for place, name in enumerate(NAMES) if (other_seed.confidence != expected.confidence)[:, place].any()}
  assert changed == {"fill_noise", "fill_other", "fill_linear", "random", "moved", "moved_white"}


def test_the_confidence_is_the_softmax_of_what_is_painted():
  weights, inputs, masks, named = random_question()
  outcomes = evaluate(predict_linear, weights, inputs, masks, baseline=0.5, **named)
  for i, target in enumerate(named["targets"]):
    kept = np.kron(masks[i, :, :, 0], np.ones((2, 2), bool)).astype(bool)
    for name, painted in {
      "subset": np.where(kept[..., None], inputs[i], 0.5),
      "complement": np.where(kept[..., None], 0.5, inputs[i]),
      "empty": np.full_like(inputs[i], 0.5),
      "fill_black": np.where(kept[..., None], inputs[i], -2),
      "fill_other": np.where(kept[..., None], inputs[i], inputs[outcomes.other[i]]),
    }.items():
      logits = painted.reshape(-1).astype(float) @ np.asarray(weights, float)
      probability = np.exp(logits[target]) / np.exp(logits).sum()
      np.testing.assert_allclose(column(outcomes, "confidence", name)[i], probability, atol=1e-5)
      assert column(outcomes, "keeps_class", name)[i] == (logits.argmax() == target)
      assert column(outcomes, "is_sufficient", name)[i] == (probability >= 0.9)
    distance = np.sqrt(np.square(inputs[outcomes.other[i]][~kept] - 0.5).mean())
    assert column(outcomes, "fill_distance", "fill_other")[i] == pytest.approx(distance, rel=1e-5)
    assert column(outcomes, "fill_distance", "fill_grey")[i] == pytest.approx(0.5)
    assert column(outcomes, "num_shown", "subset")[i] == masks[i].sum()


def test_the_other_image_is_predicted_as_something_else():
  targets = np.array([0, 0, 1, 1, 2, 0], np.int32)
  ids = [f"image {number}" for number in range(6)]
  drawn = [choose_others(ids, targets, targets, seed=seed) for seed in range(40)]
  for others in drawn:
    assert (targets[others] != targets).all()
  assert {int(others[4]) for others in drawn} == {0, 1, 2, 3, 5}
  # Where all are alike, it is any other one; where there is none, there is no such control.
  alike = np.zeros(3, np.int32)
  assert {int(choose_others(ids[:3], alike, alike, seed=seed)[0]) for seed in range(20)} == {1, 2}
  assert choose_others(ids[:1], alike[:1], alike[:1], seed=0).tolist() == [NO_IMAGE]


def test_what_cannot_be_made_or_is_not_finite_counts_nowhere():
  weights, inputs, masks, named = random_question()
  alone = evaluate(
    predict_linear, weights, inputs[:1], masks[:1], **{name: values[:1] for name, values in named.items()}
  )
  assert np.isnan(column(alone, "confidence", "fill_other")).all()
  by_name = {summary.name: summary for summary in summarise(alone)}
  assert by_name["fill_other"].num_images == 0
  assert by_name["fill_other"].keeps_class is None
  assert by_name["fill_black"].num_images == 1
  inputs[2, 7, 7] = np.nan
  masks[2, 3, 3] = False
  outcomes = evaluate(predict_linear, weights, inputs, masks, **named)
  by_name = {summary.name: summary for summary in summarise(outcomes)}
  assert by_name["complement"].num_images == 6
  assert by_name["empty"].num_images == 7


def make_outcomes(**columns: Any) -> Outcomes:
  """Hand-written outcomes; what is not given does not pass, with a confidence of 0.5 and another fill."""
  count = len(next(iter(columns.values())))
  confidence = np.full((count, len(NAMES)), 0.5)
  for name, values in columns.items():
    confidence[:, NAMES.index(name)] = values
  return Outcomes(
    confidence=confidence,
    keeps_class=confidence > 0.6,
    is_sufficient=confidence >= 0.9,
    num_shown=np.ones(confidence.shape, int),
    fill_distance=np.ones(confidence.shape),
    other=np.zeros(count, int),
    threshold=0.9,
  )


def test_summaries_are_shares_means_and_paired_differences():
  outcomes = make_outcomes(subset=[0.95] * 10, dilated_1=[0.95] * 6 + [0.7] * 2 + [0.3] * 2)
  by_name = {summary.name: summary for summary in summarise(outcomes)}
  assert list(by_name) == list(NAMES)
  assert [name for name, summary in by_name.items() if summary.is_other_fill] == list(FILLS)
  dilated = by_name["dilated_1"]
  assert dilated.keeps_class is not None
  assert (dilated.keeps_class.count, dilated.keeps_class.num_images, dilated.keeps_class.value) == (8, 10, 0.8)
  # Wilson's interval of 8 in 10, as tables have it.
  assert (dilated.keeps_class.low, dilated.keeps_class.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
  assert dilated.is_sufficient is not None
  assert dilated.is_sufficient.value == 0.6
  assert dilated.confidence == pytest.approx(0.77)
  for change, mean in (
    (dilated.keeps_class_change, -0.2),
    (dilated.is_sufficient_change, -0.4),
    (dilated.confidence_change, -0.18),
    (dilated.keeps_class_over_reference, 0.8),
  ):
    assert change is not None
    assert change.value == pytest.approx(mean)
    _, low, high = change.numbers
    assert low < mean < high
    assert change.num_images == 10


def test_a_subset_that_works_with_one_fill_only_is_named_by_the_rule():
  of_fills: dict[str, Any] = {name: [0.5, 0.99, 0.5, 0.99, 0.99] for name in FILLS}
  of_fills["fill_blur"] = [0.5, 0.5, 0.99, 0.99, 0.99]
  outcomes = make_outcomes(subset=[0.99, 0.99, 0.99, 0.8, 0.99], blur_alone=[0.5, 0.5, 0.99, 0.5, 0.5], **of_fills)
  dependence = find_fill_dependence(outcomes)
  # The third passes with the blurred image, but that passes without it; the fourth does not pass at all.
  assert dependence.is_judged.tolist() == [True, True, True, False, True]
  assert dependence.is_one_only.tolist() == [True, False, True, False, False]
  assert dependence.is_every.tolist() == [False, False, False, False, True]
  fill_summary = summarise_fills(outcomes)
  assert fill_summary.num_images == 4
  assert fill_summary.one_fill_only is not None
  assert (fill_summary.one_fill_only.count, fill_summary.one_fill_only.value) == (2, 0.5)
  # By the class, 0.8 passes, too.
  of_class = find_fill_dependence(outcomes, by_class=True)
  assert of_class.is_judged.all()
  assert of_class.is_one_only.tolist() == [True, False, True, False, False]
  assert fill_summary.one_fill_class is not None
  assert (fill_summary.one_fill_class.count, fill_summary.one_fill_class.num_images) == (2, 5)
  # A fill that is that of the search does not count.
  near = dataclasses.replace(
    outcomes, fill_distance=np.where(np.array(NAMES) == "fill_grey", 0.2, outcomes.fill_distance)
  )
  near.is_sufficient[0, NAMES.index("fill_grey")] = True
  assert find_fill_dependence(near).is_one_only[0]
  none = dataclasses.replace(outcomes, fill_distance=np.zeros_like(outcomes.fill_distance))
  assert summarise_fills(none).num_images == 0
  assert summarise_fills(none).one_fill_only is None


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"inputs": np.zeros((2, 8, 8), np.float32)}, "inputs must be images [N, H, W, C], got shape [2, 8, 8]."),
    (
      {"masks": np.ones((2, 8, 8, 3), bool)},
      "masks must be Boolean [2, h, w, 1], one mask per image, all channels kept together, got bool[2, 8, 8, 3].",
    ),
    (
      {"masks": np.ones((1, 8, 8, 1), bool)},
      "masks must be Boolean [2, h, w, 1], one mask per image, all channels kept together, got bool[1, 8, 8, 1].",
    ),
    (
      {"masks": np.ones((2, 3, 8, 1), bool)},
      "grid must have one entry for each input axis and divide it, got grid (3, 8,",
    ),
    ({"ids": ["a", "a"]}, "ids must name each of the 2 images once, got 2 ids, 1 of them different."),
    (
      {"masks": np.arange(2)[:, None, None, None] * np.ones((2, 8, 8, 1)) > 0},
      "masks must keep a feature of every image, but that of 'image 0' keeps none; leave out the images that have no ",
    ),
    ({"threshold": 1.0}, "threshold must be a probability strictly between 0 and 1, got 1.0."),
    ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0."),
    ({"targets": np.array([0, 2])}, "targets must lie in 0..1, the classifier's classes, got 2."),
  ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_what_does_not_fit_together_is_refused(change: dict[str, Any], message: str):
  arguments = {"inputs": np.zeros((2, 8, 8, 3), np.float32), "masks": np.ones((2, 8, 8, 1), bool), **change}
  with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
    evaluate(predict_pixel, jnp.asarray(4.0), **arguments)


# Of 2x2 pixels the first makes class 0 probable, the next two together class 1, and nothing class 2.
EVIDENCE = jnp.array([[7.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, -1.0]])


def search(count: int, **options: Any) -> dict[str, Towards]:
  inputs = np.ones((count, 2, 2, 1), np.float32)
  settings: dict[str, Any] = {"ids": [f"image {number}" for number in range(count)], "threshold": 0.95, "batch_size": 2}
  settings |= {"predict_fn": predict_linear, "params": EVIDENCE, "inputs": inputs}
  search_batch = ClassSearch(**{**settings, **options})
  found = [search_batch(start) for start in range(0, count, search_batch.batch_size)]
  return {name: join([batch[name] for batch in found]) for name in found[0]}


def test_evidence_for_other_classes_is_as_large_as_it_must_be():
  found = search(9)
  assert found[PREDICTED].target.tolist() == [0] * 9
  assert found[PREDICTED].num_kept.tolist() == [1] * 9
  assert found[SECOND].target.tolist() == [1] * 9
  assert found[SECOND].num_kept.tolist() == [2] * 9
  np.testing.assert_allclose(found[SECOND].confidence, np.exp(6) / (np.exp(6) + 2), rtol=1e-5)
  assert set(found[RANDOM].target.tolist()) == {1, 2}
  is_second = found[RANDOM].target == 1
  np.testing.assert_array_equal(found[RANDOM].is_found, is_second)
  np.testing.assert_array_equal(found[RANDOM].num_kept, np.where(is_second, 2, 0))
  second, random = summarise_classes(found)[1:]
  assert (second.found.count, second.median_size, second.num_paired) == (9, 2.0, 9)
  assert second.size_change is not None
  assert (second.size_change.value, second.size_change.low) == (1.0, 1.0)
  assert random.found.count == is_second.sum() == random.num_paired


def test_the_search_for_evidence_ends_at_the_size_allowed():
  found = search(2, max_features=1)
  assert found[PREDICTED].is_found.all()
  assert found[SECOND].status.tolist() == [Status.NOT_REACHED] * 2
  second = summarise_classes(found)[1]
  assert (second.found.count, second.median_size, second.num_paired, second.size_change) == (0, None, 0, None)


def test_the_random_class_depends_on_seed_and_id_alone():
  ids = [f"image {number}" for number in range(9)]
  expected = dict(zip(ids, search(9)[RANDOM].target.tolist(), strict=True))
  found = search(9, ids=ids[::-1], batch_size=4)[RANDOM].target.tolist()
  assert dict(zip(ids[::-1], found, strict=True)) == expected
  assert search(9, seed=1)[RANDOM].target.tolist() != list(expected.values())


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"max_features": 0}, "max_features must be an integer of at least 1, got 0."),
    ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0."),
    ({"ids": ["a"]}, "ids must name each of the 2 images, got 1."),
    ({"threshold": 0.0}, "threshold must be a probability strictly between 0 and 1, got 0.0."),
  ],
)
def test_a_search_with_wrong_settings_is_refused(options: dict[str, Any], message: str):
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    search(2, **options)
