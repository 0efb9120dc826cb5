"""How far from the smallest subsets that there are the searches of a run end, by complete lattices."""

from xml.etree.ElementTree import Element

import numpy as np

from jax_sis.core.subsets import Status
from jax_sis.display import page
from jax_sis.report.inputs import Inputs
from jax_sis.report.words import KIND_NAMES, capitalise, name_unit
from jax_sis.runs.lattice import describe_lattices
from jax_sis.runs.table import GALLERY_FILE, count_totals
from jax_sis.statistics.estimates import mean_of, share_of

HEADER = ("subsets", "images with both", "more than the smallest", "the smallest is found")
PICTURE_NOTE = (
  "The first images of the run: subsets of the searches, the smallest that there is, the smallest set whose masking "
  "alone loses the class, and the exact Shapley values of the log-odds."
)


def make_sections(inputs: Inputs) -> list[Element]:
  """One section, of a run with lattices."""
  if "lattice" not in inputs.spec:
    return []
  totals = count_totals(inputs.store, num_features=inputs.analysis.num_features)["lattice"]
  caption = f"What a search keeps beyond the smallest subset that there is, in {name_unit(inputs)}, with 95% intervals."
  blocks = [page.table(caption, HEADER, [compare(inputs, kind) for kind in inputs.kinds if kind != "optimum"])]
  if (png := inputs.store.folder.read(GALLERY_FILE)) is not None:
    blocks.append(page.figure(page.Picture(png=png, alt=PICTURE_NOTE), PICTURE_NOTE, is_wide=True))
  sentence = capitalise(describe_lattices(totals).removeprefix("lattice: "))
  return [page.section("Every subset", answer=sentence, blocks=blocks, name="lattice")]


def compare(inputs: Inputs, kind: str) -> list[str]:
  """A row of the table."""
  store = inputs.store
  indices = store.done_images()
  has_both = np.logical_and(*(store.read(f"{one}_status", indices) == Status.OK for one in (kind, "optimum")))
  sizes, fewest = (store.read(f"{one}_num_kept", indices)[has_both] for one in (kind, "optimum"))
  title = capitalise(KIND_NAMES[kind])
  return [title, f"{has_both.sum():,}", f"{mean_of(sizes - fewest):.2f}", f"{share_of(sizes <= fewest):.1%}"]
