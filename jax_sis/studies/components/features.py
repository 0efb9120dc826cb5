"""The features and logits of all images, computed once and kept in pieces, so that a killed run goes on."""

import dataclasses
import io
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from jax_sis.classifiers.linear_head import FeaturesFn, LinearHead
from jax_sis.classifiers.on_images import ClassifierOnImages
from jax_sis.core.types import Params, PredictFn
from jax_sis.results import Folder
from jax_sis.runtime.progress import Progress

# Images in a file.
PIECE_SIZE = 2048
# How far a logit may be from what its components sum to, as a share of the largest: float32 loses so much at most.
TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Looked:
  """What the classifier makes of the images that can be read and have a label.

  Attributes:
    place: in the data.
    id: the name.
    label: the number of the true class.
    features: what the logits are a linear function of.
    logits: the classifier's.
  """

  place: Int[np.ndarray, "N"]
  id: Shaped[np.ndarray, "N"]
  label: Int[np.ndarray, "N"]
  features: Float[np.ndarray, "N E"]
  logits: Float[np.ndarray, "N K"]

  def __len__(self) -> int:
    return len(self.place)


@dataclasses.dataclass(frozen=True)
class FeaturesAndLogits:
  """Both of a batch, see `LinearHead`."""

  features_fn: FeaturesFn
  predict_fn: PredictFn

  def __call__(self, params: Params, inputs: Float[Array, "B H W C"]) -> dict[str, Array]:
    return {"features": self.features_fn(params, inputs), "logits": self.predict_fn(params, inputs)}


def look(images: ClassifierOnImages, head: LinearHead, folder: Folder, prefix: str) -> Looked:
  """Looks at the images that no file of the folder with this prefix holds yet, and joins all.

  Raises:
    ValueError: no image can be read and has a label, or the parts of the classifier do not give its logits.
    StorageError: the folder cannot be written.
  """
  program = images.make_program(FeaturesAndLogits(head.features_fn, images.predict_fn))
  starts = range(0, len(images.source), PIECE_SIZE)
  pieces: list[dict[str, np.ndarray]] = []
  with Progress(prefix, total=len(images.source), unit="image") as progress:
    for start in starts:
      name = f"{prefix}/{start:08d}.npz"
      content = folder.read(name)
      if content is None:
        content = encode(look_at(images, program, range(start, min(start + PIECE_SIZE, len(images.source)))))
        folder.write(name, content)
      with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        pieces.append(dict(archive))
      progress.advance(min(PIECE_SIZE, len(images.source) - start))
  joined = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
  is_known = (joined["label"] >= 0) & np.isfinite(joined["logits"]).all(1) & np.isfinite(joined["features"]).all(1)
  is_known &= ~joined.pop("is_broken")
  if not is_known.any():
    raise ValueError(
      "--data and --validation must hold images with labels, got none; folders of classes have them, and data sets."
    )
  looked = Looked(**{name: values[is_known] for name, values in joined.items()})
  check_identity(looked, head)
  return looked


def look_at(images: ClassifierOnImages, program: Any, places: range) -> dict[str, np.ndarray]:
  batches, found = [], []
  for batch, both in program.run_all((batch, (batch["image"],)) for batch in images.read(places)):
    batches.append(batch)
    found.append(both)
  return {
    "place": np.concatenate([batch["index"] for batch in batches]),
    "id": np.concatenate([batch["id"] for batch in batches]).astype(np.str_),
    "label": np.concatenate([batch["label"] for batch in batches]),
    "is_broken": np.concatenate([batch["error"] for batch in batches]) != "",
    **{name: np.concatenate([both[name] for both in found]) for name in ("features", "logits")},
  }


def encode(arrays: dict[str, np.ndarray]) -> bytes:
  content = io.BytesIO()
  np.savez(content, **arrays)  # pyright: ignore[reportArgumentType]
  return content.getvalue()


def check_identity(looked: Looked, head: LinearHead) -> None:
  """Raises ValueError unless the last layer gives the logits of every image."""
  difference = np.abs(looked.features.astype(np.float64) @ head.kernel + head.bias - looked.logits).max()
  largest = np.abs(looked.logits).max()
  if difference > TOLERANCE * max(largest, 1.0):
    raise ValueError(
      f"the classifier must give logits that are a linear function of its features, but they differ by "
      f"{difference:.3g} where the largest is {largest:.3g}; see that features_fn and head_fn are those of predict_fn."
    )
