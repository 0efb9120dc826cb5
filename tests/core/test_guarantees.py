"""Certificates on unseen draws: known rates, draws that depend on nothing but their image, and what is refused."""

import dataclasses
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import toys

import jax_sis
from jax_sis import Verdict, completions
from jax_sis.core.drawing import Purpose, draw_fills
from jax_sis.core.features import Grid

SHARP = 300.0


def draw_evenly(key: Any, image: Any) -> Any:
  """One number between 0 and 1 everywhere."""
  return jnp.full_like(image, jax.random.uniform(key))


def predict_below(sharpness: Any, inputs: Any) -> Any:
  """The class is kept where the second feature is below the first, the rate."""
  logit = sharpness * (inputs[:, 0] - inputs[:, 1])
  return jnp.stack([logit, jnp.zeros_like(logit)], axis=1)


def make_known(rates: Any, *, threshold: float = np.nan) -> tuple[Any, jax_sis.Subsets]:
  """Images that keep their class at these rates, with the first feature kept."""
  rates = jnp.asarray(rates, jnp.float32)
  count = len(rates)
  subsets = jax_sis.Subsets(
    mask=jnp.tile(jnp.array([[True, False]]), (count, 1)),
    num_kept=jnp.ones(count, jnp.int32),
    confidence=jnp.full(count, jnp.nan),
    target=jnp.zeros(count, jnp.int32),
    threshold=jnp.full(count, threshold),
    status=jnp.zeros(count, jnp.int8),
    baseline=jnp.zeros((count, 1)),
  )
  return jnp.stack([rates, jnp.zeros(count)], axis=1), subsets


def certify(images: Any, subsets: jax_sis.Subsets, **options: Any) -> jax_sis.Guarantee:
  return jax_sis.certify(predict_below, SHARP, images, subsets, **{"completion": draw_evenly, **options})


def test_what_is_certified_of_known_rates(tmp_path: pathlib.Path):
  images, subsets = make_known([0.2, 0.9, 0.99, 1.5])
  subsets = dataclasses.replace(subsets, status=subsets.status.at[3].set(jax_sis.Status.NOT_REACHED))
  report = certify(images, subsets, num_draws=200)
  assert report.verdict.tolist() == [Verdict.NOT_CERTIFIED] * 2 + [Verdict.CERTIFIED, Verdict.NOT_SEARCHED]
  for index, rate in enumerate([0.2, 0.9, 0.99]):
    count = round(200 * float(report.rate[index]))
    assert abs(count - 200 * rate) < 4 * np.sqrt(200 * rate * (1 - rate)) + 1
    expected = scipy.stats.binomtest(count, 200, 0.9, alternative="greater")
    assert float(report.rate_bound[index]) == pytest.approx(expected.proportion_ci(0.95).low, abs=1e-6)
    assert float(report.p_value[index]) == pytest.approx(expected.pvalue, rel=1e-4)
    assert float(report.confidence[index]) == pytest.approx(float(report.rate[index]), abs=0.02)
  assert np.isnan(report.rate[3])
  assert np.isnan(report.confidence_bound).all()
  assert report.describe(2).startswith("certified: rate 0.9")
  assert [report.describe(index).split(":")[0] for index in (0, 3)] == ["not certified", "not searched"]
  assert "1 certified, 2 not certified, 1 not searched; 1 if all must hold at once (Holm)" in repr(report)
  assert report.certified_together().tolist() == [False, False, True, False]
  assert "certificate on unseen draws" in str(report._repr_html_())
  jax_sis.save(tmp_path / "report.npz", report)
  loaded = jax_sis.load(tmp_path / "report.npz")
  assert jax.tree.structure(loaded) == jax.tree.structure(report)
  np.testing.assert_array_equal(loaded.rate_bound, report.rate_bound)


def test_two_bounds_have_half_the_error_each():
  images, subsets = make_known([0.97], threshold=0.9)
  both = certify(images, subsets, bound="both", inequality="hoeffding")
  count = round(500 * float(both.rate[0]))
  wider = scipy.stats.binomtest(count, 500, 0.9, alternative="greater")
  assert float(both.rate_bound[0]) == pytest.approx(wider.proportion_ci(0.975).low, abs=1e-6)
  margin = np.sqrt(np.log(40) / 1000)
  assert float(both.confidence_bound[0]) == pytest.approx(float(both.confidence[0]) - margin, abs=1e-6)
  of_mean = np.exp(-1000 * (float(both.confidence[0]) - 0.9) ** 2)
  assert float(both.p_value[0]) == pytest.approx(min(2 * max(wider.pvalue, of_mean), 1), rel=1e-3)
  mean = certify(images, subsets, bound="confidence")
  assert np.isnan(mean.rate_bound[0])
  assert mean.verdict[0] == (Verdict.CERTIFIED if float(mean.confidence_bound[0]) >= 0.9 else Verdict.NOT_CERTIFIED)


