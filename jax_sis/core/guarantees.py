"""Certificates on draws that no search had: how often a subset keeps its class, whatever else the image shows."""

import dataclasses
import enum
import functools
import hashlib
import html
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int8

from jax_sis.core import bounds, validation
from jax_sis.core.batch import PerImage
from jax_sis.core.completions import Images, Mixture, Reveal, check_part
from jax_sis.core.drawing import Purpose
from jax_sis.core.order import FeatureOrder
from jax_sis.core.problem import Problem
from jax_sis.core.subsets import Status, Subsets
from jax_sis.core.unseen import Draws, draw

Bound = Literal["rate", "confidence", "both"]
# Data of a key, by its length, and what made it.
KEY_KINDS = {2: "threefry2x32", 4: "rbg"}


class Verdict(enum.IntEnum):
  """What a certificate says of an image.

  CERTIFIED: the draws bear out what is claimed.
  NOT_CERTIFIED: they do not.
  NOT_SEARCHED: there is no subset of which anything could be claimed.

  Examples:
    >>> import jax_sis
    >>> [verdict.name for verdict in jax_sis.Verdict]
    ['CERTIFIED', 'NOT_CERTIFIED', 'NOT_SEARCHED']
  """

  CERTIFIED = 0
  NOT_CERTIFIED = 1
  NOT_SEARCHED = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
  """What is to be certified, fixed before the draws are seen.

  Attributes:
    rate: the share of draws on which the class is kept, at least.
    level: the probability with which the claim about an image holds.
    num_draws: on how many draws it is judged.
    bound: what is bounded from below: the rate; the mean probability of the target, which is to reach the threshold of
      the subset; or both, at half the error each.
    inequality: which bound of the mean.
  """

  rate: float = 0.9
  level: float = 0.95
  num_draws: int = 500
  bound: Bound = "rate"
  inequality: bounds.Inequality = "bernstein"

  def __post_init__(self) -> None:
    validation.check_threshold(self.rate, "rate")
    validation.check_threshold(self.level, "level")
    validation.check_positive_integer("num_draws", self.num_draws)
    validation.require_one_of("bound", self.bound, ("rate", "confidence", "both"))
    validation.require_one_of("inequality", self.inequality, ("bernstein", "hoeffding"))
    if self.level < 0.5:
      raise ValueError(f"level must be at least 0.5, got {self.level!r}.")
    needed = 2 if self.bound == "confidence" else bounds.needed_draws(rate=self.rate, level=self.level_of_each)
    if self.num_draws < needed:
      raise ValueError(
        f"num_draws must be at least {needed} for a rate of {self.rate:g} at level {self.level:g}, which fewer cannot "
        f"certify even if the class is kept on all of them, got {self.num_draws}."
      )

  @property
  def level_of_each(self) -> float:
    """The level of each bound."""
    return (1 + self.level) / 2 if self.bound == "both" else self.level


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Guarantee(PerImage):
  """What draws that no search had say of each subset. The claim is about the completion that they are drawn from.

  Attributes:
    rate: the share of draws on which the target is predicted with the subset kept; NaN without a subset. Of a
      contrastive subset, on which another class is with the draw in its place; of both, on which both hold.
    rate_bound: its lower bound (Clopper and Pearson); NaN where it was not asked for.
    confidence: the mean probability of the target over the draws.
    confidence_bound: its lower bound; NaN where it was not asked for.
    num_judged: the number of features kept in what was judged. Where no size of an order was certified, the largest
      that was tested: what it reaches is the best there is.
    p_value: the smallest error at which the claim can be made; NaN without a subset.
    verdict: see Verdict.
    claimed_rate: the rate claimed.
    level: at which each image's claim holds; an image's own. `certified_together` is for all of them.
    num_draws: of each image.
    bound: what is bounded from below.
    inequality: which bound of the mean.
    correction: of many claims at once: "holm", or "bonferroni" where the draws chose the size.

  Examples:
    One feature is enough where zeros stand for the other, but noise in its place takes the class away too often:

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> weights, inputs = jnp.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), jnp.ones((1, 3))
    >>> subsets = jax_sis.sufficient_subsets(jax_sis.backselect(predict_fn, weights, inputs), 0.9)
    >>> noise = jax_sis.completions.Noise(scale=2.0)
    >>> guarantee = jax_sis.certify(predict_fn, weights, inputs, subsets, completion=noise)
    >>> subsets.num_kept.tolist(), guarantee.is_certified.tolist()
    ([1], [False])
  """

  rate: Float[Array, "B"]
  rate_bound: Float[Array, "B"]
  confidence: Float[Array, "B"]
  confidence_bound: Float[Array, "B"]
  num_judged: Int[Array, "B"]
  p_value: Float[Array, "B"]
  verdict: Int8[Array, "B"]
  claimed_rate: float = dataclasses.field(metadata={"static": True})
  level: float = dataclasses.field(metadata={"static": True})
  num_draws: int = dataclasses.field(metadata={"static": True})
  bound: Bound = dataclasses.field(metadata={"static": True})
  inequality: bounds.Inequality = dataclasses.field(metadata={"static": True})
  correction: bounds.Correction = dataclasses.field(default="holm", metadata={"static": True})

  @property
  def is_certified(self) -> Bool[Array, "B"]:
    """Whether the claim can be made, for each image on its own."""
    return self.verdict == Verdict.CERTIFIED

  def certified_together(self, level: float | None = None) -> Bool[np.ndarray, "B"]:
    """Of which of these images the claim can be made where all that is claimed must hold at once.

    Args:
      level: of all together; by default that of each.
    """
    together = bounds.hold_together(
      np.asarray(self.p_value), self.level if level is None else level, correction=self.correction
    )
    return together & np.asarray(self.is_certified)

  def describe(self, index: int) -> str:
    """The certificate of one image in a few words, such as `certified: rate 0.954, at least 0.935`."""
    verdict = Verdict(int(self.verdict[index]))
    words = verdict.name.lower().replace("_", " ")
    if verdict == Verdict.NOT_SEARCHED:
      return words
    parts = []
    for name, value, bound in (
      ("rate", self.rate, self.rate_bound),
      ("mean probability", self.confidence, self.confidence_bound),
    ):
      lower = float(bound[index])
      parts.append(f"{name} {float(value[index]):.3f}" + (f", at least {lower:.3f}" if not math.isnan(lower) else ""))
    return f"{words}: {'; '.join(parts)}"

  def _describe(self) -> str:
    counts = [int((np.asarray(self.verdict) == verdict).sum()) for verdict in Verdict]
    words = [verdict.name.lower().replace("_", " ") for verdict in Verdict]
    found = ", ".join(f"{count} {word}" for count, word in zip(counts, words, strict=True))
    claims = {"rate": [f"class kept on {self.claimed_rate:g} of draws"], "confidence": ["mean probability"]}
    claims["both"] = [*claims["rate"], *claims["confidence"]]
    together = int(self.certified_together().sum())
    asked = f"{self.num_draws} draws each, {' and '.join(claims[self.bound])}, level {self.level:g}"
    return f"{self._count()}, {asked}: {found}; {together} if all must hold at once ({self.correction.title()})"

  def _make_table(self) -> tuple[Sequence[str], list[list[str]]]:
    rows = [[str(i), str(int(self.num_judged[i])), html.escape(self.describe(i))] for i in range(len(self))]
    return ("image", "features kept", "certificate on unseen draws"), rows


