"""Self-contained HTML pages of text, tables and pictures, for telephones and large screens, light and dark.

A page is made of elements of `xml.etree`, which escapes all text. It needs no network and no script, and its
policy tells browsers to allow neither.

  blocks = [
    page.section("Sizes", answer="Half of the images need 2 % of their pixels.", blocks=[page.table(...), ...]),
    page.section("Places", answer="...", blocks=[page.figure(page.Picture(png=..., alt="..."), "Where they lie.")]),
  ]
  file.write(page.document("A report", blocks))
"""

import base64
import dataclasses
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# In a cell that begins with a number or a p-value, lines may end before an interval only.
NUMBER_BEGINS = re.compile(r"[-+\d]|p [<=]")
SPACE_WITHIN = re.compile(r" (?!\[)")
# What HTML has no way to write, escaped or not.
UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1c1f23; --soft: #565d66; --line: #d5d9de; --paper: #ffffff; --tint: #f3f5f7; --mark: #0b62a8;
}
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7e9ec; --soft: #a9b1ba; --line: #3c434b; --paper: #15181b; --tint: #20252a; --mark: #7cbcf2; }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink); overflow-wrap: anywhere;
  font: 1.0625rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 66rem; margin: 0 auto; padding: 1.25rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0.5rem 0 0.75rem; }
h2 {
  font-size: 1.35rem; line-height: 1.3; margin: 2.75rem 0 0.75rem; padding-top: 1rem; border-top: 1px solid var(--line);
}
h3 { font-size: 1.1rem; line-height: 1.35; margin: 1.75rem 0 0.5rem; }
p { margin: 0.6rem 0; max-width: 46rem; }
.answer { font-size: 1.15rem; line-height: 1.5; border-left: 4px solid var(--mark); padding-left: 0.8rem; }
.soft { color: var(--soft); }
.note { background: var(--tint); border: 1px solid var(--line); border-radius: 6px; padding: 0.65rem 0.8rem; }
a { color: var(--mark); }
nav ul { padding-left: 1.2rem; }
nav li { padding: 0.3rem 0; }
figure { margin: 1.1rem 0; min-width: 0; }
figcaption { color: var(--soft); font-size: 1rem; margin: 0.4rem 0; max-width: 46rem; }
img { display: block; max-width: min(100%, 34rem); height: auto; background: #ffffff; border-radius: 4px; }
img.wide { max-width: max(100%, 44rem); }
img.pixels { image-rendering: pixelated; width: 100%; max-width: 100%; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
.scroll:focus-visible, summary:focus-visible { outline: 3px solid var(--mark); }
table { border-collapse: collapse; width: 100%; font-size: 1rem; font-variant-numeric: tabular-nums; }
th, td {
  padding: 0.4rem 0.7rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line);
  overflow-wrap: break-word;
}
tr:last-child > * { border-bottom: 0; }
thead th { background: var(--tint); vertical-align: bottom; }
tbody th { font-weight: 400; min-width: 9rem; background: var(--paper); }
tr > th:first-child { position: sticky; left: 0; border-right: 1px solid var(--line); }
.number { text-align: right; overflow-wrap: normal; }
.beside {
  display: grid; gap: 0.5rem 1.5rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr));
}
.cards { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17.5rem), 1fr)); }
.card { border: 1px solid var(--line); border-radius: 8px; padding: 0.8rem; min-width: 0; }
.card > :first-child { margin: 0 0 0.5rem; font-size: 1.05rem; }
.pictures { display: flex; gap: 0.5rem; }
.pictures figure { flex: 1 1 0; margin: 0; }
.thumbnails { display: grid; gap: 0.5rem; grid-template-columns: repeat(auto-fill, minmax(5.5rem, 1fr)); }
.thumbnails figure { margin: 0; }
.thumbnails figcaption { font-size: 0.875rem; line-height: 1.3; }
/* Photographs are shown pixel by pixel, below each other where they do not fit beside each other. */
.photographs { grid-template-columns: 1fr; }
.photographs .card { display: flex; flex-wrap: wrap; gap: 0 1.5rem; align-items: flex-start; }
.photographs .card > :first-child { flex-basis: 100%; }
.photographs .pictures { flex-wrap: wrap; }
.photographs dl { flex: 1 1 12rem; }
.photographs .pictures figure { flex: 0 1 auto; }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: 0.2rem 0.9rem; margin: 0.6rem 0; }
dt { color: var(--soft); }
dd { margin: 0; min-width: 0; }
pre {
  background: var(--tint); border: 1px solid var(--line); border-radius: 6px; padding: 0.65rem 0.8rem;
  white-space: pre-wrap; font-size: 1rem;
}
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
summary { cursor: pointer; padding: 0.5rem 0; color: var(--mark); }
@media (max-width: 48rem) {
  /* A row below the other, with the heading beside each cell, so that nothing is too wide. */
  table, tbody, tr { display: block; }
  thead { display: none; }
  th, td { padding: 0.25rem 0.7rem; }
  tbody tr { border-bottom: 1px solid var(--line); padding: 0.3rem 0; }
  tbody tr:last-child { border-bottom: 0; }
  tbody tr > th:first-child { display: block; position: static; border: 0; font-weight: 600; }
  tbody td { display: flex; justify-content: space-between; gap: 1rem; border: 0; text-align: right; }
  tbody td::before { content: attr(data-label); color: var(--soft); text-align: left; }
}
@media (max-width: 30rem) {
  section > dl { grid-template-columns: 1fr; gap: 0; }
  section > dl > dd { margin-bottom: 0.5rem; }
}
@media print { .scroll { overflow: visible; } h2 { break-after: avoid; } figure, .card { break-inside: avoid; } }
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
  """A picture of a page.

  Attributes:
    png: the bytes of the file.
    alt: what it shows, in words, for those who do not see it.
    is_pixelated: whether it is an image of few pixels, each of which should be seen.
  """

  png: bytes
  alt: str
  is_pixelated: bool = False

  def __post_init__(self) -> None:
    if not self.png.startswith(PNG_SIGNATURE):
      raise ValueError(f"png must hold a PNG file, got bytes that begin with {self.png[:8]!r}.")
    if not self.alt.strip():
      raise ValueError("alt must say what the picture shows, got nothing.")


