"""Pictures beside their captions: nothing runs over anything, and kept pixels cannot be taken for masked ones."""

import io

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from jax_sis.display import beside, pixels
from jax_sis.display.beside import Cell
from jax_sis.display.style import finish, measure, wrap

PICTURE = np.zeros((8, 8, 3), np.uint8)
LONG = "a_name_without_any_space_that_is_as_long_as_a_path_in_a_folder_of_photographs/" * 3


def boxes_of(figure: Figure) -> tuple[list[tuple[float, ...]], list[tuple[float, ...]]]:
  """Left, bottom, right and top of the pictures and of the texts, in dots."""
  renderer = FigureCanvasAgg(figure).get_renderer()
  (axis,) = figure.axes
  pictures = [image.get_window_extent(renderer).extents for image in axis.images]
  texts = [text.get_window_extent(renderer).extents for text in axis.texts if text.get_text()]
  return [tuple(box) for box in pictures], [tuple(box) for box in texts]


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
  return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def test_no_text_runs_over_a_picture_another_text_or_the_edge():
  caption = f"{LONG}\ntrue: {'W' * 60}\npredicted: {LONG}\n0.9999"
  cells = [Cell(picture=PICTURE, caption=caption), Cell(picture=PICTURE, caption=caption), Cell(picture=PICTURE)]
  lines = [cells, f"{LONG}, {LONG}: none", cells, "short: none"]
  figure = beside.draw_lines(["image", LONG, "order"], lines, note="Words. " * 60)
  pictures, texts = boxes_of(figure)
  assert (len(pictures), len(texts)) == (6, 3 + 4 + 2 + 1)
  boxes = [*pictures, *texts]
  assert [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if overlap(a, b)] == []
  width, height = figure.get_size_inches() * figure.dpi
  assert all(0 <= box[0] and box[2] <= width and 0 <= box[1] and box[3] <= height for box in boxes)


def test_a_text_takes_one_line_and_the_space_of_one():
  heights = [
    beside.draw_lines(["image"], [[Cell(picture=PICTURE)], *["none"] * count]).get_figheight() for count in (0, 1, 2)
  ]
  assert np.diff(heights) == pytest.approx([beside.TEXT_LINE] * 2)
  assert beside.TEXT_LINE < beside.PICTURE / 4
  assert finish(beside.draw_lines(["image"], ["none"])).startswith(b"\x89PNG")


def test_lines_are_broken_at_spaces_and_shortened():
  assert wrap("one two", 1000, size=10) == "one two"
  assert wrap("one two three", measure("one two", size=10) / 0.97, size=10) == "one two\nthree"
  short = wrap("word " * 50, 100, size=10)
  assert short.endswith("...")
  assert all(measure(line, size=10) <= 100 for line in short.splitlines())
  assert wrap("a\x1b[31mb\x07", 1000, size=10) == "a\N{REPLACEMENT CHARACTER}[31mb\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("colour", [(128, 128, 128), *pixels.UNLIKELY.values()])
def test_what_is_masked_has_a_colour_that_kept_pixels_have_not(colour: tuple[int, int, int]):
  image = np.full((1, 6, 6, 3), colour, np.uint8)
  mask = np.zeros((1, 6, 6, 1), bool)
  mask[0, 2] = True
  name = beside.choose_colour(image, [mask])
  for paint in (pixels.paint_kept, pixels.paint_over):
    painted = paint(image[0], mask[0], name).astype(int)
    np.testing.assert_array_equal(painted[2], image[0, 2])
    assert np.abs(painted[[0, 1, 3, 4, 5]] - np.array(colour)).sum(-1).min() >= 100


def test_heat_is_yellow_where_it_is_largest_and_grey_where_it_is_nothing():
  heat = np.array([[0.0, 1.0], [np.nan, 0.5]])[..., None]
  painted = beside.paint_heat(heat).astype(int)
  assert painted[0, 1].tolist() == [253, 231, 36]
  assert painted[1, 0].tolist() == [170, 170, 170]
  signed = beside.paint_heat(np.array([[-1.0, 0.0, 0.5]])[..., None]).astype(int)[0]
  assert signed[0][2] > signed[0][0]
  assert signed[2][0] > signed[2][2]


def test_a_photograph_is_shown_pixel_by_pixel_with_its_subset_alone_and_on_the_greyed_image():
  generator = np.random.default_rng(0)
  images = generator.integers(0, 256, (2, 150, 224, 3), np.uint8)
  kept = generator.random((2, 150, 224, 1)) < 0.1
  kept[1] = False
  figure = beside.draw_columns(images, [("subset", kept, ["a class with a name of many words " * 3, "none"])])
  drawn = np.array(Image.open(io.BytesIO(finish(figure))).convert("RGB"))
  pictures, texts = boxes_of(figure)
  grey = (96 + 0.35 * images[0].mean(-1, keepdims=True)).astype(np.uint8)
  alone, on_grey = np.where(kept[0], images[0], 127), np.where(kept[0], images[0], grey)
  expected = [images[0], alone, on_grey, images[1]]
  for picture, (left, _, right, top) in zip(expected, pictures, strict=True):
    assert right - left == 224
    found = drawn[len(drawn) - round(top) :, round(left) :][:150, :224]
    np.testing.assert_array_equal(found, picture)
  boxes = [*pictures, *texts]
  assert [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if overlap(a, b)] == []
  assert all(0 <= box[0] and box[2] <= drawn.shape[1] and 0 <= box[1] and box[3] <= len(drawn) for box in boxes)


def test_images_of_few_pixels_stay_enlarged_with_their_captions_on_the_right():
  figure = beside.draw_columns(np.zeros((1, 32, 32, 3), np.uint8), [("subset", np.ones((1, 32, 32, 1), bool), ["all"])])
  pictures, texts = boxes_of(figure)
  assert [right - left for left, _, right, _ in pictures] == pytest.approx([100 * beside.PICTURE] * 2)
  assert texts[-2][0] > pictures[-1][2] - 1
