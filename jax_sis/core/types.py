"""Names that the kernel's signatures share.

Axis letters in array annotations: B images, H W C height, width and channels, F features, T sizes of a search,
K classes, D devices, G axes of a feature grid.
"""

from collections.abc import Callable
from typing import Any, Literal

from jaxtyping import Array, Float

# A pytree of arrays.
Params = Any
ScoreName = Literal["log_odds", "probability"]


# A classifier: (params, normalised inputs [B, ...]) -> logits [B, K], before any softmax. It is pure, in evaluation
# mode, and each example is independent of the others in its batch. Whatever arrays the model needs are in params,
# never closed over, so that one compilation serves them all.
PredictFn = Callable[[Params, Array], Float[Array, "B K"]]