@functools.partial(jax.jit, static_argnames="claim")
def certify_on_draws(problem: Problem, subsets: Subsets, *, claim: Claim) -> Guarantee:
  """`certify` on a distribution, on checked arguments."""
  draws = draw(problem, subsets.kept, claim.num_draws, purpose=Purpose.TEST)
  return judge_draws(draws, subsets, claim)


def judge_draws(draws: Draws, subsets: Subsets, claim: Claim) -> Guarantee:
  """What the draws say of the claim about each subset."""
  num_draws, level = claim.num_draws, claim.level_of_each
  num_kept = draws.keeps_class.sum(1, dtype=jnp.int32)
  mean, variance = draws.confidence.mean(1), draws.confidence.var(1, ddof=1)
  rate_p_values = bounds.as_table(bounds.binomial_p_values(num_draws, claim.rate), towards=2)[num_kept]
  mean_p_values = bounds.mean_p_values(
    mean, variance, num_draws, at_least=subsets.threshold, inequality=claim.inequality
  )
  rate_bound = bounds.as_table(bounds.clopper_pearson(num_draws, level), towards=-1)[num_kept]
  confidence_bound = bounds.bound_mean(mean, variance, num_draws, level=level, inequality=claim.inequality)
  unknown = jnp.full_like(mean, jnp.nan)
  if claim.bound == "rate":
    p_value, confidence_bound = rate_p_values, unknown
  elif claim.bound == "confidence":
    p_value, rate_bound = mean_p_values, unknown
  else:
    p_value = jnp.minimum(2 * jnp.maximum(rate_p_values, mean_p_values), 1)
  is_ok = subsets.status == Status.OK
  return make_guarantee(
    claim,
    is_judged=is_ok,
    is_certified=p_value <= 1 - claim.level,
    rate=num_kept / num_draws,
    rate_bound=rate_bound,
    confidence=mean,
    confidence_bound=confidence_bound,
    num_judged=jnp.where(is_ok, subsets.kept.sum(1, dtype=jnp.int32), 0),
    p_value=p_value,
  )


