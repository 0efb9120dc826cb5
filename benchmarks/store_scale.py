"""What it costs to look after a run of many units: seconds and memory of what is done, `status`, `export` and `verify`.

python benchmarks/store_scale.py list status --units 10000 100000 1000000 --out FOLDER [--on s3]

Nothing is searched but one unit. Of the others, the files that a command reads are made without it. On a disk they are
hard links to those of the searched unit (a file system allows 65,000 to one, then comes a copy), with own ids and
checksums where the command looks at these; an object store is a server that answers as if all were there. `list` and
`status` read flags and statuses only, and their stores have no other chunks; `verify` has the images, too, all alike.
"""

import argparse
import asyncio
import bisect
import contextlib
import functools
import io
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from numcodecs.checksum32 import CRC32C
from numcodecs.zstd import Zstd

from jax_sis import results
from jax_sis.classifiers import ImageModel, Normalisation
from jax_sis.core.searches import Gradient
from jax_sis.data.cifar_c import CLASS_NAMES
from jax_sis.results import folder, schema
from jax_sis.runs import export, find, setup, status, verify
from jax_sis.runs.config import FindConfig

# Images of a unit. Of 10^6 units that are 10^8.
IMAGES_A_UNIT = {"list": 100, "status": 100, "export": 10, "verify": 1}
LINKS = 60_000
PAGE = 1000
PORT_LINE = "port "


def predict(params: Any, images: Any) -> Any:
  return jnp.tanh(images).reshape(images.shape[0], -1) @ params["kernel"]


def load() -> ImageModel:
  """A linear classifier."""
  return ImageModel(
    predict_fn=predict,
    params={"kernel": 0.05 * np.random.default_rng(0).normal(size=(3072, 10)).astype(np.float32)},
    input_shape=(32, 32, 3),
    normalisation=Normalisation(mean=(0.5, 0.45, 0.4), std=(0.25, 0.25, 0.25)),
    class_names=CLASS_NAMES,
  )


def make_config(out: pathlib.Path, images: pathlib.Path, unit_size: int) -> FindConfig:
  return FindConfig(
    out=str(out),
    model_function=f"{__file__}:load",
    data=str(images),
    search=Gradient(),
    smallest=None,
    patch=8,
    certificate="alone",
    gallery=0,
    threshold=0.9,
    batch_size=unit_size,
    unit_size=unit_size,
    num_devices=1,
  )


def search_one(work: pathlib.Path, unit_size: int) -> results.Results:
  """A run of one unit, of images that are all alike."""
  save_images(work / "images.npy", unit_size)
  with contextlib.redirect_stdout(io.StringIO()):
    find.find(make_config(work / "one", work / "images.npy", unit_size))
  return results.open(work / "one")


def save_images(path: pathlib.Path, count: int) -> None:
  image = np.random.default_rng(1).integers(0, 256, (1, 32, 32, 3), np.uint8)
  np.save(path, np.broadcast_to(image, (count, 32, 32, 3)))


def make_many(work: pathlib.Path, one: results.Results, num_units: int, what: str) -> pathlib.Path:
  """A store of so many units on disk, with the chunks that a command reads."""
  out = work / f"{what}-{num_units}"
  if what == "verify":
    save_images(work / "images.npy", num_units * one.unit_size)
    config = make_config(out, work / "images.npy", one.unit_size)
    job = setup.make_job(config, folder.open_folder(out))
    store = setup.create_or_resume(job, config)
  else:
    spec = {**one.spec, "num_images": num_units * one.unit_size}
    store = results.create_or_resume(
      out, spec=spec, num_images=spec["num_images"], unit_size=one.unit_size, fields=one.fields
    )
  for name in names_of(one, what):
    link_chunks(out, one, store, name)
  if what == "verify":
    write_own(out, one, store)
  return out


def names_of(one: results.Results, what: str) -> list[str]:
  """The arrays whose chunks a command reads, but those that differ from unit to unit."""
  statuses = [f"{kind}_status" for kind in schema.kinds_of(one.fields)]
  named = {"list": [], "status": statuses, "export": [*one.table_fields], "verify": [*set(one.fields) - {"id"}]}
  return ["done", *named[what]]


