"""The picture of a run: what its lines say; `display.beside` draws them."""

import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from jax_sis import results
from jax_sis.core.subsets import Status
from jax_sis.display import beside, pixels
from jax_sis.runs import gallery
from jax_sis.runs.setup import make_job_again


@pytest.fixture(scope="module")
def drawn(tiny_run: pathlib.Path) -> tuple[results.Results, list[Any], list[Any], str]:
  """A run, and headings, lines and note of its gallery of ten images."""
  store = results.open(tiny_run)
  with pytest.MonkeyPatch.context() as patch, jax.numpy_rank_promotion("allow"):
    calls: list[Any] = []
    patch.setattr(beside, "draw_lines", lambda headings, lines, *, note: calls.append((headings, lines, note)))
    patch.setattr(gallery, "finish", lambda figure: b"")
    job = make_job_again(store, checkpoint=None, data_dir=None, num_devices=1, is_computing=False)
    gallery.draw_gallery(job, store, num_images=10)
  return (store, *calls[0])


def test_images_without_an_answer_take_one_line(drawn: Any):
  store, headings, lines, _ = drawn
  assert (len(headings), len(lines)) == (4, 10)
  has_subset = (store.read("sis_status") == Status.OK) | (store.read("smallest_status") == Status.OK)
  assert [not isinstance(line, str) for line in lines] == has_subset[:10].tolist()
  assert 0 < has_subset[:10].sum() < 10
  text = next(line for line in lines if isinstance(line, str))
  assert text.startswith(f"{store.read_text('id')[lines.index(text)]}, true: ")
  assert text.endswith(": none: full image below threshold")


def test_kept_pixels_are_shown_and_the_others_have_the_colour_of_the_note(drawn: Any):
  store, _, lines, note = drawn
  assert "Droppable: each of so many kept pixels could be masked alone" in note
  assert "1-minimal: none is droppable" in note
  colour = next(value for name, value in pixels.UNLIKELY.items() if f"painted {name} is masked" in note)
  masks = store.masks(kind="smallest").repeat(8, 1).repeat(8, 2)
  for cells, mask in zip(lines, masks, strict=False):
    if not isinstance(cells, str):
      np.testing.assert_array_equal((cells[2].picture == np.array(colour)).all(-1), ~mask[..., 0])
