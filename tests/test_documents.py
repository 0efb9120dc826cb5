"""README and pages: short, their links lead somewhere, and the README's Python runs as it stands."""

import pathlib
import re
import subprocess
import sys

import pytest

import jax_sis

REPOSITORY = pathlib.Path(__file__).parents[1]
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"), REPOSITORY / "benchmarks/README.md"])
CHANGELOG = REPOSITORY / "CHANGELOG.md"
MAX_WORDS, MAX_WORDS_A_SENTENCE = 500, 20


def prose(text: str) -> str:
  """A page without code, tables, pictures, and what tells Sphinx that it is a notebook."""
  text = re.sub(r"\A---\n.*?^---$|^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
  text = re.sub(r"^(\||#| {4}).*$", "", text, flags=re.MULTILINE)
  text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
  return re.sub(r"\]\([^)]*\)", "]", text)


def sentences(text: str) -> list[str]:
  """What ends with a full stop, a mark, an empty line, or where the next entry of a list begins; a colon ends none."""
  parts = re.split(r"(?<=[.!?])[)*\]]*\s+|\n\s*\n|\n\s*(?:\*|\d+\.) ", prose(text))
  return [part for part in parts if re.search(r"\w", part)]


def slug(heading: str) -> str:
  """The anchor of a heading, as GitHub and MyST make it."""
  plain = re.sub(
    r"[`*\[\]]|\([^)]*\)", lambda found: found[0] if found[0].startswith("(") else "", heading.strip().lower()
  )
  return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


@pytest.fixture(scope="module")
def readme() -> str:
  return (REPOSITORY / "README.md").read_text()


def test_readme_takes_a_minute(readme: str):
  assert len(readme.split()) < MAX_WORDS


def test_sentences_are_short():
  """In the mean of every page, and of all of them; the longest sentences are those to split."""
  found = {page: sentences(page.read_text()) for page in PAGES if page != CHANGELOG}
  means = {page: count_words(some) / len(some) for page, some in found.items() if some}
  total = count_words([one for some in found.values() for one in some]) / sum(map(len, found.values()))
  too_long = {
    f"{page.relative_to(REPOSITORY)}: {mean:.1f} words": sorted(found[page], key=lambda one: -len(one.split()))[:3]
    for page, mean in means.items()
    if mean >= MAX_WORDS_A_SENTENCE
  }
  assert total < MAX_WORDS_A_SENTENCE
  assert too_long == {}


def count_words(some: list[str]) -> int:
  return sum(len(one.split()) for one in some)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: pathlib.Path):
  text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
  for target in re.findall(r"\]\(([^)\s]+)\)", text):
    if target.startswith(("http://", "https://")):
      continue
    path, _, anchor = target.partition("#")
    there = (page.parent / path).resolve() if path else page
    assert there.exists(), f"{target} of {page.name} is nowhere"
    if anchor:
      headings = re.findall(r"^#+ (.*)$", there.read_text(), flags=re.MULTILINE)
      assert anchor in map(slug, headings), f"{target} of {page.name} has no such heading"


def test_changelog_and_citation_name_this_version():
  version, date = re.findall(r"^## (\d\S+) - (\S+)$", (REPOSITORY / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[0]
  assert version == jax_sis.__version__
  citation = (REPOSITORY / "CITATION.cff").read_text()
  assert f"version: {version}\ndate-released: {date}\n" in citation


def test_readme_shows_eight_lines(readme: str):
  (code,) = re.findall(r"^```python\n(.*?)^```", readme, flags=re.DOTALL | re.MULTILINE)
  assert len([line for line in code.splitlines() if line]) == 8
  assert code in (REPOSITORY / "docs/index.md").read_text()


@pytest.mark.slow
def test_readme_runs_as_it_stands(readme: str, tmp_path: pathlib.Path):
  (code,) = re.findall(r"^```python\n(.*?)^```", readme, flags=re.DOTALL | re.MULTILINE)
  done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  assert "of 1,024 pixels are enough" in done.stdout
  assert (tmp_path / "subsets.png").stat().st_size > 10_000
