"""The original archives: what is read, what is refused, and that nothing is extracted."""

import gzip
import pathlib
import re
import tarfile
from typing import Any

import cifar_files
import numpy as np
import pytest

from jax_sis.data import cifar_archives

SMALL = cifar_files.SMALL


def read(name: str, source: pathlib.Path) -> cifar_archives.Cifar:
  return cifar_archives.read_cifar(name, source, SMALL)


def refuses(message: str) -> Any:
  return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def write_version(parent: pathlib.Path, name: str = "cifar10", **changes: bytes | None) -> pathlib.Path:
  """A folder of random images, with some of its files replaced, or left out; `__` stands for a dot."""
  files = cifar_files.make_files(name, cifar_files.make_splits(name))
  for file, content in changes.items():
    files.pop(file.replace("__", "."))
    if content is not None:
      files[file.replace("__", ".")] = content
  return cifar_files.write_folder(parent / cifar_files.FOLDERS[name], files)


def assert_holds(cifar: cifar_archives.Cifar, name: str, splits: cifar_files.Splits) -> None:
  assert cifar.class_names == cifar_files.CLASS_NAMES[name]
  assert list(cifar.splits) == ["train", "test"]
  for split_name, (images, labels) in splits.items():
    np.testing.assert_array_equal(cifar.splits[split_name].images, images)
    assert set(cifar.splits[split_name].labels) == set(labels)
    for feature, values in labels.items():
      np.testing.assert_array_equal(cifar.splits[split_name].labels[feature], values)


@pytest.mark.parametrize("packing", ["tar.gz", "tar", "folder", "parent"])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_an_archive_is_read_packed_and_unpacked(tmp_path: pathlib.Path, name: str, packing: str):
  splits = cifar_files.make_splits(name)
  files = cifar_files.make_files(name, splits) | {"readme.html": b"<html>"}
  folder = cifar_files.FOLDERS[name]
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
  files = cifar_files.make_files(name, splits)
  folder = f"./{cifar_files.FOLDERS[name]}"
  source = cifar_files.write_tar(tmp_path / "a.tar.gz", folder, dict(reversed(files.items())))
  assert_holds(read(name, source), name, splits)


def test_of_several_data_sets_in_a_folder_the_right_one_is_read(tmp_path: pathlib.Path):
  write_version(tmp_path, "cifar100")
  write_version(tmp_path)
  cifar_files.write_folder(tmp_path / "cifar-10-batches-py", {"data_batch_1": b"a pickle"})
  assert_holds(read("cifar10", tmp_path), "cifar10", cifar_files.make_splits("cifar10"))


@pytest.mark.parametrize("packing", ["tar.gz", "folder", "parent"])
@pytest.mark.parametrize(
  ("name", "python_folder", "python_files", "folder"),
  [
    ("cifar10", "cifar-10-batches-py", ("data_batch_1", "test_batch", "batches.meta"), "cifar-10-batches-bin"),
    ("cifar100", "cifar-100-python", ("train", "test", "meta"), "cifar-100-binary"),
  ],
)
def test_the_python_version_is_refused_with_advice(
  tmp_path: pathlib.Path, name: str, python_folder: str, python_files: tuple[str, ...], folder: str, packing: str
):
  # Would write the file if it were unpickled.
  attack = f"cos\nsystem\n(S'touch {tmp_path / 'executed'}'\ntR.".encode()
  files = dict.fromkeys(python_files, attack)
  if packing == "tar.gz":
    source = cifar_files.write_tar(tmp_path / "archive.tar.gz", python_folder, files)
  else:
    source = cifar_files.write_folder(tmp_path / python_folder, files)
    source = source if packing == "folder" else tmp_path
  archive = f"{name.replace('cifar', 'cifar-')}-binary.tar.gz"
  with refuses(
    f"--from must be the binary version of {name} ({archive}, or the folder {folder!r} that it unpacks to), got "
    f"{str(source)!r}, which holds the Python version of {name}; download {archive} from "
    "https://www.cs.toronto.edu/~kriz/cifar.html."
  ):
    read(name, source)
  assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(("change", "size"), [(-1, "15,364"), (1, "15,366"), (-15_365, "0")])