def link_chunks(out: pathlib.Path, one: results.Results, store: results.Results, name: str) -> None:
  source = str(one.folder.path) + "/" + one.chunk_name(name, 0)
  is_deep = store.chunk_name(name, 0).endswith("/0/0")
  (out / store.chunk_name(name, 0)).parent.mkdir(parents=True, exist_ok=True)
  for unit in range(store.num_units):
    target = f"{out}/{store.chunk_name(name, unit)}"
    if is_deep:
      os.makedirs(os.path.dirname(target), exist_ok=True)
    if unit % LINKS:
      os.link(source, target)
    else:
      source = shutil.copyfile(source, target)


def encode(values: np.ndarray) -> bytes:
  """A chunk, as readers take it."""
  return bytes(CRC32C(location="end").encode(Zstd(level=1).encode(values.tobytes())))


def write_own(out: pathlib.Path, one: results.Results, store: results.Results) -> None:
  """Ids and checksums, which are of each unit its own."""
  rows = {name: one[name][: one.unit_size].read().result() for name in one.fields}
  for unit in range(store.num_units):
    rows["id"] = results.encode_text([str(index) for index in range(*store.unit_range(unit))])
    for name, values in (("id", rows["id"]), (results.CHECKSUMS, store.checksums(unit, rows))):
      path = out / store.chunk_name(name, unit)
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(encode(values))


class Server:
  """Answers as an object store would that holds a run of so many units, each like that of a run on disk.

  It knows how to get an object, in full or in part, and how to list them, a thousand at a time.
  """

  def __init__(self, one: results.Results, num_units: int):
    spec = {**one.spec, "num_images": num_units * one.unit_size}
    self._numbers = sorted(map(str, range(num_units)))
    self._chunks = {f"results.zarr/{name}": one.folder.read(one.chunk_name(name, 0)) for name in ("done", *one.fields)}
    self._files = {name: one.folder.read(name) for name in one.folder.list() if "/c/" not in name}
    self._files[results.SPEC_FILE] = json.dumps(spec).encode()
    for name, content in self._files.items():
      if name.startswith("results.zarr/") and name.count("/") == 2:
        described = json.loads(content or b"")
        of_units = name.split("/")[1] in ("done", results.CHECKSUMS)
        described["shape"][0] = num_units if of_units else num_units * one.unit_size
        self._files[name] = json.dumps(described).encode()
    self.num_requests = 0

  def get(self, key: str) -> bytes | None:
    name, _, _ = key.partition("/c/")
    return self._files.get(key) if "/c/" not in key else self._chunks.get(name)

  def list(self, prefix: str, after: str) -> tuple[list[str], bool]:
    """A page of names that begin so and come after one, and whether there are more."""
    place = "results.zarr/done/c/"
    if prefix.startswith(place):
      first = bisect.bisect_left(self._numbers, prefix.removeprefix(place))
      first = max(first, bisect.bisect_right(self._numbers, after.removeprefix(place)) if after else 0)
      end = bisect.bisect_left(self._numbers, prefix.removeprefix(place) + "~")
      found = [place + number for number in self._numbers[first : min(first + PAGE, end)]]
      return found, first + PAGE < end
    return sorted(name for name in self._files if name.startswith(prefix) and name > after)[:PAGE], False

  async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while head := await reader.readline():
      while (await reader.readline()).strip():
        pass
      self.num_requests += 1
      status_line, content = self.answer(head.decode().split()[1])
      etag = 'ETag: "0"\r\nLast-Modified: Fri, 27 Nov 2026 00:00:00 GMT\r\n'
      writer.write(f"HTTP/1.1 {status_line}\r\n{etag}Content-Length: {len(content)}\r\n\r\n".encode() + content)
      await writer.drain()
    writer.close()

  def answer(self, target: str) -> tuple[str, bytes]:
    parts = urllib.parse.urlsplit(target)
    query = dict(urllib.parse.parse_qsl(parts.query))
    if "list-type" not in query:
      content = self.get(urllib.parse.unquote(parts.path).removeprefix("/bucket/run/"))
      return ("404 Not Found", b"") if content is None else ("200 OK", content)
    prefix = query.get("prefix", "").removeprefix("run/")
    after = (query.get("continuation-token") or query.get("start-after", "")).removeprefix("run/")
    names, is_cut = self.list(prefix, after)
    keys = "".join(f"<Contents><Key>run/{name}</Key><Size>1</Size></Contents>" for name in names)
    token = f"<NextContinuationToken>{names[-1]}</NextContinuationToken>" if is_cut else ""
    cut = f"<KeyCount>{len(names)}</KeyCount><IsTruncated>{str(is_cut).lower()}</IsTruncated>{token}"
    return "200 OK", f'<?xml version="1.0"?><ListBucketResult>{cut}{keys}</ListBucketResult>'.encode()


