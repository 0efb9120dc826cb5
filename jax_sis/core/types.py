"""Names that the kernel's signatures share.

Axis letters in array annotations: B images, H W C height, width and channels, F features, T sizes of a search,
K classes, D devices, G axes of a feature grid.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Array, Float, Int

# A pytree of arrays.
Params = Any
# How masked features are removed: by the value that they show, or inside the network, see `removal.py`.
Removal = Literal["value", "layer", "tokens"]
ScoreName = Literal["log_odds", "probability"]
# The class in question of each input, or of all; None for those predicted.
Targets = Int[Array, "B"] | Int[np.ndarray, "B"] | Int[Array, ""] | Sequence[int] | int | None


# A classifier: (params, normalised inputs [B, ...]) -> logits [B, K], before any softmax. It is pure, in evaluation
# mode, and each example is independent of the others in its batch. Whatever arrays the model needs are in params,
# never closed over, so that one compilation serves them all. Programs are kept by the function itself: define it once,
# since whether two lambdas of the same text compute the same cannot be told from what they refer to.
PredictFn = Callable[[Params, Array], Float[Array, "B K"]]

# A classifier that is told what is missing: (params, normalised inputs [N, H, W, C], present [N, H, W]) -> logits
# [N, K]. `present` is 1 where a position of the image is there and 0 where it is removed; the inputs are whole, and
# what they hold at removed positions must change nothing. Searches differentiate by `present`.
PresenceFn = Callable[[Params, Array, Array], Float[Array, "N K"]]
