"""Where the numbers of a report come from: its last section."""

import datetime
import math
from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element

from jax_sis.display import page
from jax_sis.report.inputs import Inputs
from jax_sis.report.words import name_data, tell_count
from jax_sis.runs.status import describe_search, read_times
from jax_sis.runtime import provenance


def make_section(inputs: Inputs, *, command: str) -> Element:
  """Model, data, search, time, versions and commands."""
  analysis, model = inputs.analysis, inputs.spec["model"]
  versions = inputs.spec["versions"]
  answer = (
    f"The run holds {tell_count(analysis.num_finished)} of {tell_count(analysis.num_images, 'image')} of "
    f"{name_data(inputs)}, searched by jax_sis {versions['jax_sis']} with JAX {versions['jax']} on "
    f"{inputs.spec['device']}; {describe_time(inputs)}."
  )
  parts = {
    "Model and data": {
      "model": model["name"],
      "SHA-256 of its weights": model["sha256"],
      **{
        "data" if name == "data" else f"data, {name.replace('_', ' ')}": str(value)
        for name, value in inputs.spec["data"].items()
      },
      "classes": str(len(inputs.spec["class_names"])),
    },
    "Search": describe_settings(inputs.spec),
    "Run": {
      "folder": inputs.store.folder.location,
      "SHA-256 of spec.json": inputs.spec_sha256,
      "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
      "device": inputs.spec["device"],
      "seed": "none: the search draws nothing at random",
      "time": describe_time(inputs),
    },
    "Analysis and report": {
      "command": command,
      "analysis": inputs.analysis_origin,
      "versions": ", ".join(f"{name} {version}" for name, version in provenance.all_versions().items()),
      "commit": provenance.describe_commit(),
    },
    "Leak controls": describe_controls(inputs),
  }
  blocks = [
    page.section(heading, level=3, blocks=[page.description(facts)]) for heading, facts in parts.items() if facts
  ]
  return page.section("Where this comes from", answer=answer, blocks=blocks, name="provenance")


def describe_settings(spec: Mapping[str, Any]) -> dict[str, str]:
  searches = [describe_search(spec[name], spec["threshold"]) for name in ("search", "smallest") if spec[name]]
  facts = {
    "search": " and ".join(searches),
    "threshold": f"{spec['threshold']:g}",
    "for the class": spec["target"],
    "ranked by": spec["score"],
    "fill": describe_fill(spec),
    "grid": f"{' x '.join(map(str, spec['grid']))}, {math.prod(spec['grid']):,} features",
    "certificate": spec["certificate"],
  }
  if spec["smallest"]:
    facts["exchanges"] = str(spec["exchanges"]) if "exchanges" in spec else "not known"
  others = {"precision": "precision", "batch": "batch_size", "unit": "unit_size", "tolerance": "tolerance"}
  return facts | {title: str(spec[name]) for title, name in others.items() if name in spec}


def describe_fill(spec: Mapping[str, Any]) -> str:
  """What masked pixels showed."""
  if "removal" in spec:
    return f"nothing, they were absent (removal {spec['removal']})"
  if "completion" not in spec:
    return f"{spec['baseline']:g} in normalised units"
  asked = spec["completion"]
  claim = f"rate {asked['rate']:g} at level {asked['level']:g} by {asked['num_tested']}"
  return f"{asked['kind']}, {asked['num_draws']} draws a step, seed {asked['seed']}; {claim} unseen draws"


def describe_time(inputs: Inputs) -> str:
  """When its images were found, as far as the files say so."""
  times = read_times(inputs.store, inputs.store.done_units())
  if times is None:
    return "when it was made, a bucket does not say"
  first, last = (datetime.datetime.fromtimestamp(time, datetime.UTC) for time in (times.min(), times.max()))
  return f"by their dates, its files are of {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"


def describe_controls(inputs: Inputs) -> dict[str, str]:
  if inputs.controls is None:
    return {"none": inputs.no_controls}
  origin = inputs.controls.provenance
  return {
    "command": origin.command,
    "seed": str(origin.seed),
    "device": origin.device,
    "versions": ", ".join(f"{name} {version}" for name, version in origin.versions.items()),
  }