def test_a_binary_file_of_another_size_is_refused(tmp_path: pathlib.Path, change: int, size: str):
  folder = write_version(tmp_path, data_batch_2__bin=bytes(5 * 3073 + change))
  with refuses(f"data_batch_2.bin of {str(folder)!r} must have 15,365 bytes (5 records of 3,073), got {size}."):
    read("cifar10", folder)


@pytest.mark.parametrize(
  ("name", "file", "feature", "number"),
  [
    ("cifar10", "data_batch_5.bin", "label", 10),
    ("cifar100", "test.bin", "coarse_label", 20),
    ("cifar100", "test.bin", "label", 100),
  ],
)
def test_a_label_out_of_range_is_named(tmp_path: pathlib.Path, name: str, file: str, feature: str, number: int):
  splits = cifar_files.make_splits(name)
  split_name, index = ("test", 3) if name == "cifar100" else ("train", 4 * 5 + 3)
  splits[split_name][1][feature][index] = number
  folder = cifar_files.write_folder(tmp_path / "files", cifar_files.make_files(name, splits))
  with refuses(
    f"{feature} must lie in 0..{number - 1}, got {number} in record 3 (from 0) of {file} of {str(folder)!r}."
  ):
    read(name, folder)


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
    "batches.meta.txt; download the archive again."
  ):
    read("cifar10", folder)


def test_another_data_set_is_refused(tmp_path: pathlib.Path):
  write_version(tmp_path, "cifar100")
  message = (
    "--from must be the binary version of cifar10 (cifar-10-binary.tar.gz, or the folder 'cifar-10-batches-bin' that "
    "it unpacks to), got {!r}, which holds {}; download cifar-10-binary.tar.gz from "
    "https://www.cs.toronto.edu/~kriz/cifar.html."
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
  files = cifar_files.make_files("cifar100", cifar_files.make_splits("cifar100"))
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
  files = cifar_files.make_files("cifar10", splits)
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
  files = cifar_files.make_files("cifar10", cifar_files.make_splits("cifar10"))
  (tmp_path / "secret").write_bytes(files.pop("test_batch.bin"))
  folder = "cifar-10-batches-bin"
  for link_type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
    path = cifar_files.write_tar(tmp_path / "link.tar", folder, files, mode="w:")
    with tarfile.open(path, "a:") as tar:
      link = tarfile.TarInfo(f"{folder}/test_batch.bin")
      link.type, link.linkname = link_type, "../secret"
      tar.addfile(link)
    with refuses(
      f"--from must hold all files of {folder!r}, but {str(path)!r} lacks test_batch.bin; download the archive again."
    ):
      read("cifar10", path)


def test_nothing_is_extracted(tmp_path: pathlib.Path):
  files = cifar_files.make_files("cifar10", cifar_files.make_splits("cifar10"))
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
  with pytest.raises(ValueError, match=r"cannot be read: it has more than 268,435,456 bytes unpacked; "):
    read("cifar10", path)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE])
def test_a_name_without_end_is_refused_before_it_is_read(tmp_path: pathlib.Path, kind: bytes):
  member = tarfile.TarInfo("././@LongLink")
  member.type, member.size = kind, 2**21
  content = member.tobuf() + bytes(2**21) + tarfile.TarInfo("a").tobuf() + bytes(1024)
  path = tmp_path / "bomb.tar.gz"
  path.write_bytes(gzip.compress(content))
  with pytest.raises(
    ValueError, match=r"cannot be read: it has something of 2,097,152 bytes where 65,536 are the most"
  ):
    read("cifar10", path)
