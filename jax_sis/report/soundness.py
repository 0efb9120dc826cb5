"""Whether pixels speak for one class alone, as `jax-sis soundness` found, beside the sizes of a run's subsets."""

import dataclasses
import json
from typing import Any
from xml.etree.ElementTree import Element

from jax_sis import results
from jax_sis.display import page
from jax_sis.results.store import Results
from jax_sis.runtime.records import read_record
from jax_sis.statistics.estimates import show
from jax_sis.studies.soundness.program import FORMAT
from jax_sis.studies.soundness.summaries import OrderSummary

SOUNDNESS_FILE = "soundness.json"
HEADER = (
  "order",
  "completeness [95%]",
  "soundness [95%]",
  "of the worst class [95%]",
  "pixels suffice for another class [95%]",
  "smallest size over another's [95%]",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Soundness:
  """What a study of soundness says.

  Attributes:
    orders: of the features, as tables have them.
    num_images: how many it asked about.
    data: what these are.
    threshold: what subsets reach there.
    reading: what it comes to.
  """

  orders: tuple[OrderSummary, ...]
  num_images: int
  data: str
  threshold: float
  reading: str


def read_soundness(store: Results, directory: str) -> Soundness:
  """What `jax-sis soundness` wrote of the classifier and the masks of this run.

  Raises:
    ValueError: there is nothing, or it is of another classifier or other masks.
    StorageError: it cannot be read.
  """
  folder = results.open_folder(directory)
  place, content = folder.join(SOUNDNESS_FILE), folder.read(SOUNDNESS_FILE)
  if content is None:
    raise ValueError(f"--soundness must be a folder that jax-sis soundness wrote, but {place!r} is not there.")
  try:
    parsed: dict[str, Any] = json.loads(content)
    if parsed["format"] != FORMAT:
      raise ValueError(f"its format is {parsed['format']!r}")
    data, model = parsed["provenance"]["data"], parsed["provenance"]["model"]
    found = Soundness(
      orders=tuple(read_record(OrderSummary, order, name) for name, order in parsed["orders"].items()),
      num_images=parsed["num_images"],
      data=f"{data['data']} {data.get('split', '')}".strip(),
      threshold=parsed["threshold"],
      reading=parsed["reading"],
    )
    is_same = model == store.spec["model"] and parsed["grid"] == store.spec["grid"]
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"{place!r} must be in the format {FORMAT!r}, but cannot be used ({type(error).__name__}: {error}); run jax-sis "
      "soundness again, or leave out --soundness."
    ) from error
  if not is_same:
    raise ValueError(
      f"--soundness must be of the classifier and the masks of the run in {store.folder.location!r}, but {place!r} is "
      "of others; run jax-sis soundness with the run's --checkpoint and --patch."
    )
  return found


def make_blocks(found: Soundness) -> list[Element]:
  """The reading and the table."""
  caption = (
    f"Completeness of the predicted class and soundness of the others, {found.num_images:,} images of {found.data}, "
    f"subsets at {found.threshold:g}; an order for each class of an image."
  )
  rows = [
    [
      order.title,
      *(show(one, ".2f") for one in (order.completeness, order.soundness, order.worst)),
      show(order.has_other, ".0%"),
      show(order.size_ratio, ".2f"),
    ]
    for order in found.orders
  ]
  return [
    page.paragraph(page.strong("For one class alone? "), found.reading, kind="note"),
    page.table(caption, HEADER, rows),
  ]
