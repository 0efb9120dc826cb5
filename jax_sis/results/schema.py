"""What a run's store holds: its fields, as they are stored and as they are read, and what their numbers mean."""

import dataclasses
import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Shaped, UInt8

from jax_sis.core.subsets import Status

TEXT_BYTES = 128
# BLAKE2b of so many bytes tells any two images apart.
DIGEST_BYTES = 16
# The status of an image that could not be searched, its reason in `error`; beside the numbers of Status.
NOT_SEARCHED = -1
# What tables call each status.
STATUS_NAMES = {NOT_SEARCHED: "not_searched", **{status: status.name.lower() for status in Status}}
# No class: the image has no label, or was not classified.
NO_CLASS = -1
# The kinds of subset that a run may hold: the paper's, read from a whole order; the smallest evidence; under a
# completion the smallest of an order that is certified to keep its class on a share of unseen draws; and of a complete
# lattice the smallest that there is. In the place of the smallest evidence there may be what answers another question,
# see `core.questions`.
QUESTION_KINDS = ("contrastive", "both")
KINDS = ("sis", "smallest", "robust", "optimum", *QUESTION_KINDS)
KIND_TITLES = {"sis": "SIS"} | {kind: kind for kind in KINDS[1:]}
SMALLEST_MASK = "smallest_mask"
# Of the kinds that no order and threshold tell, the fields of their masks.
OWN_MASKS = {kind: f"{kind}_mask" for kind in KINDS[1:]}
# Of a complete lattice, the smallest set whose masking alone loses the class; empty where there is none.
CONTRASTIVE_MASK = "lattice_contrastive_mask"
PIXEL_DIGEST = "pixel_digest"
# What the store holds of each kind of subset, by the certificate that the run asked for.
ALONE_DTYPES = {
  "num_kept": "int32",
  "status": "int8",
  "certified_confidence": "float32",
  "is_sufficient": "bool",
  "keeps_class": "bool",
  "is_reproduced": "bool",
}
FULL_DTYPES = {
  **ALONE_DTYPES,
  "is_minimal": "bool",
  "is_smallest": "bool",
  "has_smaller": "bool",
  "num_droppable": "int32",
}
# Of a robust subset there is beside: on which share of further draws it keeps its class, or where none is certified the
# largest that was tested, of `num_judged` features; what that share is certified to be at least, 0 for nothing; and the
# smallest error at which it can be. `certified_confidence` is the mean probability on these draws, `is_sufficient` that
# it is certified, `keeps_class` that it does so on most; other draws reproduce nothing, and `is_reproduced` is true.
DRAWN_DTYPES = {"rate": "float32", "rate_bound": "float32", "num_judged": "int32", "p_value": "float32"}
# Of an answer to another question there is beside: by how much, in log-odds, the class is lost with the subset alone
# masked. Its `is_sufficient` is that the question is answered; `certified_confidence` and `keeps_class` are alone.
WITHOUT_DTYPES = {"lost_by": "float32"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field:
  """One array of the store.

  Attributes:
    shape: of one image's row, as stored.
    dtype: as NumPy names it.
    num_bits: the features of masks, which are stored in bits, from each byte's lowest; None for other fields.

  Examples:
    Masks are stored in bits:

    >>> import numpy as np
    >>> from jax_sis import results
    >>> field = results.mask_field(12)
    >>> stored = field.encode("my_mask", np.eye(12, dtype=bool)[:2], num_rows=2)
    >>> stored.shape, bool((field.decode(stored) == np.eye(12, dtype=bool)[:2]).all())
    ((2, 2), True)
  """

  shape: tuple[int, ...]
  dtype: str
  num_bits: int | None = None

  @property
  def is_text(self) -> bool:
    """Whether it holds texts, see `encode_text`."""
    return self == TEXT

  @property
  def num_bytes(self) -> int:
    """Bytes of a row, before compression."""
    return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

  def encode(self, name: str, rows: Shaped[np.ndarray, "M ..."], num_rows: int) -> Shaped[np.ndarray, "M ..."]:
    """Rows as they are stored.

    Args:
      name: what the field is called.
      rows: the values; of masks Booleans `[M, num_bits]`.
      num_rows: M.

    Raises:
      ValueError: they have another shape, or values that the dtype cannot hold.
    """
    values = np.asarray(rows)
    shape = (num_rows, *(self.shape if self.num_bits is None else (self.num_bits,)))
    if values.shape != shape:
      raise ValueError(f"rows[{name!r}] must have the shape {list(shape)}, got {list(values.shape)}.")
    if self.num_bits is not None:
      if values.dtype != bool:
        raise ValueError(f"rows[{name!r}] must be a mask of Booleans, got {values.dtype}.")
      return np.packbits(values, axis=1, bitorder="little")
    stored = values.astype(self.dtype)
    if stored.dtype.kind != "f" and not np.array_equal(stored, values):
      raise ValueError(f"rows[{name!r}] must be values that {self.dtype} can hold, got others as {values.dtype}.")
    return stored

  def decode(self, stored: Shaped[np.ndarray, "M ..."]) -> Shaped[np.ndarray, "M ..."]:
    """Rows as they were before `encode`."""
    if self.num_bits is None:
      return stored
    return np.unpackbits(stored, axis=1, count=self.num_bits, bitorder="little").view(bool)


TEXT = Field(shape=(TEXT_BYTES,), dtype="uint8")
# Of every image: who it is, by name and by pixels, why it could not be searched, and what the classifier says of it.
IMAGE_FIELDS = {
  "id": TEXT,
  PIXEL_DIGEST: Field(shape=(DIGEST_BYTES,), dtype="uint8"),
  "error": TEXT,
  "label": Field(shape=(), dtype="int32"),
  "target": Field(shape=(), dtype="int32"),
  "predicted": Field(shape=(), dtype="int32"),
  "full_confidence": Field(shape=(), dtype="float32"),
}


def describe_field(field: Field) -> dict[str, Any]:
  return {name: value for name, value in dataclasses.asdict(field).items() if value is not None}


def parse_field(description: Mapping[str, Any]) -> Field:
  return Field(**{**description, "shape": tuple(description["shape"])})


def mask_field(num_features: int) -> Field:
  """The field of masks over `num_features` features.

  Args:
    num_features: F; eight of them are in a byte.

  Examples:
    >>> from jax_sis import results
    >>> field = results.mask_field(1024)
    >>> field.shape, field.dtype, field.num_bits
    ((128,), 'uint8', 1024)
  """
  return Field(shape=(-(-num_features // 8),), dtype="uint8", num_bits=num_features)


def order_fields(num_features: int, num_sizes: int, *, has_rate: bool) -> dict[str, Field]:
  """The fields of whole orders; under a completion there is a rate at each size."""
  rank_dtype = "uint16" if num_features <= np.iinfo(np.uint16).max else "uint32"
  return {
    "rank": Field(shape=(num_features,), dtype=rank_dtype),
    **dict.fromkeys(("confidence", *(("rate",) if has_rate else ())), Field(shape=(num_sizes,), dtype="float32")),
  }


def subset_fields(kind: str, certificate: str) -> dict[str, Field]:
  """The fields of one kind of subset with this certificate, `full` or `alone`; its masks are a field of their own."""
  dtypes = FULL_DTYPES if certificate == "full" else ALONE_DTYPES
  if kind == "robust":
    dtypes = ALONE_DTYPES | DRAWN_DTYPES
  if kind in QUESTION_KINDS:
    dtypes = dtypes | WITHOUT_DTYPES
  return {f"{kind}_{name}": Field(shape=(), dtype=dtype) for name, dtype in dtypes.items()}


def lattice_fields(num_features: int) -> dict[str, Field]:
  """The fields of complete lattices, see `Lattice`, beside those of the optimum; a mask's number is its place.

  The counts are those of minimal sets, and the size is that of the smallest contrastive set.
  """
  counts = ("lattice_num_sufficient", "lattice_num_contrastive", "lattice_contrastive_size")
  return {
    **dict.fromkeys(("lattice_log_odds", "lattice_lead"), Field(shape=(1 << num_features,), dtype="float32")),
    **dict.fromkeys(("lattice_shapley", "lattice_banzhaf"), Field(shape=(num_features,), dtype="float32")),
    "lattice_falling": Field(shape=(), dtype="float32"),
    **dict.fromkeys(counts, Field(shape=(), dtype="int32")),
    CONTRASTIVE_MASK: mask_field(num_features),
  }


def name_axes(name: str, field: Field) -> list[str]:
  """What the axes of an array are called, the images first."""
  if field.is_text:
    return ["image", "byte"]
  known = (
    "feature_byte"
    if field.num_bits is not None
    else {
      **dict.fromkeys(("rank", "lattice_shapley", "lattice_banzhaf"), "feature"),
      **dict.fromkeys(("confidence", "rate"), "size"),
      **dict.fromkeys(("lattice_log_odds", "lattice_lead"), "mask"),
    }.get(name)
  )
  others = [f"{name}_{axis}" for axis in range(len(field.shape))]
  return ["image", *([known] if known and len(others) == 1 else others)]


def mask_name(*, threshold: float | None = None, fraction: float | None = None) -> str:
  """What the stored masks of a threshold, or else of a fraction, are called.

  Args:
    threshold: the confidence that the subsets reach.
    fraction: instead, the share of the features that they keep.

  Examples:
    >>> from jax_sis import results
    >>> results.mask_name(threshold=0.9), results.mask_name(fraction=0.05)
    ('mask_threshold_0.9', 'mask_fraction_0.05')
  """
  return f"mask_threshold_{threshold}" if fraction is None else f"mask_fraction_{fraction}"


def kinds_of(fields: Collection[str]) -> tuple[str, ...]:
  """The kinds of subset that a run with these fields holds."""
  return tuple(kind for kind in KINDS if f"{kind}_status" in fields)


def encode_text(texts: Sequence[str]) -> Shaped[np.ndarray, "M W"]:
  """Texts as fixed-width UTF-8, padded by zeros; of a longer one the end, after three dots.

  Args:
    texts: M of them.

  Returns:
    Bytes `[M, TEXT_BYTES]`, as a field like TEXT holds them.

  Examples:
    >>> from jax_sis import results
    >>> rows = results.encode_text(["cat.png", "ship.png"])
    >>> rows.shape, bytes(rows[0]).rstrip(bytes(1)).decode()
    ((2, 128), 'cat.png')
  """
  encoded = []
  for text in texts:
    content = text.encode()
    if len(content) > TEXT_BYTES:
      content = b"..." + content[len(content) - TEXT_BYTES + 3 :].decode(errors="ignore").encode()
    encoded.append(content)
  return np.array(encoded, f"S{TEXT_BYTES}").view(np.uint8).reshape(-1, TEXT_BYTES)


def decode_text(rows: Shaped[np.ndarray, "M W"]) -> Shaped[np.ndarray, "M"]:
  """Encoded texts as NumPy's strings."""
  return np.strings.decode(join_bytes(rows), "utf-8")


def join_bytes(rows: Shaped[np.ndarray, "M W"]) -> Shaped[np.ndarray, "M"]:
  """Encoded texts as NumPy's byte strings, which end before the zeros."""
  return np.ascontiguousarray(rows).view(f"S{TEXT_BYTES}")[:, 0]


def digest_pixels(images: UInt8[np.ndarray, "M H W C"]) -> UInt8[np.ndarray, "M D"]:
  """What tells images apart, of the pixels that a search takes; one that cannot be read is black.

  Args:
    images: M images in bytes.

  Returns:
    The BLAKE2b of each, of 16 bytes.

  Examples:
    Images with the same pixels have the same digest, whatever they are called:

    >>> import numpy as np
    >>> from jax_sis import results
    >>> digests = results.digest_pixels(np.array([0, 255, 0], np.uint8).reshape(3, 1, 1, 1))
    >>> digests.shape, bool((digests[0] == digests[2]).all()), bool((digests[0] == digests[1]).all())
    ((3, 16), True, False)
  """
  digests = [hashlib.blake2b(image.tobytes(), digest_size=DIGEST_BYTES).digest() for image in images]
  return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES)


def has_order(status: Int[np.ndarray, "M"]) -> Bool[np.ndarray, "M"]:
  """Which images have an order that means something: they were searched, and every number was finite."""
  return (status != NOT_SEARCHED) & (status != Status.NON_FINITE)
