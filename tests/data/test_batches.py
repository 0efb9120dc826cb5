"""What is read ahead, and how far."""

import threading
from collections.abc import Iterator

import pytest

from jax_sis.data.batches import read_ahead


def test_the_next_item_is_read_while_one_is_in_use_and_no_more():
  asked = [threading.Event() for _ in range(4)]

  def read() -> Iterator[int]:
    for number, event in enumerate(asked):
      event.set()
      yield number

  items = read_ahead(read())
  for number in range(2):
    assert next(items) == number
    assert asked[number + 1].wait(timeout=10)
    assert not asked[number + 2].wait(timeout=0.1)
  assert list(items) == [2, 3]


def test_an_error_of_the_reader_comes_after_what_was_read_before():
  def read() -> Iterator[int]:
    yield 1
    raise ValueError("no more")

  items = read_ahead(read())
  assert next(items) == 1
  with pytest.raises(ValueError, match="no more"):
    next(items)


def test_a_reader_that_is_left_early_reads_no_further():
  read = []
  items = read_ahead(read.append(number) or number for number in range(9))
  next(items)
  items.close()
  assert read == [0, 1]
  assert not [thread for thread in threading.enumerate() if thread.name.startswith("read")]
