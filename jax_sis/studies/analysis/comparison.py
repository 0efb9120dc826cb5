"""Several models on the same images: who is right, whose subsets are larger, and how far the subsets are the same."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from jax_sis.core.messages import name_some
from jax_sis.results.query import SubsetQuery, own_threshold
from jax_sis.results.schema import NO_CLASS, kinds_of
from jax_sis.results.store import Results
from jax_sis.statistics.estimates import Estimate, difference_of, mean_of, no_mean, share_of
from jax_sis.studies.analysis.overlap import Overlap, compare_subsets
from jax_sis.studies.analysis.sizes import COLUMN_FIELDS, Columns, Trust, describe_trust, join_columns, make_columns

# Ids of missing images that are listed; all are counted.
MAX_LISTED_IDS = 100
MAX_NAMED_IDS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Missing:
  """Images that a run lacks and another one has.

  Attributes:
    label: the run.
    count: how many.
    ids: the first of them.
  """

  label: str
  count: int
  ids: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOnImages:
  """One run on the images that all have.

  Attributes:
    label: the run.
    trust: accuracy and calibration.
    accuracy_difference: accuracy minus the first run's, on the same images.
    num_same_target: images of which the subset is for the same class as the first run's.
  """

  label: str
  trust: Trust
  accuracy_difference: Estimate
  num_same_target: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparedSizes:
  """The sizes of one run's subsets on the images that have one in every run.

  Attributes:
    label: the run.
    answer: the kind of subset.
    threshold: the confidence that these subsets reach.
    with_subset: the share of all common images that has one in this run.
    pixels: mean size.
    median_pixels: the median; None without an image.
    mean_share: the mean size as a share of the image.
    difference: the mean of size minus that in the first of these runs, in features; None where its grid is another.
    share_difference: the same in shares of the image.
  """

  label: str
  answer: str
  threshold: float
  with_subset: Estimate
  pixels: Estimate
  median_pixels: float | None
  mean_share: Estimate
  difference: Estimate
  share_difference: Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
  """What several runs say of the same images.

  Attributes:
    labels: the runs; the first is what the others are compared with.
    threshold: the first run's confidence, which the subsets of overlaps reach, and those of the first sizes.
    num_images: images that are finished in every run.
    missing: what each run lacks.
    runs: accuracy and calibration of each.
    sizes: by threshold, kind and run; where orders are known, at other thresholds, too.
    overlaps: by kind and pair of runs.
    left_out: what is not here, with the reason.
  """

  labels: tuple[str, ...]
  threshold: float
  num_images: int
  missing: tuple[Missing, ...]
  runs: tuple[RunOnImages, ...]
  sizes: tuple[ComparedSizes, ...]
  overlaps: tuple[Overlap, ...]
  left_out: tuple[str, ...]


def compare_runs(stores: Mapping[str, Results], *, thresholds: Sequence[float] = (), seed: int = 0) -> Comparison:
  """Compares runs on the images that are finished in all of them.

  Subsets are those at the first run's threshold; a run with another one takes part where it holds orders.

  Args:
    stores: at least two runs by label.
    thresholds: further confidences at which sizes are compared, of the runs that hold orders.
    seed: of all intervals.

  Raises:
    ValueError: there are fewer than two runs, they are not of the same images, or an id stands for several.
    StorageError: a run cannot be read.
  """
  if len(stores) < 2:
    raise ValueError(f"stores must be at least two runs, got {len(stores)}.")
  check_same_data(stores)
  indices, missing = join_images(stores)
  threshold = next(iter(stores.values())).spec["threshold"]
  left_out: list[str] = []
  others = [other for other in dict.fromkeys(thresholds) if other != threshold]
  queries = {
    label: find_queries(label, store, threshold, left_out) + find_others(store, others)
    for label, store in stores.items()
  }
  columns = {label: read_columns(store, indices[label], queries[label]) for label, store in stores.items()}
  check_same_labels(columns)
  sizes, overlaps = [], []
  every = dict.fromkeys(itertools.chain(*queries.values()))
  for query in sorted(every, key=lambda query: (query.threshold != threshold, -(query.threshold or 0))):
    holders = [label for label in stores if query in queries[label]]
    if len(holders) < 2:
      left_out.append(f"{query.kind} subsets at {query.threshold:g}: only {holders[0]} holds them")
      continue
    sizes += compare_sizes({label: columns[label] for label in holders}, query, stores, seed=seed)
    for first, second in (
      itertools.combinations(holders, 2) if query.kind == "robust" or query.threshold == threshold else ()
    ):
      found = compare_subsets(first, second, query, stores, indices, columns, seed=seed)
      if isinstance(found, str):
        left_out.append(found)
      else:
        overlaps.append(found)
  first_columns = next(iter(columns.values()))
  return Comparison(
    labels=tuple(stores),
    threshold=threshold,
    num_images=len(first_columns),
    missing=missing,
    runs=tuple(
      describe_run(label, columns[label], first_columns, target=store.spec["target"], seed=seed)
      for label, store in stores.items()
    ),
    sizes=tuple(sizes),
    overlaps=tuple(overlaps),
    left_out=tuple(left_out),
  )


def check_same_data(stores: Mapping[str, Results]) -> None:
  """Raises ValueError if the runs' specifications name different data or classes."""
  (first_label, first), *others = stores.items()
  for label, store in others:
    here, there = (of_run.spec["data"] for of_run in (first, store))
    # Folders may lie anywhere; of TFDS data sets the name says what they hold, and not the place.
    if ("split" in here or "split" in there) and here.get("data") != there.get("data"):
      raise ValueError(
        f"runs must be of the same images, but {first_label!r} is of {here.get('data')!r} and {label!r} of "
        f"{there.get('data')!r}; analyse them apart."
      )
    if first.spec["class_names"] != store.spec["class_names"]:
      raise ValueError(
        f"runs must have the same classes, but those of {first_label!r} and {label!r} differ; analyse them apart."
      )


