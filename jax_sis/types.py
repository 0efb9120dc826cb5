"""Names that the kernel's signatures share.

Axis letters in array annotations: B images, H W C height, width and channels, F features, T sizes of a search,
K classes, D devices, G axes of a feature grid.
"""

from typing import Any, Literal, Protocol

from jaxtyping import Array, Float

ScoreName = Literal["log_odds", "probability"]


class PredictFn(Protocol):
  """A classifier: pure, in evaluation mode, each example independent of the others in its batch.

  Whatever arrays the model needs are in `params`, never closed over, so that one compilation serves them all.
  """

  def __call__(self, params: Any, inputs: Any, /) -> Float[Array, "B K"]:
    """Normalised inputs `[B, ...]` -> logits `[B, K]`, before any softmax."""
    ...
