"""Which numbers of a page are measured, and where its sections say that they come from.

A number is *measured* where a unit of time, size, speed or share follows it, where an interval in square brackets does,
or where it begins a cell of a table; headers, the first cells of rows, code and targets of links hold none.

A section *says where* its numbers come from by a command with its arguments, by a script of `benchmarks` or `tests`, or
by a link to a file of results or a paper, in its own text or in that of a section which it is a part of. Where a script
is not kept, it says so. Where a section says none of this, each number stands on a page that its paragraph links to.
"""

import dataclasses
import pathlib
import re

REPOSITORY = pathlib.Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
NUMBER = r"[-+]?(?:\d[\d,]*)?\.?\d+"
UNIT = (
  r"%|points|times|ms|s|min|h|seconds|minutes|hours|months|CPU seconds|CPU-s|core-seconds|"
  r"[kMGT]i?B|[GMT]FLOP(?:/s)?|images a second|image-steps"
)
INTERVAL = re.compile(rf"({NUMBER}|none)(?: ?%| points| pixels)? \[({NUMBER}), ({NUMBER})\]")
MEASURED = re.compile(rf"{INTERVAL.pattern}|(?<![\w.`/-]){NUMBER} ?(?:{UNIT})(?![\w-])|(?<=\| ){NUMBER}(?=[ ,|])")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"^ {4}\S.*$", re.MULTILINE)
COMMAND = re.compile(r"jax-sis [a-z]+ +\S|(?:benchmarks|tests)/\S+\.py")
RESULT = re.compile(r"\.(?:jsonl|json|csv|html)$|arxiv\.org")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
  """A heading of a page, and what stands below it up to the next one.

  Attributes:
    name: the page and the heading, `docs/page.md: Heading`.
    text: as it stands in the file.
    above: the same after the texts of the sections that it is a part of.
  """

  name: str
  text: str
  above: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
  """A paragraph, a list, or a row of a table, as one line.

  Attributes:
    text: normalised.
    header: of the table; empty of others.
  """

  text: str
  header: str


def normalise(text: str) -> str:
  """One line, without what makes words bold."""
  return " ".join(text.replace("**", "").split())


def name_page(path: pathlib.Path) -> str:
  return path.relative_to(REPOSITORY).as_posix()


def read_sections(path: pathlib.Path) -> list[Section]:
  """All sections of a page."""
  page = re.sub(r"\A---\n.*?\n---\n", "", path.read_text(), flags=re.DOTALL)
  # Comments in code are no headings.
  without_code = FENCE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), page)
  headings = [*re.finditer(r"^(#+) (.*)$", without_code, re.MULTILINE)]
  ends = [one.start() for one in headings[1:]] + [len(page)]
  sections: list[Section] = []
  path_to: list[tuple[int, str]] = []
  for heading, end in zip(headings, ends, strict=True):
    level, text = len(heading[1]), page[heading.end() : end]
    path_to = [*(one for one in path_to if one[0] < level), (level, text)]
    above = "\n".join(one for _, one in path_to)
    sections.append(Section(name=f"{name_page(path)}: {heading[2]}", text=text, above=above))
  return sections


def read_blocks(text: str) -> list[Block]:
  """What a section or a page says, without code that stands by itself."""
  blocks = []
  for part in re.split(r"\n\s*\n", INDENTED.sub("", FENCE.sub("", text))):
    header, *rows = [normalise(line) for line in part.strip().splitlines()] or [""]
    is_table = header.startswith("|")
    texts = rows[1:] if is_table else [normalise(part)]
    blocks += [Block(text=one, header=header if is_table else "") for one in texts]
  return blocks


def find_measured(block: Block) -> list[re.Match[str]]:
  """The measured numbers of a block, at their places."""
  without_code = re.sub(r"`[^`]*`|\]\([^)]*\)", lambda found: " " * len(found[0]), block.text)
  return [*MEASURED.finditer(without_code, without_code.find("|", 1) if block.header else 0)]


def says_where(section: Section) -> bool:
  without_code = FENCE.sub("", section.above)
  code = FENCE.findall(section.above) + INDENTED.findall(without_code) + re.findall(r"`[^`]*`", without_code)
  links = re.findall(r"\]\(([^)\s]+)\)", without_code)
  is_said_lost = "script is not kept" in normalise(section.text)
  return is_said_lost or any(map(COMMAND.search, code)) or any(map(RESULT.search, links))


def find_linked(block: Block, page: pathlib.Path) -> list[pathlib.Path]:
  """The pages that a block of a page links to."""
  return [(page.parent / target).resolve() for target in re.findall(r"\]\(([^)\s#:]+\.md)(?:#[^)]*)?\)", block.text)]
