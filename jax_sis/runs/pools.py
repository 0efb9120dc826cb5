"""The images that masked pixels show: read once, and divided between the search and the certificates of what it finds.

Which image is for what depends on the seed and the images' ids. No image stands in both parts, be it under two ids.
"""

import dataclasses
import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8, UInt32

from jax_sis import results
from jax_sis.classifiers.on_images import ClassifierOnImages, ImagesAsked, open_images
from jax_sis.core.completion_checks import check_completion
from jax_sis.core.features import Grid
from jax_sis.data import batches
from jax_sis.data.records import ImageSource
from jax_sis.runs.completion import CompletionSettings
from jax_sis.runs.config import FindConfig

IMAGES_READ_AT_ONCE = 64
# What is said of a pool's source.
DESCRIBED = ("data", "split", "version", "crop")


class Drawn(NamedTuple):
  """Images to draw from, as they were read.

  Attributes:
    pixels: each picture once.
    digests: of these.
    reasons: why others cannot be used.
    num_tried: how many were read.
    data: what they are of, in JSON types.
  """

  pixels: UInt8[np.ndarray, "P H W C"]
  digests: list[bytes]
  reasons: list[str]
  num_tried: int
  data: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pools:
  """A pool, divided.

  Attributes:
    searched: the images that the search draws from, normalised.
    tested: those that certificates draw from.
    num_own: images of the run that are in the pool: none is ever its own background.
    description: what the pool is, for the run's specification.
  """

  searched: Float[np.ndarray, "P H W C"]
  tested: Float[np.ndarray, "Q H W C"]
  num_own: int
  description: dict[str, Any]

  @property
  def arrays(self) -> dict[str, np.ndarray]:
    """What the program on the devices takes."""
    return {"searched": self.searched, "tested": self.tested}


def open_pools(images: ClassifierOnImages, config: FindConfig, stored: Mapping[str, Any] | None) -> Pools | None:
  """What masked pixels show, if that is other images.

  Args:
    images: the classifier and the images of the run.
    config: the settings.
    stored: the specification of the run that goes on, which has counted its images in the pool; None for a new run.

  Raises:
    ValueError: there are no such images, too few that can be used, or draws from them are all the same.
  """
  completion = config.completion
  if completion is None:
    return None
  pools = None
  if completion.pool is not None:
    of_run = ((stored or {}).get("completion") or {}).get("images") or {}
    name, split, count = completion.pool, completion.pool_split, completion.num_pooled
    drawn = draw_pool(config, images, name, split, seed=completion.seed, count=count)
    pools = divide_pool(completion, images, drawn, num_own=of_run.get("num_own"))
  noise = np.random.default_rng(0).normal(size=(1, *images.classifier.input_shape)).astype(np.float32)
  for pool in (None,) if pools is None else pools.arrays.values():
    check_completion(completion.distribution(pool), 0.0, jnp.asarray(noise), Grid(images.grid))
  return pools


def draw_pool(
  config: ImagesAsked, images: ClassifierOnImages, name: str, split: str | None, *, seed: int, count: int
) -> Drawn:
  """So many images of this name, in an order that the seed and their ids fix; ValueError if nothing has it."""
  try:
    source = open_images(config, images.classifier, name, split)
  except ValueError as error:
    raise ValueError(f"--pool must name images as --data does: {error}") from error
  places = choose_places(source.ids(), seed=seed, count=count)
  pixels, digests, reasons = read_distinct(source, places)
  data = {name: value for name, value in source.description.items() if name in DESCRIBED}
  return Drawn(pixels=pixels, digests=digests, reasons=reasons, num_tried=len(places), data=data)


def divide_pool(
  completion: CompletionSettings, images: ClassifierOnImages, drawn: Drawn, *, num_own: int | None
) -> Pools:
  """The pool, divided; `num_own` is None where the images of the run have to be looked for in it.

  Raises:
    ValueError: it holds too few images that can be used.
  """
  pixels, digests, reasons = drawn.pixels, drawn.digests, drawn.reasons
  count = len(pixels) // 2
  fewest = max(completion.num_draws, 2)
  if count < fewest:
    unusable = f"; {len(reasons)} cannot be used, the first since {reasons[0]}" if reasons else ""
    raise ValueError(
      f"--pool must hold {2 * fewest} different images, {fewest} for the search and as many for its certificates, but "
      f"{len(pixels)} are left of {drawn.num_tried}{unusable}; give more, or fewer --draws."
    )
  if num_own is None:
    num_own = count_own(digests, images.source)
  parts = {"searched": slice(0, count), "tested": slice(count, None)}
  return Pools(
    **{name: images.normalise(pixels[part]) for name, part in parts.items()},
    num_own=num_own,
    description={
      **drawn.data,
      "num_unusable": len(reasons),
      "num_own": num_own,
      **{name: describe_part(digests[part]) for name, part in parts.items()},
    },
  )


def describe_part(digests: Sequence[bytes]) -> dict[str, Any]:
  return {"num_images": len(digests), "sha256": hashlib.sha256(b"".join(digests)).hexdigest()}


def describe_completion(config: FindConfig, pools: Pools | None) -> dict[str, Any]:
  """What masked pixels show, in a specification; nothing where that is the baseline."""
  if config.completion is None:
    return {}
  settings = {name: value for name, value in vars(config.completion).items() if not name.startswith("pool")}
  return {"completion": {**settings, **({} if pools is None else {"images": pools.description})}}


def choose_places(ids: Sequence[str], *, seed: int, count: int) -> list[int]:
  """The places of so many images, in an order that the seed and their ids fix."""
  order = sorted(range(len(ids)), key=lambda place: (digest_text(f"{seed}/{ids[place]}"), place))
  return order[:count]


def read_distinct(
  source: ImageSource, places: Sequence[int]
) -> tuple[UInt8[np.ndarray, "P H W C"], list[bytes], list[str]]:
  """The images at these places, each picture once, their digests, and why some of them cannot be used."""
  found: dict[bytes, UInt8[np.ndarray, "H W C"]] = {}
  reasons: list[str] = []
  for batch in batches.iterate_batches(source, places, IMAGES_READ_AT_ONCE):
    for image, digest, error in zip(batch["image"], iterate_digests(batch), batch["error"], strict=True):
      if error:
        reasons.append(str(error))
      else:
        found.setdefault(digest, image)
  return np.stack(list(found.values())) if found else np.zeros((0, 1, 1, 1), np.uint8), list(found), reasons


def count_own(digests: Sequence[bytes], source: ImageSource) -> int:
  """How many images of a run are in the pool."""
  known = set(digests)
  read = batches.iterate_batches(source, range(len(source)), IMAGES_READ_AT_ONCE)
  return sum(digest in known for batch in read for digest in iterate_digests(batch))


def iterate_digests(batch: Mapping[str, np.ndarray]) -> Iterator[bytes]:
  return (digest.tobytes() for digest in results.digest_pixels(batch["image"]))


def hash_ids(ids: Sequence[str] | np.ndarray) -> UInt32[np.ndarray, "B 2"]:
  """Two numbers for each id, from which its image's key is made: draws depend on nothing else, see `make_keys`."""
  words = [np.frombuffer(digest_text(str(name)), "<u4") for name in ids]
  return np.stack(words)


def digest_text(text: str) -> bytes:
  return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8).digest()


def draw_step(name: str, num_classes: int) -> int:
  """How many classes after the predicted one, modulo their number, the random class of the image of this id comes."""
  return int(np.random.default_rng(zlib.crc32(name.encode())).integers(1, num_classes))