def join_images(stores: Mapping[str, Results]) -> tuple[dict[str, Int[np.ndarray, "N"]], tuple[Missing, ...]]:
  """Where each run has the images that all have, in the order of their ids, and which images each run lacks.

  Raises:
    ValueError: the runs have no image in common, an id stands for several images of a run, or ids are only places in
      different splits.
  """
  places = {label: read_places(label, store) for label, store in stores.items()}
  common = set.intersection(*(set(found) for found in places.values()))
  every = set.union(*(set(found) for found in places.values()))
  missing = []
  for label, found in places.items():
    lacking = sorted(every - set(found))
    missing.append(Missing(label=label, count=len(lacking), ids=tuple(lacking[:MAX_LISTED_IDS])))
  if not common:
    lists = "; ".join(
      f"{label!r} lacks {name_some(list(map(repr, lacking.ids)), most=MAX_NAMED_IDS, count=lacking.count)}"
      for label, lacking in zip(places, missing, strict=True)
    )
    raise ValueError(f"runs must have finished images in common, but they have none: {lists}.")
  check_ids_name_images(stores, common)
  joined = sorted(common)
  return {label: np.array([found[name] for name in joined]) for label, found in places.items()}, tuple(missing)


def read_places(label: str, store: Results) -> dict[str, int]:
  """By id, where the finished images of a run are. Raises ValueError if an id stands for several images."""
  indices = store.done_images()
  ids = store.read_text("id", indices)
  places = dict(zip(ids, indices.tolist(), strict=True))
  if len(places) < len(ids):
    twice = next(name for place, name in zip(indices.tolist(), ids, strict=True) if places[name] != place)
    raise ValueError(f"ids must name one image each, but {twice!r} stands for several of run {label!r}.")
  return places


