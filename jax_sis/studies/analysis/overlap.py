"""How much the subsets of two runs overlap, beside random subsets of the same sizes."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import scipy.special
from jaxtyping import Float, Int

from jax_sis.results.query import SubsetQuery
from jax_sis.results.store import Results
from jax_sis.statistics.estimates import Estimate, difference_of, mean_of
from jax_sis.studies.analysis.sizes import Columns

# Further from its mean than this, in standard deviations, the hypergeometric distribution is negligible.
NUM_DEVIATIONS = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Overlap:
  """How much the subsets of two runs overlap, on the images that have one in both.

  Attributes:
    first: a run.
    second: another.
    answer: the kind of subset.
    num_same_target: images of which both subsets are for the same class.
    observed: the mean over images of the features in both, divided by those in either.
    expected: its mean for random subsets of these sizes; None without an image.
    excess: observed minus expected.
  """

  first: str
  second: str
  answer: str
  num_same_target: int
  observed: Estimate
  expected: float | None
  excess: Estimate


def compare_subsets(
  first: str,
  second: str,
  query: SubsetQuery,
  stores: Mapping[str, Results],
  indices: Mapping[str, Int[np.ndarray, "N"]],
  columns: Mapping[str, Columns],
  *,
  seed: int,
) -> Overlap | str:
  """The overlap of two runs' subsets, or what is left out and why."""
  pair = (first, second)
  what = f"overlap of {query.kind} subsets of {first} and {second}"
  grids = [tuple(stores[label].spec["grid"]) for label in pair]
  if grids[0] != grids[1]:
    return f"{what}: their grids are {grids[0]} and {grids[1]}"
  for label in pair:
    if not stores[label].find_subsets(query).mask_fields:
      return f"{what}: {label} holds neither orders nor masks of these subsets"
  has_both = columns[first].has_subset(query) & columns[second].has_subset(query)
  chosen = np.flatnonzero(has_both)
  masks = (stores[label].iterate_masks(query, indices[label][chosen]) for label in pair)
  # Their grids are the same, so both give the same number of images at a time.
  observed = [(a & b).sum(1) / (a | b).sum(1) for a, b in zip(*masks, strict=True)]
  first_sizes, second_sizes = (columns[label].num_kept[query][chosen] for label in pair)
  overlap = np.concatenate([np.zeros(0), *observed])
  expected = expected_overlap(first_sizes, second_sizes, math.prod(grids[0]))
  return Overlap(
    first=first,
    second=second,
    answer=query.kind,
    num_same_target=int((columns[first].target == columns[second].target)[chosen].sum()),
    observed=mean_of(overlap, seed=seed),
    expected=float(np.mean(expected)) if len(expected) else None,
    excess=difference_of(overlap, expected, seed=seed),
  )


def expected_overlap(
  first: Int[np.ndarray, "N"], second: Int[np.ndarray, "N"], num_features: int
) -> Float[np.ndarray, "N"]:
  """The mean intersection over union of two independent random subsets of these sizes, all above 0."""
  pairs, inverse = np.unique(np.stack([first, second]), axis=1, return_inverse=True)
  values = np.array([mean_overlap(int(a), int(b), num_features) for a, b in pairs.T])
  return values[inverse.reshape(-1)] if len(values) else np.zeros(0)


def mean_overlap(first: int, second: int, num_features: int) -> float:
  """As `expected_overlap`, of one pair of sizes: the mean over the hypergeometric distribution of the intersection.

  SciPy's hypergeom.pmf takes a quarter of a second for one such mean on 224 x 224 features, and runs have thousands.
  """
  mean = first * second / num_features
  margin = NUM_DEVIATIONS * (math.sqrt(mean) + 1)
  low = max(0, first + second - num_features, math.floor(mean - margin))
  high = min(first, second, math.ceil(mean + margin))
  both = np.arange(low, high + 1)
  log_weights = (
    log_choose(first, both) + log_choose(num_features - first, second - both) - log_choose(num_features, second)
  )
  weights = np.exp(log_weights)
  return float((weights * both / (first + second - both)).sum() / weights.sum())


def log_choose(total: int, chosen: Int[np.ndarray, "M"] | int) -> Float[np.ndarray, "M"]:
  """The logarithm of the binomial coefficient."""
  return -scipy.special.betaln(total - chosen + 1, np.add(chosen, 1)) - np.log(total + 1)