def document(title: str, blocks: Iterable[Element], *, lead: str = "", opening: Iterable[Element] = ()) -> bytes:
  """A whole page, as the bytes of its file.

  Args:
    title: its heading, and the title of its window.
    blocks: what stands below, sections mostly; those with a name are listed at the top.
    lead: a sentence below the heading.
    opening: what stands there, above the list.
  """
  blocks = list(blocks)
  head = element(
    "head",
    element("meta", charset="utf-8"),
    element("meta", name="viewport", content="width=device-width, initial-scale=1"),
    element("meta", name="referrer", content="no-referrer"),
    Element("meta", {"http-equiv": "Content-Security-Policy", "content": POLICY}),
    element("title", title),
    element("style", STYLE),
  )
  header = element("header", element("h1", title), *([paragraph(lead, kind="soft")] if lead else []), *opening)
  main = element("main", header, *list_sections(blocks), *blocks)
  root = element("html", head, element("body", main), lang="en")
  return f"<!doctype html>\n{ElementTree.tostring(root, encoding='unicode', method='html')}\n".encode()


def list_sections(blocks: Sequence[Element]) -> list[Element]:
  """The names of the sections, as links to them; nothing where there are fewer than two."""
  named = [(block.get("id"), block.findtext("h2")) for block in blocks if block.get("id")]
  items = [element("li", element("a", heading or "", href=f"#{name}")) for name, heading in named]
  return [element("nav", element("ul", *items), **{"aria-label": "Contents"})] if len(items) > 1 else []


def section(
  heading: str, *, blocks: Iterable[Element], answer: str | None = None, name: str | None = None, level: int = 2
) -> Element:
  """A part of the page under a heading.

  Args:
    heading: what it is about.
    blocks: what stands in it.
    answer: what it says, in a sentence, which comes first and stands out.
    name: what links call it, unique on the page; with one it is listed at the top.
    level: 2 for the parts of the page, 3 for parts of these, and so on.

  Raises:
    ValueError: level is not 2 to 6.
  """
  if not 2 <= level <= 6:
    raise ValueError(f"level must be 2 to 6, since the page's own heading is 1, got {level}.")
  parts = [element(f"h{level}", heading), *([paragraph(answer, kind="answer")] if answer else [])]
  found = element("section", *parts, *blocks)
  if name is not None:
    found.set("id", name)
  return found


def paragraph(*parts: str | Element, kind: str = "") -> Element:
  """A paragraph of text and what stands within lines.

  Args:
    parts: texts, `strong` and `code`.
    kind: `answer` for what is said first, `note` for what is missing or must be known, `soft` for what is less
      important; empty for plain text.
  """
  return element("p", *parts, **({"class": kind} if kind else {}))


def strong(text: str) -> Element:
  return element("strong", text)


def code(text: str) -> Element:
  return element("code", text)


def command(text: str) -> Element:
  return element("pre", element("code", text))


def table(
  caption: str, header: Sequence[str], rows: Iterable[Sequence[str | Element]], *, num_text_columns: int = 1
) -> Element:
  """A table, which scrolls within its own box where it is too wide.

  Args:
    caption: what it shows.
    header: the columns' headings.
    rows: their cells; the first names the row.
    num_text_columns: how many columns on the left hold words; the others hold numbers.

  Raises:
    ValueError: a row has not as many cells as there are columns.
  """
  lines = [list(row) for row in rows]
  wrong = next((line for line in lines if len(line) != len(header)), None)
  if wrong is not None:
    raise ValueError(f"rows must have {len(header)} cells like the header, got one of {len(wrong)}: {wrong}.")
  head = element("tr", *(cell("th", text, place, num_text_columns, "col") for place, text in enumerate(header)))
  body = [
    element(
      "tr",
      *(
        cell("td" if place else "th", text, place, num_text_columns, None if place else "row", label=header[place])
        for place, text in enumerate(line)
      ),
    )
    for line in lines
  ]
  box = scroll_box(element("table", element("thead", head), element("tbody", *body)), caption)
  return element("figure", element("figcaption", caption), box)


