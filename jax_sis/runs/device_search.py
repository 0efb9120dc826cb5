"""What one device computes for its images: searches, subsets and certificates, as fields of the store."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt32

from jax_sis.core import masking
from jax_sis.core.backselect import run_backward
from jax_sis.core.certified import find_certified
from jax_sis.core.certify import Alone, evaluate_alone, find_answers, judge_alone, run_certify
from jax_sis.core.chunks import settle_chunk_size
from jax_sis.core.drawing import Purpose
from jax_sis.core.label_maps import LabelMap
from jax_sis.core.order import FeatureOrder
from jax_sis.core.problem import Problem, make_problem
from jax_sis.core.scores import log_odds, predict_logits
from jax_sis.core.searches import Phase
from jax_sis.core.smallest import confidence_of_available, search_smallest
from jax_sis.core.subsets import Status, Subsets
from jax_sis.core.types import Params, PredictFn
from jax_sis.results import schema
from jax_sis.results.query import SubsetQuery
from jax_sis.results.schema import DRAWN_DTYPES, IMAGE_FIELDS, KINDS, NO_CLASS, OWN_MASKS, Field
from jax_sis.runs.completion import CompletionSettings
from jax_sis.runs.config import RANDOM_TARGET, FindConfig
from jax_sis.runs.lattice import find_optimum


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSearch:
  """The searches of a run on a frozen classifier; `grid` is the mask's shape, and label maps may come beside images."""

  config: FindConfig
  predict_fn: PredictFn
  grid: tuple[int, ...]
  has_maps: bool = False

  @property
  def num_features(self) -> int:
    return masking.num_features(self.grid)

  @property
  def phases(self) -> tuple[Phase, ...]:
    """Those of the backward search; none where there is no such search."""
    return () if self.config.search is None else self.config.search.phases(self.num_features)

  @property
  def sizes(self) -> tuple[int, ...]:
    """The subset sizes that the backward search evaluates, ascending."""
    return tuple(sorted(size for phase in self.phases for size in phase.sizes))

  @property
  def kinds(self) -> tuple[str, ...]:
    searches = {
      "sis": self.config.search,
      self.kind_of_smallest: self.config.smallest,
      "robust": self.config.completion,
      "optimum": self.config.lattice or None,
    }
    return tuple(kind for kind in KINDS if searches.get(kind) is not None)

  @property
  def kind_of_smallest(self) -> str:
    """What the store calls the smallest evidence."""
    return "smallest" if self.config.asked is None else self.config.asked.kind

  @property
  def saved_masks(self) -> tuple[SubsetQuery, ...]:
    of_thresholds = [SubsetQuery(threshold=threshold) for threshold in self.config.saved_thresholds]
    return (*of_thresholds, *(SubsetQuery(fraction=fraction) for fraction in self.config.mask_fractions))

  def __call__(self, params: Params, inputs: Float[Array, "B H W C"], *asked: Array) -> dict[str, Array]:
    """The computed fields of the store.

    Args:
      params: the classifier's; where masked pixels show other images, these beside them, see `Pools.arrays`.
      inputs: the images.
      *asked: of each the class to keep up, or NO_CLASS for the predicted one, where there are draws what its key is
        made from, see `pools.hash_ids`, and where there are label maps its own.
    """
    with jax.default_matmul_precision(self.config.precision):
      return search_images(self, params, inputs, *asked)

  def make_problem(
    self, params: Params, inputs: Float[Array, "B H W C"], targets: Int[Array, "B"], *beside: Array
  ) -> Problem:
    """What the searches are asked; arguments as above, with the classes settled."""
    completion, drawing, pools = self.config.completion, {}, {}
    *hashes, labels = beside if self.has_maps else (*beside, None)
    if completion is not None:
      if completion.pool is not None:
        params, pools = params
      keys = jax.vmap(functools.partial(make_key, completion.seed))(*hashes)
      drawing = {"distribution": completion.distribution(pools.get("searched")), "keys": keys}
    return make_problem(
      self.predict_fn,
      params,
      inputs,
      targets,
      baseline=self.config.baseline,
      grid=self.grid,
      score=self.config.score,
      removal=self.config.removal,
      features=None if labels is None else LabelMap(labels=labels, num_features=self.num_features),
      **drawing,
    )

  def with_unseen(self, params: Params, problem: Problem) -> Problem:
    """The same problem with draws from the part of the pool that the search does not have."""
    assert self.config.completion is not None
    pools = params[1] if self.config.completion.pool is not None else {}
    return dataclasses.replace(problem, distribution=self.config.completion.distribution(pools.get("tested")))

  def fields(self) -> dict[str, Field]:
    fields = dict(IMAGE_FIELDS)
    if self.config.saves_order:
      has_rate = self.config.completion is not None
      fields |= schema.order_fields(self.num_features, len(self.sizes), has_rate=has_rate)
    masks = [query.mask_field for query in self.saved_masks]
    masks += [OWN_MASKS[kind] for kind in self.kinds if kind in OWN_MASKS]
    fields |= dict.fromkeys(masks, schema.mask_field(self.num_features))
    for kind in self.kinds:
      fields |= schema.subset_fields(kind, self.config.certificate)
    return fields | (schema.lattice_fields(self.num_features) if self.config.lattice else {})


