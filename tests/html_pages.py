"""Reads a page of `jax_sis.display.page` as a browser would, so that tests can say what stands on it."""

import base64
import dataclasses
import html.parser
import io
import itertools
import re

import numpy as np
from PIL import Image

# Elements that have no end.
VOID = {"meta", "img", "br", "hr", "link", "input"}


@dataclasses.dataclass
class Node:
  """An element and what is in it."""

  tag: str
  attributes: dict[str, str]
  parts: list["Node | str"] = dataclasses.field(default_factory=list)

  @property
  def text(self) -> str:
    """All text in it, with single spaces."""
    texts = [part if isinstance(part, str) else part.text for part in self.parts if not is_hidden(part)]
    return re.sub(r"\s+", " ", " ".join(texts)).strip()

  def find_all(self, *tags: str) -> list["Node"]:
    """The elements with these tags in it, in the order of the page; all where none is named."""
    found = []
    for part in self.parts:
      if isinstance(part, Node):
        found += [part] if not tags or part.tag in tags else []
        found += part.find_all(*tags)
    return found

  def find(self, name: str) -> "Node":
    """The element with this id."""
    return next(node for node in self.find_all() if node.attributes.get("id") == name)


def is_hidden(part: "Node | str") -> bool:
  """Whether it is no text of the page."""
  return isinstance(part, Node) and part.tag in ("style", "script")


class Parser(html.parser.HTMLParser):
  """Builds the tree, and refuses ends that do not fit."""

  def __init__(self):
    super().__init__(convert_charrefs=True)
    self.root = Node("", {})
    self._open = [self.root]

  def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
    """An element begins."""
    node = Node(tag, {name: value or "" for name, value in attrs})
    self._open[-1].parts.append(node)
    if tag not in VOID:
      self._open.append(node)

  def handle_endtag(self, tag: str) -> None:
    """It ends."""
    assert self._open.pop().tag == tag

  def handle_data(self, data: str) -> None:
    """Text in it."""
    self._open[-1].parts.append(data)


def read_page(content: bytes) -> Node:
  """The tree of a page."""
  text = content.decode()
  assert text.startswith("<!doctype html>\n<html")
  parser = Parser()
  parser.feed(text)
  parser.close()
  return parser.root


def read_picture(node: Node) -> np.ndarray:
  """The pixels of an `img`."""
  kind, _, encoded = node.attributes["src"].partition(",")
  assert kind == "data:image/png;base64"
  return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))


def check_page(page: Node) -> None:
  """Says of any page that it holds all that it shows, and that readers of all kinds can read it."""
  for node in page.find_all():
    for name in ("src", "srcset", "data", "poster", "action", "background"):
      assert node.attributes.get(name, "data:").startswith("data:"), node
    assert node.attributes.get("href", "#").startswith("#"), node
    assert not [name for name in node.attributes if name.startswith("on")], node
    assert node.tag not in ("script", "link", "iframe", "object", "embed"), node
  styles = " ".join(str(style.parts[0]) for style in page.find_all("style"))
  assert "url(" not in styles
  assert "@import" not in styles
  for node in page.find_all("img"):
    assert node.attributes["alt"].strip()
    height, width = read_picture(node).shape[:2]
    assert (node.attributes["width"], node.attributes["height"]) == (str(width), str(height))
  levels = [int(node.tag[1]) for node in page.find_all("h1", "h2", "h3", "h4", "h5", "h6")]
  assert levels[0] == 1
  assert levels.count(1) == 1
  assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), levels
  names = [node.attributes["id"] for node in page.find_all() if "id" in node.attributes]
  assert len(names) == len(set(names))
  assert {node.attributes["href"][1:] for node in page.find_all("a")} <= set(names)
  for node in page.find_all("table"):
    rows = [row.find_all("th", "td") for row in node.find_all("tr")]
    assert len({len(row) for row in rows}) == 1
    assert all(cell.attributes["scope"] == "col" for cell in rows[0])
    assert all(row[0].attributes["scope"] == "row" for row in rows[1:])
  for node in page.find_all("figure"):
    assert next(part.text for part in node.find_all("figcaption"))


def rows_of(node: Node) -> list[list[str]]:
  """The texts of a table's cells, the header first."""
  return [[cell.text for cell in row.find_all("th", "td")] for row in node.find_all("tr")]
