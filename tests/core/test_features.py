"""Label maps and linear bases in the place of a grid, against loops and against all subsets."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import scipy.fft
import toys

import jax_sis
from jax_sis import completions
from jax_sis.core.drawing import Purpose, draw_fills
from jax_sis.core.pictures import make_columns
from jax_sis.core.problem import check_problem

# A map an image, of 6, 4 and 5 features, none of which is a block.
LABELS = np.array(
  [
    [[0, 0, 2], [3, 0, 2], [3, 5, 7], [9, 9, 7]],
    [[1, 1, 1], [1, 2, 4], [2, 2, 4], [3, 3, 3]],
    [[8, 8, 0], [0, 8, 0], [1, 2, 3], [1, 2, 3]],
  ]
)
NUMBERED = [np.unique(labels, return_inverse=True)[1].reshape(4, 3) for labels in LABELS]
COUNTS = [6, 4, 5]
THRESHOLD = 0.6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labelled(reference.Problem):
  """One image whose features are those of a map."""

  labels: np.ndarray

  @property
  def features(self) -> np.ndarray:
    """The feature of each element."""
    return np.broadcast_to(self.labels[..., None], self.x.shape)

  @property
  def num_features(self) -> int:
    """Of the image that has most."""
    return max(COUNTS)


@pytest.fixture(scope="module")
def toy() -> tuple[Any, Any]:
  return toys.images_and_params(16)


@pytest.fixture(scope="module")
def in_numpy(toy: tuple[Any, Any]) -> list[Labelled]:
  images, params = (jax.tree.map(lambda array: np.asarray(array, float), tree) for tree in toy)
  model = toys.make_reference("tanh", params)
  return [
    Labelled(
      model=model,
      x=image,
      target=int(model.logits(image).argmax()),
      grid=(),
      baseline=np.zeros(1),
      labels=labels,
      available=frozenset(range(count)),
    )
    for image, labels, count in zip(images, NUMBERED, COUNTS, strict=True)
  ]


@pytest.fixture(scope="module")
def order(toy: tuple[Any, Any]) -> jax_sis.FeatureOrder:
  images, params = toy
  return jax_sis.backselect(toys.predict_tanh, params, images, search=jax_sis.Exact(), features=LABELS)


def assert_same(order: jax_sis.FeatureOrder, selections: list[reference.Selection]):
  for number, selection in enumerate(selections):
    np.testing.assert_array_equal(order.rank[number], selection.rank())
    np.testing.assert_allclose(order.confidence[number], selection.confidences(), rtol=2e-5)


def test_orders_of_ragged_maps_are_those_of_a_loop(
  toy: tuple[Any, Any], in_numpy: list[Labelled], order: jax_sis.FeatureOrder
):
  images, params = toy
  assert_same(order, [reference.exact(problem) for problem in in_numpy])
  gradient = jax_sis.backselect(toys.predict_tanh, params, images, search=jax_sis.Gradient(per_step=2), features=LABELS)
  assert_same(gradient, [reference.gradient(problem, 2) for problem in in_numpy])
  assert order.grid == (6,)
  assert repr(order).startswith("FeatureOrder(3 images, label map, 6 features")


def test_subsets_of_ragged_maps_hold_what_a_loop_says(toy: tuple[Any, Any], in_numpy: list[Labelled]):
  images, params = toy
  effort = jax_sis.Effort(jax_sis.Forward(), ((2, 15),))
  subsets = jax_sis.smallest_subsets(
    toys.predict_tanh, params, images, threshold=THRESHOLD, effort=effort, features=LABELS
  )
  report = jax_sis.certify(toys.predict_tanh, params, images, subsets)
  for number, problem in enumerate(in_numpy):
    kept = set(np.flatnonzero(subsets.kept[number]).tolist())
    assert problem.probability(kept) >= THRESHOLD
    assert len(kept) == reference.smallest_size(problem, THRESHOLD)
    assert report.is_minimal[number] == (not reference.droppable(problem, kept, THRESHOLD))
    assert float(report.confidence[number]) == pytest.approx(problem.probability(kept), rel=1e-5)
    assert subsets.num_pixels is not None
    assert subsets.num_pixels[number] == np.isin(NUMBERED[number], list(kept)).sum()
    np.testing.assert_allclose(
      subsets.apply(images)[number], reference.masked(problem.x, kept, np.zeros(1), problem.features), rtol=1e-6
    )


def test_a_collection_is_that_of_a_loop_and_takes_no_padding(toy: tuple[Any, Any], in_numpy: list[Labelled]):
  images, params = toy
  rounds = jax_sis.sis_collection(
    toys.predict_tanh, params, images, threshold=THRESHOLD, search=jax_sis.Exact(), max_subsets=3, features=LABELS
  )
  for number, problem in enumerate(in_numpy):
    found = [set(np.flatnonzero(subsets.kept[number]).tolist()) for subsets in rounds]
    assert [one for one in found if one] == reference.sis_collection(problem, reference.exact, THRESHOLD)[:3]


def test_a_map_of_equal_blocks_gives_the_numbers_of_the_grid():
  images, params = toys.images_and_params(5, shape=(4, 6, 2))
  blocks = reference.feature_map((2, 3, 1), (4, 6, 1))[..., 0]
  for search in (jax_sis.Gradient(), jax_sis.Exact()):
    grid = jax_sis.backselect(toys.predict_tanh, params, images, search=search, grid=(2, 3, 1))
    labelled = jax_sis.backselect(toys.predict_tanh, params, images, search=search, features=blocks)
    np.testing.assert_array_equal(labelled.rank, grid.rank)
    np.testing.assert_array_equal(labelled.confidence, grid.confidence)


def test_shares_sizes_parts_and_files_know_the_map(
  toy: tuple[Any, Any], order: jax_sis.FeatureOrder, tmp_path: pathlib.Path
):
  images, _ = toy
  half = jax_sis.keep_fraction(order, 0.5)
  assert half.num_kept.tolist() == [3, 2, 3]
  np.testing.assert_array_equal(half.confidence, np.asarray(order.confidence)[np.arange(3), [3, 2, 3]])
  alone = half[1]
  assert alone.features is not None
  np.testing.assert_array_equal(alone.apply(images[1:2]), half.apply(images)[1:2])
  jax_sis.save(tmp_path / "found.npz", (order, half))
  for loaded, found in zip(jax_sis.load(tmp_path / "found.npz"), (order, half), strict=True):
    assert jax.tree.structure(loaded) == jax.tree.structure(found)
    for read, written in zip(jax.tree.leaves(loaded), jax.tree.leaves(found), strict=True):
      np.testing.assert_array_equal(read, written)
  ((_, mask, captions),) = make_columns(half, images.shape)
  np.testing.assert_array_equal(mask[1, ..., 0], np.asarray(half.kept[1])[NUMBERED[1]])
  share = mask[1, ..., 0].mean()
  assert captions[1].startswith(f"2 of 4 ({share:.1%} of the pixels)\nclass")


def test_maps_may_be_arguments_of_a_program(toy: tuple[Any, Any], order: jax_sis.FeatureOrder):
  images, params = toy

  @jax.jit
  def find(params: Any, images: Any, features: Any) -> jax_sis.FeatureOrder:
    return jax_sis.backselect(toys.predict_tanh, params, images, search=jax_sis.Exact(), features=features)

  made = jax_sis.features.make_label_map(LABELS, images.shape)
  np.testing.assert_array_equal(find(params, images, made).rank, order.rank)
  with pytest.raises(ValueError, match=r"^features must have values when the search is traced"):
    find(params, images, LABELS)


def test_draws_reveal_whole_features_of_their_own_image(toy: tuple[Any, Any]):
  images, params = toy
  reveal = completions.Reveal(probability=0.5, other=completions.Constant(7.0), num_draws=16)
  problem = check_problem(
    toys.predict_tanh,
    params,
    images,
    None,
    baseline=0.0,
    grid=None,
    available=None,
    score="log_odds",
    completion=reveal,
    features=LABELS,
  )
  assert problem.distribution is not None
  assert problem.keys is not None
  masks = jnp.zeros((6, 6))
  fills = np.asarray(
    draw_fills(
      problem.distribution,
      jnp.repeat(problem.keys, 2),
      jnp.repeat(problem.inputs, 2, axis=0),
      masks,
      jnp.arange(16),
      features=problem.features,
      purpose=Purpose.SEARCH,
    )
  )
  is_shown = fills != 7.0
  assert 0 < is_shown.mean() < 1
  for place, shown in enumerate(is_shown):
    for feature in range(COUNTS[place // 2]):
      inside = shown[:, NUMBERED[place // 2] == feature]
      assert (inside.all((1, 2)) | ~inside.any((1, 2))).all()


def test_features_that_come_in_are_those_of_the_image():
  def predict_whole(_: Any, inputs: Any) -> Any:
    """Class 0 where all of the image is there, and class 1 where anything is missing."""
    seen = inputs.sum((1, 2, 3))
    return jnp.stack([seen - 11.5, jnp.zeros_like(seen)], axis=1)

  images = jnp.ones((3, 4, 3, 1))
  single = jax_sis.keep_fraction(jax_sis.backselect(predict_whole, (), images, features=LABELS), 0.01)
  # One feature each; three more make the image with four whole, those of six and five never.
  found = jax_sis.stability(predict_whole, (), images, single, num_added=(3,), num_draws=40)
  assert found.keeps_class[:, 0].tolist() == [0.0, 1.0, 0.0]


def transform(image: Any, *, is_back: bool = False) -> np.ndarray:
  function: Any = scipy.fft.idctn if is_back else scipy.fft.dctn
  return np.asarray(function(np.asarray(image), axes=(0, 1), norm="ortho"))


def test_cosines_are_scipys_and_a_function_of_one_coefficient_finds_it():
  images, _ = toys.images_and_params(1, shape=(5, 4, 2))
  every = jax_sis.features.Dct(bands=None).check(images)
  np.testing.assert_allclose(every.analyse(images[0]), transform(np.asarray(images[0])), atol=1e-5)
  kept = jnp.ones((3, 20)).at[0, 3].set(0.0).at[2].set(0.0)
  shown = every.mix(images, kept, jnp.full((3, 1, 1, 1), 0.5))
  np.testing.assert_array_equal(shown[1], images[1])
  np.testing.assert_allclose(shown[2], np.full((5, 4, 2), 0.5), atol=1e-5)
  coefficients = transform(np.asarray(images[0]))
  coefficients[0, 3] = transform(np.full((5, 4, 2), 0.5))[0, 3]
  np.testing.assert_allclose(shown[0], transform(coefficients, is_back=True), atol=1e-5)

  wave = np.zeros((5, 4, 2))
  wave[3, 2] = 4.0
  weights = transform(wave, is_back=True)
  params = toys.linear_params(weights.ravel())
  signs = jnp.sign(images.reshape(3, -1) @ params["weights"][:, 0])
  order = jax_sis.backselect(toys.predict_linear, params, images * signs[:, None, None, None] * 5, features=every)
  assert order.rank[:, 3 * 4 + 2].tolist() == [0, 0, 0]
  subsets = jax_sis.smallest_subsets(
    toys.predict_linear, params, images * signs[:, None, None, None] * 5, features=every, threshold=0.9
  )
  assert set(map(tuple, np.argwhere(subsets.kept)[:, 1:])) == {(14,)}


def test_groups_of_a_basis_are_those_of_a_loop():
  images, params = toys.images_and_params(2, shape=(2, 3, 3))
  mixing = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
  to, back = jnp.asarray(mixing, jnp.float32), jnp.asarray(mixing.T, jnp.float32)
  basis = jax_sis.features.Basis(lambda image: image @ to, lambda found: found @ back, np.array([[[3, 1, 1]]]))
  order = jax_sis.backselect(toys.predict_tanh, params, images, search=jax_sis.Exact(), features=basis, baseline=0.25)
  model = toys.make_reference("tanh", jax.tree.map(np.asarray, params))
  groups = np.array([1, 0, 0])
  for number, image in enumerate(np.asarray(images, float)):
    target = int(model.logits(image).argmax())

    def probability(kept: set[int], image: np.ndarray = image, target: int = target) -> float:
      found = np.where(np.isin(groups, list(kept)), image @ mixing, np.full((2, 3, 3), 0.25) @ mixing)
      return reference.probability_of(model.logits(found @ mixing.T), target)

    alone = [probability({0}), probability({1})]
    assert int(order.rank[number].argmin()) == int(np.argmax(alone))
    np.testing.assert_allclose(
      order.confidence[number], [probability(set()), max(alone), probability({0, 1})], rtol=2e-5
    )
  subsets = jax_sis.keep_fraction(order, 0.5)
  assert subsets.apply(images).shape == images.shape
  with pytest.raises(ValueError, match=r"^found must be of features that are pixels, got basis"):
    jax_sis.show(images, subsets)
  with pytest.raises(ValueError, match="got those of a Basis, which are functions"):
    jax_sis.save("found.npz", subsets)


def half(image: Any) -> Any:
  return image / 2


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
  ("features", "message"),
  [
    (LABELS.astype(float), "features must be whole numbers, the label of each pixel, got float64"),
    (LABELS[:, :2], r"features must have a label for each pixel of the inputs \[3, 4, 3, 2\], that is shape \[4, 3\]"),
    (LABELS[:2], r"or \[3, 4, 3\] with a map an image, got \[2, 4, 3\]"),
    (LABELS - 1, "features must be numbers of at least 0, got -1"),
    (np.ones((4, 3), int), "features must hold at least two labels, got one: there is nothing to choose"),
    (np.where(np.arange(3)[:, None, None] == 1, 5, LABELS), "at least two labels, got one in image 1"),
    ("superpixels", "features must be an array of whole numbers.* got str"),
    (jax_sis.features.LabelMap(labels=jnp.zeros((3, 4, 3, 1), jnp.int32), num_features=13), "number of pixels, 12"),
    (jax_sis.features.LabelMap(labels=jnp.full((3, 4, 3, 1), 2), num_features=2), r"must lie in 0\.\.1, got 2 to 2"),
    (jax_sis.features.LabelMap(labels=jnp.zeros((2, 4, 3, 1), jnp.int32), num_features=2), "must be of the inputs"),
    (jax_sis.features.Dct(bands=9), "Dct.bands must be 2 to 4 for images of 4x3, got 9"),
    (jax_sis.features.Basis(half, half, np.arange(2)), r"coefficients, \[4, 3, 2\].* got \[2\]"),
    (jax_sis.features.Basis(half, half, np.arange(2).reshape(1, 1, 2)), "features must give an image back"),
    (jax_sis.features.Basis(float, half, np.arange(2)), "to coefficients and back, but raised"),
  ],
)
def test_other_features_are_refused(toy: tuple[Any, Any], features: Any, message: str):
  images, params = toy
  with pytest.raises(ValueError, match=message):
    jax_sis.backselect(toys.predict_tanh, params, images, features=features)


def test_a_grid_and_features_are_refused(toy: tuple[Any, Any]):
  images, params = toy
  with pytest.raises(ValueError, match=r"^grid and features must not both be given, got grid \(2, 3, 1\)"):
    jax_sis.backselect(toys.predict_tanh, params, images, grid=(2, 3, 1), features=LABELS)
  with pytest.raises(ValueError, match=r"^Basis.group_map must hold at least two groups"):
    jax_sis.features.Basis(half, half, np.zeros(3, int))


def test_superpixels_follow_colours_and_have_a_map_each():
  pytest.importorskip("skimage")
  images = np.zeros((2, 24, 24, 3), np.uint8)
  images[0, :, 12:] = [250, 40, 20]
  images[1, 10:] = [20, 40, 250]
  labels = jax_sis.features.superpixels(images, 8)
  assert labels.shape == (2, 24, 24)
  assert set(np.unique(labels[0, :, :11])) & set(np.unique(labels[0, :, 13:])) == set()
  assert set(np.unique(labels[1, :9])) & set(np.unique(labels[1, 11:])) == set()
  with pytest.raises(ValueError, match="give them before they are normalised"):
    jax_sis.features.superpixels(images - 3.0)
  with pytest.raises(ValueError, match=r"num_segments must be 2 to 144, four pixels a segment, got 500"):
    jax_sis.features.superpixels(images, 500)
