"""Contrastive subsets, and those that are both, against all 256 subsets of random functions of eight features."""

import dataclasses
import itertools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_sis
from jax_sis import Effort, Forward, Status, completions
from jax_sis.core import questions

NUM_FEATURES, NUM_CASES = 8, 25
THRESHOLD, MARGIN = 0.7, 0.5
QUESTIONS = ("contrastive", "both")
# All candidates, and every pair and triple of kept features taken out.
EVERYTHING = Effort(Forward(candidates=NUM_FEATURES), ((2, 28), (3, 56)))
BITS = np.array(list(itertools.product((0, 1), repeat=NUM_FEATURES)))


def predict_table(table: Any, inputs: Any) -> Any:
  """A number of its own for each subset and class: the table's between them is multilinear."""
  inputs = inputs[:, None]
  weights = jnp.where(jnp.asarray(BITS)[None] == 1, inputs, 1 - inputs).prod(-1)
  return weights @ table


def predict_linear(weights: Any, inputs: Any) -> Any:
  return inputs @ weights


def whole(num_images: int = 1) -> Any:
  return jnp.ones((num_images, NUM_FEATURES))


def search(predict_fn: Any, params: Any, question: str, **arguments: Any) -> Any:
  margin = {} if question == "sufficient" else {"margin": MARGIN}
  settings = {"threshold": THRESHOLD, "effort": EVERYTHING, **margin, **arguments}
  return jax_sis.smallest_subsets(predict_fn, params, whole(), question=question, **settings)  # pyright: ignore[reportArgumentType]


def certify(predict_fn: Any, params: Any, subsets: jax_sis.Subsets, **arguments: Any) -> Any:
  return jax_sis.certify(predict_fn, params, whole(len(subsets)), subsets, **arguments)


def answer_all(table: np.ndarray, question: str) -> tuple[np.ndarray, np.ndarray, int]:
  """Which of all subsets suffice alone, where that is asked, without which the class is lost, and the class."""
  target = int(table[-1].argmax())
  others = np.delete(table, target, axis=1)
  odds = table[:, target] - np.log(np.exp(others).sum(1))
  suffices = 1 / (1 + np.exp(-odds)) >= THRESHOLD
  # The subset of all other features stands at the mirrored place.
  is_lost = (others.max(1) - table[:, target] >= MARGIN)[::-1]
  return suffices if question == "both" else np.ones_like(suffices), is_lost, target


def place_of(mask: Any) -> int:
  return int("".join(str(int(bit)) for bit in np.asarray(mask)), 2)


def search_tables(tables: np.ndarray, question: str, names: tuple[str, ...]) -> dict[str, np.ndarray]:
  """What is found of each function, and what its certificate says, by name."""

  def find(table: Any) -> dict[str, Any]:
    subsets = search(predict_table, table, question)
    certificate = certify(predict_table, table, subsets)
    return {name: getattr(subsets if hasattr(subsets, name) else certificate, name)[0] for name in names}

  with jax.enable_x64(True):
    return {name: np.asarray(values) for name, values in jax.jit(jax.vmap(find))(jnp.asarray(tables)).items()}


@pytest.mark.parametrize("question", QUESTIONS)
def test_subsets_of_random_functions_are_what_is_asked_for_and_minimal(question: str):
  tables = np.random.default_rng(7).normal(size=(NUM_CASES, 2**NUM_FEATURES, 3)) * 3
  names = ("mask", "target", "status", "confidence", "lost_by", "is_minimal", "answers", "lower_bound", "is_smallest")
  found = search_tables(tables, question, names)
  num_found = 0
  for case, table in enumerate(tables):
    suffices, is_lost, target = answer_all(table, question)
    answers, mask = suffices & is_lost, found["mask"][case]
    assert found["target"][case] == target
    if found["status"][case] != Status.OK:
      assert not mask.any() and not found["answers"][case]
      continue
    num_found += 1
    assert answers[place_of(mask)]
    without_one = [place_of(np.where(np.arange(NUM_FEATURES) == one, False, mask)) for one in np.flatnonzero(mask)]
    assert not answers[without_one].any()
    assert found["is_minimal"][case] and found["answers"][case]
    size = min(BITS[answers].sum(1))
    assert found["lower_bound"][case] <= size
    assert not found["is_smallest"][case] or size == mask.sum()
    shown, hidden = table[place_of(mask)], table[place_of(~mask)]
    np.testing.assert_allclose(found["lost_by"][case], np.delete(hidden, target).max() - hidden[target])
    np.testing.assert_allclose(found["confidence"][case], np.exp(shown[target]) / np.exp(shown).sum())
  assert num_found > NUM_CASES // 4


