"""Which pixels of each image a classifier is shown: those of a run of `find`, or random ones, joined with images by id.

They are shown in normalised units, since the fill of the others, mostly the mean colour, is no 8-bit pixel.
"""

import collections
import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from jax_sis.core import masking, messages, subsets
from jax_sis.data.normalisation import Normalisation
from jax_sis.results import schema
from jax_sis.results.masks_file import RunMasks, read_masks
from jax_sis.results.query import PixelSubset
from jax_sis.results.spec import find_differences, refuse_label_maps

# Of what the images are, all else must agree: how many there are is seen from their ids.
NOT_COMPARED = frozenset({"num_images", "ids"})
MAX_NAMED = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelMasks:
  """Which pixels are shown of each image of a set; held in bits, unpacked a batch at a time.

  Attributes:
    ids: the images.
    packed: their masks, a bit a feature.
    grid: the shape of a mask.
    image_shape: height, width and channels.
    fill: what the other pixels show, in normalised units.
    description: what fixes the masks, in JSON types.
  """

  ids: tuple[str, ...]
  packed: UInt8[np.ndarray, "N W"]
  grid: tuple[int, ...]
  image_shape: tuple[int, ...]
  fill: float
  description: dict[str, Any]

  @functools.cached_property
  def _place_of_id(self) -> dict[str, int]:
    return {name: place for place, name in enumerate(self.ids)}

  def find_places(self, ids: Sequence[str]) -> Int[np.ndarray, "B"]:
    """Where the images of these ids are; ValueError if one of them has no mask."""
    missing = [name for name in ids if name not in self._place_of_id]
    if missing:
      raise ValueError(f"the subset must show pixels of every image, but has none of {name_ids(missing)}.")
    return np.array([self._place_of_id[name] for name in ids], np.int64)

  def kept(self, places: Int[np.ndarray, "B"]) -> Bool[np.ndarray, "B H W 1"]:
    """Which pixels of the images at these places are shown."""
    num_features = masking.num_features(self.grid)
    kept = np.unpackbits(self.packed[places], axis=1, count=num_features, bitorder="little").view(bool)
    kept = kept.reshape(-1, *self.grid)
    height, width, _ = self.image_shape
    if self.grid == (height, width, 1):
      return kept
    return kept.repeat(height // self.grid[0], axis=1).repeat(width // self.grid[1], axis=2)

  def show(self, inputs: Float[np.ndarray, "B H W C"], places: Int[np.ndarray, "B"]) -> Float[np.ndarray, "B H W C"]:
    """Normalised images where their pixels are shown, the fill elsewhere."""
    return np.where(self.kept(places), inputs, inputs.dtype.type(self.fill))


def open_masks(
  subset: PixelSubset,
  *,
  ids: Sequence[str],
  images: Mapping[str, Any],
  image_shape: tuple[int, ...],
  normalisation: Normalisation,
) -> PixelMasks:
  """The masks that `subset` names, in the order of these images.

  Args:
    subset: which pixels.
    ids: a name for each image.
    images: what the images are, as `ImageSource.description` says it.
    image_shape: height, width and channels of an image.
    normalisation: of the classifier that looks at them, in whose units the fill is.

  Raises:
    ValueError: there is no such run, it is of other images or another model, was asked something else or masked with
      another value, or an image has no subset or a subset no image.
    StorageError: the run cannot be read.
  """
  ids = tuple(ids)
  if subset.run is not None:
    masks = read_masks(subset)
    check_run(masks, subset, images=images, normalisation=normalisation)
    return join_run(masks, subset, ids=ids, image_shape=image_shape)
  assert subset.fraction is not None and subset.random_seed is not None
  grid = masking.default_grid(image_shape)
  packed = draw_random(ids, fraction=subset.fraction, seed=subset.random_seed, num_features=masking.num_features(grid))
  description = {"random_seed": subset.random_seed, "fraction": subset.fraction, "grid": list(grid)}
  return make_masks(subset, ids, packed, grid=grid, image_shape=image_shape, description=description)


def make_masks(
  subset: PixelSubset,
  ids: tuple[str, ...],
  packed: UInt8[np.ndarray, "N W"],
  *,
  grid: tuple[int, ...],
  image_shape: tuple[int, ...],
  description: Mapping[str, Any],
) -> PixelMasks:
  """Masks of these images; adds to `description` what the masks hold."""
  num_kept = np.bitwise_count(packed).sum(1, dtype=np.int64)
  content = {
    "mean_num_kept": float(num_kept.mean()),
    "num_empty": int((num_kept == 0).sum()),
    "masks": hash_masks(ids, packed),
  }
  return PixelMasks(
    ids=ids,
    packed=packed,
    grid=grid,
    image_shape=image_shape,
    fill=subset.fill,
    description={**description, "fill": subset.fill, **content},
  )


def draw_random(ids: Sequence[str], *, fraction: float, seed: int, num_features: int) -> UInt8[np.ndarray, "N W"]:
  """Random features of each image, `ceil(fraction * F)` of them, that depend on the seed and the image's id alone.

  They are those with the smallest words of the SHAKE-256 of both, which no version of NumPy changes.

  Args:
    ids: a name for each image.
    fraction: the share of the features.
    seed: another seed gives other features.
    num_features: F.

  Returns:
    Masks, a bit a feature.
  """
  count = subsets.count_of_fraction(fraction, num_features)
  packed = np.empty((len(ids), -(-num_features // 8)), np.uint8)
  for place, name in enumerate(ids):
    words = np.frombuffer(hashlib.shake_256(f"{seed}/{name}".encode()).digest(8 * num_features), "<u8")
    mask = np.zeros(num_features, bool)
    mask[np.argpartition(words, count - 1)[:count]] = True
    packed[place] = np.packbits(mask, bitorder="little")
  return packed


def join_run(
  masks: RunMasks,
  subset: PixelSubset,
  *,
  ids: tuple[str, ...],
  image_shape: tuple[int, ...],
) -> PixelMasks:
  """The masks of a run in the order of these images, see `open_masks`; ValueError if they do not belong together."""
  # As the store keeps ids, of long ones the end.
  wanted = schema.decode_text(schema.encode_text(ids)).tolist()
  place_of_id = {name: place for place, name in enumerate(masks.ids)}
  check_ids(masks.location, masks.ids, wanted)
  packed = masks.packed[[place_of_id[name] for name in wanted]]
  query, spec = masks.query, masks.spec
  description = {
    **query.to_json(),
    "model": spec["model"],
    "search": spec["search"] if query.kind in ("sis", "robust") else spec["smallest"],
    "baseline": spec["baseline"],
    "normalisation": spec["normalisation"],
    "grid": spec["grid"],
    "data": spec["data"],
    "run": hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest(),
  }
  refuse_label_maps(spec, masks.location, "the subset")
  grid = masking.check_grid(tuple(spec["grid"]), image_shape)
  return make_masks(subset, ids, packed, grid=grid, image_shape=image_shape, description=description)


def check_run(masks: RunMasks, subset: PixelSubset, *, images: Mapping[str, Any], normalisation: Normalisation) -> None:
  """Raises ValueError, with the differences, for a run of other images, another model or another baseline."""
  searched = masks.spec["data"]
  # A folder of image files is known by its files, wherever it lies.
  not_compared = NOT_COMPARED | ({"data"} if "files" in searched and "files" in images else set())
  there, asked = ({key: what[key] for key in what if key not in not_compared} for what in (searched, images))
  if differences := find_differences(there, asked):
    raise ValueError(
      f"the subset's run must be one on these images, but {masks.location!r} is not ({'; '.join(differences)}); "
      "search these images, or name another run."
    )
  model = masks.spec["model"]["sha256"]
  if subset.expected_model is not None and model != subset.expected_model:
    raise ValueError(
      f"the subset's run must have searched the model {subset.expected_model}, but {masks.location!r} searched "
      f"{model}; name another run, or expect that model."
    )
  baseline = masks.spec["baseline"]
  looking = json.loads(json.dumps(dataclasses.asdict(normalisation)))
  if masks.spec["normalisation"] != looking and not subset.allows_other_baseline:
    differences = "; ".join(find_differences(masks.spec["normalisation"], looking))
    raise ValueError(
      "the subset's fill must be what the run masked with, but the classifier normalises images otherwise than that of "
      f"{masks.location!r} ({differences}), so that {subset.fill} is another colour; say allows_other_baseline=True "
      "(--fill does)."
    )
  if baseline != subset.fill and not subset.allows_other_baseline:
    raise ValueError(
      f"the subset's fill must be what the run masked with, {baseline} in {masks.location!r}, got {subset.fill}; fill "
      "with that, or say allows_other_baseline=True (--fill does)."
    )


def check_ids(location: str, searched: Sequence[str], wanted: Sequence[str]) -> None:
  """Raises ValueError unless the run has just these images, each id once."""
  for whose, names in (("the images", wanted), (f"those of {location!r}", searched)):
    repeated = [name for name, count in collections.Counter(names).items() if count > 1]
    if repeated:
      raise ValueError(f"ids must name one image each, but {whose} have several of {name_ids(repeated)}.")
  without_subset = sorted(set(wanted) - set(searched))
  without_image = sorted(set(searched) - set(wanted))
  problems = []
  if without_subset:
    problems.append(f"{len(without_subset)} of {len(wanted)} images have none: {name_ids(without_subset)}")
  if without_image:
    problems.append(f"{len(without_image)} of {len(searched)} are of no image: {name_ids(without_image)}")
  if problems:
    raise ValueError(
      f"{location!r} must hold finished subsets of these images and no others, but {'; and '.join(problems)}; finish "
      "the run, or take the split that it searched."
    )


def name_ids(ids: Sequence[str]) -> str:
  return messages.name_some([repr(name) for name in ids], most=MAX_NAMED)


def hash_masks(ids: Sequence[str], packed: UInt8[np.ndarray, "N W"]) -> str:
  """SHA-256 over ids and masks, whatever order the images are in."""
  digest = hashlib.sha256()
  for place in sorted(range(len(ids)), key=lambda place: ids[place]):
    digest.update(ids[place].encode() + b"\0" + packed[place].tobytes())
  return digest.hexdigest()


def describe_subset(description: Mapping[str, Any]) -> str:
  fill = f", the others {description['fill']:g}" if description["fill"] else ""
  empty = f"; of {description['num_empty']} images none" if description["num_empty"] else ""
  if "random_seed" in description:
    return f"{description['fraction']:g} of the pixels at random (seed {description['random_seed']}){fill}"
  model = f"{description['model']['name']} {description['model']['sha256'][:8]}"
  if description["fraction"] is not None:
    which = f"the {description['fraction']:g} of the pixels that {description['search']['name']} keeps last"
  else:
    answer = description["answer"]
    found = {
      "sis": "SIS",
      "smallest": "smallest evidence found",
      "optimum": "smallest subset that there is",
    }.get(answer, f"{answer} subset")
    which = f"the {found} at {description['threshold']:g}"
  return f"{which} of {model}{fill}{empty}"
