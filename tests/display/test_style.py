"""One look for all pictures: the same bytes each time, texts as they are, and settings of Matplotlib left alone."""

import io
import math

import matplotlib
import pytest
from PIL import Image

from jax_sis.display.style import INK, draw_interval, finish, name_class, set_share_axis, start_figure, styled


@styled
def draw(title: str, *, is_placed: bool = False) -> bytes:
  places = {"left": 0.1, "right": 0.9, "bottom": 0.2, "top": 0.8} if is_placed else None
  figure, ((axis,),) = start_figure(1, 1, size=(3, 2), places=places)
  axis.plot([0.01, 0.5], [0, 1])
  set_share_axis(axis)
  axis.set_title(title)
  return finish(figure)


def test_the_same_picture_has_the_same_bytes_and_no_date():
  png = draw("a picture")
  assert png == draw("a picture")
  with Image.open(io.BytesIO(png)) as picture:
    assert "tIME" not in picture.info
    assert set(picture.info) <= {"Software", "dpi"}


def test_places_fix_the_size_and_without_them_empty_edges_are_cut_off():
  with Image.open(io.BytesIO(draw("", is_placed=True))) as picture:
    assert picture.size == (300, 200)
  with Image.open(io.BytesIO(draw("a title that is much wider than the figure it belongs to"))) as picture:
    assert picture.width > 300


def test_settings_of_the_user_are_neither_changed_nor_followed(monkeypatch: pytest.MonkeyPatch):
  png = draw("a picture")
  with matplotlib.rc_context({"axes.labelsize": 30, "axes.spines.top": True, "font.family": "serif"}):
    before = dict(matplotlib.rcParams)
    assert draw("a picture") == png
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("title", ["$\\odd{class$", "犬", "a $ sign"])
def test_odd_names_are_drawn_as_they_are(title: str):
  assert draw(title) != draw("")


@pytest.mark.parametrize(
  ("numbers", "counts"),
  [((1.0, 0.5, 2.0), (1, 1)), ((1.0, math.nan, math.nan), (0, 1)), ((math.nan, math.nan, math.nan), (0, 0))],
)
def test_of_an_interval_only_what_is_known_is_drawn(numbers: tuple[float, float, float], counts: tuple[int, int]):
  _, ((axis,),) = start_figure(1, 1, size=(3, 2))
  draw_interval(axis, 0, numbers, colour=INK)
  assert (len(axis.collections), len(axis.lines)) == counts


def test_a_long_name_of_a_class_takes_two_lines():
  assert name_class("great white shark") == "great white shark"
  assert name_class("American Staffordshire terrier") == "American Staffordshire\nterrier"
  assert name_class("word " * 40).splitlines()[1].endswith("...")