@pytest.mark.parametrize("question", QUESTIONS)
def test_nothing_is_smaller_where_more_is_never_worse(question: str):
  tables = []
  for weights in np.random.default_rng(3).exponential(size=(NUM_CASES, NUM_FEATURES)):
    odds = BITS @ weights - weights.sum() / 3
    tables.append(np.stack([odds, np.zeros_like(odds), np.full_like(odds, -9.0)], axis=1))
  found = search_tables(np.stack(tables), question, ("mask", "status"))
  assert (found["status"] == Status.OK).all()
  for table, mask in zip(tables, found["mask"], strict=True):
    suffices, is_lost, _ = answer_all(table, question)
    assert mask.sum() == min(BITS[suffices & is_lost].sum(1))


WEIGHTS = jnp.array([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0], [1.0, 0.0], *[[0.0, 0.4]] * 4])


@pytest.mark.parametrize(("question", "size"), [("sufficient", 1), ("contrastive", 3), ("both", 3)])
def test_a_linear_function_by_hand(question: str, size: int):
  # Alone 3 suffice for 0.7, whatever else is masked. Of 7, 6 must go until 1.6 is ahead by half.
  subsets = search(predict_linear, WEIGHTS, question)
  assert subsets.mask[0].tolist() == [place < size for place in range(NUM_FEATURES)]
  certificate = certify(predict_linear, WEIGHTS, subsets)
  words = {"both": "sufficient and contrastive"}.get(question, question)
  assert certificate.describe(0).startswith(f"{words}, ")
  if question == "both":
    np.testing.assert_allclose(subsets.lost_by, [0.6], atol=1e-6)
    np.testing.assert_allclose(subsets.confidence, [1 / (1 + math.exp(-6))], atol=1e-6)


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_forward_order_holds_its_question(question: Any):
  order = jax_sis.forward_select(
    predict_linear,
    WEIGHTS,
    whole(),
    search=Forward(candidates=NUM_FEATURES, threshold=THRESHOLD),
    question=question,
    margin=MARGIN,
  )
  subsets = jax_sis.sufficient_subsets(order)
  assert subsets.mask[0].tolist() == [True] * 3 + [False] * 5
  minimal: Any = jax_sis.minimise(predict_linear, WEIGHTS, whole(), subsets)
  assert minimal.mask.tolist() == subsets.mask.tolist() and float(minimal.lost_by[0]) == pytest.approx(0.6)
  with pytest.raises(ValueError, match=f'threshold must be left out for an order of question="{question}"'):
    jax_sis.sufficient_subsets(order, THRESHOLD)
  for refused in (lambda: jax_sis.keep_fraction(order, 0.5), lambda: jax_sis.insertion_area(order)):
    with pytest.raises(ValueError, match='order must be of question="sufficient"'):
      refused()


def test_certificates_fail_on_each_side():
  subsets = search(predict_linear, WEIGHTS, "both")

  def judge(kept: list[int], **changes: Any) -> Any:
    mask = jnp.zeros_like(subsets.mask).at[:, jnp.array(kept)].set(True)
    unknown = jnp.full_like(subsets.confidence, jnp.nan)
    changed = {"mask": mask, "confidence": unknown, "lost_by": unknown, **changes}
    return certify(predict_linear, WEIGHTS, dataclasses.replace(subsets, **changed))

  enough = judge([0])
  assert bool(enough.is_sufficient[0]) and not bool(enough.is_contrastive[0]) and not bool(enough.loses_class[0])
  assert enough.describe(0) == "not sufficient and contrastive"
  # Without the first four the class is lost, and the last four suffice for nothing beside the fourth.
  too_many = judge([0, 1, 2, 3])
  assert bool(too_many.answers[0]) and not bool(too_many.is_minimal[0])
  assert too_many.is_droppable[0].tolist() == [False, False, True, True] + [False] * 4
  poor = judge([1, 4, 5, 6, 7])
  assert not bool(poor.is_sufficient[0])
  for name in ("confidence", "lost_by"):
    with pytest.raises(ValueError, match="must be reproducible"):
      judge([0, 1, 2], **{name: jnp.zeros(1)})


