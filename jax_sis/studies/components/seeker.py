"""The pixels that raise a component: a search with a head of its own, and what the classifier says of them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jax_sis.classifiers.linear_head import FeaturesFn
from jax_sis.classifiers.on_images import ClassifierOnImages
from jax_sis.core.backselect import backselect
from jax_sis.core.completions import Images
from jax_sis.core.features import Grid
from jax_sis.core.masking import check_baseline
from jax_sis.core.searches import Gradient, Screened
from jax_sis.core.smallest import smallest_subsets
from jax_sis.core.subsets import Subsets, sufficient_subsets
from jax_sis.core.types import Params
from jax_sis.studies.components.config import SearchName

# The head's logit is 0 where the component is at its level, and 1 a quarter of its standard deviation above.
SCALE = 0.25
NUM_DRAWS = 16
VIEWS = {
  "alone": "the pixels alone",
  "white": "their shape in white",
  "moved": "their shape moved elsewhere",
  "nothing": "nothing",
}


@dataclasses.dataclass(frozen=True)
class ComponentPredictor:
  """A classifier of two classes, whether an image has a component or not.

  Its arrays are `(the classifier's, {"weights", "offset", "level", "spread"})`.
  """

  features_fn: FeaturesFn

  def __call__(self, params: Params, inputs: Float[Array, "B H W C"]) -> Float[Array, "B 2"]:
    own, head = params
    value = self.features_fn(own, inputs) @ head["weights"] - head["offset"]
    logit = (value - head["level"]) / (SCALE * head["spread"])
    return jnp.stack([logit, jnp.zeros_like(logit)], axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seeker:
  """Looks for the pixels of a batch that raise one component, and shows them to the classifier in several ways.

  Its arrays beside the classifier's: `heads`, those of ComponentPredictor of all components, stacked; `white`, what
  white is as an input; `pool`, images that the search draws from, and `unseen`, images that it does not.

  Attributes:
    images: the classifier and its images.
    predictor: says whether an image has the component.
    search: how pixels are looked for.
    per_step: pixels that a step of the gradient search masks.
    threshold: the predictor's probability that they must reach.
    is_on_images: whether masked pixels show images of the pool in the search.
    seed: of draws.
  """

  images: ClassifierOnImages
  predictor: ComponentPredictor
  search: SearchName
  per_step: int
  threshold: float
  is_on_images: bool
  seed: int

  def __call__(
    self,
    params: Params,
    inputs: Float[Array, "B H W C"],
    components: Int[Array, "B"],
    classes: Int[Array, "B"],
    numbers: Int[Array, "B"],
    offsets: Int[Array, "B 2"],
  ) -> dict[str, Any]:
    """What was found on each image.

    Args:
      params: the classifier's arrays and those beside.
      inputs: the images.
      components: the place of the component among the heads, the same for the whole batch.
      classes: the number of its class.
      numbers: of the images, for draws.
      offsets: rows and columns by which a shape is moved elsewhere.
    """
    own, beside = params
    head = jax.tree.map(lambda array: array[components[0]], beside["heads"])
    subsets = self.find(own, head, inputs, numbers, beside["pool"])
    features = Grid(self.images.grid)
    moved = jax.vmap(lambda mask, offset: jnp.roll(mask, offset, (0, 1)))(subsets.mask, offsets)
    white = jnp.broadcast_to(beside["white"], inputs.shape)
    shown = {
      "alone": (inputs, subsets.kept),
      "white": (white, subsets.kept),
      "moved": (inputs, moved.reshape(subsets.kept.shape)),
      "nothing": (inputs, jnp.zeros_like(subsets.kept)),
    }
    baseline = check_baseline(0.0, inputs)

    def ask(images: Float[Array, "B H W C"]) -> dict[str, Array]:
      logits = self.images.predict_fn(own, images)
      confidence = jnp.take_along_axis(jax.nn.softmax(logits), classes[:, None], axis=1)[:, 0]
      has = jax.nn.sigmoid(self.predictor((own, head), images)[:, 0]) >= self.threshold
      return {"has": has, "is_class": logits.argmax(1) == classes, "confidence": confidence}

    def ask_on(background: Float[Array, "H W C"]) -> dict[str, Array]:
      behind = jnp.broadcast_to(background[None], inputs.shape)
      return ask(features.mix(inputs, subsets.kept, behind))

    unseen = jax.lax.map(ask_on, beside["unseen"])
    return {
      "kept": subsets.kept,
      "status": subsets.status,
      "views": {name: ask(features.mix(*view, baseline)) for name, view in shown.items()},
      "unseen": {name: unseen[name].astype(jnp.float32).mean(0) for name in ("has", "is_class")},
    }

  def find(
    self,
    own: Params,
    head: dict[str, Array],
    inputs: Float[Array, "B H W C"],
    numbers: Int[Array, "B"],
    pool: Float[Array, "P H W C"],
  ) -> Subsets:
    """The subsets on which the component is at its level."""
    options: dict[str, Any] = {"grid": self.images.grid}
    if self.is_on_images:
      options["completion"] = Images(num_draws=NUM_DRAWS, pool=pool)
      options["keys"] = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(self.seed), numbers)
    targets = jnp.zeros(inputs.shape[0], jnp.int32)
    if self.search == "smallest":
      return smallest_subsets(self.predictor, (own, head), inputs, targets, threshold=self.threshold, **options)
    search = Gradient(per_step=self.per_step) if self.search == "gradient" else Screened()
    order = backselect(self.predictor, (own, head), inputs, targets, search=search, **options)
    return sufficient_subsets(order, self.threshold)


def draw_offset(seed: int, number: int, grid: tuple[int, ...]) -> tuple[int, int]:
  """Rows and columns by which a shape is moved, not none of both unless there is but one feature."""
  num_rows, num_columns = grid[:2]
  last = num_rows * num_columns - 1
  drawn = int(np.random.default_rng((seed, number)).integers(1, last + 1)) if last else 0
  return divmod(drawn, num_columns)
