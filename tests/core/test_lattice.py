"""The complete lattice against brute force, definitions and the functions that evaluate one mask at a time."""

import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

import jax_sis
from jax_sis import Lattice, Status, completions

NUM_FUNCTIONS = 200
NUM_FEATURES = 8
THRESHOLD = 0.8
MARGIN = 1.0


def predict_from_table(table: Any, inputs: Any) -> Any:
  """A function of Boolean features, given by the logits of each mask: kept features are 1, masked ones 0."""
  numbers = (inputs * 2.0 ** jnp.arange(inputs.shape[1], dtype=jnp.float32)[None]).sum(1).astype(jnp.int32)
  return table[numbers]


@pytest.fixture(scope="module")
def tables() -> np.ndarray:
  """Logits of 200 functions that on the whole rise with each feature, with ties."""
  rng = np.random.default_rng(0)
  tables = rng.normal(size=(NUM_FUNCTIONS, 2**NUM_FEATURES, 3)).astype(np.float32)
  tables[..., 0] += 0.5 * np.bitwise_count(np.arange(2**NUM_FEATURES))
  tables[::2] = np.round(tables[::2])
  return tables


@pytest.fixture(scope="module")
def found(tables: np.ndarray) -> Lattice:
  """Their lattices, as of 200 images."""

  def find(table: Any) -> dict[str, Any]:
    inputs = jnp.ones((1, NUM_FEATURES))
    options: Any = {"threshold": THRESHOLD, "margin": MARGIN, "grid": (NUM_FEATURES,)}
    return arrays_of(jax_sis.lattice(predict_from_table, table, inputs, 0, **options))

  arrays = jax.jit(jax.vmap(find))(tables)
  return join_batches(arrays, grid=(NUM_FEATURES,), threshold=THRESHOLD, margin=MARGIN)


def arrays_of(lattice: Lattice) -> dict[str, Any]:
  return {name: array for name, array in vars(lattice).items() if isinstance(array, jax.Array)}


def join_batches(arrays: dict[str, Any], **static: Any) -> Lattice:
  """One lattice of the images of several batches, `[N, B, ...]`."""
  joined = {name: jnp.asarray(array).reshape(-1, *array.shape[2:]) for name, array in arrays.items()}
  return Lattice(**joined, **static, score="log_odds")


def find_minimal(is_one: np.ndarray) -> np.ndarray:
  """The sets of which no proper subset is one, by comparing all with all."""
  numbers = np.arange(len(is_one))
  is_proper_subset = ((numbers[:, None] & numbers[None]) == numbers[:, None]) & (numbers[:, None] != numbers[None])
  return is_one & ~(is_proper_subset & is_one[:, None]).any(0)


def shapley_matrix(num_features: int) -> np.ndarray:
  """The sum over subsets in Shapley's definition, as a matrix on the values of all masks."""
  matrix = np.zeros((num_features, 2**num_features))
  for feature, number in itertools.product(range(num_features), range(2**num_features)):
    if not number >> feature & 1:
      size = number.bit_count()
      weight = math.factorial(size) * math.factorial(num_features - size - 1) / math.factorial(num_features)
      matrix[feature, number | 1 << feature] += weight
      matrix[feature, number] -= weight
  return matrix


def check_same(found: Lattice, expected: Lattice) -> None:
  for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_array_equal(one, other)


def test_minimal_sets_of_random_functions_are_those_of_brute_force(found: Lattice, tables: np.ndarray):
  lead = tables[..., 0] - tables[..., 1:].max(-1)
  np.testing.assert_allclose(found.lead, lead, atol=1e-6)
  odds = np.exp(tables[..., 0].astype(float)) / np.exp(tables[..., 1:].astype(float)).sum(-1)
  np.testing.assert_allclose(found.log_odds, np.log(odds), atol=1e-5)
  is_sufficient = odds / (1 + odds) >= THRESHOLD
  is_contrastive = (lead <= -MARGIN)[:, ::-1]
  answers: dict[Any, np.ndarray] = {
    "sufficient": is_sufficient,
    "contrastive": is_contrastive,
    "both": is_sufficient & is_contrastive,
  }
  for question, is_one in answers.items():
    expected = np.array([find_minimal(of_one) for of_one in is_one])
    assert expected.sum() > NUM_FUNCTIONS
    np.testing.assert_array_equal(found.minimal(question), expected)


