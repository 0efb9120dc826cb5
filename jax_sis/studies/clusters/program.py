"""`jax-sis clusters`: what do the subsets of a class have in common, and what does that do alone?

Spectral relevance analysis (SpRAy, Lapuschkin et al. 2019, Nature Communications 10) of sufficient subsets: images
whose subsets lie alike are a cluster. Where one rests on a shortcut in one place, pasting that place into images of
other classes makes them this class.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from jax_sis import results
from jax_sis.classifiers.on_images import describe_set
from jax_sis.core.subsets import count_of_fraction
from jax_sis.results.answer import hash_spec
from jax_sis.results.schema import NO_CLASS
from jax_sis.runtime.progress import Progress
from jax_sis.runtime.records import append_record, read_record, read_records, to_json
from jax_sis.statistics.estimates import mean_of, share_of
from jax_sis.studies.clusters import report
from jax_sis.studies.clusters.config import ClustersConfig
from jax_sis.studies.clusters.effects import Asker, Shown
from jax_sis.studies.clusters.opened import Opened, open_run
from jax_sis.studies.clusters.spectral import MIN_MASKS, find_clusters
from jax_sis.studies.clusters.summaries import ClassClusters, Cluster, Effect

FORMAT = "jax_sis.clusters/1"
LINES_FILE = "clusters.jsonl"
NUM_NEAREST = 8
# Of shares in files.
DECIMALS = 4


def clusters(config: ClustersConfig) -> dict[str, Any]:
  """Finds the clusters, or goes on with it; prints a table and its reading, writes JSON, CSV and a figure.

  Args:
    config: of which run, see ClustersConfig.

  Returns:
    What `clusters.json` holds.

  Raises:
    ValueError: a setting is wrong or does not fit the run, the classifier or images at hand are not the run's, or the
      folder holds another study.
    StorageError: the run cannot be read, or the folder not be written.
  """
  folder = results.open_folder(config.out)
  results.check_writable(folder)
  opened = open_run(config)
  spec = results.settle_spec(config.out, make_spec(config, opened), command_fn=config.command_in)
  print(
    f"Clusters of the subsets of {opened.job.classifier.model_name}: {len(opened.indices)} images of "
    f"{opened.job.data_name} in {config.run_dir}, {opened.query}.",
    flush=True,
  )
  with Progress("clusters", total=len(opened.groups), unit="group") as progress:
    found = find_all(config, opened, lambda: progress.advance(1))
  return report.write_report(folder, found, opened, spec=spec, seed=config.seed, command=config.command)


def study(config: ClustersConfig) -> list[ClassClusters]:
  """The same without a word: the clusters of each class, also where an earlier run has left off; errors likewise."""
  results.check_writable(results.open_folder(config.out))
  opened = open_run(config)
  results.settle_spec(config.out, make_spec(config, opened), command_fn=config.command_in)
  return find_all(config, opened)


def make_spec(config: ClustersConfig, opened: Opened) -> dict[str, Any]:
  """What fixes the results, in JSON types; not the classes, since more can be added later."""
  asked = ("is_together", "max_images", "region", "num_judged", "seed")
  return {
    "format": FORMAT,
    **describe_set(opened.job),
    "run": hash_spec(opened.store.folder),
    "num_images": len(opened.indices),
    "subsets": opened.query.to_json(),
    **{name: getattr(config, name) for name in asked},
  }


def find_all(
  config: ClustersConfig, opened: Opened, advance_fn: Callable[[], None] = lambda: None
) -> list[ClassClusters]:
  """The clusters of each class; those that are new get a line in the file."""
  lines = pathlib.Path(config.out) / LINES_FILE
  stored = [read_record(ClassClusters, record, LINES_FILE) for record in read_records(lines)]
  known = {one.name: one for one in stored}
  asker = make_asker(config, opened)
  for name, places in opened.groups.items():
    if name not in known:
      known[name] = find_class(config, opened, asker, name, places)
      append_record(lines, to_json(known[name]))
    advance_fn()
  return [known[name] for name in opened.groups]


def make_asker(config: ClustersConfig, opened: Opened) -> Asker:
  """What asks about regions, with the run's classifier and baseline."""
  job = opened.job
  program = job.make_program(Shown(predict_fn=job.predict_fn, grid=job.grid))
  return Asker(program=program, grid=job.grid, baseline=job.config.baseline, seed=config.seed)


