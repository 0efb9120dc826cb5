"""Data sets made from the original archives: what TFDS then reads, and that one is there whole or not at all."""

import fcntl
import os
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import cifar_files
import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import hashing

from jax_sis.cli import main
from jax_sis.data import prepare, sources, training_sets
from jax_sis.data.tfds import open_data_source

SMALL = cifar_files.SMALL
WHOLE = {"train": 50_000, "test": 10_000}
FOLDER = "cifar-10-batches-bin"
# Runs the command line on archives of a few images.
SMALL_COMMAND = f"""
import sys
from jax_sis.cli import main as cli
from jax_sis.data import prepare
prepare.NUM_IMAGES = {SMALL}
sys.exit(cli.main(["data", "prepare", *sys.argv[1:]]))
"""

# Ctrl-C when TFDS has written everything and moves it for the first time.
INTERRUPT_AT_RENAME = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.addaudithook(lambda event, _: event == "os.rename" and os.kill(os.getpid(), signal.SIGINT))
"""
# Kills a run at the first call that touches its folder, another at the second, and so on, and runs each to its end.
# Everything happens in children of a process that starts no thread, since forking needs that and starting is slow.
KILL_EVERYWHERE = """
import os, pathlib, shutil, signal, sys, warnings
import tensorflow_datasets as tfds
from jax_sis.data import prepare
from jax_sis.data.tfds import open_data_source

archive, data_dir, num_images = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), {"train": 25, "test": 10}
EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")
warnings.simplefilter("ignore")
# Imports all builders, once for all children.
tfds.builder_cls("cifar10")

def in_child(function, *arguments):
  child = os.fork()
  if not child:
    try:
      function(*arguments)
      os._exit(0)
    except BaseException as error:
      print(repr(error), file=sys.stderr)
    finally:
      os._exit(1)
  return os.waitpid(child, 0)[1]

def run():
  prepare.prepare_images("cifar10", source=archive, data_dir=data_dir, num_images=num_images)

def run_and_die(last_call):
  num_calls = 0
  def hook(event, arguments):
    nonlocal num_calls
    # Folders are removed by names relative to an open one, and opening for reading changes nothing.
    is_ours = str(data_dir) in str(arguments) or event.startswith("os.r")
    if event in EVENTS and is_ours and not (event == "open" and arguments[1] != "w"):
      num_calls += 1
      if num_calls == last_call:
        print(event, *arguments, file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
  sys.addaudithook(hook)
  run()

def check(is_whole):
  try:
    sizes = {split: len(open_data_source("cifar10", split, data_dir)) for split in num_images}
  except ValueError as error:
    assert not is_whole and "it is not there" in str(error), error
  else:
    assert is_whole and sizes == num_images
    assert prepare.find_fault(data_dir / "cifar10/3.0.2", num_images) == ""

num_kills = num_whole = 0
while True:
  shutil.rmtree(data_dir, ignore_errors=True)
  data_dir.mkdir()
  status = in_child(run_and_die, num_kills + 1)
  if status == 0:
    break
  assert os.WTERMSIG(status) == signal.SIGKILL, status
  num_kills += 1
  is_whole = (data_dir / "cifar10/3.0.2").exists()
  num_whole += is_whole
  assert in_child(check, is_whole) == 0
  assert in_child(run) == 0
  assert in_child(check, True) == 0
  assert is_whole or os.listdir(data_dir) == ["cifar10"]
print(num_kills, num_whole)
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """A few random images as CIFAR-10."""
  files = cifar_files.make_files("cifar10", cifar_files.make_splits("cifar10"))
  return cifar_files.write_tar(tmp_path_factory.mktemp("archives") / "small.tar.gz", FOLDER, files)


def prepare_small(name: str, source: pathlib.Path, data_dir: pathlib.Path) -> pathlib.Path:
  return prepare.prepare_images(name, source=source, data_dir=data_dir, num_images=SMALL)


def run_small(*arguments: Any, code: str = "", **options: Any) -> "subprocess.CompletedProcess[str]":
  command = [sys.executable, "-c", code + SMALL_COMMAND, *map(str, arguments)]
  return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100, **options)


