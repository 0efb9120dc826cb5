"""Names that the kernel's signatures share.

Axis letters: B images, H W C height, width and channels, F features, T steps of a search, K classes, D devices.
"""

from typing import Any, Protocol

from jaxtyping import Array, Float

Params = Any


class PredictFn(Protocol):
  """A classifier: pure, in evaluation mode, each example independent of the others in its batch.

  Arrays that the model needs are in `params`, never closed over.
  """

  def __call__(self, params: Any, inputs: Any, /) -> Float[Array, "B K"]:
    """Normalised inputs `[B, ...]` -> logits `[B, K]`, before any softmax."""
    ...