@pytest.mark.usefixtures("without_type_checks")
def test_draws_depend_on_nothing_but_their_image():
  images, subsets = make_known(np.linspace(0.3, 0.98, 16))
  keys = jax.random.split(jax.random.key(5), 16)

  def run(images: Any, subsets: Any, keys: Any) -> jax_sis.Guarantee:
    return certify(images, subsets, keys=keys, num_draws=60)

  whole = run(images, subsets, keys)
  assert len(set(np.asarray(whole.rate).tolist())) > 8
  part = run(images[3:8], subsets[3:8], keys[3:8])
  divided = jax.tree.map(lambda array: array.reshape(8, 2, *array.shape[1:]), (images, subsets, keys))
  on_eight = jax.pmap(run)(*divided)
  for name in ("rate", "rate_bound", "verdict", "confidence"):
    values = np.asarray(getattr(whole, name))
    np.testing.assert_array_equal(getattr(part, name), values[3:8], err_msg=name)
    np.testing.assert_array_equal(np.asarray(getattr(on_eight, name)).reshape(-1), values, err_msg=name)


def test_no_purpose_has_the_draws_of_another():
  images, _ = make_known([0.5])
  keys, masks = jax.random.split(jax.random.key(0), 1), jnp.array([[1.0, 0.0]])
  distribution = completions.check_part("completion", draw_evenly, images)
  drawn = [
    draw_fills(distribution, keys, images, masks, jnp.arange(50), features=Grid((2,)), purpose=purpose)[0, :, 0]
    for purpose in Purpose
  ]
  assert len(np.unique(np.concatenate(drawn))) == 50 * len(Purpose)


def test_the_keys_of_the_search_are_the_default():
  images, subsets = make_known([0.6, 0.7])
  keys = jax.random.split(jax.random.key(9), 2)
  searched = dataclasses.replace(subsets, keys=jax.random.key_data(keys))
  expected, others = certify(images, subsets, keys=keys, num_draws=90), certify(images, subsets, num_draws=90)
  np.testing.assert_array_equal(certify(images, searched, num_draws=90).rate, expected.rate)
  assert not np.array_equal(expected.rate, others.rate)


def test_draws_that_are_not_finite_lose_the_class():
  # Also where the target is the class whose logit is NaN.
  def predict_fn(params: Any, inputs: Any) -> Any:
    logits = predict_below(params, inputs)
    return jnp.where(inputs[:, 1:] > 0.5, jnp.nan, logits)

  images, subsets = make_known([0.99])
  report = jax_sis.certify(predict_fn, SHARP, images, subsets, completion=draw_evenly)
  assert 0.4 < float(report.rate[0]) < 0.6
  assert 0.4 < float(report.confidence[0]) < 0.6


def test_a_constant_completion_gives_the_certificate_of_a_baseline():
  images, params = toys.images_and_params(0, num_images=6)
  order = jax_sis.backselect(toys.predict_tanh, params, images, search=jax_sis.Gradient(per_step=3))
  subsets = jax_sis.sufficient_subsets(order, 0.7)
  expected = jax_sis.certify(toys.predict_tanh, params, images, subsets)
  actual = jax_sis.certify(toys.predict_tanh, params, images, subsets, completion=completions.Constant(0.0))
  assert type(actual) is jax_sis.Certificate
  for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()
  # What a distribution said of a subset is not what a constant says.
  searched = dataclasses.replace(subsets, keys=jnp.zeros((6, 2), jnp.uint32), confidence=subsets.confidence - 0.1)
  on_constant = jax_sis.certify(toys.predict_tanh, params, images, searched, completion=completions.Constant())
  np.testing.assert_array_equal(on_constant.confidence, expected.confidence)


def refused(message: str, images: Any, subsets: jax_sis.Subsets, **options: Any) -> None:
  with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
    certify(images, subsets, **options)


