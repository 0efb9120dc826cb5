"""Images in batches, read ahead of their use."""

import collections
import itertools
import math
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from jaxtyping import Int

from jax_sis.data.records import ImageSource, Record

# A task of a thread: decoding a CIFAR image takes hardly longer than handing one over.
IMAGES_READ_TOGETHER = 8
NUM_READERS = 16
# Decoded images that wait in memory.
NUM_IMAGES_AHEAD = 512

Item = TypeVar("Item")


def iterate_batches(
  source: ImageSource, indices: Sequence[int] | Int[np.ndarray, "N"], batch_size: int
) -> Iterator[dict[str, np.ndarray]]:
  """Reads the images at `indices`, in this order, decoding ahead in threads.

  Yields dictionaries of the Record fields with a leading batch axis; the last may be shorter.
  """
  num_ahead = math.ceil(NUM_IMAGES_AHEAD / batch_size)
  waiting: collections.deque[list[Future[list[Record]]]] = collections.deque()
  readers = ThreadPoolExecutor(NUM_READERS, thread_name_prefix="read_images")
  try:
    for start in range(0, len(indices), batch_size):
      waiting.append(start_reading(readers, source, indices[start : start + batch_size]))
      if len(waiting) > num_ahead:
        yield join(waiting.popleft())
    while waiting:
      yield join(waiting.popleft())
  finally:
    readers.shutdown(cancel_futures=True)


def start_reading(
  readers: ThreadPoolExecutor, source: ImageSource, indices: Sequence[int] | Int[np.ndarray, "B"]
) -> list[Future[list[Record]]]:
  starts = range(0, len(indices), IMAGES_READ_TOGETHER)
  return [readers.submit(read_group, source, indices[start : start + IMAGES_READ_TOGETHER]) for start in starts]


def read_group(source: ImageSource, indices: Sequence[int] | Int[np.ndarray, "B"]) -> list[Record]:
  return [source[int(index)] for index in indices]


def join(groups: Sequence[Future[list[Record]]]) -> dict[str, np.ndarray]:
  return join_records([record for group in groups for record in group.result()])


def join_records(records: Sequence[Record]) -> dict[str, np.ndarray]:
  """The fields of some images, each with a leading batch axis."""
  return {name: np.stack([record[name] for record in records]) for name in Record.__annotations__}


def read_ahead(items: Iterator[Item]) -> Generator[Item, None, None]:
  """The same items; while one is in use, a thread gets the next, and no more."""
  with ThreadPoolExecutor(1, thread_name_prefix="read") as executor:
    upcoming = executor.submit(take, items)
    while found := upcoming.result():
      upcoming = executor.submit(take, items)
      yield from found


def take(items: Iterator[Item]) -> tuple[Item, ...]:
  """The next item; nothing after the last."""
  return tuple(itertools.islice(items, 1))
