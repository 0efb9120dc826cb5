"""Every measured number of a page has a source, and those that come of a file in docs/results are what it holds.

`page_numbers.py` says what a measured number and a source are; `traced_*.py` make the pages' words again of the files.
"""

import difflib
import functools
import pathlib
import re
from collections.abc import Sequence

import pytest
import traced
import traced_comparisons
import traced_machines
import traced_searches
import traced_studies
from page_numbers import (
  PAGES,
  REPOSITORY,
  Block,
  find_linked,
  find_measured,
  name_page,
  normalise,
  read_blocks,
  read_sections,
  says_where,
)

# They register what they trace.
assert traced_comparisons and traced_machines and traced_searches and traced_studies

# On these pages no measured number at all is untraced; on those with files, none of a table or with an interval.
FIRST_PAGES = ("README.md", "docs/index.md")
PAGES_WITH_FILES = tuple(
  f"docs/{name}.md"
  for name in (
    *("lattice", "contrastive", "backgrounds", "coarse_to_fine"),
    *("results/README", "results/imagenet/README", "results/accelerators/README"),
  )
)
# Sections whose numbers are no findings, and so have no source.
NO_FINDINGS = {
  "docs/buckets.md: When the bucket fails": "limits that the code sets",
  "docs/start/first_subset.md: The first subset": "the threshold of the code below",
  "docs/tutorials/own_classifier.md: What does it look at?": "the threshold of the code below",
}
# Tables of traced pages that no file in docs/results holds, by the beginning of their headers.
NOT_IN_A_FILE = {
  "docs/lattice.md": {"| at | images that have some": "the lattices of 600 images take 300 MB"},
  "docs/contrastive.md": {"| question | ReX, pixels": "maps of another package, which the script does not make"},
  "docs/coarse_to_fine.md": {"| features | chameleon": "squares: the file has one photograph, on a CPU"},
}


@functools.cache
def make_texts(page: str, trace: traced.Trace) -> list[str]:
  """What must stand on a page by one of its traces."""
  return [normalise(text) for text in trace((REPOSITORY / page).read_text())]


def make_all_texts(page: str) -> list[str]:
  return [text for trace in traced.TRACES.get(page, ()) for text in make_texts(page, trace)]


def find_untraced(block: Block, texts: Sequence[str]) -> list[str]:
  """The measured numbers of a block that stand in none of the texts."""
  is_traced = bytearray(len(block.text))
  for text in texts:
    for found in re.finditer(re.escape(text), block.text):
      is_traced[found.start() : found.end()] = b"\1" * len(text)
  return [one[0] for one in find_measured(block) if not all(is_traced[one.start() : one.end()])]


@pytest.mark.parametrize(
  ("page", "trace"),
  [pytest.param(page, one, id=f"{page}-{one.__name__}") for page, found in traced.TRACES.items() for one in found],
)
def test_pages_say_what_their_files_hold(page: str, trace: traced.Trace):
  content = (REPOSITORY / page).read_text()
  missing = [text for text in make_texts(page, trace) if text not in normalise(content)]
  nearest = [difflib.get_close_matches(text, content.splitlines(), n=1, cutoff=0.0) for text in missing]
  assert missing == [], f"{page} says otherwise; the lines that are nearest: {nearest}"


@pytest.mark.parametrize("page", [*FIRST_PAGES, *PAGES_WITH_FILES])
def test_nothing_else_is_said_where_files_are(page: str):
  texts, exempt = make_all_texts(page), NOT_IN_A_FILE.get(page, {})
  untraced = {}
  for block in read_blocks((REPOSITORY / page).read_text()):
    if any(block.header.startswith(one) for one in exempt):
      continue
    numbers = find_untraced(block, texts)
    if not block.header and page not in FIRST_PAGES:
      numbers = [one for one in numbers if "[" in one]
    if numbers:
      untraced[block.text] = numbers
  assert untraced == {}


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_sections_say_where_their_numbers_come_from(page: pathlib.Path):
  texts = make_all_texts(name_page(page))
  for section in read_sections(page):
    if section.name in NO_FINDINGS or says_where(section):
      continue
    for block in read_blocks(section.text):
      linked = " ".join(normalise(one.read_text()) for one in find_linked(block, page))
      numbers = find_untraced(block, texts)
      unknown = [one for one in numbers if not re.search(rf"(?<![\w.,]){re.escape(one)}", linked)]
      assert unknown == [], f"{section.name} has no command or file for these, nor has a page that it links to there"


def test_exemptions_are_of_what_there_is():
  sections = {section.name for page in PAGES for section in read_sections(page)}
  assert NO_FINDINGS.keys() <= sections
  for page, headers in NOT_IN_A_FILE.items():
    content = (REPOSITORY / page).read_text()
    assert all(header in content for header in headers)