def cell(
  tag: str, content: str | Element, place: int, num_text_columns: int, scope: str | None, *, label: str = ""
) -> Element:
  if place >= num_text_columns and isinstance(content, str) and NUMBER_BEGINS.match(content):
    content = SPACE_WITHIN.sub("\N{NO-BREAK SPACE}", content)
  found = element(tag, content)
  if place >= num_text_columns:
    found.set("class", "number")
  if scope is not None:
    found.set("scope", scope)
  if tag == "td" and label:
    # Narrow screens show it beside the cell.
    found.set("data-label", clean(label))
  return found


def image(picture: Picture, *, is_wide: bool = False) -> Element:
  """A picture alone, held by the page itself; a wide one is shown as wide as the page, see `figure`."""
  width, height = struct.unpack(">II", picture.png[16:24])
  source = f"data:image/png;base64,{base64.b64encode(picture.png).decode('ascii')}"
  found = element("img", src=source, alt=picture.alt, width=str(width), height=str(height))
  if picture.is_pixelated or is_wide:
    found.set("class", "pixels" if picture.is_pixelated else "wide")
  return found


def figure(picture: Picture, caption: str, *, is_wide: bool = False) -> Element:
  """A picture with a caption, no wider than a column of text.

  Args:
    picture: the picture.
    caption: what it shows.
    is_wide: it holds several panels side by side: it may be as wide as the page, and on a narrow screen it scrolls
      within its own box, as tables do, so that it stays readable.
  """
  shown = image(picture, is_wide=is_wide)
  if is_wide:
    shown = scroll_box(shown, caption)
  return element("figure", shown, element("figcaption", caption))


def scroll_box(content: Element, label: str) -> Element:
  """A box that scrolls where its content is too wide; it can have the focus, to scroll by keyboard."""
  return element("div", content, **{"class": "scroll", "role": "region", "tabindex": "0", "aria-label": label})


def beside(blocks: Iterable[Element]) -> Element:
  """Blocks beside each other where the screen is wide enough, else below each other."""
  return element("div", *blocks, **{"class": "beside"})


def card(heading: str, pictures: Mapping[str, Picture], facts: Mapping[str, str], *, level: int = 4) -> Element:
  """A box with a few pictures side by side, each with its name below, and facts, see `description`."""
  return element("article", element(f"h{level}", heading), row(pictures), description(facts), **{"class": "card"})


def row(pictures: Mapping[str, Picture]) -> Element:
  """Pictures side by side, each with its name below."""
  shown = [element("figure", image(picture), element("figcaption", name)) for name, picture in pictures.items()]
  return element("div", *shown, **{"class": "pictures"})


def thumbnails(pictures: Iterable[tuple[str, Picture]], caption: str) -> Element:
  """Many small pictures, as many side by side as there is room for, each with its name below; and a caption above."""
  shown = [element("figure", image(picture), element("figcaption", name)) for name, picture in pictures]
  return element("figure", element("figcaption", caption), element("div", *shown, **{"class": "thumbnails"}))


def cards(blocks: Iterable[Element], *, are_of_photographs: bool = False) -> Element:
  """Cards beside each other; those of photographs below each other, with their facts beside the pictures."""
  return element("div", *blocks, **{"class": "cards photographs" if are_of_photographs else "cards"})


def photographs(pictures: Mapping[str, Picture], caption: str) -> Element:
  """Photographs side by side where there is room, pixel by pixel, with a caption."""
  return element("figure", row(pictures), element("figcaption", caption), **{"class": "photographs"})


def description(facts: Mapping[str, str]) -> Element:
  """What is known of something: names and what they are."""
  return element("dl", *(part for name, text in facts.items() for part in (element("dt", name), element("dd", text))))


def folded(summary: str, blocks: Iterable[Element]) -> Element:
  return element("details", element("summary", summary), *blocks)


def element(tag: str, *parts: str | Element, **attributes: str) -> Element:
  found = Element(tag, {name: clean(value) for name, value in attributes.items()})
  for part in parts:
    if isinstance(part, Element):
      found.append(part)
    elif len(found):
      found[-1].tail = (found[-1].tail or "") + clean(part)
    else:
      found.text = (found.text or "") + clean(part)
  return found


def clean(text: str) -> str:
  """The text with the replacement character for each character that HTML cannot hold."""
  return UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", text)
