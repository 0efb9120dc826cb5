"""Do subsets still work when what may leak is taken away? Each subset, changed in one way at a time, and evaluated.

A subset that makes a classifier sure may do so by more than the values of its pixels: by the shape of the mask, by the
edges against one even background, or by the colour of that background. Each control below takes one of these away, or
leaves nothing else. What a control draws at random depends on the seed and the image's id alone.

Sources: Rong et al. 2022 (ICML), A consistent and efficient evaluation strategy for attribution methods (ROAD), on what
the shape of a mask says of the class; Carter et al. 2021, section 3, for the subsets.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jax_sis.core import masking, validation
from jax_sis.core.removal import find_presence_fn
from jax_sis.core.scores import log_odds, predict_logits
from jax_sis.core.types import PredictFn, PresenceFn, Removal
from jax_sis.core.validation import check_positive_integer
from jax_sis.data.normalisation import Normalisation
from jax_sis.studies.controls.views import CONTROLS, Case, Shown, expand, find_present, stable_hash

# Of an image without another one.
NO_IMAGE = -1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcomes:
  """What a classifier says of each image under each control of CONTROLS, in their order.

  Attributes:
    confidence: softmax probability of the target; NaN where the control could not be made, or a logit is not finite.
    keeps_class: whether the target is the predicted class.
    is_sufficient: whether the confidence reaches the threshold.
    num_shown: how many features show the image (or the colour that stands for it).
    fill_distance: root mean square difference between what the other features show and what they showed in the search,
      in normalised units; 0 where there are none.
    other: the image that `fill_other` shows, or NO_IMAGE.
    threshold: the confidence to reach.
  """

  confidence: Float[np.ndarray, "N C"]
  keeps_class: Bool[np.ndarray, "N C"]
  is_sufficient: Bool[np.ndarray, "N C"]
  num_shown: Int[np.ndarray, "N C"]
  fill_distance: Float[np.ndarray, "N C"]
  other: Int[np.ndarray, "N"]
  threshold: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Showing:
  """Shows a classifier subsets under every control, a batch at a time.

  Attributes:
    predict_fn: `(params, inputs) -> logits [B, K]`, see PredictFn.
    params: the model's arrays.
    inputs: normalised images.
    masks: their subsets in the grid's shape, none of them empty; True where a feature is kept.
    targets: the class in question of each image.
    ids: a name for each image, on which its random numbers depend, beside the seed.
    predicted: the class predicted on each whole image. The image that fills the rest is drawn, with the seed and the
      id, from those of the set that are predicted as something else than the target, in the order of their ids; where
      there is none, from all others.
    normalisation: how inputs are made from bytes.
    threshold: the probability that counts as passing.
    baseline: what masked features showed in the search.
    removal: how they were removed, as for `backselect`. Under one inside the network they are absent from all controls
      but those that show another fill there.
    seed: of all that is random.
    batch_size: images at a time, each with all its controls.

  Raises:
    ValueError: the attributes do not fit together, or a subset is empty.
  """

  predict_fn: PredictFn
  params: Any
  inputs: Float[np.ndarray, "N H W C"]
  masks: Bool[np.ndarray, "N h w 1"]
  targets: Int[np.ndarray, "N"]
  ids: Sequence[str]
  predicted: Int[np.ndarray, "N"]
  normalisation: Normalisation
  threshold: float
  baseline: float | Float[np.ndarray, "..."] = 0.0
  removal: Removal = "value"
  seed: int = 0
  batch_size: int = 4

  def __post_init__(self) -> None:
    check_masks(self.inputs, self.masks, self.ids)
    validation.check_threshold(self.threshold)
    check_positive_integer("batch_size", self.batch_size)
    num_classes = validation.check_predict_fn(self.predict_fn, self.params, jnp.asarray(self.inputs[:1]))
    for classes in (self.targets, self.predicted):
      validation.check_targets(classes, num_images=len(self.inputs), num_classes=num_classes)

  @functools.cached_property
  def others(self) -> Int[np.ndarray, "N"]:
    """For each image the one that fills the rest, or NO_IMAGE."""
    return choose_others(self.ids, self.targets, self.predicted, seed=self.seed)

  def __call__(self, start: int) -> Outcomes:
    """What the classifier says of the batch that begins with this image."""
    batch = slice(start, start + self.batch_size)
    found = evaluate_cases(
      self.predict_fn,
      self.params,
      [self.make_case(place) for place in range(len(self.inputs))[batch]],
      self.targets[batch],
      batch_size=self.batch_size,
      removal=self.removal,
    )
    return Outcomes(
      **found,
      is_sufficient=found["confidence"] >= self.threshold,
      other=self.others[batch],
      threshold=self.threshold,
    )

  def make_case(self, place: int) -> Case:
    """An image and what its controls are made of."""
    image, other = self.inputs[place], self.others[place]
    return Case(
      image=image,
      mask=self.masks[place],
      baseline=np.broadcast_to(np.asarray(self.baseline, image.dtype), image.shape),
      other=None if other == NO_IMAGE else self.inputs[other],
      normalisation=self.normalisation,
      draw_key=(self.seed, stable_hash(self.ids[place])),
    )


def check_masks(inputs: Float[np.ndarray, "N H W C"], masks: Bool[np.ndarray, "N h w 1"], ids: Sequence[str]) -> None:
  """Raises ValueError if the subsets are not of these images, or one is empty."""
  validation.check_inputs(inputs)
  if inputs.ndim != 4:
    raise ValueError(f"inputs must be images [N, H, W, C], got shape {list(inputs.shape)}.")
  if masks.dtype != bool or masks.ndim != 4 or len(masks) != len(inputs) or masks.shape[3] != 1:
    raise ValueError(
      f"masks must be Boolean [{len(inputs)}, h, w, 1], one mask per image, all channels kept together, "
      f"got {masks.dtype}{list(masks.shape)}."
    )
  masking.check_grid(masks.shape[1:], inputs.shape[1:])
  if len(ids) != len(inputs) or len(set(ids)) != len(ids):
    raise ValueError(
      f"ids must name each of the {len(inputs)} images once, got {len(ids)} ids, {len(set(ids))} of them different."
    )
  is_empty = ~masks.any((1, 2, 3))
  if is_empty.any():
    raise ValueError(
      f"masks must keep a feature of every image, but that of {ids[int(is_empty.argmax())]!r} keeps none; leave out "
      "the images that have no subset."
    )


def choose_others(
  ids: Sequence[str], targets: Int[np.ndarray, "N"], predicted: Int[np.ndarray, "N"], *, seed: int
) -> Int[np.ndarray, "N"]:
  """For each image the one that fills the rest, see `Showing`; NO_IMAGE where it is the only one."""
  by_id = np.array(sorted(range(len(ids)), key=lambda i: ids[i]), np.int64)
  others = np.full(len(ids), NO_IMAGE)
  for i, name in enumerate(ids):
    candidates = by_id[predicted[by_id] != targets[i]]
    candidates = candidates[candidates != i]
    if not len(candidates):
      candidates = by_id[by_id != i]
    if len(candidates):
      generator = np.random.default_rng((seed, stable_hash(name), stable_hash("fill_other")))
      others[i] = candidates[generator.integers(len(candidates))]
  return others


def evaluate_cases(
  predict_fn: PredictFn,
  params: Any,
  cases: Sequence[Case],
  targets: Int[np.ndarray, "B"],
  *,
  batch_size: int,
  removal: Removal,
) -> dict[str, Any]:
  """What `Outcomes` says of some images, an array `[B, C]` a field."""
  shown = [(case, control.show(case)) for case in cases for control in CONTROLS.values()]
  pictures = np.stack([paint(case, one) for case, one in shown])
  # One shape for all batches, the last one, too.
  missing = batch_size * len(CONTROLS) - len(pictures)
  padded = np.concatenate([pictures, np.repeat(pictures[-1:], missing, 0)])
  asked = np.pad(np.repeat(targets, len(CONTROLS)), (0, missing)).astype(np.int32)
  with jax.default_matmul_precision("highest"):
    if removal == "value":
      logits = predict_logits(predict_fn, params, jnp.asarray(padded))
    else:
      present = np.stack([find_present(case, one) for case, one in shown])
      present = np.concatenate([present, np.repeat(present[-1:], missing, 0)])
      logits = predict_present(find_presence_fn(predict_fn, removal), params, jnp.asarray(padded), jnp.asarray(present))
  confidence, keeps_class = (np.asarray(values)[: len(shown)] for values in judge(logits, jnp.asarray(asked)))
  is_usable = np.isfinite(confidence) & [one is not None for _, one in shown]
  values = {
    "confidence": np.where(is_usable, confidence, np.nan),
    "keeps_class": keeps_class & is_usable,
    "num_shown": np.array([0 if one is None else one.mask.sum() for _, one in shown]),
    "fill_distance": np.array([measure_fill(case, one) for case, one in shown]),
  }
  return {name: array.reshape(len(cases), len(CONTROLS)) for name, array in values.items()}


@functools.partial(jax.jit, static_argnums=0)
def predict_present(presence_fn: PresenceFn, params: Any, inputs: Array, present: Array) -> Float[Array, "B K"]:
  return presence_fn(params, inputs, present)


@jax.jit
def judge(logits: Float[Array, "B K"], targets: Int[Array, "B"]) -> tuple[Float[Array, "B"], Bool[Array, "B"]]:
  """The probability of each target, NaN where a logit is not finite, and whether it is the predicted class."""
  confidence = jnp.where(jnp.isfinite(logits).all(1), jax.nn.sigmoid(log_odds(logits, targets)), jnp.nan)
  return confidence, logits.argmax(1) == targets


def paint(case: Case, shown: Shown | None) -> Float[np.ndarray, "H W C"]:
  """What the classifier sees; the image itself where the control could not be made."""
  if shown is None:
    return case.image
  painted = np.where(expand(shown.mask, case.image.shape), shown.content, shown.fill)
  return painted.astype(case.image.dtype)


def measure_fill(case: Case, shown: Shown | None) -> float:
  """How far the fill is from the search's, see `Outcomes`."""
  if shown is None or shown.mask.all():
    return 0.0
  is_filled = ~expand(shown.mask, case.image.shape)
  return float(np.sqrt(np.square(shown.fill - case.baseline).mean(where=is_filled, dtype=np.float64)))