def make_key(seed: int, words: UInt32[Array, "2"]) -> Key[Array, ""]:
  """The key of one image's draws."""
  return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), words[0]), words[1])


def search_images(
  search: ImageSearch,
  params: Params,
  inputs: Float[Array, "B H W C"],
  requested: Int[Array, "B"],
  *beside: Array,
) -> dict[str, Array]:
  config = search.config
  has_pools = config.completion is not None and config.completion.pool is not None
  logits = predict_logits(search.predict_fn, params[0] if has_pools else params, inputs)
  predicted = logits.argmax(-1).astype(jnp.int32)
  if config.target == RANDOM_TARGET:
    targets = (predicted + requested) % jnp.int32(logits.shape[1])
  else:
    targets = jnp.where(requested == NO_CLASS, predicted, requested)
  full_confidence = jax.nn.sigmoid(log_odds(logits, targets))
  fields = {"target": targets, "predicted": predicted, "full_confidence": full_confidence}
  problem = search.make_problem(params, inputs, targets, *beside)
  found = {}
  if config.search is not None:
    order = rank_all(run_backward(problem, phases=search.phases))
    fields |= order_fields(search, order)
    found["sis"] = SubsetQuery(threshold=config.threshold).read_order(order)
    if config.completion is not None:
      unseen = search.with_unseen(params, problem)
      return fields | judged_fields(config.completion, unseen, order, found["sis"])
  if config.smallest is not None:
    kind, forward = search.kind_of_smallest, dataclasses.replace(config.smallest, threshold=config.threshold)
    asked = dataclasses.replace(problem, question=config.asked)
    confidence = full_confidence if config.asked is None else confidence_of_available(asked)
    smallest = dataclasses.replace(
      search_smallest(asked, confidence, search=forward, exchanges=config.exchanges), features=None
    )
    fields[OWN_MASKS[kind]] = smallest.kept
    if config.asked is not None:
      fields |= certified_fields(config, asked, {kind: smallest})
    else:
      found[kind] = smallest
  if config.lattice:
    lattice, found["optimum"] = find_optimum(config, problem)
    fields |= lattice
  return fields | certified_fields(config, problem, found)


def rank_all(order: FeatureOrder) -> FeatureOrder:
  """As the store holds an order: features that an image does not have come last, and the maps are kept elsewhere."""
  if not isinstance(order.features, LabelMap):
    return order
  # Those that it has come first, by their number as well as by their rank.
  numbers = jnp.arange(order.num_features, dtype=jnp.int32)[None]
  rank = jnp.where(order.features.existing(), order.rank, numbers)
  return dataclasses.replace(order, rank=rank, features=None)