def test_what_is_refused():
  images, subsets = make_known([0.9, 0.8])
  searched = dataclasses.replace(subsets, keys=jnp.zeros((2, 2), jnp.uint32))
  refused("completion must be given for subsets that were found under a", images, searched, completion=None)
  refused("num_draws must be at least 29 for a rate of 0.9 at level 0.95, which", images, subsets, num_draws=28)
  refused("num_draws must be at least 36 for a rate of 0.9", images, subsets, num_draws=35, bound="both")
  refused("rate must be a probability strictly between 0 and 1, got 1.0", images, subsets, rate=1.0)
  refused("level must be at least 0.5, got 0.4", images, subsets, level=0.4)
  refused('subsets must have a threshold for bound="confidence"', images, subsets, bound="confidence")
  order = order_of_sizes([0.9, 0.99], images)
  with pytest.raises(ValueError, match=r"^completion must be a distribution for certified_subsets, got a constant"):
    jax_sis.certified_subsets(predict_below, SHARP, images, order, completion=completions.Constant())
  with pytest.raises(ValueError, match=r"^sizes must be integers between 1 and 2, as the order has, got \[0, 1\]"):
    jax_sis.certified_subsets(predict_below, SHARP, images, order, completion=draw_evenly, sizes=[0, 1])


def order_of_sizes(confidence: Any, images: Any) -> jax_sis.FeatureOrder:
  count = len(images)
  return jax_sis.FeatureOrder(
    rank=jnp.tile(jnp.arange(2, dtype=jnp.int32)[None], (count, 1)),
    confidence=jnp.tile(jnp.array([[0.0, *confidence]]), (count, 1)),
    target=jnp.zeros(count, jnp.int32),
    finite=jnp.ones(count, bool),
    baseline=jnp.zeros((count, 1)),
    sizes=(0, 1, 2),
    grid=(2,),
    score="log_odds",
  )


def test_images_that_the_search_had_are_counted_and_refused():
  images, subsets = make_known([0.9, 0.8])
  searched = dataclasses.replace(subsets, keys=jnp.zeros((2, 2), jnp.uint32))
  pool = np.random.default_rng(0).uniform(size=(8, 2)).astype(np.float32)
  other = pool + 2
  held_out = completions.Images(other, num_draws=4)
  refused("searched must be given, the completion of the search that found the", images, searched, completion=held_out)
  # Deep inside, of another type, and in a list.
  mixed = jnp.asarray(np.concatenate([other[:5], pool[:3]]))
  inner = completions.Reveal(0.1, completions.Images(mixed, num_draws=4))
  deep = completions.Mixture((completions.Constant(), inner))
  before = completions.Reveal(other=completions.Images(list(pool), num_draws=4))
  message = "completion must draw from images that the search did not draw from, but 3 of its 8 images"
  refused(message, images, searched, completion=deep, searched=before)
  report = certify(images, searched, completion=held_out, searched=before, num_draws=40)
  assert report.verdict.tolist() == [Verdict.NOT_CERTIFIED] * 2


@pytest.mark.slow
def test_the_coverage_of_every_bound_through_the_whole_of_certify():
  rates = np.array([0.5, 0.7, 0.9, 0.95], np.float32)
  images, subsets = make_known(np.repeat(rates, 2000), threshold=0.5)
  true = np.repeat(rates, 2000)
  for options in ({"bound": "both"}, {"bound": "both", "inequality": "hoeffding"}, {"bound": "rate"}):
    report = certify(images, subsets, **options)
    covers = np.asarray(report.rate_bound) <= true
    if options["bound"] == "both":
      # The mean of a sharp sigmoid of an even number is the rate, but for its upper end.
      covers_mean = np.asarray(report.confidence_bound) <= true + 1e-6
      assert (covers_mean.reshape(4, -1).mean(1) >= 0.935).all(), options
      assert ((covers & covers_mean).reshape(4, -1).mean(1) >= 0.935).all()
    else:
      coverage = covers.reshape(4, -1).mean(1)
      assert ((coverage >= 0.935) & (coverage <= 0.99)).all()
      np.testing.assert_allclose(np.asarray(report.rate).reshape(4, -1).mean(1), rates, atol=0.002)
  one = certify(images, subsets, bound="confidence")
  assert ((np.asarray(one.confidence_bound) <= true + 1e-6).reshape(4, -1).mean(1) >= 0.935).all()