def make_guarantee(
  claim: Claim,
  *,
  is_judged: Bool[Array, "B"],
  is_certified: Bool[Array, "B"],
  num_judged: Int[Array, "B"],
  correction: bounds.Correction = "holm",
  **numbers: Float[Array, "B"],
) -> Guarantee:
  """A certificate, which says nothing of images that were not judged."""
  verdict = jnp.where(is_certified, Verdict.CERTIFIED, Verdict.NOT_CERTIFIED)
  known: Any = {name: jnp.where(is_judged, values, jnp.nan) for name, values in numbers.items()}
  return Guarantee(
    **known,
    num_judged=num_judged,
    verdict=jnp.where(is_judged, verdict, Verdict.NOT_SEARCHED).astype(jnp.int8),
    claimed_rate=claim.rate,
    level=claim.level,
    num_draws=claim.num_draws,
    bound=claim.bound,
    inequality=claim.inequality,
    correction=correction,
  )


def check_threshold_of(subsets: Subsets, claim: Claim) -> None:
  """Raises ValueError where a mean probability is to reach the threshold of subsets that have none, or is not all."""
  if claim.bound != "rate" and subsets.question is not None:
    raise ValueError(
      f'bound must be "rate" for subsets of question="{subsets.question.kind}", where two classes are compared, '
      f"got {claim.bound!r}."
    )
  if claim.bound == "rate" or not validation.is_concrete(subsets.threshold):
    return
  if bool(jnp.isnan(subsets.threshold).any()):
    raise ValueError(
      f'subsets must have a threshold for bound="{claim.bound}", which the mean probability is claimed to reach, got '
      'subsets of a given size; use bound="rate", or sufficient_subsets(order, threshold).'
    )


def stored_keys(found: FeatureOrder | Subsets, keys: Any) -> Any:
  """The keys that were given, or where none were, those of the search that found the subsets, if it had any.

  Certificates draw for a purpose of their own, so that the same keys make draws that no search had.
  """
  if keys is not None or found.keys is None:
    return keys
  return jax.random.wrap_key_data(found.keys, impl=KEY_KINDS[found.keys.shape[-1]])


def list_pools(completion: Any) -> Iterator[Any]:
  """The pools of images that a completion draws from."""
  if isinstance(completion, Images):
    yield completion.pool
  parts = completion.parts if isinstance(completion, Mixture) else ()
  for part in (completion.other,) if isinstance(completion, Reveal) else parts:
    yield from list_pools(part)


def check_completion_given(found: FeatureOrder | Subsets, completion: Any, name: str) -> None:
  """Raises ValueError where a constant would be taken for the distribution of the search."""
  if found.keys is not None and completion is None:
    raise ValueError(
      f"completion must be given for {name} that were found under a distribution, of which one look at their baseline "
      "says nothing; give one to draw from, as completions.Images(pool) of images that the search did not have."
    )


def check_held_out(
  completion: Any, searched: Any, inputs: Float[Array, "B ..."], found: FeatureOrder | Subsets, name: str
) -> None:
  """Raises ValueError unless the images of a completion are known to be none of those that the search drew.

  Where pools are traced, their images cannot be compared.
  """
  pools = list(list_pools(completion))
  if searched is None:
    if pools and found.keys is not None:
      raise ValueError(
        f"searched must be given, the completion of the search that found the {name}, so that the images of its pool "
        "and those of this one can be compared; none may be in both."
      )
    return
  seen = list(list_pools(check_part("searched", searched, inputs)))
  if not validation.is_concrete(pools, seen):
    return
  own, others = (set().union(*(digest_images(pool, inputs) for pool in some)) for some in (pools, seen))
  if own & others:
    raise ValueError(
      f"completion must draw from images that the search did not draw from, but {len(own & others)} of its {len(own)} "
      "images are in the pool of searched; divide the images into one part for the search and one for the certificate."
    )


def digest_images(pool: Any, inputs: Float[Array, "B ..."]) -> set[bytes]:
  """A number for each image of a pool, of its content in the inputs' dtype."""
  images = np.asarray(pool) if hasattr(pool, "shape") else pool
  return {hashlib.blake2b(np.asarray(image, inputs.dtype).tobytes(), digest_size=16).digest() for image in images}
