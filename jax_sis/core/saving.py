"""Orders, subsets and certificates in files: arrays in NumPy's npz, without pickle, beside a format with a version."""

import dataclasses
import json
import os
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_sis.core.certify import Certificate
from jax_sis.core.guarantees import Guarantee
from jax_sis.core.label_maps import LabelMap
from jax_sis.core.lattice import Lattice
from jax_sis.core.linear import Dct, Linear
from jax_sis.core.order import FeatureOrder
from jax_sis.core.questions import Question
from jax_sis.core.stability import Stability
from jax_sis.core.subsets import Subsets

FORMAT = "jax_sis.found/1"
HEADER = "header"
LABELS = "labels"
KINDS = {kind.__name__: kind for kind in (FeatureOrder, Subsets, Certificate, Guarantee, Stability, Lattice)}

Found = FeatureOrder | Subsets | Certificate | Guarantee | Stability | Lattice


def save(path: str | os.PathLike[str], found: Found | Sequence[Found]) -> None:
  """Writes an order, subsets or a certificate, or a list or tuple of them such as a collection, into a file.

  Args:
    path: the file, which is replaced if it is there, named `.npz`; it is not compressed.
    found: what a search or `certify` returned.

  Raises:
    ValueError: the path does not end in .npz, or `found` is something else.

  Examples:
    >>> import tempfile
    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> order = jax_sis.backselect(predict_fn, jnp.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), jnp.ones((1, 3)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   jax_sis.save(f"{folder}/order.npz", order)
    ...   print(jax_sis.load(f"{folder}/order.npz"))
    FeatureOrder(1 image, grid (3,), 3 features, log_odds; sizes 0 to 3, 4 of them)
  """
  path = check_path(path)
  parts: list[Any] = list(found) if isinstance(found, list | tuple) else [found]
  wrong = next((part for part in parts if type(part) not in KINDS.values()), None)
  if wrong is not None or not parts:
    got = "nothing" if wrong is None else type(wrong).__name__
    raise ValueError(f"found must be one or several of {', '.join(KINDS)}, got {got}.")
  arrays: dict[str, np.ndarray] = {}
  descriptions = []
  for number, part in enumerate(parts):
    fields = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    shape = describe_shape(fields.pop("features", None), fields)
    static = {name: value for name, value in fields.items() if not isinstance(value, jax.Array | np.ndarray)}
    if static.get("question") is not None:
      static["question"] = dataclasses.asdict(static["question"])
    values = {name: np.asarray(value) for name, value in fields.items() if name not in static}
    descriptions.append(
      {
        "kind": type(part).__name__,
        "static": static,
        "dtypes": {name: str(one.dtype) for name, one in values.items()},
        **shape,
      }
    )
    # NumPy's files know no bfloat16.
    arrays |= {f"{number}.{name}": one if one.dtype.kind != "V" else one.view("u1") for name, one in values.items()}
  header = json.dumps({"format": FORMAT, "is_one": not isinstance(found, list | tuple), "parts": descriptions})
  unfinished = path.with_name(f".{path.name}.unfinished")
  try:
    with unfinished.open("wb") as file:
      np.savez(file, **{HEADER: np.frombuffer(header.encode(), np.uint8)}, **arrays)  # pyright: ignore[reportArgumentType]
    unfinished.replace(path)
  finally:
    unfinished.unlink(missing_ok=True)


def describe_shape(features: LabelMap | Linear | None, fields: dict[str, Any]) -> dict[str, Any]:
  """What the header says of features that are no grid; the labels of a map become one of the fields.

  Raises:
    ValueError: they are functions.
  """
  if features is None:
    return {}
  if isinstance(features, LabelMap):
    fields[LABELS] = features.labels
    return {"features": {"num_features": features.num_features}}
  if not isinstance(features, Dct):
    raise ValueError("found must be of features that a file can hold, got those of a Basis, which are functions.")
  return {"features": dataclasses.asdict(features)}


def read_shape(shape: Mapping[str, Any] | None, fields: dict[str, Any]) -> dict[str, Any]:
  """`describe_shape` undone: the fields with features in them."""
  if shape is None:
    return fields
  if LABELS in fields:
    return fields | {"features": LabelMap(labels=fields.pop(LABELS), **shape)}
  return fields | {"features": Dct(bands=shape["bands"], size=tuple(shape["size"]))}


def load(path: str | os.PathLike[str]) -> Any:
  """What `save` wrote: the same kind, with the same bits.

  Args:
    path: the file.

  Returns:
    What was given to `save`; of a list or tuple, a tuple.

  Raises:
    ValueError: it is no such file, of another version, or damaged. Nothing in it is run.
    OSError: it cannot be read.

  Examples:
    Several things in one file come back in their order:

    >>> import tempfile
    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> order = jax_sis.backselect(predict_fn, jnp.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), jnp.ones((1, 3)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   jax_sis.save(f"{folder}/found.npz", [order, jax_sis.sufficient_subsets(order, 0.9)])
    ...   order, subsets = jax_sis.load(f"{folder}/found.npz")
    >>> subsets.mask.tolist()
    [[True, False, False]]
  """
  path = check_path(path)
  try:
    with zipfile.ZipFile(path) as archive:
      # What is not compressed fills no more memory than the file.
      if any(one.compress_type != zipfile.ZIP_STORED for one in archive.infolist()):
        raise ValueError("it holds compressed arrays")
      damaged = archive.testzip()
    if damaged is not None:
      raise ValueError(f"{damaged} has another checksum")
    with np.load(path, allow_pickle=False) as arrays:
      if HEADER not in arrays.files:
        raise ValueError("it has no header")
      header = json.loads(arrays[HEADER].tobytes())
      if header["format"] != FORMAT:
        raise ValueError(f"its format is {header['format']!r}")
      parts = tuple(read_part(part, number, arrays) for number, part in enumerate(header["parts"]))
  except (AttributeError, EOFError, KeyError, MemoryError, TypeError, ValueError, zipfile.BadZipFile) as error:
    raise ValueError(
      f"{str(path)!r} must be a file that jax_sis.save wrote, in the format {FORMAT!r}, but cannot be read "
      f"({type(error).__name__}: {error})."
    ) from error
  return parts[0] if header["is_one"] else parts


def check_path(path: str | os.PathLike[str]) -> pathlib.Path:
  checked = pathlib.Path(path)
  if checked.suffix != ".npz":
    raise ValueError(f"path must end in .npz, got {str(path)!r}.")
  return checked


def read_part(description: Mapping[str, Any], number: int, arrays: Mapping[str, np.ndarray]) -> Found:
  kind: Any = KINDS[description["kind"]]
  fields: dict[str, Any] = {
    name: tuple(one) if isinstance(one, list) else one for name, one in description["static"].items()
  }
  if fields.get("question") is not None:
    fields["question"] = Question(**fields["question"])
  for name, dtype in description["dtypes"].items():
    values = arrays[f"{number}.{name}"]
    fields[name] = jnp.asarray(values if values.dtype == dtype else values.view(jnp.dtype(dtype)))
  if len({one.shape[0] for one in fields.values() if isinstance(one, jax.Array)}) != 1:
    raise ValueError("its arrays are not of the same images")
  return kind(**read_shape(description.get("features"), fields))