def open_whole(data_dir: pathlib.Path, split: str) -> Any:
  """A split of CIFAR-10 in memory, by id."""
  return training_sets.open_training_set("cifar10", split, data_dir=data_dir, image_size=None, on_error="refuse")


def listing(folder: pathlib.Path) -> dict[str, bytes]:
  """All files below a folder with their contents."""
  return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_holds(data_dir: pathlib.Path, name: str, splits: cifar_files.Splits) -> None:
  """TFDS reads these images, labels, ids and names, in the order of its own builder."""
  for split_name, (images, labels) in splits.items():
    source: Any = tfds.data_source(name, split=split_name, data_dir=data_dir, download=False)
    assert len(source) == len(images)
    examples = source.__getitems__(range(len(source)))
    numbers = [int(example["id"].decode().removeprefix(f"{split_name}_")) for example in examples]
    hasher = hashing.Hasher(split_name)
    assert numbers == sorted(range(len(images)), key=hasher.hash_key)
    assert [example["id"].decode() for example in examples] == [f"{split_name}_{number:05}" for number in numbers]
    np.testing.assert_array_equal(np.stack([example["image"] for example in examples]), images[numbers])
    for feature, values in labels.items():
      np.testing.assert_array_equal([example[feature] for example in examples], values[numbers])
      assert source.dataset_info.features[feature].names == cifar_files.CLASS_NAMES[name][feature]


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_tfds_reads_what_was_prepared(tmp_path: pathlib.Path, name: str):
  splits = cifar_files.make_splits(name)
  source = cifar_files.write_folder(tmp_path / "source", cifar_files.make_files(name, splits))
  directory = prepare_small(name, source, tmp_path / "data")
  assert directory == tmp_path / "data" / name / "3.0.2"
  assert_holds(tmp_path / "data", name, splits)
  assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [name]


def test_nothing_but_the_images_differs_from_a_data_set_of_tfds(
  tmp_path: pathlib.Path, shared_dir: pathlib.Path, archive: pathlib.Path
):
  stock = shared_dir / "data/tfds/cifar10/3.0.2"
  ours = prepare_small("cifar10", archive, tmp_path)
  for file in ("features.json", "label.labels.txt"):
    assert (ours / file).read_text().strip() == (stock / file).read_text().strip()
  infos = []
  for folder in (ours, stock):
    text = (folder / "dataset_info.json").read_text()
    infos.append(re.sub(r'("numBytes": |"shardLengths": \[)[^\]}]*', "", text))
  assert infos[0] == infos[1]


def test_the_programs_read_what_was_prepared(tmp_path: pathlib.Path, archive: pathlib.Path):
  prepare_small("cifar10", archive, tmp_path)
  images, labels = cifar_files.make_splits("cifar10")["test"]
  loaded = open_whole(tmp_path, "test")
  np.testing.assert_array_equal(loaded.images, images)
  np.testing.assert_array_equal(loaded.labels, labels["label"])
  source = sources.open_source(
    "cifar10",
    split="train",
    data_dir=tmp_path,
    class_names=loaded.class_names,
    input_shape=(32, 32, 3),
    mean_colour=(0, 0, 0),
  )
  assert len(source) == SMALL["train"]
  assert source[0]["error"] == ""


def test_neither_preparing_nor_reading_imports_tensorflow(tmp_path: pathlib.Path):
  for name in ("cifar10", "cifar100"):
    files = cifar_files.make_files(name, cifar_files.make_splits(name))
    cifar_files.write_folder(tmp_path / cifar_files.FOLDERS[name], files)
  code = f"""
import pathlib, sys
import tensorflow_datasets as tfds
from jax_sis.data import prepare
folder = pathlib.Path({str(tmp_path)!r})
for name in ("cifar10", "cifar100"):
  prepare.prepare_images(name, source=folder, data_dir=folder / "data", num_images={SMALL})
  source = tfds.data_source(name, data_dir=folder / "data", split="test", download=False)
  assert source[0]["image"].shape == (32, 32, 3)
sys.exit("tensorflow" in sys.modules)
"""
  finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
  assert finished.returncode == 0, finished.stderr


