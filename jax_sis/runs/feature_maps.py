"""Label maps of a run's images, in which each pixel names its feature: read or made once, and kept with the run."""

import dataclasses
import functools
import hashlib
import io
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, Shaped, UInt32
from PIL import Image

from jax_sis import results
from jax_sis.classifiers.on_images import ClassifierOnImages
from jax_sis.core.features import LabelMap, make_label_map, superpixels
from jax_sis.core.messages import first_line, name_some
from jax_sis.runs.config import SUPERPIXELS, FindConfig

MAPS_FILE = "features.npz"
IMAGES_READ_AT_ONCE = 64
MAX_NAMED = 4
# Of pictures, one number a pixel.
NUMBERED_MODES = ("1", "L", "P", "I", "I;16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureMaps:
  """The maps of all images of a run, in their order.

  Attributes:
    labels: numbered from 0 in each image, in the order of the user's numbers.
    named: what the user calls them: of each image its numbers in ascending order, and -1 beyond the last.
    description: what they are, for the run's specification.
  """

  labels: UInt32[np.ndarray, "N H W"]
  named: Int[np.ndarray, "N F"]
  description: dict[str, Any]

  @property
  def grid(self) -> tuple[int, int, int]:
    """The mask's shape: one axis of features, as many as the image that has most."""
    return (self.named.shape[1], 1, 1)

  @functools.cached_property
  def num_existing(self) -> Int[np.ndarray, "N"]:
    """How many features each image has."""
    return (self.named >= 0).sum(1)

  def of_images(self, indices: Int[np.ndarray, "M"]) -> LabelMap:
    """Those of some images, as searches take them."""
    return LabelMap(labels=jnp.asarray(self.labels[indices][..., None], jnp.int32), num_features=self.grid[0])

  def spread(self, values: Shaped[np.ndarray, "M F"], indices: Int[np.ndarray, "M"]) -> Shaped[np.ndarray, "M H W 1"]:
    """One value a feature as one a pixel."""
    labels = self.labels[indices].astype(np.int64)
    spread = np.take_along_axis(values, labels.reshape(len(labels), -1), axis=1)
    return spread.reshape(*labels.shape, 1)

  def name_features(self, features: Iterable[list[int]], indices: Int[np.ndarray, "M"]) -> list[list[int]]:
    """The user's numbers of the features of these images."""
    pairs = zip(features, self.named[indices], strict=True)
    return [[int(named[feature]) for feature in some if named[feature] >= 0] for some, named in pairs]

  def encode(self) -> bytes:
    """What is kept with the run."""
    content = io.BytesIO()
    np.savez_compressed(content, labels=self.labels, named=self.named)
    return content.getvalue()


def number_maps(maps: Shaped[np.ndarray, "N H W"], asked: Mapping[str, Any]) -> FeatureMaps:
  """Maps of the user's numbers, which `asked` describes."""
  names, numbered = zip(*(np.unique(one, return_inverse=True) for one in maps), strict=True)
  most = max(map(len, names))
  named = np.stack([np.pad(one.astype(np.int64), (0, most - len(one)), constant_values=-1) for one in names])
  # As many labels as pixels are possible, which 16 bits may not hold.
  labels = np.stack(numbered).reshape(maps.shape).astype(np.uint32)
  return describe_maps(labels, named, asked)


def describe_maps(
  labels: UInt32[np.ndarray, "N H W"], named: Int[np.ndarray, "N F"], asked: Mapping[str, Any]
) -> FeatureMaps:
  content = hashlib.sha256(np.ascontiguousarray(labels).tobytes() + np.ascontiguousarray(named).tobytes())
  return FeatureMaps(labels=labels, named=named, description={**asked, "sha256": content.hexdigest()})


def open_maps(
  images: ClassifierOnImages, config: FindConfig, folder: results.Folder, stored: Mapping[str, Any] | None
) -> FeatureMaps | None:
  """The maps that a run asks for, if any; those kept with it where it has begun.

  Raises:
    ValueError: they cannot be had, or do not fit the images, or what is kept is not what the run began with.
  """
  if config.features is None:
    return None
  asked: dict[str, Any] = {"from": config.features}
  if config.features == SUPERPIXELS:
    asked["segments"] = config.segments
  if stored is not None and "features" in stored:
    return read_kept(folder, stored["features"], asked)
  try:
    shape = images.classifier.input_shape
    maps = make_maps(images, config) if config.features == SUPERPIXELS else read_maps(images, config.features)
    make_label_map(maps, (len(maps), *shape))
  except ImportError as error:
    raise ValueError(f"--features {SUPERPIXELS} must have scikit-image: pip install 'jax_sis[superpixels]'.") from error
  except ValueError as error:
    message = str(error)
    raise ValueError(message if message.startswith("--") else f"--features must fit the images: {message}") from error
  return number_maps(maps, asked)


def read_kept(folder: results.Folder, known: Mapping[str, Any], asked: Mapping[str, Any]) -> FeatureMaps:
  """The maps in a run's folder; ValueError where they are not those of its specification."""
  content = folder.read(MAPS_FILE)
  try:
    with np.load(io.BytesIO(content or b""), allow_pickle=False) as arrays:
      maps = describe_maps(arrays["labels"], arrays["named"], asked)
  except (OSError, ValueError, KeyError, EOFError) as error:
    raise ValueError(
      f"'{folder.location}/{MAPS_FILE}' must hold the label maps of the run, but cannot be read ({first_line(error)})."
    ) from error
  if maps.description["sha256"] != known["sha256"]:
    raise ValueError(f"'{folder.location}/{MAPS_FILE}' must be the label maps that the run began with, got others.")
  return maps


def open_kept(store: results.Results) -> FeatureMaps | None:
  """The maps of a stored run, if its features are those of maps."""
  known = store.spec.get("features")
  return None if known is None else read_kept(store.folder, known, {"from": known["from"]})


def make_maps(images: ClassifierOnImages, config: FindConfig) -> Int[np.ndarray, "N H W"]:
  """Superpixels of each image."""
  indices = np.arange(len(images.source))
  chunks = (indices[start : start + IMAGES_READ_AT_ONCE] for start in range(0, len(indices), IMAGES_READ_AT_ONCE))
  return np.concatenate(
    [superpixels(np.stack([images.source[int(index)]["image"] for index in some]), config.segments) for some in chunks]
  )


def read_maps(images: ClassifierOnImages, name: str) -> Int[np.ndarray, "N H W"]:
  """The maps of a file, one for all images or one an image in their order, or of a folder, one an image by its id."""
  path, ids = pathlib.Path(name), images.source.ids()
  if path.is_dir():
    return np.stack(list(read_folder(path, ids)))
  if not path.is_file():
    raise ValueError(f"--features must be {SUPERPIXELS!r}, a file of label maps, or a folder of them, got {name!r}.")
  maps = read_map(path)
  shape = images.classifier.input_shape[:2]
  if maps.shape not in (shape, (len(ids), *shape)):
    raise ValueError(
      f"--features must hold a map {list(shape)} for all images, or {[len(ids), *shape]} with one an image, got "
      f"{list(maps.shape)} in {name!r}."
    )
  return np.broadcast_to(maps, (len(ids), *shape))


def read_folder(folder: pathlib.Path, ids: list[str]) -> Iterator[Int[np.ndarray, "H W"]]:
  """The map of each image: ID.npy or ID.png, where ID may lose the suffix of an image file."""
  paths = {}
  for image_id in ids:
    stems = dict.fromkeys((image_id, str(pathlib.PurePosixPath(image_id).with_suffix(""))))
    files = (folder / f"{stem}{suffix}" for stem in stems for suffix in (".npy", ".png"))
    paths[image_id] = next((file for file in files if file.is_file()), None)
  missing = [image_id for image_id, file in paths.items() if file is None]
  if missing:
    raise ValueError(
      f"--features must have a map for each image, named by its id (ID.npy or ID.png), but {str(folder)!r} has none "
      f"for {name_some(missing, most=MAX_NAMED)}."
    )
  shape = None
  for image_id, file in paths.items():
    assert file is not None
    one = read_map(file)
    shape = shape or one.shape
    if one.shape != shape:
      raise ValueError(
        f"--features must be maps of one size, got {list(shape)} and {list(one.shape)} for {image_id!r}."
      )
    yield one


def read_map(path: pathlib.Path) -> Int[np.ndarray, "..."]:
  """The whole numbers in an .npy file or a picture; ValueError where it holds others, or cannot be read."""
  try:
    if path.suffix == ".npy":
      values = np.load(path, allow_pickle=False)
    else:
      with Image.open(path) as picture:
        if picture.mode not in NUMBERED_MODES:
          raise ValueError(f"it has colours ({picture.mode}), and no number a pixel")
        values = np.asarray(picture).astype(np.int64)
  except (OSError, ValueError, EOFError) as error:
    raise ValueError(
      f"--features must be label maps, but {str(path)!r} cannot be read: {first_line(error)}."
    ) from error
  if not np.issubdtype(values.dtype, np.integer):
    raise ValueError(f"--features must be whole numbers, the label of each pixel, got {values.dtype} in {str(path)!r}.")
  return values