def find_class(
  config: ClustersConfig, opened: Opened, asker: Asker, name: str, places: Int[np.ndarray, "M"]
) -> ClassClusters:
  """The clusters of the images at these places of `opened`."""
  rng = np.random.default_rng(config.seed)
  num_images = len(places)
  if num_images > config.max_images:
    places = np.sort(rng.choice(places, config.max_images, replace=False))
  masks = opened.read_masks(places) if num_images else np.zeros((0, *opened.job.grid), bool)
  is_kept = masks.any((1, 2, 3))
  places, masks = places[is_kept], masks[is_kept]
  if len(places) < MIN_MASKS:
    return ClassClusters(name=name, num_images=num_images, reason=f"fewer than {MIN_MASKS} subsets")
  clustering = find_clusters(masks, seed=config.seed)
  found = []
  for number in range(clustering.num_clusters):
    members = np.flatnonzero(clustering.labels == number)
    nearest = members[np.argsort(-clustering.typicality[members], kind="stable")][:NUM_NEAREST]
    found.append(
      describe_cluster(
        config, opened, asker, places[members], masks[members], nearest=places[nearest], total=len(places)
      )
    )
  return ClassClusters(
    name=name,
    num_images=num_images,
    eigenvalues=tuple(clustering.eigenvalues.round(DECIMALS).tolist()),
    clusters=tuple(found),
    ids=tuple(opened.read_ids(places)),
    numbers=tuple(clustering.labels.tolist()),
    typicality=tuple(clustering.typicality.round(DECIMALS).tolist()),
  )


def describe_cluster(
  config: ClustersConfig,
  opened: Opened,
  asker: Asker,
  members: Int[np.ndarray, "M"],
  masks: Bool[np.ndarray, "M h w 1"],
  *,
  nearest: Int[np.ndarray, "K"],
  total: int,
) -> Cluster:
  """What is known of the images at these places, and what their region does."""
  mean_map = masks[..., 0].mean(0, dtype=np.float64)
  region = find_region(mean_map, config.region)
  is_labelled = opened.labels[members] != NO_CLASS
  labelled, sizes = members[is_labelled], opened.sizes[members]
  masked, pasted = ask_region(config, opened, asker, members, region)
  return Cluster(
    num_images=len(members),
    share=len(members) / total,
    accuracy=share_of(opened.predicted[labelled] == opened.labels[labelled]),
    size=mean_of(sizes[~np.isnan(sizes)], seed=config.seed),
    mean_map=tuple(tuple(row) for row in mean_map.round(DECIMALS).tolist()),
    region=tuple(np.flatnonzero(region).tolist()),
    nearest=tuple(opened.read_ids(nearest)),
    masked=masked,
    pasted=pasted,
  )


def find_region(mean_map: np.ndarray, share: float) -> Bool[np.ndarray, "F"]:
  """The features that most of the subsets keep, so many of all."""
  flat = mean_map.ravel()
  region = np.zeros(flat.size, bool)
  region[np.argsort(-flat, kind="stable")[: count_of_fraction(share, flat.size)]] = True
  return region


def ask_region(
  config: ClustersConfig, opened: Opened, asker: Asker, members: Int[np.ndarray, "M"], region: Bool[np.ndarray, "F"]
) -> tuple[Effect | None, Effect | None]:
  """What masking and pasting the region does; None where no image can be asked."""
  rng = np.random.default_rng(config.seed)
  own = members[opened.predicted[members] == opened.targets[members]]
  own = rng.permutation(own)[: config.num_judged]
  masked = asker.mask(region, opened.read_images(own), opened.targets[own]) if len(own) else None
  pairs = pair_images(opened, rng.permutation(members)[: config.num_judged], rng)
  if not pairs:
    return masked, None
  givers, takers = np.array(pairs).T
  pasted = asker.paste(region, opened.read_images(givers), opened.read_images(takers), opened.targets[givers])
  return masked, pasted


def pair_images(opened: Opened, donors: Int[np.ndarray, "M"], rng: np.random.Generator) -> list[tuple[int, int]]:
  """Each image with one that is predicted as another class; none stands twice, since pairs count as independent."""
  pool, pairs = rng.permutation(len(opened.indices)).tolist(), []
  for donor in donors.tolist():
    place = next((i for i, other in enumerate(pool) if opened.predicted[other] != opened.targets[donor]), None)
    if place is not None:
      pairs.append((donor, pool.pop(place)))
  return pairs