async def serve(one: str, num_units: int) -> None:
  server = await asyncio.start_server(Server(results.open(one), num_units).serve, "127.0.0.1", 0)
  print(f"{PORT_LINE}{server.sockets[0].getsockname()[1]}", flush=True)
  await server.serve_forever()


@contextlib.contextmanager
def serving(one: results.Results, num_units: int) -> Iterator[str]:
  """The location of a run of so many units on such a server, which is a process of its own."""
  command = [sys.executable, __file__, "serve", "--at", str(one.folder.path), "--units", str(num_units)]
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
    assert process.stdout is not None
    port = process.stdout.readline().removeprefix(PORT_LINE).strip()
    yield f"s3+http://127.0.0.1:{port}/bucket/run"
    process.kill()


def list_twice(location: str) -> list[str]:
  """What a worker asks when it begins, and asks again when it ends."""
  store = results.open(location)
  timed = []
  for _ in range(2):
    started = time.perf_counter()
    missing = find.missing_units(store)
    store.count_images(missing)
    timed.append(f"{time.perf_counter() - started:.2f}")
  return timed


def export_table(location: str) -> str:
  with tempfile.TemporaryDirectory() as place:
    return export.export(location, to=f"{place}/table.csv")


COMMANDS: dict[str, Callable[[str], object]] = {
  "list": list_twice,
  "status": functools.partial(status.status, is_json=True),
  "export": export_table,
  "verify": functools.partial(verify.verify, num_sampled=4, is_report_only=True),
}


def measure(what: str, location: str) -> None:
  """Does it, and prints seconds, CPU seconds and how many MB more the process came to hold."""
  results.open(location).read(schema.PIXEL_DIGEST, slice(0, 0))
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  started, cpu_started = time.perf_counter(), time.process_time()
  with contextlib.redirect_stdout(io.StringIO()):
    said = COMMANDS[what](location)
  figures = {
    "what": what,
    "seconds": round(time.perf_counter() - started, 2),
    "cpu_seconds": round(time.process_time() - cpu_started, 2),
    "MB": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024,
    "said": said,
  }
  print(json.dumps(figures), flush=True)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument(
    "what", choices=[*COMMANDS, "measure", "serve"], nargs="+", help="what is measured; stores suit the last"
  )
  parser.add_argument("--units", type=int, nargs="+", default=[10_000], help="of the stores (default: %(default)s)")
  parser.add_argument("--out", type=pathlib.Path, help="where stores are made, and removed afterwards")
  parser.add_argument("--on", choices=["disk", "s3"], default="disk", help="default: %(default)s")
  parser.add_argument("--at", nargs="+", help="of processes that this one starts")
  options = parser.parse_args()
  if options.what == ["serve"]:
    asyncio.run(serve(options.at[0], options.units[0]))
    return
  if options.what == ["measure"]:
    measure(*options.at)
    return
  if options.out is not None:
    options.out.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=options.out) as work:
    last = options.what[-1]
    one = search_one(pathlib.Path(work), IMAGES_A_UNIT[last])
    for num_units in options.units:
      with contextlib.ExitStack() as stack:
        if options.on == "s3":
          location = stack.enter_context(serving(one, num_units))
          os.environ.update({"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"})
        else:
          location = str(make_many(pathlib.Path(work), one, num_units, last))
          stack.callback(shutil.rmtree, location)
        for what in options.what:
          print(f"{num_units} units of {one.unit_size}, {options.on}: ", end="", flush=True)
          subprocess.run([sys.executable, __file__, "measure", "--at", what, location], check=True)


if __name__ == "__main__":
  main()