def check_ids_name_images(stores: Mapping[str, Results], ids: set[str]) -> None:
  """Raises ValueError if ids are places in a split and the splits differ."""
  splits = {store.spec["data"].get("split") for store in stores.values()}
  if len(splits) > 1 and all(name.isdecimal() for name in ids):
    raise ValueError(
      f"ids must name images, but these data give places only, in the splits {', '.join(sorted(map(repr, splits)))}; "
      "compare runs of one split."
    )


def find_queries(label: str, store: Results, threshold: float, left_out: list[str]) -> list[SubsetQuery]:
  """A run's subsets at this confidence, and its robust ones; `left_out` gets the reasons for the others."""
  queries = []
  for kind in kinds_of(store.fields):
    query = SubsetQuery(kind=kind, threshold=own_threshold(store.spec, kind) if kind == "robust" else threshold)
    if store.find_subsets(query).size_fields:
      queries.append(query)
    else:
      left_out.append(
        f"{kind} subsets of {label}: they are at {store.spec['threshold']:g}, and the first run's at {threshold:g}"
      )
  return queries


def find_others(store: Results, thresholds: Sequence[float]) -> list[SubsetQuery]:
  return [SubsetQuery(threshold=threshold) for threshold in thresholds] if "rank" in store.fields else []


def read_columns(store: Results, indices: Int[np.ndarray, "N"], queries: Sequence[SubsetQuery]) -> Columns:
  subsets = [store.find_subsets(query) for query in queries]
  names = dict.fromkeys([*COLUMN_FIELDS, *(name for stored in subsets for name in stored.size_fields)])
  return join_columns([make_columns(store.read_many(names, some), subsets) for some in store.split_images(indices)])


def check_same_labels(columns: Mapping[str, Columns]) -> None:
  """Raises ValueError if images of the same id have different labels."""
  (first_label, first), *others = columns.items()
  for label, of_run in others:
    num_different = int((first.label != of_run.label).sum())
    if num_different:
      raise ValueError(
        f"runs must be of the same images, but {num_different} of {len(first)} ids have other labels in {label!r} than "
        f"in {first_label!r}; analyse them apart."
      )


def describe_run(label: str, columns: Columns, first: Columns, *, target: str, seed: int) -> RunOnImages:
  is_known = columns.is_classified & first.is_classified
  is_searched = (columns.predicted != NO_CLASS) & (first.predicted != NO_CLASS)
  return RunOnImages(
    label=label,
    trust=describe_trust(columns, target=target),
    accuracy_difference=difference_of(columns.is_right[is_known], first.is_right[is_known], seed=seed),
    num_same_target=int(((columns.target == first.target) & is_searched).sum()),
  )


def compare_sizes(
  columns: Mapping[str, Columns], query: SubsetQuery, stores: Mapping[str, Results], *, seed: int
) -> list[ComparedSizes]:
  """Sizes on the images that have a subset in each of these runs, beside those of the first."""
  assert query.threshold is not None
  has_all = np.all([of_run.has_subset(query) for of_run in columns.values()], axis=0)
  first_label = next(iter(columns))
  grids = {label: tuple(stores[label].spec["grid"]) for label in columns}
  sizes = {label: of_run.num_kept[query][has_all] for label, of_run in columns.items()}
  shares = {label: sizes[label] / math.prod(grids[label]) for label in columns}
  compared = []
  for label, of_run in columns.items():
    difference = no_mean(f"its grid is {grids[label]}, and the first run's {grids[first_label]}", int(has_all.sum()))
    if grids[label] == grids[first_label]:
      difference = difference_of(sizes[label], sizes[first_label], seed=seed)
    compared.append(
      ComparedSizes(
        label=label,
        answer=query.kind,
        threshold=query.threshold,
        with_subset=share_of(of_run.has_subset(query)),
        pixels=mean_of(sizes[label], seed=seed),
        median_pixels=float(np.median(sizes[label])) if len(sizes[label]) else None,
        mean_share=mean_of(shares[label], seed=seed),
        difference=difference,
        share_difference=difference_of(shares[label], shares[first_label], seed=seed),
      )
    )
  return compared
