"""Can a sufficient subset be found for a class that the image does not show? Searches towards other classes.

Where a few pixels of nearly any image suffice for nearly any class, a small subset says little of what the image shows.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jax_sis.core import masking, validation
from jax_sis.core.problem import make_problem
from jax_sis.core.scores import predict_logits
from jax_sis.core.smallest import QUICK, run_smallest
from jax_sis.core.subsets import Status, Subsets
from jax_sis.core.types import PredictFn, Removal
from jax_sis.core.validation import check_positive_integer
from jax_sis.statistics.estimates import Estimate, paired_bootstrap, share_of
from jax_sis.studies.controls.config import ControlsConfig
from jax_sis.studies.controls.views import stable_hash

PREDICTED, SECOND, RANDOM = "predicted", "second", "random"
CLASS_TITLES = {
  PREDICTED: "the predicted class",
  SECOND: "the second most probable class",
  RANDOM: "a random class that is not predicted",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Towards:
  """What a search for the smallest evidence found for one class of each image.

  Attributes:
    target: the class.
    num_kept: features of the subset; 0 where there is none, or none is needed.
    confidence: softmax probability of the class on the subset alone; NaN where there is none.
    status: a subsets.Status for each image. NOT_REACHED: no subset of the largest size allowed.
  """

  target: Int[np.ndarray, "N"]
  num_kept: Int[np.ndarray, "N"]
  confidence: Float[np.ndarray, "N"]
  status: Int[np.ndarray, "N"]

  @property
  def is_found(self) -> Bool[np.ndarray, "N"]:
    """Whether there is a subset, even an empty one."""
    return (self.status == Status.OK) | (self.status == Status.BASELINE_SUFFICIENT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassSearch:
  """Looks for the smallest evidence of three classes of each image, by the same search with the same limit.

  That is the search of `find` at its quick setting: features are added one by one until the class is as probable as the
  threshold, then dropped and exchanged.

  Attributes:
    predict_fn: `(params, inputs) -> logits [B, K]`, see PredictFn.
    params: the model's arrays.
    inputs: normalised images.
    ids: a name for each image, on which the random class depends, beside the seed.
    threshold: the probability to reach.
    grid: the mask's shape; by default a feature a position.
    baseline: what masked features show.
    removal: how they are removed, as for `backselect`.
    max_features: the size at which a search gives up.
    seed: of the random classes.
    batch_size: images at a time.

  Raises:
    ValueError: an attribute does not fit the others.
  """

  predict_fn: PredictFn
  params: Any
  inputs: Float[np.ndarray, "N H W C"]
  ids: Sequence[str]
  threshold: float
  grid: tuple[int, ...] | None = None
  baseline: float = 0.0
  removal: Removal = "value"
  max_features: int = ControlsConfig.max_features
  seed: int = 0
  batch_size: int = 8

  def __post_init__(self) -> None:
    checked = validation.check_inputs(self.inputs)
    validation.check_predict_fn(self.predict_fn, self.params, checked[:1])
    validation.check_threshold(self.threshold)
    check_positive_integer("max_features", self.max_features)
    check_positive_integer("batch_size", self.batch_size)
    check_names(self.ids, len(self.inputs))

  def __call__(self, start: int) -> dict[str, Towards]:
    """What was found for the batch that begins with this image.

    Towards the class predicted on the whole image (`predicted`), the second most probable one (`second`), and one drawn
    from all that are not predicted (`random`).
    """
    count = min(self.batch_size, len(self.inputs) - start)
    # The last image fills the last batch up to the same shape.
    places = [min(place, len(self.inputs) - 1) for place in range(start, start + self.batch_size)]
    batch = jnp.asarray(self.inputs[places])
    grid = masking.check_grid(self.grid, self.inputs.shape[1:])
    search = dataclasses.replace(QUICK.forward, threshold=self.threshold, max_features=self.max_features)
    found = {}
    with jax.default_matmul_precision("highest"):
      logits = np.asarray(predict_logits(self.predict_fn, self.params, batch))
      for name, targets in choose_classes(logits, [self.ids[place] for place in places], seed=self.seed).items():
        problem = make_problem(
          self.predict_fn,
          self.params,
          batch,
          jnp.asarray(targets),
          baseline=self.baseline,
          grid=grid,
          score="log_odds",
          removal=self.removal,
        )
        found[name] = read_towards(run_smallest(problem, search=search, exchanges=QUICK.exchanges), count)
    return found


def check_names(ids: Sequence[str], num_images: int) -> None:
  """Raises ValueError unless there is a name for each image."""
  if len(ids) != num_images:
    raise ValueError(f"ids must name each of the {num_images} images, got {len(ids)}.")


def read_towards(subsets: Subsets, count: int) -> Towards:
  return Towards(
    target=np.asarray(subsets.target)[:count],
    num_kept=np.asarray(subsets.num_kept)[:count],
    confidence=np.asarray(subsets.confidence)[:count],
    status=np.asarray(subsets.status)[:count],
  )


def choose_classes(
  logits: Float[np.ndarray, "B K"], ids: Sequence[str], *, seed: int
) -> dict[str, Int[np.ndarray, "B"]]:
  """The three classes of each image, see `ClassSearch`."""
  num_classes = logits.shape[1]
  ordered = np.argsort(-logits, axis=1, kind="stable").astype(np.int32)
  generators = [np.random.default_rng((seed, stable_hash(name), stable_hash(RANDOM))) for name in ids]
  steps = np.array([generator.integers(1, num_classes) for generator in generators], np.int32)
  return {
    PREDICTED: ordered[:, 0],
    SECOND: ordered[:, 1],
    RANDOM: (ordered[:, 0] + steps) % np.int32(num_classes),
  }


@dataclasses.dataclass(frozen=True, kw_only=True)
class TowardsSummary:
  """What the searches towards one class say of all images.

  Attributes:
    name: `predicted`, `second` or `random`.
    found: images that have a subset of at most the largest size for that class.
    median_size: the median of their sizes; None where there is none.
    num_paired: images that have a subset for this class and for the predicted one.
    size_change: on these, the mean size less that for the predicted class; None without images.
  """

  name: str
  found: Estimate
  median_size: float | None
  num_paired: int
  size_change: Estimate | None


def summarise_classes(found: Mapping[str, Towards], *, level: float = 0.95) -> list[TowardsSummary]:
  """The sizes towards each class beside those towards the predicted one; `level` is that of all intervals."""
  reference = found[PREDICTED]
  summaries = []
  for name, towards in found.items():
    sizes = towards.num_kept[towards.is_found]
    both = towards.is_found & reference.is_found
    summaries.append(
      TowardsSummary(
        name=name,
        found=share_of(towards.is_found, level=level),
        median_size=float(np.median(sizes)) if len(sizes) else None,
        num_paired=int(both.sum()),
        size_change=paired_bootstrap(towards.num_kept[both], reference.num_kept[both], level=level)
        if both.any()
        else None,
      )
    )
  return summaries