@pytest.mark.parametrize("question", ["sufficient", "contrastive"])
def test_the_smallest_sets_are_the_clearest_of_those_with_the_fewest_features(found: Lattice, question: Any):
  smallest = jax.tree.map(np.asarray, vars(found.smallest(question)))
  odds, lead = np.asarray(found.log_odds), np.asarray(found.lead)
  for i in range(NUM_FUNCTIONS):
    sets = found.sets(question, i)
    if smallest["status"][i] != Status.OK:
      assert len(sets) == 0 or sets.sum() == 0
      continue
    fewest = sets[sets.sum(1) == sets.sum(1).min()]
    numbers = fewest @ (1 << np.arange(NUM_FEATURES))
    best = odds[i, numbers].argmax() if question == "sufficient" else lead[i, 255 - numbers].argmin()
    np.testing.assert_array_equal(smallest["mask"][i], fewest[best])
    np.testing.assert_allclose(smallest["confidence"][i], 1 / (1 + np.exp(-odds[i, numbers[best]])), rtol=1e-5)


def test_shapley_and_banzhaf_values_are_those_of_their_definitions(found: Lattice):
  values = np.asarray(found.log_odds, float)
  matrix = shapley_matrix(NUM_FEATURES)
  np.testing.assert_allclose(found.shapley, values @ matrix.T, atol=1e-6, rtol=0)
  gains = [values[:, n | 1 << f] - values[:, n] for f in range(8) for n in range(256) if not n >> f & 1]
  gains = np.array(gains).reshape(NUM_FEATURES, -1, NUM_FUNCTIONS)
  np.testing.assert_allclose(found.banzhaf, gains.mean(1).T, atol=1e-6, rtol=0)
  np.testing.assert_allclose(found.falling, (gains < 0).mean((0, 1)), atol=1e-6)


def test_shapley_values_are_the_mean_gain_over_all_orders(found: Lattice):
  orders = np.array(list(itertools.permutations(range(NUM_FEATURES))))
  values = np.asarray(found.log_odds[0], float)
  after = (1 << orders).cumsum(1)
  gains = values[after] - values[after - (1 << orders)]
  expected = [gains[orders == feature].mean() for feature in range(NUM_FEATURES)]
  np.testing.assert_allclose(found.shapley[0], expected, atol=1e-6, rtol=0)


@functools.cache
def on_images() -> tuple[Lattice, Any, Any]:
  inputs, params = toys.images_and_params(shape=(6, 6, 2))
  return jax_sis.lattice(toys.predict_tanh, params, inputs, grid=(3, 3), threshold=0.6), inputs, params


def test_all_masks_of_a_grid_are_evaluated():
  found, inputs, params = on_images()
  model = toys.make_reference("tanh", jax.tree.map(lambda array: np.asarray(array, float), params))
  kept = (np.arange(512)[:, None] >> np.arange(9) & 1).reshape(-1, 3, 3).repeat(2, 1).repeat(2, 2)
  for i, image in enumerate(np.asarray(inputs, float)):
    logits = np.array([model.logits(one) for one in image * kept[..., None]])
    odds = np.exp(logits) / (np.exp(logits).sum(1, keepdims=True) - np.exp(logits))
    target = logits[-1].argmax()
    assert found.target[i] == target
    np.testing.assert_allclose(found.log_odds[i], np.log(odds[:, target]), atol=1e-5)
    is_sufficient = np.asarray(found.confidence[i]) >= np.float32(0.6)
    np.testing.assert_array_equal(found.minimal_sufficient[i], find_minimal(is_sufficient))
    assert found.sets("sufficient", i).shape[1:] == (3, 3, 1)
  smallest = found.smallest("sufficient")
  certificate = jax_sis.certify(toys.predict_tanh, params, inputs, smallest)
  np.testing.assert_array_equal(certificate.is_sufficient, smallest.status == Status.OK)
  assert certificate.is_minimal.sum() == 2


@pytest.mark.parametrize("question", ["contrastive", "both"])
def test_the_smallest_sets_are_certified_as_what_they_are(question: Any):
  found, inputs, params = on_images()
  smallest = found.at(margin=0.01).smallest(question)
  is_ok = smallest.status == Status.OK
  assert is_ok.any()
  certificate = jax_sis.certify(toys.predict_tanh, params, inputs, smallest)
  np.testing.assert_array_equal(certificate.answers, is_ok)
  np.testing.assert_array_equal(certificate.is_minimal, is_ok)
  assert certificate.lost_by is not None and smallest.lost_by is not None
  np.testing.assert_allclose(certificate.lost_by, smallest.lost_by, atol=1e-5)
  assert f"{question} with a margin of 0.01" in repr(smallest)


