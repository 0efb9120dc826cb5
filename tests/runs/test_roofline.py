"""Counted work over the rates of a data sheet."""

from typing import Any, get_args

import jax.numpy as jnp
import pytest

from jax_sis.classifiers import checkpoint, frozen
from jax_sis.runs import roofline
from jax_sis.runs.config import Precision
from jax_sis.runs.options import AcceleratorName
from jax_sis.runs.roofline import ACCELERATORS, Work, estimate_seconds


@pytest.mark.usefixtures("allow_rank_promotion")
@pytest.mark.parametrize(("precision", "steps_per_s"), [("highest", 76_039), ("default", 195_570)])
def test_the_embedded_classifier_on_an_h100_takes_what_was_measured(precision: str, steps_per_s: float):
  predict_fn, params = frozen.freeze(checkpoint.load_classifier(checkpoint.EMBEDDED_CLASSIFIER).module)
  work = roofline.count_work(predict_fn, params, (32, 32, 3))
  gradient = Work(2 * work.flops, 2 * work.numbers)
  # 162 MFLOP: 40.6 million multiplications and additions forward, and as many back.
  assert gradient.flops == pytest.approx(162.2e6, rel=0.01)
  estimate = estimate_seconds(ACCELERATORS["h100"], precision, gradient)
  assert 1 / estimate.seconds == pytest.approx(steps_per_s, rel=0.02)
  assert estimate.is_memory_bound == (precision == "default")


def test_products_are_counted_wherever_they_stand():
  def predict(params: Any, inputs: Any) -> Any:
    return jnp.tanh(inputs.reshape(1, -1)) @ params

  assert roofline.count_work(predict, jnp.ones((12, 5)), (2, 2, 3)) == (2 * 12 * 5, 12 + 5)


def test_every_accelerator_has_a_rate_for_every_precision():
  assert set(ACCELERATORS) == set(get_args(AcceleratorName))
  for accelerator in ACCELERATORS.values():
    rates = [accelerator.tflops[precision] for precision in get_args(Precision)]
    assert rates == sorted(rates)
