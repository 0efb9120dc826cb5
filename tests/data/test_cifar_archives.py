"""The original archives: what is read, what is refused, and that nothing foreign is run or written."""

import gzip
import pathlib
import pickle
import re
import tarfile
import warnings
from typing import Any

import cifar_files
import numpy as np
import pytest

from jax_sis.data import cifar_archives

SMALL = cifar_files.SMALL
KINDS = list(cifar_files.FOLDERS)


def read(name: str, source: pathlib.Path) -> cifar_archives.Cifar:
  return cifar_archives.read_cifar(name, source, SMALL)


def refuses(message: str) -> Any:
  return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def write_version(
  parent: pathlib.Path, name: str = "cifar10", kind: str = "binary", **changes: bytes | None
) -> pathlib.Path:
  """A folder of random images, with some of its files replaced, or left out; `__` stands for a dot."""
  files = cifar_files.make_files(name, kind, cifar_files.make_splits(name))
  for file, content in changes.items():
    files.pop(file.replace("__", "."))
    if content is not None:
      files[file.replace("__", ".")] = content
  return cifar_files.write_folder(parent / cifar_files.FOLDERS[name, kind], files)


def assert_holds(cifar: cifar_archives.Cifar, name: str, splits: cifar_files.Splits) -> None:
  assert cifar.class_names == cifar_files.CLASS_NAMES[name]
  assert list(cifar.splits) == ["train", "test"]
  for split_name, (images, labels) in splits.items():
    np.testing.assert_array_equal(cifar.splits[split_name].images, images)
    assert set(cifar.splits[split_name].labels) == set(labels)
    for feature, values in labels.items():
      np.testing.assert_array_equal(cifar.splits[split_name].labels[feature], values)


@pytest.mark.parametrize("packing", ["tar.gz", "tar", "folder", "parent"])
@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_every_version_is_read_packed_and_unpacked(tmp_path: pathlib.Path, name: str, kind: str, packing: str):
  splits = cifar_files.make_splits(name)
  files = cifar_files.make_files(name, kind, splits) | {"readme.html": b"<html>"}
  folder = cifar_files.FOLDERS[name, kind]
  if packing in ("folder", "parent"):
    source = cifar_files.write_folder(tmp_path / folder, files)
    source = source if packing == "folder" else tmp_path
  else:
    mode = "w:gz" if packing == "tar.gz" else "w:"
    source = cifar_files.write_tar(tmp_path / f"archive.{packing}", folder, files, mode=mode)
  assert_holds(read(name, source), name, splits)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_order_of_the_files_in_an_archive_does_not_matter(tmp_path: pathlib.Path, name: str):
  splits = cifar_files.make_splits(name)
  files = cifar_files.make_files(name, "binary", splits)
  folder = f"./{cifar_files.FOLDERS[name, 'binary']}"
  source = cifar_files.write_tar(tmp_path / "a.tar.gz", folder, dict(reversed(files.items())))
  assert_holds(read(name, source), name, splits)


def test_of_two_versions_in_a_folder_the_whole_one_is_read(tmp_path: pathlib.Path):
  splits = cifar_files.make_splits("cifar10")
  write_version(tmp_path, kind="binary", test_batch__bin=None)
  write_version(tmp_path, kind="python")
  write_version(tmp_path, "cifar100")
  assert_holds(read("cifar10", tmp_path), "cifar10", splits)


def test_pickles_are_read_as_numpy_reads_them():
  rows = np.random.default_rng(0).integers(0, 256, (7, 3072), np.uint8)
  labels = {"label": np.arange(7) % 10}
  for order in ("C", "F"):
    content = cifar_files.pickled_batch(np.asarray(rows, order=order), labels, "cifar10")
    with warnings.catch_warnings():
      # The place of NumPy's functions has moved since.
      warnings.simplefilter("ignore", DeprecationWarning)
      expected = pickle.loads(content, encoding="bytes")
    actual = cifar_archives.unpickle(content, "here")
    assert set(actual) == set(expected) == {b"batch_label", b"labels", b"data", b"filenames"}
    np.testing.assert_array_equal(expected[b"data"], rows)
    np.testing.assert_array_equal(actual[b"data"].numpy(), rows)
    for key in (b"batch_label", b"labels", b"filenames"):
      assert actual[key] == expected[key]


