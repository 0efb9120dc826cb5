"""What a region of the image does to the predicted class: masked in its own images, pasted into those of other classes.

Each is compared with the same shape moved elsewhere, so that what any few pixels do is no effect of the region.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jax_sis.core.features import Grid
from jax_sis.core.scores import log_odds, predict_logits
from jax_sis.core.types import Params, PredictFn
from jax_sis.runtime.device_program import DeviceProgram
from jax_sis.studies.clusters.summaries import Effect, compare


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
  """A program for devices: what the classifier says of the kept features of one image, and another one elsewhere.

  Attributes:
    predict_fn: the classifier.
    grid: the mask's shape.
  """

  predict_fn: PredictFn
  grid: tuple[int, ...]

  def __call__(
    self,
    params: Params,
    kept: Bool[Array, "B F"],
    inputs: Float[Array, "B H W C"],
    others: Float[Array, "B H W C"],
    targets: Int[Array, "B"],
  ) -> dict[str, Array]:
    """For each pair whether the target is predicted, and its log-odds, `[B]`."""
    shown = Grid(self.grid).mix(inputs, kept, others)
    logits = predict_logits(self.predict_fn, params, shown)
    return {"is_target": logits.argmax(1).astype(jnp.int32) == targets, "log_odds": log_odds(logits, targets)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asker:
  """Asks about a region on all devices.

  Attributes:
    program: of `Shown`.
    grid: the mask's shape.
    baseline: what masked features show.
    seed: of where the region is moved to, and of the intervals.
  """

  program: DeviceProgram
  grid: tuple[int, ...]
  baseline: float
  seed: int

  def mask(
    self, region: Bool[np.ndarray, "F"], inputs: Float[np.ndarray, "N H W C"], targets: Int[np.ndarray, "N"]
  ) -> Effect:
    """What masking the region does in these images, which are predicted as the targets."""
    moved = self.move(region, len(inputs))
    fill = np.broadcast_to(np.asarray(self.baseline, inputs.dtype), inputs.shape)
    here, there = (self.ask(~kept, inputs, fill, targets) for kept in (np.broadcast_to(region, moved.shape), moved))
    fall = there["log_odds"] - here["log_odds"]
    return compare(~here["is_target"], ~there["is_target"], fall, seed=self.seed)

  def paste(
    self,
    region: Bool[np.ndarray, "F"],
    inputs: Float[np.ndarray, "N H W C"],
    others: Float[np.ndarray, "N H W C"],
    targets: Int[np.ndarray, "N"],
  ) -> Effect:
    """What pasting the region of the first images does in the others, which are not predicted as the targets."""
    moved = self.move(region, len(inputs))
    here, there = (self.ask(kept, inputs, others, targets) for kept in (np.broadcast_to(region, moved.shape), moved))
    gain = here["log_odds"] - there["log_odds"]
    return compare(here["is_target"], there["is_target"], gain, seed=self.seed)

  def move(self, region: Bool[np.ndarray, "F"], count: int) -> Bool[np.ndarray, "N F"]:
    """The region at another place for each image: by a quarter to three quarters of the sides, around the edges."""
    height, width = self.grid[:2]
    rng = np.random.default_rng(self.seed)
    downs, rights = (rng.integers(-(-side // 4), max(3 * side // 4, 1) + 1, count) for side in (height, width))
    plane = region.reshape(height, width)
    return np.stack(
      [np.roll(plane, (int(down), int(right)), (0, 1)) for down, right in zip(downs, rights, strict=True)]
    ).reshape(count, -1)

  def ask(
    self,
    kept: Bool[np.ndarray, "N F"],
    inputs: Float[np.ndarray, "N H W C"],
    others: Float[np.ndarray, "N H W C"],
    targets: Int[np.ndarray, "N"],
  ) -> dict[str, np.ndarray]:
    """What `Shown` says of all pairs."""
    arrays = (kept, inputs, others, targets.astype(np.int32))
    size = self.program.launch_size
    launches = ((None, [array[start : start + size] for array in arrays]) for start in range(0, len(inputs), size))
    parts = [found for _, found in self.program.run_all(launches)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
