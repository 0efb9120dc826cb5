"""How an attribution gives each feature its score: methods that `attribute` takes.

Each looks at the classifier through the mask, so that a feature means all its elements together, and its absence the
baseline. The docstrings say where a method differs from its source.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jax_sis.core import messages, validation
from jax_sis.core.chunks import COPIES_ALONE_ON_CPU, check_chunk_size, settle_chunk_size
from jax_sis.core.curves import chunk_numbers, join_chunks
from jax_sis.core.problem import Problem
from jax_sis.core.scores import at_least_float32, predict_logits
from jax_sis.core.trials import differentiate_score
from jax_sis.core.types import Params
from jax_sis.core.validation import check_positive_integer

# (params, inputs [B, *axes, C]) -> feature maps [B, *axes, D], of any resolution.
FeaturesFn = Callable[[Params, Array], Float[Array, "B ..."]]
# (params, feature maps) -> logits.
HeadFn = Callable[[Params, Array], Float[Array, "B K"]]


def filled_mask(problem: Problem, value: Float[Array, ""] | float) -> Float[Array, "B F"]:
  """A mask of the same value everywhere."""
  return jnp.full_like(problem.available, value, jnp.result_type(float))


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientTimesInput:
  """The score's gradient times the input's distance from the baseline, summed over a feature's elements.

  That is the gradient with respect to the mask, at the whole input: what a first step of `Gradient` ranks by. With a
  baseline of 0 it is gradient times input (Shrikumar et al. 2016, arXiv 1605.01713, section 2), there of a class's
  logit.

  Examples:
    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> weights, inputs = jnp.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), jnp.array([[1.0, 2.0, -1.0]])
    >>> jax_sis.attribute(predict_fn, weights, inputs, method=jax_sis.GradientTimesInput()).round(2).tolist()
    [[3.0, 2.0, -2.0]]
  """

  def score_features(self, problem: Problem, image_ids: Int[Array, "B"]) -> Float[Array, "B F"]:
    """One gradient."""
    _, gradient = differentiate_score(problem, filled_mask(problem, 1.0))
    return gradient


@dataclasses.dataclass(frozen=True, kw_only=True)
class IntegratedGradients:
  """The mean gradient on the straight line from the baseline to the input, times their distance.

  Sundararajan et al. 2017 (arXiv 1703.01365), section 3 and equation 1, by the midpoint rule; there of the
  probability. The attributions of an image add up to the difference of its score and the baseline's (section 3,
  proposition 1), as nearly as `num_steps` allow.

  Attributes:
    num_steps: gradients an image. The source finds 20 to 300 enough (section 5).

  Examples:
    Either feature saturates this classifier, so that its gradient at the input is 0; the mean on the way is not:

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(params, inputs):
    ...   logit = 4 * jnp.minimum(inputs.sum(1), 1)
    ...   return jnp.stack([logit, jnp.zeros_like(logit)], axis=1)
    >>> methods = jax_sis.GradientTimesInput(), jax_sis.IntegratedGradients()
    >>> [jax_sis.attribute(predict_fn, (), jnp.ones((1, 2)), method=one).round(2).tolist() for one in methods]
    [[[0.0, 0.0]], [[2.0, 2.0]]]
  """

  num_steps: int = 64

  def __post_init__(self) -> None:
    check_positive_integer("IntegratedGradients.num_steps", self.num_steps)

  def score_features(self, problem: Problem, image_ids: Int[Array, "B"]) -> Float[Array, "B F"]:
    """One gradient a step, the whole batch at a time."""

    def add_gradient(total: Float[Array, "B F"], share: Float[Array, ""]) -> tuple[Float[Array, "B F"], None]:
      _, gradient = differentiate_score(problem, filled_mask(problem, share))
      return total + gradient, None

    start = filled_mask(problem, 0.0)
    shares = jnp.asarray((np.arange(self.num_steps) + 0.5) / self.num_steps, start.dtype)
    total, _ = jax.lax.scan(add_gradient, start, shares)
    return total / self.num_steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Occlusion:
  """What the score loses when a window around the feature is masked, and nothing else.

  Zeiler and Fergus 2014 (arXiv 1311.2901), section 4.2, there of the probability under a grey square. One window for
  every feature, centred on it and cut off at the borders.

  Attributes:
    window: features a side, along every axis of the grid; odd. 1 masks the feature alone.
    chunk_size: masked copies at a time, over all images of the batch together; it bounds the memory. By default
      what suits the platform.

  Examples:
    A window of three masks a feature with its neighbours:

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> weights, method = jnp.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), jax_sis.Occlusion(window=3)
    >>> jax_sis.attribute(predict_fn, weights, jnp.ones((1, 3)), method=method).round(2).tolist()
    [[4.0, 6.0, 3.0]]
  """

  window: int = 1
  chunk_size: int | None = None

  def __post_init__(self) -> None:
    check_positive_integer("Occlusion.window", self.window)
    if self.window % 2 == 0:
      raise ValueError(f"Occlusion.window must be odd, so that it has a centre, got {self.window}.")
    check_chunk_size("Occlusion.chunk_size", self.chunk_size)

  def score_features(self, problem: Problem, image_ids: Int[Array, "B"]) -> Float[Array, "B F"]:
    """One forward pass a feature, and one for the whole input."""
    num_images, num_features = problem.num_images, problem.num_features
    places = jnp.asarray(np.indices(problem.grid).reshape(len(problem.grid), -1), jnp.int32)

    def score_chunk(numbers: Int[Array, "P"]) -> Float[Array, "B P"]:
      centres = places[:, jnp.minimum(numbers, num_features - 1)]
      is_covered = (jnp.abs(centres[:, :, None] - places[:, None]) <= self.window // 2).all(0)
      masks = (~is_covered).astype(jnp.result_type(float))
      return problem.score_masks(jnp.broadcast_to(masks[None], (num_images, *masks.shape)))

    chunk_size = settle_chunk_size(self.chunk_size, problem.inputs, on_cpu=COPIES_ALONE_ON_CPU)
    scores = jax.lax.map(score_chunk, chunk_numbers(num_features, num_images, chunk_size))
    whole = problem.score_masks(filled_mask(problem, 1.0)[:, None])
    return whole - join_chunks(scores, num_features)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rise:
  """The mean score under random masks that show the feature, weighted by how much of it they show.

  Petsiuk et al. 2018 (arXiv 1806.07421), section 3: masks of few cells, each shown or not at random, made as large as
  the grid by bilinear interpolation and shifted by a random part of a cell. There of the probability (pass
  `score="probability"` to `attribute`). The sum is divided by that of the feature's own masks and not by their
  expectation: the same but for chance, and then a number added to all scores does not change the order.

  Attributes:
    num_masks: forward passes an image. The source takes 4,000 to 8,000 for 224x224 pixels in 7x7 cells.
    num_cells: cells along each axis of the grid; as many as the axis is long where it is shorter.
    keep_probability: of a cell.
    seed: of the masks; see `image_ids` of `attribute`.
    chunk_size: masked copies at a time, over all images of the batch together; it bounds the memory. By default
      what suits the platform.

  Examples:
    Only the first feature counts, and has the largest score, with 500 random masks:

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> weights, method = jnp.array([[9.0, 0.0], [0.0, 0.0], [0.0, 0.0]]), jax_sis.Rise(num_masks=500)
    >>> scores = jax_sis.attribute(predict_fn, weights, jnp.ones((1, 3)), method=method)
    >>> int(scores[0].argmax())
    0
  """

  num_masks: int = 4000
  num_cells: int = 7
  keep_probability: float = 0.5
  seed: int = 0
  chunk_size: int | None = None

  def __post_init__(self) -> None:
    check_positive_integer("Rise.num_masks", self.num_masks)
    check_positive_integer("Rise.num_cells", self.num_cells)
    validation.check_threshold(self.keep_probability, "Rise.keep_probability")
    check_chunk_size("Rise.chunk_size", self.chunk_size)
    if not isinstance(self.seed, int) or not 0 <= self.seed < 2**31:
      raise ValueError(f"Rise.seed must be an integer from 0 to 2**31 - 1, got {self.seed!r}.")

  def score_features(self, problem: Problem, image_ids: Int[Array, "B"]) -> Float[Array, "B F"]:
    """One forward pass a mask; no mask is kept."""
    key = jax.random.key(self.seed)
    image_keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, image_ids)
    draw_fn = functools.partial(self.draw_mask, grid=problem.grid)

    def add_chunk(
      sums: tuple[Array, Array, Array], numbers: Int[Array, "P"]
    ) -> tuple[tuple[Array, Array, Array], None]:
      masks = jax.vmap(jax.vmap(draw_fn, in_axes=(None, 0)), in_axes=(0, None))(image_keys, numbers)
      is_counted = (numbers < self.num_masks)[None]
      scores = jnp.where(is_counted, problem.score_masks(masks).astype(masks.dtype), 0)
      masks = jnp.where(is_counted[..., None], masks, 0)
      weighted = jnp.einsum("bp,bpf->bf", scores, masks, precision="highest")
      return (sums[0] + weighted, sums[1] + masks.sum(1), sums[2] + scores.sum(1)), None

    zeros = filled_mask(problem, 0.0)
    chunk_size = settle_chunk_size(self.chunk_size, problem.inputs, on_cpu=COPIES_ALONE_ON_CPU)
    chunks = chunk_numbers(self.num_masks, zeros.shape[0], chunk_size)
    (weighted, shown, total), _ = jax.lax.scan(add_chunk, (zeros, zeros, zeros[:, 0]), chunks)
    # A feature that no mask shows is said to be like the mean of them all.
    mean = jnp.broadcast_to(total[:, None] / self.num_masks, shown.shape)
    return jnp.where(shown > 0, weighted / jnp.where(shown > 0, shown, 1), mean)

  def draw_mask(self, image_key: Array, number: Int[Array, ""], *, grid: tuple[int, ...]) -> Float[Array, "F"]:
    """Mask `number` of an image."""
    cells_key, shift_key = jax.random.split(jax.random.fold_in(image_key, number))
    num_cells = tuple(min(self.num_cells, size) for size in grid)
    lengths = tuple(-(-size // count) for size, count in zip(grid, num_cells, strict=True))
    mask = jax.random.bernoulli(cells_key, self.keep_probability, num_cells).astype(jnp.result_type(float))
    shifts = jax.random.randint(shift_key, (len(grid),), 0, jnp.asarray(lengths, jnp.int32))
    for axis, (size, count, length) in enumerate(zip(grid, num_cells, lengths, strict=True)):
      weights = interpolation_weights(size, count, (count + 1) * length, shifts[axis], mask.dtype)
      mask = jnp.moveaxis(jnp.tensordot(weights, mask, ((1,), (axis,)), precision="highest"), 0, axis)
    return mask.reshape(-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradCam:
  """The last feature maps, each weighted by the mean gradient of the score with respect to it.

  Selvaraju et al. 2017 (arXiv 1610.02391), section 3, there of a class's logit; made as large as the grid by linear
  interpolation, and the same for all channels. The source's last step, in which all that counts against the class
  becomes 0, is left out: it would leave the order of those features to ties. The baseline plays no part.

  `classifiers.split` gives the two functions of our architectures.

  Attributes:
    features_fn: `(params, inputs) -> feature maps [B, ..., D]`, with as many axes as the inputs.
    head_fn: `(params, feature maps) -> logits [B, K]`, so that both together are the classifier.

  Examples:
    Two halves of a network, whose feature maps are the positive part of the image:

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def features_fn(params, images):
    ...   return jnp.maximum(images, 0)
    >>> def head_fn(params, maps):
    ...   return maps.mean((1, 2)) @ params
    >>> def predict_fn(params, images):
    ...   return head_fn(params, features_fn(params, images))
    >>> images, params = jnp.array([[1.0, -1.0], [-1.0, 2.0]]).reshape(1, 2, 2, 1), jnp.array([[8.0, 0.0]])
    >>> method = jax_sis.GradCam(features_fn=features_fn, head_fn=head_fn)
    >>> jax_sis.attribute(predict_fn, params, images, method=method).round(2).tolist()
    [[2.0, 0.0, 0.0, 4.0]]
  """

  features_fn: FeaturesFn
  head_fn: HeadFn

  def check(self, problem: Problem) -> None:
    """Raises ValueError unless the two functions fit the inputs and together are the classifier.

    Whether they are is looked at where values are concrete.
    """
    predict_fn, params, inputs = problem.predict_fn, problem.params, problem.inputs
    for name, function in (("features_fn", self.features_fn), ("head_fn", self.head_fn)):
      if not callable(function):
        raise ValueError(f"GradCam.{name} must be a function, got {type(function).__name__}.")
    features = self._trace("features_fn", self.features_fn, params, inputs)
    shape: Any = getattr(features, "shape", ())
    if inputs.ndim < 3 or len(shape) != inputs.ndim or shape[0] != inputs.shape[0]:
      raise ValueError(
        "GradCam.features_fn must return feature maps with the axes of the inputs, at least three, batch first and "
        f"channels last, got shape {shape} for inputs of shape {inputs.shape}."
      )
    both = Composition(self.features_fn, self.head_fn)
    expected = jax.eval_shape(predict_fn, params, inputs)
    composed = self._trace("head_fn", self.head_fn, params, features)
    if getattr(composed, "shape", None) != expected.shape:
      got = getattr(composed, "shape", type(composed).__name__)
      raise ValueError(f"GradCam.head_fn must return the classifier's logits, of shape {expected.shape}, got {got}.")
    if not validation.is_concrete(params, inputs):
      return
    logits, others = (
      np.asarray(predict_logits(function, params, inputs), np.float32) for function in (predict_fn, both)
    )
    finite = np.isfinite(logits).all(1) & np.isfinite(others).all(1)
    difference = np.abs(logits[finite] - others[finite]).max(initial=0.0)
    if difference > validation.INDEPENDENCE_TOLERANCE * np.abs(logits[finite]).max(initial=1.0):
      raise ValueError(
        f"GradCam's functions must together be predict_fn, but their logits differ by {difference:.3g}; "
        "pass both parts of the same classifier."
      )

  def _trace(self, name: str, function: Callable[..., Any], params: Any, inputs: Any) -> Any:
    """What a function returns, in shapes.

    Raises:
      ValueError: it fails.
    """
    try:
      return jax.eval_shape(function, params, inputs)
    except Exception as error:
      raise ValueError(
        f"GradCam.{name} must accept (params, {'inputs' if name == 'features_fn' else 'feature maps'}) of shape "
        f"{inputs.shape}, but raised {type(error).__name__}: {messages.first_line(error)}"
      ) from error

  def score_features(self, problem: Problem, image_ids: Int[Array, "B"]) -> Float[Array, "B F"]:
    """One forward pass, and a gradient of the head."""

    def total_score(features: Float[Array, "B ..."]) -> Float[Array, ""]:
      return problem.score_logits(self.head_fn(problem.params, features)[:, None]).sum()

    features = self.features_fn(problem.params, problem.inputs)
    gradient = jax.grad(total_score)(features)
    weights = at_least_float32(gradient).mean(tuple(range(1, features.ndim - 1)), keepdims=True)
    coarse = (weights * at_least_float32(features)).sum(-1)
    fine = jax.image.resize(coarse, (coarse.shape[0], *problem.grid[:-1]), "linear")
    return jnp.broadcast_to(fine[..., None], (fine.shape[0], *problem.grid)).reshape(fine.shape[0], -1)


AttributionMethod = GradientTimesInput | IntegratedGradients | Occlusion | Rise | GradCam


def interpolation_weights(
  size: int, num_cells: int, stretched: int, shift: Int[Array, ""], dtype: Any
) -> Float[Array, "size num_cells"]:
  """Linear interpolation of `num_cells` numbers to `stretched` ones, of which `size` from `shift` on are used."""
  # One division of whole numbers, so that a place on the centre of a cell takes nothing from its neighbours.
  numerators = (2 * (jnp.arange(size, dtype=shift.dtype) + shift) + 1) * num_cells
  places = jnp.clip(numerators.astype(dtype) / (2 * stretched) - 0.5, 0, num_cells - 1)
  return jnp.maximum(0, 1 - jnp.abs(places[:, None] - jnp.arange(num_cells, dtype=dtype)[None]))


@dataclasses.dataclass(frozen=True)
class Composition:
  """The classifier that features and a head make."""

  features_fn: FeaturesFn
  head_fn: HeadFn

  def __call__(self, params: Params, inputs: Float[Array, "B ..."]) -> Float[Array, "B K"]:
    """Normalised inputs -> logits."""
    return self.head_fn(params, self.features_fn(params, inputs))
