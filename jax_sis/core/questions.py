"""What is asked of a subset: that it suffices alone, that the class is lost when it alone is masked, or both."""

import dataclasses
import math
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from jax_sis.core import validation
from jax_sis.core.scores import log_odds, lost_by
from jax_sis.core.types import ScoreName

QuestionName = Literal["sufficient", "contrastive", "both"]
QUESTIONS: tuple[QuestionName, ...] = get_args(QuestionName)
# The other class is then e times as probable as the target: no rounding of a device brings the class back.
DEFAULT_MARGIN = 1.0
# What the sigmoid of a question's score is where the question is answered: the score is 0 at what is asked.
PASS_MARK = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
  """A question beside that for sufficient subsets, which is none of these.

  Attributes:
    kind: contrastive: with the subset alone masked the class is lost; both: it is, and the subset alone suffices.
    threshold: the softmax probability of the target that a subset alone must reach; of both only.
    margin: by how much, in log-odds, the strongest other class must be ahead of the target without the subset.
  """

  kind: Literal["contrastive", "both"]
  threshold: float
  margin: float

  @property
  def num_sides(self) -> int:
    """How many masked images answer it."""
    return 2 if self.kind == "both" else 1

  @property
  def asked_alone(self) -> float:
    """The confidence that a subset alone must reach; NaN where that is not asked."""
    return self.threshold if self.kind == "both" else math.nan

  def sides(self, masks: Shaped[Array, "N F"]) -> Shaped[Array, "N S F"]:
    """What is kept of the image on each side of a subset: the subset, where that is asked, and last all but it."""
    without = ~masks if masks.dtype == bool else 1 - masks
    return jnp.stack([masks, without] if self.kind == "both" else [without], axis=1)

  def score(self, logits: Float[Array, "N S K"], targets: Int[Array, "N"]) -> Float[Array, "N"]:
    """How far what the sides say is above what is asked, in log-odds; at least 0 where the question is answered.

    Of two sides, what they lack together, so that a search goes on with both at once (by the worse one alone it would
    go to and fro between them); and where neither lacks anything, what the worse one has to spare.
    """
    without = lost_by(logits[:, -1], targets) - self.margin
    if self.kind == "contrastive":
      return without
    alone = log_odds(logits[:, 0], targets) - math.log(self.threshold / (1 - self.threshold))
    lacking = jnp.minimum(alone, 0) + jnp.minimum(without, 0)
    return lacking + jnp.maximum(jnp.minimum(alone, without), 0)

  def holds_class(self, logits: Float[Array, "N S K"], targets: Int[Array, "N"]) -> Bool[Array, "N"]:
    """Whether the class is lost without the subset, and kept on it alone where that is asked; by what is predicted."""
    is_target = logits.argmax(-1).astype(targets.dtype) == targets[:, None]
    expected = jnp.array([True, False] if self.kind == "both" else [False])
    return (is_target == expected[None]).all(1)


def check_question(question: Any, threshold: float, margin: Any, score: ScoreName) -> Question | None:
  """The question; None for that of sufficient subsets.

  Raises:
    ValueError: there is no such question, the margin is no positive number or without use, or the score is another.
  """
  validation.check_kind("question", question, str, "sufficient, contrastive or both")
  validation.require_one_of("question", question, QUESTIONS)
  if not validation.is_concrete(margin):
    raise ValueError("margin must be a number when a search is traced, got a traced array; close over it.")
  if np.ndim(margin) or isinstance(margin, bool) or not isinstance(margin, int | float | np.number | jax.Array):
    raise ValueError(f"margin must be one number, log-odds above 0, got {margin!r}.")
  if not (margin > 0 and math.isfinite(margin)):
    raise ValueError(f"margin must be above 0 and finite, in log-odds, got {margin!r}; a class is lost by some.")
  if question == "sufficient":
    if margin != DEFAULT_MARGIN:
      raise ValueError(
        f'margin must come with question="contrastive" or "both", got {margin!r}; of a sufficient subset nothing is '
        "asked without it."
      )
    return None
  if score != "log_odds":
    raise ValueError(f'score must be "log_odds" for question="{question}", by which sides are compared, got {score!r}.')
  return Question(kind=question, threshold=threshold, margin=float(margin))


def refuse_question(question: Question | None, name: str, function: str) -> None:
  """Raises ValueError where an answer to another question is given to what is about sufficient subsets."""
  if question is not None:
    raise ValueError(
      f'{name} must be of question="sufficient" for {function}, which is about what is kept, got {question.kind!r}.'
    )