def test_a_pickle_that_would_run_a_command_is_refused_and_not_run(tmp_path: pathlib.Path):
  marker = tmp_path / "executed"
  attack = f"cos\nsystem\n(S'touch {marker}'\ntR.".encode()
  # The attack works on an unguarded unpickler.
  pickle.loads(attack)
  assert marker.exists()
  marker.unlink()
  for file, folder in {
    "data_batch_3": write_version(tmp_path / "data", kind="python", data_batch_3=attack),
    "batches.meta": write_version(tmp_path / "names", kind="python", batches__meta=attack),
  }.items():
    with refuses(
      f"{file} of {str(folder)!r} must be a pickle of arrays, but cannot be read so: "
      "it names os.system, which is not part of an array."
    ):
      read("cifar10", folder)
    assert not marker.exists()


@pytest.mark.parametrize(
  ("module_name", "global_name"),
  [("builtins", "eval"), ("numpy", "fromfile"), ("numpy.core.multiarray", "scalar"), ("_codecs", "encode")],
)
def test_only_the_names_of_an_array_are_known(module_name: str, global_name: str):
  with pytest.raises(ValueError, match=re.escape(f"it names {module_name}.{global_name}, which is not part of an arr")):
    cifar_archives.unpickle(f"c{module_name}\n{global_name}\n.".encode(), "here")


def test_a_pickle_cannot_make_numpy_take_bytes_for_pointers():
  # NumPy itself would read the eight bytes as the address of an object.
  attack = b"}(U\x04datacnumpy\nndarray\n(K\x01\x85cnumpy\ndtype\n(U\x01OtRU\x08AAAAAAAAtRu."
  value = cifar_archives.unpickle(attack, "here")[b"data"]
  with refuses("an array of another kind"):
    value.numpy()


def test_a_pickle_cannot_change_our_classes():
  # BUILD on a class instead of an instance, with a state of attributes to set.
  for module_name, global_name in cifar_archives.PICKLED_CLASSES:
    attack = f"c{module_name}\n{global_name}\n".encode() + b"N}(X\x05\x00\x00\x00numpyK\x01u\x86b."
    with pytest.raises(ValueError, match="cannot be read so"):
      cifar_archives.unpickle(attack, "here")
  assert callable(cifar_archives.PickledArray.numpy)
  assert not hasattr(cifar_archives.PickledDtype, "numpy")


def test_a_truncated_pickle_is_refused_wherever_it_ends():
  rows = np.zeros((1, 3072), np.uint8)
  content = cifar_files.pickled_batch(rows, {"label": np.array([3])}, "cifar10")
  labels = cifar_archives.LABELS["cifar10"]
  assert cifar_archives.parse_pickle(content, labels, 1, "here").labels["label"] == 3
  for length in [*range(200), *range(200, len(content), 97), len(content) - 1]:
    with pytest.raises(ValueError, match=r"^here must be a pickle of arrays, but cannot be read so: "):
      cifar_archives.parse_pickle(content[:length], labels, 1, "here")


def test_a_damaged_pickle_is_read_or_refused_and_nothing_else():
  rng = np.random.default_rng(0)
  content = cifar_files.pickled_batch(np.zeros((1, 3072), np.uint8), {"label": np.array([3])}, "cifar10")
  start = content.index(b"\0" * 3072)
  places = [place for place in range(len(content)) if not start <= place < start + 3072]
  num_refused = 0
  for place in places:
    # Not into LONG_BINPUT, which makes Python reserve memory for as many objects as the next four bytes say.
    damaged = content[:place] + bytes([rng.integers(0, 114)]) + content[place + 1 :]
    try:
      cifar_archives.parse_pickle(damaged, cifar_archives.LABELS["cifar10"], 1, "here")
    except ValueError as error:
      num_refused += 1
      assert str(error).startswith(("here must ", "label must "))
  assert num_refused > len(places) / 2


@pytest.mark.parametrize(
  ("content", "got"),
  [
    ({b"labels": [1] * 5}, "NoneType"),
    ({b"data": b"no array"}, "bytes"),
    ({b"data": np.zeros((4, 3072), np.uint8)}, "uint8[4, 3072]"),
    ({b"data": np.zeros((5, 3072), np.float32)}, "an array of another kind"),
    ({b"data": np.zeros(5 * 3072, np.uint8)}, "uint8[15360]"),
  ],
)
def test_a_batch_without_the_images_says_what_it_has(tmp_path: pathlib.Path, content: Any, got: str):
  folder = write_version(tmp_path, kind="python", data_batch_4=cifar_files.pickle_2(content))
  with refuses(f"data_batch_4 of {str(folder)!r} must have as data an array uint8[5, 3072], got {got}."):
    read("cifar10", folder)