@pytest.mark.slow
def test_cifar_10_comes_out_as_tfds_has_it(tmp_path: pathlib.Path, shared_dir: pathlib.Path):
  splits = {}
  for split_name in WHOLE:
    whole = open_whole(shared_dir / "data/tfds", split_name)
    splits[split_name] = (whole.images, {"label": whole.labels})
  files = cifar_files.make_files("cifar10", splits)
  archive = cifar_files.write_tar(tmp_path / "cifar-10-binary.tar.gz", FOLDER, files, compresslevel=1)
  assert main.main(["data", "prepare", "cifar10", "--from", str(archive), "--data-dir", str(tmp_path / "data")]) == 0
  for split_name, num_images in WHOLE.items():
    ours, theirs = (
      open_data_source("cifar10", split_name, data_dir) for data_dir in (tmp_path / "data", shared_dir / "data/tfds")
    )
    assert len(ours) == len(theirs) == num_images
    for start in range(0, len(ours), 1000):
      rows = range(start, start + 1000)
      for our, their in zip(ours.__getitems__(rows), theirs.__getitems__(rows), strict=True):
        assert (our["id"], our["label"]) == (their["id"], their["label"])
        np.testing.assert_array_equal(our["image"], their["image"])


# All or nothing.


def test_a_data_set_that_is_there_is_left_alone(
  tmp_path: pathlib.Path, archive: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  prepare_small("cifar10", archive, tmp_path)
  before = listing(tmp_path)
  capsys.readouterr()
  # Not even looked at.
  assert prepare_small("cifar10", tmp_path / "no archive", tmp_path) == tmp_path / "cifar10/3.0.2"
  assert capsys.readouterr().out == "cifar10 is already prepared.\n"
  assert listing(tmp_path) == before


def test_the_shared_data_set_counts_as_prepared(shared_dir: pathlib.Path, capsys: pytest.CaptureFixture[str]):
  prepare.prepare("cifar10", source="no archive", data_dir=shared_dir / "data/tfds")
  assert capsys.readouterr().out == "cifar10 is already prepared.\n"


@pytest.mark.parametrize(
  ("damage", "fault"),
  [
    ("info", "DatasetInfoFileError: Could not read dataset info from "),
    ("shard", "RuntimeError: open() failed: No such file or directory; opening "),
    ("cut", "RuntimeError: ArrayRecord file should be at least 64KB big"),
    ("form", "its files are FileFormat.TFRECORD"),
    ("count", "10 images in test"),
  ],
)
def test_a_damaged_data_set_is_refused_and_left_alone(
  tmp_path: pathlib.Path, archive: pathlib.Path, damage: str, fault: str
):
  directory = prepare_small("cifar10", archive, tmp_path)
  info, shard = directory / "dataset_info.json", directory / "cifar10-test.array_record-00000-of-00001"
  num_images = SMALL
  match damage:
    case "info":
      info.unlink()
    case "shard":
      shard.unlink()
    case "cut":
      shard.write_bytes(shard.read_bytes()[:10_000])
    case "form":
      info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    case "count":
      num_images = {"train": 25, "test": 11}
  before = listing(tmp_path)
  message = (
    f"--data-dir must not hold cifar10 in another form, but {str(directory)!r} is there and does not have 25 train and "
    f"{num_images['test']} test images in array_record form ({fault}"
  )
  with pytest.raises(ValueError, match=f"^{re.escape(message)}.*move it away or name another folder\\.$"):
    prepare.prepare_images("cifar10", source=archive, data_dir=tmp_path, num_images=num_images)
  assert listing(tmp_path) == before


@pytest.mark.slow
def test_a_preparation_killed_at_any_moment_leaves_nothing_or_all(tmp_path: pathlib.Path, archive: pathlib.Path):
  command = [sys.executable, "-c", KILL_EVERYWHERE, archive, tmp_path / "data"]
  finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
  assert finished.returncode == 0, finished.stderr
  num_kills, num_whole = map(int, finished.stdout.splitlines()[-1].split())
  assert num_kills > 15
  assert 0 < num_whole < num_kills
  for call in ("os.mkdir", "open", "os.rename", "os.remove", "os.rmdir"):
    assert f"\n{call} " in finished.stderr


def test_what_a_killed_run_left_of_another_archive_is_not_used(tmp_path: pathlib.Path, archive: pathlib.Path):
  other = cifar_files.make_splits("cifar10")
  other["test"] = (255 - other["test"][0], other["test"][1])
  files = cifar_files.make_files("cifar10", other)
  # A whole data set, as the run leaves where it dies on moving it to its place.
  prepare_small(
    "cifar10", cifar_files.write_folder(tmp_path / FOLDER, files), tmp_path / "data/cifar10.jax-sis-incomplete/data"
  )
  prepare_small("cifar10", archive, tmp_path / "data")
  assert_holds(tmp_path / "data", "cifar10", cifar_files.make_splits("cifar10"))


def test_ctrl_c_leaves_nothing(tmp_path: pathlib.Path, archive: pathlib.Path):
  arguments = ["cifar10", "--from", archive, "--data-dir", tmp_path / "data"]
  finished = run_small(*arguments, code=INTERRUPT_AT_RENAME)
  assert finished.returncode == 130
  assert finished.stdout == ""
  message = "\njax-sis data prepare: interrupted; nothing was kept, and the same command begins anew.\n"
  assert finished.stderr.endswith(message)
  assert list((tmp_path / "data").iterdir()) == []


def test_a_file_that_cannot_be_written_is_an_error_that_leaves_nothing(tmp_path: pathlib.Path, archive: pathlib.Path):
  limit_file_size = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
  finished = run_small("cifar10", "--from", archive, "--data-dir", tmp_path / "data", code=limit_file_size)
  assert finished.returncode == 2
  assert finished.stdout == ""
  message = (
    "jax-sis data prepare: --data-dir must be a folder with room for cifar10, about 140 MB, but writing to "
    f"{str(tmp_path / 'data')!r} failed: "
  )
  assert finished.stderr.startswith(message)
  assert "File too large" in finished.stderr
  assert finished.stderr.endswith("Nothing was kept.\n")
  assert list((tmp_path / "data").iterdir()) == []


def test_a_full_disk_is_an_error_that_leaves_nothing(tmp_path: pathlib.Path, archive: pathlib.Path):
  mount = 'mount -t tmpfs -o size=40k none "$0" && '
  can_mount = shutil.which("unshare") is not None and (
    subprocess.run(["unshare", "-Urm", "sh", "-c", mount + "true", tmp_path], check=False).returncode == 0
  )
  if not can_mount:
    pytest.skip("needs to mount a small disk, which is not allowed here")
  script = mount + '{ "$@"; code=$?; ls -A "$0/data"; exit $code; }'
  arguments = ["cifar10", "--from", archive, "--data-dir", tmp_path / "data"]
  command = ["unshare", "-Urm", "sh", "-c", script, tmp_path, sys.executable, "-c", SMALL_COMMAND, *arguments]
  finished = subprocess.run(command, capture_output=True, text=True, check=False)
  assert finished.returncode == 2
  assert finished.stdout == ""
  assert "No space left on device" in finished.stderr
  assert finished.stderr.endswith("Nothing was kept.\n")


def test_a_folder_that_is_being_written_is_refused(tmp_path: pathlib.Path, archive: pathlib.Path):
  staging = tmp_path / "cifar10.jax-sis-incomplete"
  staging.mkdir()
  with open(staging / "lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    message = f"--data-dir must not be in use, but another process is writing {str(staging)!r}; wait until it is done."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
      prepare_small("cifar10", archive, tmp_path)
    assert (staging / "lock").exists()
  # Its process has ended without a trace.
  prepare_small("cifar10", archive, tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ["cifar10"]


def test_a_data_dir_that_is_no_folder_is_refused(tmp_path: pathlib.Path, archive: pathlib.Path):
  (tmp_path / "file").write_text("")
  with pytest.raises(ValueError, match=r"^--data-dir must be a folder with room for cifar10, .*Not a directory"):
    prepare_small("cifar10", archive, tmp_path / "file")


def test_an_archive_that_is_refused_leaves_nothing(tmp_path: pathlib.Path, archive: pathlib.Path):
  with pytest.raises(ValueError, match=r"data_batch_1\.bin of .* must have 30,730,000 bytes .*, got 15,365\.$"):
    prepare.prepare("cifar10", source=archive, data_dir=tmp_path / "data")
  assert not (tmp_path / "data").exists()


def test_an_unknown_name_is_refused():
  with pytest.raises(ValueError, match=r"^name must be one of cifar10, cifar100, got 'mnist'\.$"):
    prepare.prepare("mnist", source="archive", data_dir="data")


# The command line, and what it says where a data set is missing.


@pytest.mark.slow
def test_the_command_says_where_the_data_set_lies(tmp_path: pathlib.Path, archive: pathlib.Path):
  data_dir = tmp_path / "my data"
  line = f"It lies in {data_dir}/cifar10/3.0.2; use it by jax-sis find --data cifar10 --data-dir '{data_dir}'\n"
  finished = run_small("cifar10", "--from", archive, "--data-dir", data_dir)
  assert (finished.returncode, finished.stdout, finished.stderr) == (0, line, "")
  finished = run_small("cifar10", "--from", archive, "--data-dir", data_dir)
  assert (finished.returncode, finished.stdout, finished.stderr) == (0, "cifar10 is already prepared.\n" + line, "")


@pytest.mark.slow
def test_the_default_folder_is_that_of_tfds(tmp_path: pathlib.Path):
  files = cifar_files.make_files("cifar100", cifar_files.make_splits("cifar100"))
  source = cifar_files.write_folder(tmp_path / "source", files)
  finished = run_small("cifar100", "--from", source, env=os.environ | {"TFDS_DATA_DIR": str(tmp_path / "data")})
  assert finished.returncode == 0, finished.stderr
  assert finished.stdout == (
    f"It lies in {tmp_path / 'data/cifar100/3.0.2'}; use it by jax-sis find --checkpoint CLASSIFIER --data cifar100\n"
  )


def test_help_is_there(capsys: pytest.CaptureFixture[str]):
  assert main.main(["data", "--help"]) == 0
  text = capsys.readouterr().out
  assert text.startswith("usage: jax-sis data ")
  assert "data prepare" in text


def test_a_missing_data_set_says_how_to_get_it(tmp_path: pathlib.Path):
  start = "--data must be a TFDS data set prepared as array_record, with the split asked for; "
  for name, advice in {
    "cifar10": "Make it from the original archive, cifar-10-binary.tar.gz, by jax-sis data prepare "
    f"cifar10 --from ARCHIVE --data-dir {tmp_path}",
    "cifar100": "Make it from the original archive, cifar-100-binary.tar.gz, by jax-sis data prepare "
    f"cifar100 --from ARCHIVE --data-dir {tmp_path}",
    "mnist": f"Put its files into {str(tmp_path / 'mnist/VERSION')!r}, dataset_info.json among them.",
  }.items():
    message = f"{start}{name!r}, split 'test', could not be opened in --data-dir {str(tmp_path)!r}: it is not there. "
    with pytest.raises(ValueError, match=f"^{re.escape(message + advice)}$"):
      open_data_source(name, "test", tmp_path)


def test_a_data_set_that_is_there_is_not_called_missing(tmp_path: pathlib.Path, archive: pathlib.Path):
  prepare_small("cifar10", archive, tmp_path)
  with pytest.raises(ValueError, match=r"Unknown split 'validation'\. Should be one of \['train', 'test'\]\.$"):
    open_data_source("cifar10", "validation", tmp_path)