def test_draws_say_how_often_each_side_holds():
  def one_in_four(key: Any, image: Any) -> Any:
    return jnp.where(jax.random.uniform(key) < 0.25, 1.0, 0.0) * jnp.ones_like(image)

  # With the draw in its place the class is lost unless it shows all; alone it suffices whatever else is shown.
  for question, expected in (("contrastive", 0.75), ("both", 0.75)):
    subsets = search(predict_linear, WEIGHTS, question)
    keys = jax.random.split(jax.random.key(2), 1)
    draws = {"completion": one_in_four, "rate": 0.6, "num_draws": 400, "keys": keys}
    guarantee = certify(predict_linear, WEIGHTS, subsets, **draws)
    assert float(guarantee.rate[0]) == pytest.approx(expected, abs=0.07)
    assert bool(guarantee.is_certified[0])
  with pytest.raises(ValueError, match='bound must be "rate" for subsets of question="both"'):
    certify(predict_linear, WEIGHTS, subsets, completion=one_in_four, bound="confidence")


def test_a_search_under_draws_finds_what_draws_bear_out():
  noise = completions.Noise(0.1, num_draws=8)
  subsets = search(predict_linear, WEIGHTS, "both", completion=noise, keys=jax.random.split(jax.random.key(1), 1))
  assert subsets.mask[0, :3].all()
  guarantee = certify(predict_linear, WEIGHTS, subsets, completion=noise)
  assert float(guarantee.rate[0]) > 0.9


def test_images_that_cannot_be_asked_say_why():
  # The class is not predicted, so that it cannot be lost; never lost, whatever is masked; not confident enough.
  lost = search(predict_linear, WEIGHTS, "contrastive", targets=1)
  assert int(lost.status[0]) == Status.BELOW_THRESHOLD
  assert certify(predict_linear, WEIGHTS, lost).describe(0) == "none: full image has another class"
  certain = search(lambda weights, inputs: inputs @ weights + jnp.array([[9.0, 0.0]]), WEIGHTS, "contrastive")
  assert int(certain.status[0]) == Status.NOT_REACHED
  doubtful = search(predict_linear, WEIGHTS, "both", threshold=0.999)
  assert int(doubtful.status[0]) == Status.BELOW_THRESHOLD


def test_the_question_is_saved(tmp_path: Any):
  subsets = search(predict_linear, WEIGHTS, "both")
  found = (subsets, certify(predict_linear, WEIGHTS, subsets))
  jax_sis.save(tmp_path / "found.npz", found)
  loaded = jax_sis.load(tmp_path / "found.npz")
  assert [one.question for one in loaded] == [subsets.question] * 2
  assert all(map(jnp.array_equal, jax.tree.leaves(loaded), jax.tree.leaves(found)))
  assert "both with a margin of 0.5" in repr(loaded[0])


@pytest.mark.parametrize(
  ("question", "margin", "score", "text"),
  [
    ("why", 1.0, "log_odds", "question must be one of sufficient, contrastive, both, got 'why'."),
    ("both", 0.0, "log_odds", "margin must be above 0 and finite, in log-odds, got 0.0"),
    ("both", "much", "log_odds", "margin must be one number, log-odds above 0, got 'much'."),
    ("sufficient", 2.0, "log_odds", 'margin must come with question="contrastive" or "both", got 2.0'),
    ("both", 1.0, "probability", 'score must be "log_odds" for question="both"'),
  ],
)
def test_wrong_questions_are_refused(question: str, margin: Any, score: Any, text: str):
  with pytest.raises(ValueError, match=re.escape(text)):
    questions.check_question(question, THRESHOLD, margin, score)
