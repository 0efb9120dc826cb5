"""What `jax-sis clusters` finds: of a class, of each cluster in it, and of what a cluster's region does."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from jax_sis.statistics.estimates import Estimate, difference_of, mean_of, share_of

# How often a region of a run without any shortcut may be taken for one, over all its clusters.
FALSE_ALARMS = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Effect:
  """What a region does where it is masked or pasted, beside the same shape elsewhere in the same images.

  Attributes:
    turned: images whose predicted class changes: to another one where the region is masked, to that of the image that
      it comes from where it is pasted.
    elsewhere: the same of the region moved by chance.
    difference: the first less the second.
    log_odds: by how much more it moves the log-odds of that class, in that direction.
    p_value: how likely at least so many more turn where neither turns more than the other (McNemar's exact test).
  """

  turned: Estimate
  elsewhere: Estimate
  difference: Estimate
  log_odds: Estimate
  p_value: float


def compare(
  turned: Bool[np.ndarray, "N"], elsewhere: Bool[np.ndarray, "N"], log_odds: Float[np.ndarray, "N"], *, seed: int
) -> Effect:
  """The effect on N images, see Effect."""
  num_more, num_fewer = int((turned & ~elsewhere).sum()), int((elsewhere & ~turned).sum())
  return Effect(
    turned=share_of(turned),
    elsewhere=share_of(elsewhere),
    difference=difference_of(turned, elsewhere, seed=seed),
    log_odds=mean_of(log_odds, seed=seed),
    p_value=float(stats.binom.sf(num_more - 1, num_more + num_fewer, 0.5)),
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
  """Images whose subsets lie alike.

  Attributes:
    num_images: how many.
    share: of the images of the class that were clustered.
    accuracy: how often the predicted class is the true one, where that is known.
    size: the mean number of features that suffice, where the run has it.
    mean_map: the share of the images whose subset keeps each feature `[h][w]`.
    region: the features that most of them keep, numbered by rows.
    nearest: the ids of the images whose subsets are most like the mean.
    masked: of the region in its own images; None where there are none that can be asked.
    pasted: of the region, from images of the cluster, in images of other classes; None likewise.
  """

  num_images: int
  share: float
  accuracy: Estimate
  size: Estimate
  mean_map: tuple[tuple[float, ...], ...]
  region: tuple[int, ...]
  nearest: tuple[str, ...]
  masked: Effect | None
  pasted: Effect | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassClusters:
  """The clusters of the images that are predicted as one class, the largest first.

  Attributes:
    name: of the class.
    num_images: how many are predicted as it and have a subset.
    reason: why they were not clustered; empty where they were.
    eigenvalues: the smallest ones of the graph's Laplacian.
    clusters: what was found.
    ids: the images that were clustered.
    numbers: the cluster of each, from 0.
    typicality: how like the mean of its cluster each one's subset is, as a cosine.
  """

  name: str
  num_images: int
  reason: str = ""
  eigenvalues: tuple[float, ...] = ()
  clusters: tuple[Cluster, ...] = ()
  ids: tuple[str, ...] = ()
  numbers: tuple[int, ...] = ()
  typicality: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranked:
  """A cluster's place in the list of what to look at first.

  Attributes:
    name: of its class.
    number: of the cluster, from 0.
    cluster: what is known of it.
    is_beyond_chance: whether pasting its region turns more images than elsewhere, all clusters taken together.
  """

  name: str
  number: int
  cluster: Cluster
  is_beyond_chance: bool


def rank_clusters(found: Sequence[ClassClusters]) -> list[Ranked]:
  """All clusters, first the one whose region turns most images of other classes beyond what it does elsewhere."""
  every = [(one.name, number, cluster) for one in found for number, cluster in enumerate(one.clusters)]
  num_asked = sum(cluster.pasted is not None for _, _, cluster in every)
  ranked = [
    Ranked(
      name=name,
      number=number,
      cluster=cluster,
      is_beyond_chance=cluster.pasted is not None and cluster.pasted.p_value < FALSE_ALARMS / num_asked,
    )
    for name, number, cluster in every
  ]
  return sorted(ranked, key=lambda one: -pasted_difference(one.cluster))


def pasted_difference(cluster: Cluster) -> float:
  if cluster.pasted is None or cluster.pasted.difference.value is None:
    return -1.0
  return cluster.pasted.difference.value
