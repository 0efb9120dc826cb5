"""The leak controls of all searches of a study."""

import dataclasses
from collections.abc import Mapping

from jax_sis.report import inputs
from jax_sis.reproduction.asking_stages import ControlStage
from jax_sis.reproduction.engine import Done
from jax_sis.reproduction.names import Names
from jax_sis.reproduction.readings import read_answer
from jax_sis.runtime.records import read_record
from jax_sis.statistics.estimates import Estimate
from jax_sis.studies.controls.views import EMPTY


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leak:
  """One kind of subset of one search, with what may leak taken away: see `studies.controls`.

  Attributes:
    run: the stage that searched.
    one_fill_only: of the subsets that reach the threshold and leave something to fill, the share that reaches it with
      no fill that differs from the search's; None without any.
    by_name: the share that keeps its class, by the name of a control of SHOWN.
  """

  run: str
  kind: str
  num_subsets: int
  one_fill_only: Estimate | None
  by_name: dict[str, Estimate]


# The controls that are shown of every search, and their headings.
SHOWN = {
  "shape_white": "shape in white, %",
  "moved_white": "that moved, %",
  "random": "as many at random, %",
  EMPTY: "nothing shown, %",
}


def make_leaks(names: Names, done: Mapping[str, Done]) -> list[Leak]:
  """In the order of the study."""
  leaks = []
  for name, one in done.items():
    if not isinstance(one.stage, ControlStage) or not name.startswith(f"{names.architecture}-"):
      continue
    found = read_record(inputs.Controls, read_answer(done, name, "controls.json"), "controls.json")
    for kind in found.kinds.values():
      leaks.append(
        Leak(
          run=one.stage.config.run_dir,
          kind=kind.title,
          num_subsets=kind.num_images,
          one_fill_only=kind.fills.one_fill_only,
          by_name={
            control.name: control.keeps_class
            for control in kind.controls
            if control.name in SHOWN and control.keeps_class is not None
          },
        )
      )
  return leaks