def test_it_is_read_at_another_threshold_as_if_it_had_been_asked():
  found, inputs, params = on_images()
  asked = jax_sis.lattice(toys.predict_tanh, params, inputs, grid=(3, 3), threshold=0.4, margin=0.3)
  assert not np.array_equal(asked.minimal_sufficient, found.minimal_sufficient)
  check_same(found.at(threshold=0.4, margin=0.3), asked)


@pytest.mark.slow
def test_neither_chunks_nor_devices_change_it():
  found, inputs, params = on_images()
  others = [jax_sis.lattice(toys.predict_tanh, params, inputs, grid=(3, 3), threshold=0.6, chunk_size=7)]

  def find(image: Any) -> dict[str, Any]:
    return arrays_of(jax_sis.lattice(toys.predict_tanh, params, image, grid=(3, 3), threshold=0.6))

  others.append(join_batches(jax.pmap(find)(inputs[:, None]), grid=found.grid, threshold=0.6, margin=0.0))
  for other in others:
    np.testing.assert_allclose(other.log_odds, found.log_odds, atol=1e-5)
    np.testing.assert_array_equal(other.minimal_both, found.minimal_both)
    np.testing.assert_array_equal(other.minimal_contrastive, found.minimal_contrastive)


@pytest.mark.slow
def test_all_masks_of_an_image_see_the_same_draws():
  _, inputs, params = on_images()
  noise = completions.Noise(num_draws=3)
  found = jax_sis.lattice(toys.predict_tanh, params, inputs, grid=(3, 3), completion=noise)
  np.testing.assert_allclose(found.shapley.sum(1), found.log_odds[:, -1] - found.log_odds[:, 0], atol=1e-5)
  # A feature of zero weight gains nothing, which draws of its own would hide.
  params["hidden_weights"] = params["hidden_weights"].reshape(6, 6, 2, -1).at[:2, :2].set(0).reshape(72, -1)
  found = jax_sis.lattice(toys.predict_tanh, params, inputs, grid=(3, 3), completion=noise)
  np.testing.assert_allclose(found.banzhaf[:, 0], 0, atol=1e-6)
  assert np.abs(found.banzhaf[:, 1:]).min() > 1e-4


def test_images_without_an_answer_say_why():
  inputs = jnp.ones((4, 2)) * jnp.array([[1.0], [1e-3], [1.0], [jnp.nan]])
  params = toys.linear_params([2.0, 1.0])
  found = jax_sis.lattice(toys.predict_linear, params, inputs, jnp.array([0, 0, 1, 0]), grid=(2,), threshold=0.8)
  ok, below, not_reached, lost = Status.OK, Status.BELOW_THRESHOLD, Status.NOT_REACHED, Status.NON_FINITE
  assert found.smallest("sufficient").status.tolist() == [ok, below, below, lost]
  # With everything masked both logits are 0, and no class leads.
  assert found.smallest("contrastive").status.tolist() == [not_reached, not_reached, below, lost]
  baseline_sufficient = jax_sis.lattice(toys.predict_linear, params, inputs[:1], grid=(2,), threshold=0.5)
  assert baseline_sufficient.smallest("sufficient").status.tolist() == [Status.BASELINE_SUFFICIENT]


@pytest.mark.slow
def test_probabilities_may_be_what_is_divided():
  inputs, params = jnp.ones((1, 2)), toys.linear_params([2.0, 1.0])
  found = jax_sis.lattice(toys.predict_linear, params, inputs, grid=(2,), score="probability")
  np.testing.assert_allclose(found.shapley.sum(), jax.nn.sigmoid(3.0) - 0.5, atol=1e-6)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"grid": (6, 6)}, r"grid must have at most 16 features for the complete lattice on a CPU.* got 36 of .*coarser"),
    ({"grid": (3, 3), "margin": -1.0}, "margin must be a finite number of at least 0, in log-odds, got -1.0"),
    ({"grid": (3, 3), "threshold": 1.0}, "threshold must be a probability"),
    ({"grid": (5, 5)}, "grid must have one entry for each input axis and divide it"),
  ],
)
def test_bad_arguments_are_refused_by_name(options: dict[str, Any], message: str):
  inputs, params = toys.images_and_params(shape=(6, 6, 2))
  with pytest.raises(ValueError, match=message):
    jax_sis.lattice(toys.predict_tanh, params, inputs, **options)


def test_it_is_saved_and_shown(tmp_path: Any):
  found, _, _ = on_images()
  jax_sis.save(tmp_path / "lattice.npz", found)
  check_same(jax_sis.load(tmp_path / "lattice.npz"), found)
  assert "3 images, grid (3, 3, 1), 512 masks" in repr(found)
  assert "fewest contrastive" in str(found._repr_html_())