def judged_fields(
  completion: CompletionSettings, unseen: Problem, order: FeatureOrder, subsets: Subsets
) -> dict[str, Array]:
  """What the store holds of the subsets of an order under a completion, as draws judge them that are new to it."""
  robust, guarantee = find_certified(unseen, order, claim=completion.claim, sizes=None)
  is_ok = robust.status == Status.OK
  with jax.default_matmul_precision("highest"):
    logits = unseen.predict(subsets.kept, purpose=Purpose.MEASURE).logits
  alone = judge_alone(logits, subsets, 1.0)
  return {
    "sis_num_kept": subsets.num_kept,
    "sis_status": subsets.status,
    **name_alone("sis", alone),
    "robust_num_kept": robust.num_kept,
    "robust_status": robust.status,
    "robust_certified_confidence": jnp.where(is_ok, guarantee.confidence, jnp.nan),
    "robust_is_sufficient": guarantee.is_certified,
    "robust_keeps_class": is_ok & (guarantee.rate > 0.5),
    "robust_is_reproduced": jnp.full_like(is_ok, True),
    OWN_MASKS["robust"]: robust.kept,
    **{f"robust_{name}": getattr(guarantee, name) for name in DRAWN_DTYPES},
  }


def name_alone(kind: str, alone: Alone) -> dict[str, Array]:
  """What one evaluation of subsets says, as fields of the store."""
  return {
    f"{kind}_certified_confidence": alone.confidence,
    **{f"{kind}_{name}": getattr(alone, name) for name in ("is_sufficient", "keeps_class", "is_reproduced")},
  }


def order_fields(search: ImageSearch, order: FeatureOrder) -> dict[str, Array]:
  fields = {"rank": order.rank, "confidence": order.confidence} if search.config.saves_order else {}
  if search.config.saves_order and order.rate is not None:
    fields["rate"] = order.rate
  return fields | {query.mask_field: query.read_order(order).kept for query in search.saved_masks}


def certified_fields(config: FindConfig, problem: Problem, found: dict[str, Subsets]) -> dict[str, Array]:
  """What the store holds of each kind of subset that answers the problem's question, with a certificate."""
  if not found:
    return {}
  num_images = problem.num_images
  joined = jax.tree.map(lambda *kinds: jnp.concatenate(kinds), *found.values())

  def certify_kind(number: Int[Array, ""]) -> dict[str, Array]:
    subsets = jax.tree.map(lambda array: jax.lax.dynamic_slice_in_dim(array, number * num_images, num_images), joined)
    return certify_subsets(config, problem, subsets)

  # One kind after the other by one piece of program, which is compiled once.
  values = jax.lax.map(certify_kind, jnp.arange(len(found)))
  fields = {f"{kind}_{name}": array[number] for number, kind in enumerate(found) for name, array in values.items()}
  if "optimum_is_smallest" in fields:
    # All smaller ones were evaluated, where the certificate has tried one and two features at most.
    fields["optimum_is_smallest"] = fields["optimum_is_minimal"] & ~fields["optimum_has_smaller"]
  return fields


def certify_subsets(config: FindConfig, problem: Problem, subsets: Subsets) -> dict[str, Array]:
  fields = {"num_kept": subsets.num_kept, "status": subsets.status}
  if config.certificate == "alone":
    report, without = evaluate_alone(problem, subsets, config.certificate_tolerance)
    lost_by = None if without is None else without.lost_by
    answers = find_answers(problem.question, report.is_sufficient, None if without is None else without.is_contrastive)
  else:
    chunk_size = settle_chunk_size(config.chunk_size, problem.inputs)
    report = run_certify(problem, subsets, config.certificate_tolerance, chunk_size=chunk_size)
    lost_by, answers = report.lost_by, report.answers
    fields |= {
      "is_minimal": report.is_minimal,
      "is_smallest": report.is_smallest,
      "has_smaller": report.has_smaller,
      "num_droppable": report.is_droppable.reshape(subsets.mask.shape[0], -1).sum(1),
    }
  return fields | {
    "certified_confidence": report.confidence,
    "is_sufficient": answers,
    "keeps_class": report.keeps_class,
    "is_reproduced": report.is_reproduced,
    **({} if lost_by is None else {"lost_by": lost_by}),
  }
