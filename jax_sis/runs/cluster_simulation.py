"""A run on workers that are preempted and replaced, as a discrete-event simulation of what `on_ray` does.

Workers get tasks of units, store one unit after the other, and die at exponential times. What a dead worker had stored
stays, and the rest of its task goes back, once its death is noticed. Another machine comes, and begins anew.
"""

import bisect
import collections
import dataclasses
import heapq
import math
from typing import NamedTuple

import numpy as np

from jax_sis.runtime.task_size import MAX_LOSSES, TaskSize, first_task_size

# While each worker will get many more tasks, a few at a time are simulated as one.
TASKS_AHEAD = 4
# Of a run that makes no progress.
MAX_EVENTS = 10**6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fleet:
  """The workers.

  Attributes:
    num_workers: machines that are there, or being replaced.
    preempted_every: seconds that a machine lives on average, at exponential times; infinity for ever.
    replaced_after: seconds from a machine's end until another one starts a worker.
    spread: standard deviation of the speed of machines, and of the time of single units, as a share of the mean.
  """

  num_workers: int
  preempted_every: float
  replaced_after: float
  spread: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Costs:
  """What a worker takes for its work, in seconds.

  Attributes:
    startup_seconds: from a machine's start until its worker searches.
    launch_seconds: the search of one launch.
    launch_size: images in it.
    unit_size: images in a unit.
    write_seconds: to store a unit, one at a time, while the search goes on.
    turn_seconds: from the end of a task to the beginning of the next.
    notice_seconds: until it is known that a worker is dead.
  """

  startup_seconds: float
  launch_seconds: float
  launch_size: int
  unit_size: int
  write_seconds: float
  turn_seconds: float
  notice_seconds: float

  def stored_at(self, index: int) -> float:
    """When the unit with this index in a task is stored, in seconds since the task's beginning."""
    units_a_launch = max(self.launch_size // self.unit_size, 1)
    num_launches = -(-(index + 1) * self.unit_size // self.launch_size)
    num_before_first = -(-self.unit_size // self.launch_size)
    after_search = num_launches * self.launch_seconds + (index % units_a_launch + 1) * self.write_seconds
    # Where the storage is slower than the search.
    return max(after_search, num_before_first * self.launch_seconds + (index + 1) * self.write_seconds)

  def count_stored(self, seconds: float, num_units: int) -> int:
    """How many of a task's units are stored after some seconds."""
    return bisect.bisect_right(range(num_units), seconds, key=self.stored_at)


class Simulated(NamedTuple):
  """How a simulated run went.

  Attributes:
    seconds: what it took; infinite if it ended early or made no progress.
    lost_seconds: of searches that were not stored, all workers together.
    num_preempted: workers that ended before the run.
  """

  seconds: float
  lost_seconds: float
  num_preempted: int


@dataclasses.dataclass(kw_only=True, eq=False)
class Worker:
  """A worker and what it does; `slowness` is a factor of its times, `task` what it has been given."""

  slowness: float
  is_alive: bool = True
  task: "Task | None" = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """Units that a worker has; `size` of them at a time, `slowness` a factor of their times."""

  started: float
  num_units: int
  size: int
  slowness: float
  num_losses: int


class Simulation:
  """One run.

  Args:
    fleet: the workers.
    costs: what they take.
    num_units: what is to be done.
    generator: of all that is random.
  """

  def __init__(self, fleet: Fleet, costs: Costs, num_units: int, generator: np.random.Generator):
    self._fleet = fleet
    self._costs = costs
    self._generator = generator
    self._size = TaskSize(first_task_size(costs.launch_size, costs.unit_size))
    # How many units wait, in blocks that belong together, and how many workers died of each block's first.
    self._blocks = collections.deque([(num_units, 0)])
    self._events: list[tuple[float, int, str, Worker | None]] = []
    self._num_events = 0
    self._idle: list[Worker] = []
    self._num_open = self._num_out = self._num_preempted = 0
    self._lost_seconds = 0.0

  def run(self) -> Simulated:
    """Simulates it to its end."""
    for _ in range(self._fleet.num_workers):
      self._plan(0.0, "machine")
    handlers = {
      "machine": self._begin,
      "open": self._open,
      "end": self._end,
      "death": self._die,
      "notice": self._notice,
    }
    while self._num_events < MAX_EVENTS:
      now, _, what, worker = heapq.heappop(self._events)
      if not handlers[what](now, worker):
        return Simulated(math.inf, self._lost_seconds, self._num_preempted)
      if not self._blocks and not self._num_out:
        return Simulated(now, self._lost_seconds, self._num_preempted)
    return Simulated(math.inf, self._lost_seconds, self._num_preempted)

  def _plan(self, when: float, what: str, worker: Worker | None = None) -> None:
    self._num_events += 1
    heapq.heappush(self._events, (when, self._num_events, what, worker))

  def _begin(self, now: float, _: Worker | None) -> bool:
    worker = Worker(slowness=self._draw_slowness(1))
    life = math.inf
    if self._fleet.preempted_every < math.inf:
      life = self._generator.exponential(self._fleet.preempted_every)
      self._plan(now + life, "death", worker)
    if life > self._costs.startup_seconds:
      self._plan(now + self._costs.startup_seconds, "open", worker)
    return True

  def _open(self, now: float, worker: Worker | None) -> bool:
    assert worker is not None
    self._num_open += 1
    self._idle.append(worker)
    return self._hand_out(now)

  def _end(self, now: float, worker: Worker | None) -> bool:
    assert worker is not None
    if worker.is_alive:
      task, worker.task = worker.task, None
      assert task is not None
      self._num_out -= 1
      self._size.learn(task.num_units, now - task.started)
      self._idle.append(worker)
    return self._hand_out(now)

  def _die(self, now: float, worker: Worker | None) -> bool:
    assert worker is not None
    worker.is_alive = False
    self._num_preempted += 1
    self._plan(now + self._fleet.replaced_after, "machine")
    if worker in self._idle:
      self._idle.remove(worker)
      self._num_open -= 1
    elif worker.task is not None:
      worker.task = self._interrupt(worker.task, now)
      self._plan(now + self._costs.notice_seconds, "notice", worker)
    return True

  def _notice(self, now: float, worker: Worker | None) -> bool:
    assert worker is not None and worker.task is not None
    rest = worker.task
    self._num_open -= 1
    self._num_out -= 1
    if rest.num_units:
      self._blocks.appendleft((rest.num_units, rest.num_losses))
    return rest.num_losses < MAX_LOSSES and self._hand_out(now)

  def _hand_out(self, now: float) -> bool:
    while self._idle and self._blocks:
      worker = self._idle.pop()
      worker.task = self._take(now, worker)
      self._num_out += 1
      self._plan(now + self._seconds_of(worker.task), "end", worker)
    return True

  def _take(self, now: float, worker: Worker) -> Task:
    num_left = sum(count for count, _ in self._blocks)
    size = self._size.choose(num_left, self._num_open)
    ahead = max(num_left // (TASKS_AHEAD * self._fleet.num_workers * size), 1)
    num_units, num_losses = self._take_units(size * ahead)
    slowness = worker.slowness * self._draw_slowness(num_units)
    return Task(started=now, num_units=num_units, size=size, slowness=slowness, num_losses=num_losses)

  def _take_units(self, wanted: int) -> tuple[int, int]:
    """How many units come off the queue, and how often a worker died of the first."""
    num_units, num_losses = 0, self._blocks[0][1]
    while self._blocks and num_units < wanted:
      count, _ = self._blocks.popleft()
      taken = min(count, wanted - num_units)
      num_units += taken
      if taken < count:
        self._blocks.appendleft((count - taken, 0))
    return num_units, num_losses

  def _seconds_of(self, task: Task) -> float:
    num_whole, rest = divmod(task.num_units, task.size)
    seconds = num_whole * self._costs.stored_at(task.size - 1) + (self._costs.stored_at(rest - 1) if rest else 0)
    return seconds * task.slowness + (num_whole + bool(rest)) * self._costs.turn_seconds

  def _interrupt(self, task: Task, now: float) -> Task:
    """What is left of a task whose worker dies."""
    whole_seconds = self._costs.stored_at(task.size - 1) * task.slowness + self._costs.turn_seconds
    num_whole = min(int((now - task.started) / whole_seconds), task.num_units // task.size)
    seconds = (now - task.started - num_whole * whole_seconds) / task.slowness
    num_stored = self._costs.count_stored(seconds, min(task.size, task.num_units - num_whole * task.size))
    since = self._costs.stored_at(num_stored - 1) if num_stored else 0.0
    self._lost_seconds += max(seconds - since, 0.0) * task.slowness
    num_done = num_whole * task.size + num_stored
    num_losses = 1 if num_done else task.num_losses + 1
    return dataclasses.replace(task, num_units=task.num_units - num_done, num_losses=num_losses)

  def _draw_slowness(self, num_units: int) -> float:
    """A factor whose mean is 1, for so many units together."""
    spread = self._fleet.spread / math.sqrt(num_units)
    return math.exp(spread * self._generator.standard_normal() - spread * spread / 2)
