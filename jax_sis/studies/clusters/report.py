"""What `jax-sis clusters` found: printed, and as JSON, CSV and a figure."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jax_sis.results.answer import describe_provenance, encode_csv, write_answer
from jax_sis.results.folder import Folder
from jax_sis.runtime.records import to_json
from jax_sis.statistics.estimates import DASH, show, show_percent
from jax_sis.studies.clusters import figure
from jax_sis.studies.clusters.opened import Opened
from jax_sis.studies.clusters.summaries import FALSE_ALARMS, ClassClusters, Effect, Ranked, rank_clusters

WIDTH = 120
LINE_FORMAT = "{:<18} {:>7} {:>17} {:>20} {:>26} {:>26}"
HEADER = ("class", "images", "accuracy, %", "size", "masked: lost, %", "pasted: won, %")
MAX_LINES = 40


def name_cluster(ranked: Ranked) -> str:
  """`horse 2`, counted from 1."""
  return f"{ranked.name} {ranked.number + 1}"


def show_effect(effect: Effect | None) -> str:
  """The share that turns, and how much more that is than elsewhere."""
  if effect is None:
    return DASH
  return f"{show_percent(effect.turned, '.0f').partition(' ')[0]}, {show_percent(effect.difference, '+.0f')}"


def make_table(ranked: Sequence[Ranked]) -> str:
  lines = [LINE_FORMAT.format(*HEADER)]
  lines += [
    LINE_FORMAT.format(
      f"{name_cluster(one)}{' *' if one.is_beyond_chance else ''}",
      one.cluster.num_images,
      show_percent(one.cluster.accuracy, ".0f"),
      show(one.cluster.size, ".1f"),
      show_effect(one.cluster.masked),
      show_effect(one.cluster.pasted),
    )
    for one in ranked[:MAX_LINES]
  ]
  return "\n".join(lines)


def describe_reading(found: Sequence[ClassClusters], ranked: Sequence[Ranked]) -> str:
  """How many clusters there are, and which of them carry their class by one place."""
  if not ranked:
    return "No class has subsets enough to be clustered."
  several = [one.name for one in found if len(one.clusters) > 1]
  groups = sum(bool(one.clusters) for one in found)
  sentences = [f"{len(ranked)} clusters in {groups} groups of images, {len(several)} of which have several."]
  beyond = [one for one in ranked if one.is_beyond_chance]
  if beyond:
    first = beyond[0]
    assert first.cluster.pasted is not None
    sentences.append(
      f"Look first at {name_cluster(first)}, {first.cluster.num_images} images: its region alone, "
      f"{len(first.cluster.region)} features, makes {first.cluster.pasted.turned:.0%} of images of other classes its "
      f"class, {show_percent(first.cluster.pasted.difference, '.0f')} points more than the same shape elsewhere."
    )
  sentences.append(
    f"Pasting turns more than chance in {len(beyond)} of {len(ranked)} clusters (marked *)."
    if beyond
    else "Pasting turns no more than chance in any cluster: no place alone carries its class."
  )
  return " ".join(sentences)


def describe_table(spec: Mapping[str, Any], seed: int) -> str:
  return (
    "In brackets 95 % intervals. The number of clusters is where the first eigenvalues of the graph of nearest "
    "neighbours have their largest gap. Size: features that suffice. A cluster's region is the "
    f"{100 * spec['region']:.2g} % of the features that most of its subsets keep. Masked: the share of its own images "
    "that lose their class, and by how many points that is more than with the same shape elsewhere. Pasted: the same "
    "of images of other classes that become the class of the image that the region comes from. *: more than elsewhere, "
    f"by an exact test at {FALSE_ALARMS:g} over all clusters. Of more than {spec['max_images']} images a class, so "
    f"many are sampled by the seed {seed}."
  )


def write_report(
  folder: Folder,
  found: Sequence[ClassClusters],
  opened: Opened,
  *,
  spec: Mapping[str, Any],
  seed: int,
  command: str,
) -> dict[str, Any]:
  """Prints what was found and writes it; returns what `clusters.json` holds.

  Args:
    folder: gets the files.
    found: the clusters of each class.
    opened: of which run.
    spec: what fixed the results.
    seed: of all that was random.
    command: the command line.
  """
  ranked = rank_clusters(found)
  reading, notes = describe_reading(found, ranked), describe_table(spec, seed)
  left_out = {one.name: one.reason for one in found if one.reason}
  print(f"\n{make_table(ranked)}\n" if ranked else "")
  if len(ranked) > MAX_LINES:
    print(f"{len(ranked) - MAX_LINES} more are in clusters.json.")
  print("\n".join(textwrap.fill(text, WIDTH) for text in (reading, notes)))
  for name, reason in left_out.items():
    print(f"Left out: {name} ({reason}).")
  answer = {
    "format": spec["format"],
    "provenance": describe_provenance(folder, spec, command=command, seed=seed),
    "run": opened.store.folder.location,
    "subsets": spec["subsets"],
    "grid": spec["grid"],
    "region": spec["region"],
    "classes": {
      one.name: {name: to_json(getattr(one, name)) for name in ("num_images", "eigenvalues", "clusters")}
      for one in found
    },
    "ranking": [
      {"class": one.name, "cluster": one.number + 1, "is_beyond_chance": one.is_beyond_chance} for one in ranked
    ],
    "left_out": left_out,
    "reading": reading,
    "notes": notes,
  }
  files = {"clusters.csv": encode_csv(make_rows(found))}
  if ranked:
    files["clusters.png"] = figure.draw_clusters(ranked, opened)
  return write_answer(folder, "clusters.json", answer, files)


def make_rows(found: Sequence[ClassClusters]) -> Iterable[dict[str, Any]]:
  for one in found:
    for name, number, typicality in zip(one.ids, one.numbers, one.typicality, strict=True):
      yield {"image": name, "class": one.name, "cluster": number + 1, "typicality": typicality}
