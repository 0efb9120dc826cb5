"""What a device computes: for each class an order of the features, and the confidence in that class along it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jax_sis.classifiers.attributions import Attribution, Random, Search
from jax_sis.classifiers.on_images import ClassifierOnImages
from jax_sis.core.attribution import order_by_scores
from jax_sis.core.scores import predict_logits
from jax_sis.core.types import Params

# Of a class, the mean confidence is taken over this many equal steps of size, and the smallest size that reaches the
# threshold looked for among so many.
AREA_STEPS, SIZE_STEPS = 32, 128
# Where no size reaches the threshold.
NO_SIZE = -1


def spread_sizes(num_features: int, num_steps: int) -> tuple[int, ...]:
  """As many equal steps from 0 to all features, or as there are features."""
  sizes = (round(step * num_features / num_steps) for step in range(num_steps + 1))
  return tuple(dict.fromkeys(sizes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judge:
  """Asks an order about each of an image's likeliest classes.

  Attributes:
    images: the classifier and its images.
    scores: what makes the order.
    num_classes: how many classes.
    threshold: the confidence that a subset must reach.
  """

  images: ClassifierOnImages
  scores: Search | Attribution | Random
  num_classes: int
  threshold: float

  def __call__(self, params: Params, inputs: Float[Array, "B H W C"], numbers: Int[Array, "B"]) -> dict[str, Array]:
    """For each image and class, the likeliest first, `[B, K]`: the class, its confidence, area and smallest size.

    Args:
      params: the classifier's arrays.
      inputs: the images.
      numbers: of the images, of which random orders are made.
    """
    logits = predict_logits(self.images.predict_fn, params, inputs)
    _, classes = jax.lax.top_k(logits, self.num_classes)
    confidence = jnp.take_along_axis(jax.nn.softmax(logits), classes, axis=1)
    sizes = spread_sizes(self.images.num_features, SIZE_STEPS)
    areas = spread_sizes(self.images.num_features, AREA_STEPS)[1:]
    in_area = np.isin(sizes[1:], areas)[None]

    def judge_class(targets: Int[Array, "B"]) -> tuple[Float[Array, "B"], Int[Array, "B"]]:
      scores = self.scores(self.images, params, inputs, numbers, targets)
      order = order_by_scores(
        self.images.predict_fn, params, inputs, scores, targets, sizes=sizes, grid=self.images.grid
      )
      along = order.confidence[:, 1:]
      suffices = along >= self.threshold
      smallest = jnp.asarray(sizes[1:], jnp.int32)[suffices.argmax(1)]
      area = jnp.where(in_area, along, 0).sum(1) / len(areas)
      return area, jnp.where(suffices.any(1), smallest, NO_SIZE)

    area, size = jax.lax.map(judge_class, classes.T.astype(jnp.int32))
    return {"classes": classes.astype(jnp.int32), "confidence": confidence, "area": area.T, "size": size.T}
