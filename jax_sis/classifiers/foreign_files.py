"""Files and folders that are brought in the place of PyTorch's weights: what they are, and what to do instead."""

import itertools
import json
import pathlib

IN_PYTHON = "a JAX model is searched in Python, see jax_sis.classifiers.adapters"
MORE_THAN_WEIGHTS = "load it in its own library and save the arrays, under PyTorch's names, by numpy.savez"
UNPACK = "unpack it and give the file inside"
# The place of some bytes in a file, the bytes, and what it is.
SIGNATURES = (
  (0, b"version https://git-lfs", "it is a Git LFS pointer, not the file itself; fetch that by `git lfs pull`"),
  (0, b"\x89HDF\r\n\x1a\n", f"it is an HDF5 file (.h5), as Keras writes; {MORE_THAN_WEIGHTS}"),
  (0, b"\x93NUMPY", "it is a single NumPy array (.npy); save all arrays under their names by numpy.savez"),
  (0, b"GGUF", f"it is a GGUF file; {MORE_THAN_WEIGHTS}"),
  (4, b"TFL3", f"it is a TensorFlow Lite model; {MORE_THAN_WEIGHTS}"),
  (0, b"\x1f\x8b", f"it is packed by gzip; {UNPACK}"),
  (0, b"BZh", f"it is packed by bzip2; {UNPACK}"),
  (0, b"\xfd7zXZ", f"it is packed by xz; {UNPACK}"),
  (0, b"\x28\xb5\x2f\xfd", f"it is packed by zstd; {UNPACK}"),
  (0, b"7z\xbc\xaf", f"it is packed by 7-Zip; {UNPACK}"),
  (257, b"ustar", f"it is a tar archive; {UNPACK}"),
)
SUFFIXES = {
  ".eqx": f"it is a file of Equinox, whose arrays have no names; {IN_PYTHON}",
  ".msgpack": f"it is a msgpack file, as Flax writes; {IN_PYTHON}",
  ".onnx": f"it is an ONNX model; {MORE_THAN_WEIGHTS}",
  ".pb": f"it is a TensorFlow graph; {MORE_THAN_WEIGHTS}",
  ".tflite": f"it is a TensorFlow Lite model; {MORE_THAN_WEIGHTS}",
  ".keras": f"it is a Keras model; {MORE_THAN_WEIGHTS}",
  ".index": f"it is the index of a TensorFlow checkpoint; {MORE_THAN_WEIGHTS}",
}
WEIGHTS = (".pt", ".pth", ".th", ".bin", ".safetensors", ".npz", ".ckpt")
START_BYTES = 2**16
MAX_INDEX_BYTES = 2**26
MAX_LISTED = 10_000


def say_what_file_it_is(path: pathlib.Path) -> str:
  """What a file or folder is that cannot be one of weights, and what to do; empty where it may be one."""
  if path.is_dir():
    return say_what_folder_it_is(path)
  with open(path, "rb") as file:
    start = file.read(START_BYTES)
  suffix = path.suffix.lower()
  # Equinox writes arrays one after the other, behind a line of JSON if the user has followed its guide.
  if b"\x93NUMPY" in start and (suffix == ".eqx" or start[:1] == b"{"):
    return SUFFIXES[".eqx"]
  known = next((text for place, signature, text in SIGNATURES if start[place:].startswith(signature)), "")
  is_safetensors = start[7:9] == b"\0{"
  is_archive = start.startswith(b"PK") and suffix != ".keras"
  if known or is_safetensors or is_archive:
    return known
  beginning = start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
  if beginning == b"<":
    return "it is a web page, not weights; the download led elsewhere, perhaps to a page that asks to log in"
  if beginning == b"{":
    return say_what_json_it_is(path)
  # A map of msgpack whose first key is a text. Pickles begin with 80 too, but an empty map is no model.
  is_map = start[:1] in (b"\xde", b"\xdf") or b"\x81" <= start[:1] <= b"\x8f"
  is_msgpack = is_map and any(b"\xa1" <= start[at : at + 1] <= b"\xdb" for at in (1, 3, 5))
  return SUFFIXES.get(".msgpack" if is_msgpack else suffix, "")


def say_what_json_it_is(path: pathlib.Path) -> str:
  try:
    content = json.loads(path.read_bytes()) if path.stat().st_size <= MAX_INDEX_BYTES else None
  except (ValueError, RecursionError):
    content = None
  shards = content.get("weight_map") if isinstance(content, dict) else None
  if not isinstance(shards, dict):
    return "it is a text in JSON, not weights"
  names = sorted({str(name) for name in shards.values()})
  return (
    f"it is the index of weights in {len(names)} files ({names[0]:.60}, ...); join them, for example by "
    "safetensors.numpy.load_file and numpy.savez, and give the one file"
    if names
    else "it is the index of weights in other files, and names none"
  )


def say_what_folder_it_is(path: pathlib.Path) -> str:
  """What a folder is, by the names in it and in the folders there."""
  listed = itertools.islice(itertools.chain(path.iterdir(), path.glob("*/*")), MAX_LISTED)
  names = {str(place.relative_to(path)) for place in listed}
  last = {pathlib.PurePath(name).name for name in names}
  if "classifier.json" in names:
    return "it is a classifier's folder already; use it by --checkpoint"
  if last & {"_CHECKPOINT_METADATA", "manifest.ocdbt", "_METADATA"}:
    return f"it is a folder of Orbax; {IN_PYTHON}"
  if "saved_model.pb" in last:
    return f"it is a TensorFlow model's folder; {MORE_THAN_WEIGHTS}"
  if any(name.endswith(".distcp") for name in last):
    return "it is a distributed checkpoint of PyTorch; torch.distributed.checkpoint.format_utils makes one file of it"
  weights = sorted(name for name in names if name.endswith(WEIGHTS))
  return (
    f"it is a folder; name the file in it, such as {weights[0]:.80}" if weights else "it is a folder without weights"
  )