@pytest.mark.parametrize(
  ("labels", "got"), [([1, 2], "a list of 2"), (b"abcde", "bytes"), ([1, 2, 3, 4, b"5"], "a list of 5")]
)
def test_a_batch_without_the_labels_says_what_it_has(tmp_path: pathlib.Path, labels: Any, got: str):
  content = {b"data": np.zeros((5, 3072), np.uint8), b"labels": labels}
  folder = write_version(tmp_path, kind="python", data_batch_4=cifar_files.pickle_2(content))
  with refuses(f"data_batch_4 of {str(folder)!r} must have as labels a list of 5 numbers, got {got}."):
    read("cifar10", folder)


def test_an_array_with_fewer_bytes_than_its_shape_is_refused(tmp_path: pathlib.Path):
  content = cifar_files.pickle_2({b"data": np.zeros((5, 3072), np.uint8)}).replace(b"(J\5\0\0\0", b"(J\7\0\0\0")
  folder = write_version(tmp_path, kind="python", data_batch_1=content)
  with pytest.raises(ValueError, match=re.escape("got an array of 15,360 bytes for the shape (7, 3072).")):
    read("cifar10", folder)


def test_a_pickle_of_something_else_is_refused(tmp_path: pathlib.Path):
  folder = write_version(tmp_path, kind="python", test_batch=cifar_files.pickle_2([1, 2]))
  with refuses(f"test_batch of {str(folder)!r} must be a pickled dictionary, got list."):
    read("cifar10", folder)


@pytest.mark.parametrize(("change", "size"), [(-1, "15,364"), (1, "15,366"), (-15_365, "0")])
def test_a_binary_file_of_another_size_is_refused(tmp_path: pathlib.Path, change: int, size: str):
  folder = write_version(tmp_path, data_batch_2__bin=bytes(5 * 3073 + change))
  with refuses(f"data_batch_2.bin of {str(folder)!r} must have 15,365 bytes (5 records of 3,073), got {size}."):
    read("cifar10", folder)


@pytest.mark.parametrize("kind", ["binary", "python"])
@pytest.mark.parametrize(
  ("name", "file", "feature", "number"),
  [
    ("cifar10", "data_batch_5", "label", 10),
    ("cifar100", "test", "coarse_label", 20),
    ("cifar100", "test", "label", 100),
  ],
)
def test_a_label_out_of_range_is_named(
  tmp_path: pathlib.Path, name: str, kind: str, file: str, feature: str, number: int
):
  splits = cifar_files.make_splits(name)
  split_name, index = ("test", 3) if name == "cifar100" else ("train", 4 * 5 + 3)
  splits[split_name][1][feature][index] = number
  folder = cifar_files.write_folder(tmp_path / "files", cifar_files.make_files(name, kind, splits))
  file = f"{file}.bin" if kind == "binary" else file
  with refuses(
    f"{feature} must lie in 0..{number - 1}, got {number} in record 3 (from 0) of {file} of {str(folder)!r}."
  ):
    read(name, folder)


def test_a_negative_label_is_refused(tmp_path: pathlib.Path):
  content = {b"data": np.zeros((5, 3072), np.uint8), b"labels": [0, -1, 0, 0, 0]}
  folder = write_version(tmp_path, kind="python", data_batch_1=cifar_files.pickle_2(content))
  with pytest.raises(
    ValueError, match=re.escape("label must lie in 0..9, got -1 in record 1 (from 0) of data_batch_1")
  ):
    read("cifar10", folder)


@pytest.mark.parametrize(
  ("content", "got"),
  [
    (b"cat\ndog\n", "2 names, 2"),
    (b"a\nb\nc\nd\ne\nf\ng\nh\ni\nj\na", "11 names, 10"),
    (b"\n".join([b"cat"] * 10), "10 names, 1"),
    (b"", "0 names, 0"),
    (b"\xff\n" * 10, "0 names, 0"),
  ],
)
def test_class_names_that_are_not_as_many_as_classes_are_refused(tmp_path: pathlib.Path, content: bytes, got: str):
  folder = write_version(tmp_path, batches__meta__txt=content)
  with refuses(
    f"batches.meta.txt of {str(folder)!r} must name 10 different classes of label, got {got} of them different."
  ):
    read("cifar10", folder)


def test_missing_files_are_listed(tmp_path: pathlib.Path):
  folder = write_version(tmp_path, data_batch_3__bin=None, batches__meta__txt=None)
  with refuses(
    f"--from must hold all files of 'cifar-10-batches-bin', but {str(folder)!r} lacks data_batch_3.bin, "
    "batches.meta.txt."
  ):
    read("cifar10", folder)


