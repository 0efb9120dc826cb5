"""How units are handed out: how many a worker gets at a time, and how many workers one may end."""

import math

# What a worker gets, once it is known how long its units take: it drains its devices after each task.
TASK_SECONDS = 30.0
LAUNCHES_OF_FIRST_TASK = 8
# Workers that one unit may end before it is taken to be the reason.
MAX_LOSSES = 5


def first_task_size(launch_size: int, unit_size: int) -> int:
  """Units of a worker's first task: a few launches, when so many images are searched at once and a unit has so many."""
  return max(1, LAUNCHES_OF_FIRST_TASK * launch_size // unit_size)


class TaskSize:
  """Tasks of about `TASK_SECONDS`, and smaller ones towards the end, so that all workers end together.

  Args:
    num_first: units in the first tasks.
  """

  def __init__(self, num_first: int):
    self._at_most = num_first

  def choose(self, num_left: int, num_workers: int) -> int:
    """How many of the units that are left one of so many workers gets."""
    return min(math.ceil(num_left / (2 * num_workers)), self._at_most)

  def learn(self, num_units: int, seconds: float) -> None:
    """Notes how long a task took."""
    self._at_most = max(1, int(num_units * TASK_SECONDS / max(seconds, 1e-9)))
