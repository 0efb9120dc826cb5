"""Folders of image files: which files are images, which are left out, and which folder gives an image its label."""

import collections
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence

from jax_sis.core.messages import make_printable, name_some
from jax_sis.data.images import image_suffixes

# What systems put beside pictures, without a dot in front; in lower case.
OF_SYSTEMS = frozenset({"__macosx", "@eadir", "desktop.ini", "ehthumbs.db", "thumbs.db"})
NO_SUFFIX = "without a suffix"
NO_FILE = "that cannot be opened"
# Kinds of files, or folders, that a line names.
MAX_KINDS = 8
# Bytes of a file.
READ_AT_ONCE = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listing:
  """What a folder holds.

  Attributes:
    paths: the image files, in the order of their paths.
    left_out: how many other files there are, by suffix; those that are hidden or a system's own do not count.
  """

  paths: list[pathlib.Path]
  left_out: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


def list_images(folder: pathlib.Path) -> Listing:
  """What is in a folder and those below it, links followed; ValueError if no image is."""
  listing = Listing(paths=[])
  add_files(listing, folder, above=())
  if not listing.paths:
    others = f", only {name_kinds(listing.left_out)}" if listing.left_out else ""
    raise ValueError(
      f"--data must hold image files of a kind that Pillow reads, got the folder {str(folder)!r} with none{others}."
    )
  listing.paths.sort()
  return listing


def add_files(listing: Listing, folder: pathlib.Path, *, above: tuple[tuple[int, int], ...]) -> None:
  """Adds what lies in a folder; `above` is what it lies in, so that a link to one of these is not followed forever."""
  try:
    status = folder.stat()
    with os.scandir(folder) as entries:
      shown = [entry for entry in entries if not is_hidden(entry.name)]
  except OSError:
    listing.left_out[NO_FILE] += 1
    return
  identity = (status.st_dev, status.st_ino)
  if identity in above:
    return
  for entry in shown:
    path = folder / entry.name
    suffix = path.suffix.lower()
    if entry.is_dir():
      add_files(listing, path, above=(*above, identity))
    elif not entry.is_file():
      listing.left_out[NO_FILE] += 1
    elif suffix in image_suffixes():
      listing.paths.append(path)
    else:
      listing.left_out[make_printable(suffix) or NO_SUFFIX] += 1


def is_hidden(name: str) -> bool:
  return name.startswith(".") or name.lower() in OF_SYSTEMS


def describe_left_out(left_out: collections.Counter[str], folder: pathlib.Path) -> str:
  """A line on the files of a folder that are not read; empty where there are none."""
  if not left_out:
    return ""
  return (
    f"Files left out of {make_printable(str(folder))}, since Pillow does not read them as images: "
    f"{left_out.total()} in all, {name_kinds(left_out)}; convert pictures among them, to .png for example."
  )


def describe_unlabelled(names: Sequence[str], folder: pathlib.Path) -> str:
  """A line on images whose folders are called as no class; empty where there are none.

  Args:
    names: that folder's name for each such image.
    folder: where these folders are.
  """
  if not names:
    return ""
  called = name_some([repr(make_printable(name)) for name in dict.fromkeys(names)], most=MAX_KINDS)
  return (
    f"Images without a label: {len(names)}. A label is the class that the folder just below "
    f"{make_printable(str(folder))} is called as: no class is called {called}."
  )


def name_kinds(left_out: Mapping[str, int]) -> str:
  """`2 .heic, 1 .txt`."""
  ordered = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
  return name_some([f"{count} {kind}" for kind, count in ordered], most=MAX_KINDS)


def label_folder(path: pathlib.Path, root: pathlib.Path) -> str:
  """The name of the folder that gives an image its label: the first one below the root, or else the root itself."""
  first, *others = path.relative_to(root).parts
  return first if others else os.path.basename(os.path.abspath(root))


def hash_contents(*paths: pathlib.Path) -> str:
  """SHA-256 over what files hold, one after the other."""
  digest = hashlib.sha256()
  for path in paths:
    with path.open("rb") as file:
      while block := file.read(READ_AT_ONCE):
        digest.update(block)
  return digest.hexdigest()


def hash_files(paths: Sequence[pathlib.Path], ids: Sequence[str]) -> str:
  """SHA-256 over names and sizes, which shows that a folder has changed without reading all of it."""
  digest = hashlib.sha256()
  for path, name in zip(paths, ids, strict=True):
    digest.update(f"{name}\0{path.stat().st_size}\0".encode())
  return digest.hexdigest()
