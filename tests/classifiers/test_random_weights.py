"""The weights that golden logits belong to are the same on every machine and in every version."""

import re

import numpy as np
import pytest
import random_weights

# Of all squares of a state dict, as they were when the logits were made.
SUM_OF_SQUARES = {
  "resnet20": 2179.5906593382488,
  "resnet56": 5651.943276309923,
  "vgg16": 17789.703967829286,
  "resnet50": 81291.98097569548,
}


@pytest.mark.parametrize("name", SUM_OF_SQUARES)
def test_random_weights_are_those_that_pytorch_was_given(name: str):
  state_dict = random_weights.read_golden_logits(name).state_dict()
  total = sum(float(np.square(array.astype(np.float64)).sum()) for array in state_dict.values())
  assert total == pytest.approx(SUM_OF_SQUARES[name], rel=1e-9)


def test_random_inputs_are_those_that_pytorch_was_given():
  inputs = random_weights.read_golden_logits("resnet20").inputs()
  assert inputs.shape == (2, 3, 32, 32)
  # The first normal numbers of the Mersenne Twister with seed 0, known from many a tutorial.
  np.testing.assert_allclose(inputs[0, 0, 0, :3], [1.764052, 0.400157, 0.978738], atol=1e-6)


def test_an_array_depends_on_its_name_and_not_on_its_neighbours():
  shapes = {"conv1.weight": (64, 3, 7, 7), "bn1.weight": (64,), "bn1.bias": (64,), "bn1.running_mean": (64,)}
  shapes |= {"bn1.running_var": (64,), "bn1.num_batches_tracked": ()}
  arrays = random_weights.random_state_dict(shapes)
  alone = random_weights.random_state_dict({"bn1.bias": (64,)})
  np.testing.assert_array_equal(arrays["bn1.bias"], alone["bn1.bias"])
  assert not np.array_equal(arrays["bn1.bias"], arrays["bn1.running_mean"])
  for name in ("bn1.weight", "bn1.running_var"):
    assert 0.5 <= arrays[name].min() < 0.6 and 1.4 < arrays[name].max() <= 1.5
  assert arrays["conv1.weight"].std() == pytest.approx(np.sqrt(2 / (3 * 7 * 7)), rel=0.02)
  assert arrays["bn1.num_batches_tracked"] == 0 and arrays["bn1.num_batches_tracked"].dtype == np.int64


def test_an_array_of_an_unknown_kind_is_refused():
  message = "name must end in that of a layer's array, got 'attention.relative_bias_table'."
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    random_weights.random_state_dict({"attention.relative_bias_table": (4, 4)})


def test_there_are_golden_logits_of_every_architecture_and_naming():
  names = random_weights.golden_names()
  assert len(names) == 25
  for name in names:
    golden = random_weights.read_golden_logits(name)
    assert golden.logits.shape == (golden.input_shape[0], 1000 if golden.input_shape[-1] > 32 else 10)
    assert golden.logits.dtype == np.float64
    assert 0.3 < golden.logits.std() < 10
