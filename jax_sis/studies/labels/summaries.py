"""How well label errors are found, what subset sizes add to that, and how both go with people's disagreement."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float, Int, Shaped

from jax_sis.statistics.auc import auc_difference, auc_of
from jax_sis.statistics.estimates import MIN_IMAGES, Estimate, mean_of, no_mean, rank_correlation, share_of
from jax_sis.statistics.logistic import predict_unseen
from jax_sis.studies.labels.confident import Confident
from jax_sis.studies.labels.sizes import RunSizes

NUM_FOLDS, NUM_REPEATS = 5, 10
TOO_FEW = f"fewer than {MIN_IMAGES} images of a kind"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Truth:
  """What is known of the labels of some images.

  Attributes:
    title: by whom.
    is_known: the images of which it is.
    is_wrong: those whose label is an error.
    log_odds: of each label in question, by the classifier.
    confident: what confident learning says of these labels.
  """

  title: str
  is_known: Bool[np.ndarray, "N"]
  is_wrong: Bool[np.ndarray, "N"]
  log_odds: Float[np.ndarray, "N"]
  confident: Confident


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
  """How well the errors of a truth are found.

  Attributes:
    title: of the truth.
    num_wrong: the errors.
    auc: of the label's probability: how often an error has a lower one than another image.
    precision: of the candidates of confident learning, those that are errors.
    recall: of the errors, those that are candidates.
  """

  title: str
  num_wrong: int
  auc: Estimate
  precision: Estimate
  recall: Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Added:
  """What the sizes of a run add to the probability of the label, on the images that have both.

  Attributes:
    title: of the truth.
    run: of the run.
    num_wrong: the errors among these images.
    num_without: images without a subset, whose size is that of the whole image.
    probability: the area under the curve of the label's probability.
    size: that of the size, the larger the likelier an error; below 1/2, the smaller.
    both: that of a logistic regression on the log-odds, their square, whether there is a subset, and the logarithm of
      its size, on unseen folds. Whether there is one says again how probable a class is.
    added: that minus a regression without the size, on the same folds.
  """

  title: str
  run: str
  num_wrong: int
  num_without: int
  probability: Estimate
  size: Estimate
  both: Estimate
  added: Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
  """How a number goes with the share of people who say another class than the label (Spearman's correlation).

  Attributes:
    title: of the number.
    correlation: with that share.
    beyond: with that share, of what the ranks of the label's probability leave of the ranks of both; None of that
      probability itself.
  """

  title: str
  correlation: Estimate
  beyond: Estimate | None


def judge_truth(truth: Truth) -> Found:
  """How well the classifier finds the errors of a truth."""
  is_wrong, is_candidate = truth.is_wrong[truth.is_known], truth.confident.is_candidate[truth.is_known]
  return Found(
    title=truth.title,
    num_wrong=int(is_wrong.sum()),
    auc=auc_of(-truth.log_odds[truth.is_known], is_wrong),
    precision=share_of(is_wrong[is_candidate]),
    recall=share_of(is_candidate[is_wrong]),
  )


def judge_sizes(truth: Truth, run: RunSizes, *, seed: int) -> Added:
  """What the sizes of a run add."""
  some = truth.is_known & run.is_known
  is_wrong, log_odds, size = truth.is_wrong[some], truth.log_odds[some], run.log_size[some]
  both = added = no_mean(TOO_FEW, int(some.sum()))
  if min(is_wrong.sum(), (~is_wrong).sum()) >= MIN_IMAGES:
    folds = {"num_folds": NUM_FOLDS, "num_repeats": NUM_REPEATS, "seed": seed}
    without_size = np.column_stack([log_odds, log_odds**2, run.has_subset[some]])
    alone = predict_unseen(without_size, is_wrong, **folds)
    together = predict_unseen(np.column_stack([without_size, size]), is_wrong, **folds)
    both, added = auc_of(together, is_wrong), auc_difference(together, alone, is_wrong)
  return Added(
    title=truth.title,
    run=run.title,
    num_wrong=int(is_wrong.sum()),
    num_without=int((~run.has_subset[some]).sum()),
    probability=auc_of(-log_odds, is_wrong),
    size=auc_of(size, is_wrong),
    both=both,
    added=added,
  )


def pair_differing(truths: Sequence[Truth], runs: Sequence[RunSizes]) -> list[tuple[Truth, RunSizes]]:
  """Each truth with each run, without those that say of a run's images what another truth has said."""
  pairs, said = [], set()
  for truth in truths:
    for run in runs:
      some = truth.is_known & run.is_known
      words = (run.title, some.tobytes(), truth.is_wrong[some].tobytes(), truth.log_odds[some].tobytes())
      if words not in said:
        said.add(words)
        pairs.append((truth, run))
  return pairs


def find_disagreement(counts: Float[np.ndarray, "N K"], labels: Int[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
  """The share of people who say another class than the label, of each image."""
  return 1 - counts[np.arange(len(labels)), labels] / counts.sum(1)


def find_outvoted(counts: Float[np.ndarray, "N K"], labels: Int[np.ndarray, "N"]) -> Bool[np.ndarray, "N"]:
  """Images of which more people say one other class than the label."""
  return counts.max(1) > counts[np.arange(len(labels)), labels]


def find_agreement(
  disagreement: Float[np.ndarray, "N"], log_odds: Float[np.ndarray, "N"], runs: list[RunSizes], *, seed: int
) -> list[Agreement]:
  """How the label's probability and the sizes of each run go with people's disagreement."""
  own = rank_correlation(log_odds, disagreement, seed=seed)
  found = [Agreement(title="p(label)", correlation=own, beyond=None)]
  for run in runs:
    some = run.is_known
    size, people, known = run.log_size[some], disagreement[some], log_odds[some]
    found.append(
      Agreement(
        title=f"size in {run.title}",
        correlation=rank_correlation(size, people, seed=seed),
        beyond=rank_correlation(leave(size, known), leave(people, known), seed=seed),
      )
    )
  return found


def leave(values: Shaped[np.ndarray, "N"], known: Shaped[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
  """What a line on the ranks of `known` leaves of the ranks of the values."""
  ranks, others = (scipy.stats.rankdata(one) - (len(one) + 1) / 2 for one in (values, known))
  scale = others @ others
  return ranks - (ranks @ others / scale if scale > 0 else 0.0) * others


def mean_disagreement(disagreement: Float[np.ndarray, "N"], *, seed: int) -> Estimate:
  return mean_of(disagreement, seed=seed)
