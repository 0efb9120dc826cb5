"""Pages: whole, readable, and the same text that went in, whatever it is made of."""

import io

import html_pages
import numpy as np
import pytest
from PIL import Image

from jax_sis.display import page

ODD = """<b>&"bold"</b> 'x' </style><script>alert(1)</script> --> &amp; ü 犬 \u202e"""


def make_picture(*, alt: str = "a square", is_pixelated: bool = False) -> page.Picture:
  pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, "png")
  return page.Picture(png=buffer.getvalue(), alt=alt, is_pixelated=is_pixelated)


def make_page(text: str) -> html_pages.Node:
  blocks = [
    page.section(
      text,
      answer=text,
      name="first",
      blocks=[
        page.paragraph("plain ", page.strong(text), " between ", page.code(text), text, kind="note"),
        page.table(text, ["name", text], [[text, "1"], ["b", page.strong(text)]]),
        page.section(text, level=3, blocks=[page.figure(make_picture(alt=text), text), page.command(text)]),
      ],
    ),
    page.section(
      "Cards",
      name="second",
      blocks=[
        page.section("Largest", level=3, blocks=[page.cards([page.card(text, {text: make_picture()}, {text: text})])]),
        page.folded(text, [page.beside([page.paragraph(text)]), page.description({text: text})]),
      ],
    ),
  ]
  return html_pages.read_page(page.document(text, blocks, lead=text))


@pytest.mark.parametrize("text", ["plain", ODD])
def test_all_text_comes_out_as_it_went_in(text: str):
  found = make_page(text)
  html_pages.check_page(found)
  shown = " ".join(text.split())
  expected = {
    **dict.fromkeys(("title", "h1", "h2", "h3", "h4", "strong", "code", "pre", "figcaption", "summary", "dt", "dd"), 1),
    "td": 1,
    "th": 2,
  }
  for tag, count in expected.items():
    texts = [
      " ".join(str(part) for part in node.parts) if tag == "title" else node.text for node in found.find_all(tag)
    ]
    assert [" ".join(one.split()) for one in texts].count(shown) >= count, tag
  paragraph = next(node for node in found.find_all("p") if node.attributes.get("class") == "note")
  assert [part if isinstance(part, str) else part.tag for part in paragraph.parts] == [
    "plain ",
    "strong",
    " between ",
    "code",
    text,
  ]
  assert {node.attributes.get("alt") for node in found.find_all("img")} == {text, "a square"}
  assert html_pages.rows_of(found.find_all("table")[0]) == [["name", shown], [shown, "1"], ["b", shown]]


def test_a_page_needs_nothing_from_elsewhere_and_fits_a_telephone():
  found = make_page("x")
  metas = {node.attributes.get("name") or node.attributes.get("http-equiv"): node for node in found.find_all("meta")}
  assert metas["viewport"].attributes["content"] == "width=device-width, initial-scale=1"
  assert metas["Content-Security-Policy"].attributes["content"].startswith("default-src 'none'; img-src data:;")
  assert found.find_all("html")[0].attributes["lang"] == "en"
  box = found.find_all("div")[0]
  assert box.attributes == {"class": "scroll", "role": "region", "tabindex": "0", "aria-label": "x"}


def test_sections_with_a_name_are_listed_and_one_alone_is_not():
  links = make_page("x").find_all("a")
  assert [(link.attributes["href"], link.text) for link in links] == [("#first", "x"), ("#second", "Cards")]
  alone = page.document("t", [page.section("only", name="only", blocks=[])])
  assert html_pages.read_page(alone).find_all("nav") == []


def test_a_picture_comes_back_to_the_pixel():
  picture = make_picture(is_pixelated=True)
  found = html_pages.read_page(page.document("t", [page.figure(picture, "c")])).find_all("img")[0]
  np.testing.assert_array_equal(html_pages.read_picture(found), np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3))
  assert (found.attributes["width"], found.attributes["height"]) == ("6", "4")
  assert found.attributes["class"] == "pixels"


def test_a_picture_of_several_panels_scrolls_in_a_box_that_can_have_the_focus():
  shown = html_pages.read_page(page.document("t", [page.figure(make_picture(), "both", is_wide=True)]))
  html_pages.check_page(shown)
  (box,) = (node for node in shown.find_all("div") if node.attributes.get("class") == "scroll")
  assert (box.attributes["tabindex"], box.attributes["role"], box.attributes["aria-label"]) == ("0", "region", "both")
  (picture,) = box.find_all("img")
  assert picture.attributes["class"] == "wide"


def test_the_columns_of_numbers_are_marked():
  found = html_pages.read_page(page.document("t", [page.table("c", "abc", [["x", "y", "1"]], num_text_columns=2)]))
  assert [node.attributes.get("class") for node in found.find_all("th", "td")] == [None, None, "number"] * 2
  assert [node.tag for node in found.find_all("th", "td")] == ["th", "th", "th", "th", "td", "td"]


def test_lines_of_a_number_end_before_its_interval_only():
  rows = [["12 to 15 [1, 2]", "26.4% [25.0, 27.9] on 20", "16 to 20", "no images at all"]]
  found = html_pages.read_page(page.document("t", [page.table("c", "abcd", rows)]))
  assert [cell.parts[0] for cell in found.find_all("tr")[1].find_all("th", "td")] == [
    "12 to 15 [1, 2]",
    "26.4% [25.0,\N{NO-BREAK SPACE}27.9]\N{NO-BREAK SPACE}on\N{NO-BREAK SPACE}20",
    "16\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}20",
    "no images at all",
  ]


def test_what_a_page_cannot_hold_is_shown_as_unknown():
  found = html_pages.read_page(page.document("a\x00b\x1b\x7f\udcff\uffffc\n\td", []))
  assert found.find_all("h1")[0].text == "a\ufffdb\ufffd\ufffd\ufffd\ufffdc d"


def test_wrong_parts_are_refused():
  with pytest.raises(ValueError, match=r"^png must hold a PNG file, got bytes that begin with b'GIF89a'\.$"):
    page.Picture(png=b"GIF89a", alt="x")
  with pytest.raises(ValueError, match=r"^alt must say what the picture shows, got nothing\.$"):
    make_picture(alt=" ")
  with pytest.raises(ValueError, match=r"^rows must have 2 cells like the header, got one of 1: \['x'\]\.$"):
    page.table("c", ["a", "b"], [["x"]])
  with pytest.raises(ValueError, match=r"^level must be 2 to 6, since the page's own heading is 1, got 1\.$"):
    page.section("h", blocks=[], level=1)
