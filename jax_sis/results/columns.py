"""A run as a table for people and other programs: classes by name, statuses in words, None for what is not there."""

import html
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Shaped

from jax_sis.core.batch import MAX_ROWS, make_html
from jax_sis.results.query import StoredSubsets
from jax_sis.results.schema import KIND_TITLES, KINDS, NO_CLASS, NOT_SEARCHED, STATUS_NAMES, decode_text, kinds_of

CLASS_FIELDS = ("label", "target", "predicted")
# What a notebook shows of a run.
SHOWN_FIELDS = {
  *("id", "label_name", "predicted_name", "full_confidence"),
  *(f"{kind}_{name}" for kind in KINDS for name in ("status", "num_kept", "certified_confidence")),
}


def describe_run(run: Any) -> str:
  """A run, of which `Results` is the class, in a line for a prompt."""
  model, data = (run.spec.get(part, {}).get(name, "?") for part, name in (("model", "name"), ("data", "data")))
  held = [KIND_TITLES[kind] for kind in kinds_of(run.fields)]
  held += ["orders"] * ("rank" in run.fields) + [name for name in run.fields if "mask" in name]
  done = f"{run.count_done()} of {run.num_images} images done"
  return f"Results({run.folder.location!r}: {model} on {data}, {done}; {', '.join(held)})"


def make_run_html(run: Any) -> str:
  """The first finished images of a run as a table, for notebooks."""
  indices = run.done_images()
  columns = read_columns(run, indices[:MAX_ROWS])
  shown = {name: values for name, values in columns.items() if name in SHOWN_FIELDS}
  rows = [[html.escape(show(value)) for value in row] for row in zip(*shown.values(), strict=True)]
  return make_html(describe_run(run), list(shown), rows, num_more=len(indices) - len(rows))


def show(value: Any) -> str:
  return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)


def make_frame(run: Any) -> Any:
  """The finished images of a run as a `pandas.DataFrame`, their numbers as its index."""
  import pandas

  indices = run.done_images()
  return pandas.DataFrame(read_columns(run, indices), index=pandas.Index(indices, name="image"))


def read_columns(run: Any, indices: Int[np.ndarray, "M"]) -> dict[str, np.ndarray | list[Any]]:
  return make_columns(run.spec, run.table_fields, run.read_many(run.table_fields, indices), {})


def make_columns(
  spec: Mapping[str, Any],
  names: Iterable[str],
  fields: Mapping[str, Shaped[np.ndarray, "M ..."]],
  subsets: Mapping[str, StoredSubsets],
) -> dict[str, np.ndarray | list[Any]]:
  """The columns of a table for some images; of what an image does not have, None.

  Args:
    spec: the run's specification.
    names: of the fields, one value an image, that the table has.
    fields: the values of these images.
    subsets: by column, those of which the table has the features, numbered row by row from 0.
  """
  is_searched = fields[f"{kinds_of(fields)[0]}_status"] != NOT_SEARCHED
  class_names = spec["class_names"]
  columns: dict[str, np.ndarray | list[Any]] = {}
  for name in names:
    values = fields[name]
    if name in ("id", "error"):
      columns[name] = decode_text(values).tolist()
    elif name.endswith("_status"):
      columns[name] = [STATUS_NAMES[status] for status in values.tolist()]
    elif name in CLASS_FIELDS:
      is_known = values != NO_CLASS if name == "label" else is_searched & (values != NO_CLASS)
      columns[name] = keep_where(is_known, values)
      columns[f"{name}_name"] = [class_names[i] if known else None for i, known in zip(values, is_known, strict=True)]
    elif values.dtype.kind == "f":
      columns[name] = keep_where(is_searched & ~np.isnan(values), values)
    else:
      columns[name] = keep_where(is_searched, values)
  for name, stored in subsets.items():
    kept = stored.masks(fields) & is_searched[:, None]
    columns[name] = [np.flatnonzero(mask).tolist() for mask in kept]
  return columns


def keep_where(is_there: Bool[np.ndarray, "M"], values: Shaped[np.ndarray, "M"]) -> list[Any]:
  """The values, None for those that are not there."""
  return [value if there else None for value, there in zip(values.tolist(), is_there.tolist(), strict=True)]