def test_another_data_set_is_refused(tmp_path: pathlib.Path):
  write_version(tmp_path, "cifar100", "python")
  message = (
    "--from must be an archive of cifar10 or the folder that it unpacks to ('cifar-10-batches-bin' or "
    "'cifar-10-batches-py'), got {!r}, which holds {}."
  )
  with refuses(message.format(str(tmp_path), "cifar100")):
    read("cifar10", tmp_path)
  empty = tmp_path / "empty"
  empty.mkdir()
  with refuses(message.format(str(empty), "none of its files")):
    read("cifar10", empty)
  missing = tmp_path / "missing"
  with refuses(f"--from must be an existing archive or folder, got {str(missing)!r}."):
    read("cifar10", missing)


def test_an_archive_is_refused_wherever_it_is_cut(tmp_path: pathlib.Path):
  files = cifar_files.make_files("cifar100", "binary", cifar_files.make_splits("cifar100"))
  for mode in ("w:gz", "w:"):
    content = cifar_files.write_tar(tmp_path / "whole", "cifar-100-binary", files, mode=mode).read_bytes()
    # A tar file ends in 10,240 zeros at most; without them all is there.
    end = len(content) if mode == "w:gz" else len(content.rstrip(b"\0"))
    for length in [0, 1, 2, 10, 600, *range(1000, end, 9973), end - 8, end - 1]:
      path = tmp_path / "cut"
      path.write_bytes(content[:length])
      with pytest.raises(ValueError, match=r"^--from must "):
        read("cifar100", path)


def test_a_changed_byte_in_an_archive_is_noticed(tmp_path: pathlib.Path):
  splits = cifar_files.make_splits("cifar10")
  files = cifar_files.make_files("cifar10", "binary", splits)
  path = cifar_files.write_tar(tmp_path / "a.tar.gz", "cifar-10-batches-bin", files, compresslevel=0)
  assert_holds(read("cifar10", path), "cifar10", splits)
  content = bytearray(path.read_bytes())
  content[content.index(splits["train"][0][2, 1:3, :, 0].tobytes()) + 5] ^= 1
  path.write_bytes(content)
  with pytest.raises(ValueError, match=r"cannot be read: CRC check failed .*; if it is damaged, download it again\.$"):
    read("cifar10", path)


@pytest.mark.parametrize("content", [b"no archive", gzip.compress(b"no archive", mtime=0), b"\x1f\x8bno gzip", b""])
def test_another_format_is_refused(tmp_path: pathlib.Path, content: bytes):
  path = tmp_path / "other.tar.gz"
  path.write_bytes(content)
  message = f"--from must be a whole archive (.tar.gz) or a folder, but {str(path)!r} cannot be read: "
  with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
    read("cifar10", path)


def test_links_in_an_archive_are_not_followed(tmp_path: pathlib.Path):
  files = cifar_files.make_files("cifar10", "binary", cifar_files.make_splits("cifar10"))
  (tmp_path / "secret").write_bytes(files.pop("test_batch.bin"))
  folder = "cifar-10-batches-bin"
  for link_type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
    path = cifar_files.write_tar(tmp_path / "link.tar", folder, files, mode="w:")
    with tarfile.open(path, "a:") as tar:
      link = tarfile.TarInfo(f"{folder}/test_batch.bin")
      link.type, link.linkname = link_type, "../secret"
      tar.addfile(link)
    with refuses(f"--from must hold all files of {folder!r}, but {str(path)!r} lacks test_batch.bin."):
      read("cifar10", path)


def test_nothing_is_extracted(tmp_path: pathlib.Path):
  files = cifar_files.make_files("cifar10", "binary", cifar_files.make_splits("cifar10"))
  path = cifar_files.write_tar(tmp_path / "deep/down/a.tar.gz", "../cifar-10-batches-bin", files)
  before = sorted(tmp_path.rglob("*"))
  with pytest.raises(ValueError, match="which holds none of its files"):
    read("cifar10", path)
  assert sorted(tmp_path.rglob("*")) == before


def test_an_archive_that_unpacks_to_gigabytes_is_refused_at_once(tmp_path: pathlib.Path):
  path = tmp_path / "bomb.tar"
  member = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
  member.size = 2**40
  path.write_bytes(member.tobuf() + bytes(1024))
  with pytest.raises(ValueError, match=r"cannot be read: it has more than 1,073,741,824 bytes unpacked; "):
    read("cifar10", path)
