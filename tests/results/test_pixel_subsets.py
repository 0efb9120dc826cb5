"""Which pixels are shown of which image: as joined by hand, whatever the order, and refused where they do not fit."""

import dataclasses
import hashlib
import io
import json
import pathlib
import re
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest

from jax_sis import results
from jax_sis.classifiers import checkpoint
from jax_sis.core.searches import Gradient
from jax_sis.core.subsets import Status
from jax_sis.data.normalisation import Normalisation
from jax_sis.results import pixel_subsets
from jax_sis.results.masks_file import RunMasks, read_masks, read_masks_file, write_masks_file
from jax_sis.results.query import PixelSubset, SubsetQuery
from jax_sis.runs import export, find
from jax_sis.runs.config import FindConfig
from jax_sis.runtime import archives

SHAPE = (32, 32, 3)
NORMALISATION = Normalisation(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
IDS = tuple(f"image_{index:02}" for index in range(16))
IMAGES = {"data": "toys", "split": "train", "version": "1.0.0", "num_images": 16}
MODEL = {"name": "resnet20", "sha256": "a" * 64}
SPEC = {
  "model": MODEL,
  "data": IMAGES,
  "search": {"name": "Gradient", "per_step": 1},
  "smallest": None,
  "sizes": list(range(65)),
  "threshold": 0.9,
  "baseline": 0.0,
  "normalisation": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
  "grid": [8, 8, 1],
}


def make_run(directory: pathlib.Path | str, *, ids: tuple[str, ...] = IDS, num_units: int = 4, **changes: Any) -> str:
  """A run of patches with random orders, of which some units are done; the fourth image falls short."""
  fields = {
    "id": results.TEXT,
    "rank": results.Field(shape=(64,), dtype="uint16"),
    "confidence": results.Field(shape=(65,), dtype="float32"),
    "sis_status": results.Field(shape=(), dtype="int8"),
  }
  store = results.create_or_resume(directory, spec={**SPEC, **changes}, num_images=len(ids), unit_size=4, fields=fields)
  rng = np.random.default_rng(0)
  rank = rng.permuted(np.tile(np.arange(64), (len(ids), 1)), axis=1)
  confidence = np.sort(rng.random((len(ids), 65)).astype(np.float32), axis=1)
  confidence[:, -1] = 0.99
  confidence[3] = 0.1
  for unit in range(num_units):
    part = slice(*store.unit_range(unit))
    store.write_unit(
      unit,
      {
        "id": results.encode_text(ids[part]),
        "rank": rank[part],
        "confidence": confidence[part],
        "sis_status": np.where(confidence[part, -1] < 0.9, Status.BELOW_THRESHOLD, Status.OK),
      },
    )
  return str(directory)


def open_masks(
  subset: PixelSubset,
  *,
  ids: tuple[str, ...] = IDS,
  images: dict[str, Any] = IMAGES,
  shape: tuple[int, ...] = SHAPE,
  normalisation: Normalisation = NORMALISATION,
) -> pixel_subsets.PixelMasks:
  return pixel_subsets.open_masks(subset, ids=ids, images=images, image_shape=shape, normalisation=normalisation)


def join_by_hand(location: str, ids: tuple[str, ...], num_kept: int) -> np.ndarray:
  """Image by image and square by square."""
  store = results.open(location)
  stored_ids, rank = store.read_text("id"), store.read("rank")
  kept = np.zeros((len(ids), 32, 32, 1), bool)
  for place, name in enumerate(ids):
    for feature in range(64):
      if rank[stored_ids.index(name), feature] < num_kept:
        row, column = 4 * (feature // 8), 4 * (feature % 8)
        kept[place, row : row + 4, column : column + 4] = True
  return kept


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory) -> str:
  return make_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def cifar_run(tmp_path_factory: pytest.TempPathFactory, shared_dir: pathlib.Path) -> str:
  """A real search of 24 real training images by the embedded classifier."""
  out = tmp_path_factory.mktemp("run") / "cifar"
  config = FindConfig(
    out=str(out),
    data="cifar10",
    data_dir=str(shared_dir / "data/tfds"),
    split="train[:24]",
    search=Gradient(per_step=128),
    smallest=None,
    certificate="alone",
    gallery=0,
    num_devices=2,
    batch_size=4,
  )
  with jax.numpy_rank_promotion("allow"):
    find.find(config)
  return str(out)


def test_masks_are_joined_by_id_whatever_the_order_of_the_images(location: str):
  shuffled = tuple(np.random.default_rng(1).permutation(IDS).tolist())
  # 0.3 of 64 squares are 19.2.
  masks = open_masks(PixelSubset(run=location, fraction=0.3), ids=shuffled)
  expected = join_by_hand(location, shuffled, 20)
  np.testing.assert_array_equal(masks.kept(np.arange(16)), expected)
  np.testing.assert_array_equal(masks.kept(np.array([5, 5, 0])), expected[[5, 5, 0]])
  np.testing.assert_array_equal(masks.kept(masks.find_places(IDS)), join_by_hand(location, IDS, 20))
  assert masks.description["mean_num_kept"] == 20
  assert masks.packed.shape == (16, 8)


def test_a_run_may_be_in_a_bucket(location: str):
  in_memory = make_run("memory://run-of-subsets")
  bucket, folder = (open_masks(PixelSubset(run=run, fraction=0.3)) for run in (in_memory, location))
  # Not the classes: Python 3.13 compares field by field, and arrays have no one truth value.
  assert {**vars(bucket), "packed": None} == {**vars(folder), "packed": None}


def test_masks_of_a_threshold_are_those_of_the_run_and_empty_ones_are_counted(location: str):
  masks = open_masks(PixelSubset(run=location))
  run = results.open(location)
  for threshold, subset in ((0.9, masks), (0.5, open_masks(PixelSubset(run=location, threshold=0.5)))):
    expected = run.masks(threshold=threshold).repeat(4, axis=1).repeat(4, axis=2)
    np.testing.assert_array_equal(subset.kept(np.arange(16)), expected)
  assert not masks.kept(np.array([3])).any()
  assert masks.description["num_empty"] == 1
  said = pixel_subsets.describe_subset(masks.description)
  assert said == "the SIS at 0.9 of resnet20 aaaaaaaa; of 1 images none"


@pytest.mark.slow
def test_a_real_run_is_joined_with_the_training_set(cifar_run: str, shared_dir: pathlib.Path):
  from jax_sis.data import training_sets

  training_set = training_sets.open_training_set(
    "cifar10", "train[:24]", data_dir=shared_dir / "data/tfds", image_size=None, on_error="refuse"
  )
  assert isinstance(training_set, training_sets.InMemory)
  subset = PixelSubset(
    run=cifar_run,
    fraction=0.05,
    expected_model=checkpoint.hash_params(checkpoint.load_classifier(checkpoint.EMBEDDED_CLASSIFIER)),
  )
  masks = pixel_subsets.open_masks(
    subset,
    ids=training_set.ids,
    images=training_set.description,
    image_shape=SHAPE,
    normalisation=training_set.normalisation,
  )
  run = results.open(cifar_run)
  # The run is in stored order, the training set in that of the ids.
  assert run.read_text("id") != list(training_set.ids)
  places = [run.read_text("id").index(name) for name in training_set.ids]
  kept = masks.kept(np.arange(24))
  np.testing.assert_array_equal(kept.reshape(24, 1024), run.read("rank")[places] < 52)
  np.testing.assert_array_equal(kept.sum((1, 2, 3)), 52)


def test_what_is_not_shown_shows_exactly_the_fill():
  masks = open_masks(PixelSubset(random_seed=0, fraction=0.5, fill=-0.25))
  inputs = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
  places = np.array([7, 1, 2])
  shown = masks.show(inputs, places)
  assert shown.dtype == np.float32
  kept = masks.kept(places)
  for image in range(3):
    for row in range(32):
      for column in range(32):
        expected = inputs[image, row, column] if kept[image, row, column, 0] else np.full(3, -0.25, np.float32)
        np.testing.assert_array_equal(shown[image, row, column], expected)


def draw_slowly(name: str, seed: int, num_kept: int) -> list[int]:
  """The features with the smallest words, sorted by plain Python."""
  content = hashlib.shake_256(f"{seed}/{name}".encode()).digest(8192)
  words = [int.from_bytes(content[8 * feature : 8 * feature + 8], "little") for feature in range(1024)]
  return sorted(sorted(range(1024), key=words.__getitem__)[:num_kept])


@pytest.mark.parametrize(("fraction", "num_kept"), [(0.05, 52), (1 / 1024, 1), (0.5, 512), (1.0, 1024)])
def test_random_pixels_are_so_many_and_those_of_a_slow_draw(fraction: float, num_kept: int):
  kept = open_masks(PixelSubset(random_seed=3, fraction=fraction)).kept(np.arange(16))
  np.testing.assert_array_equal(kept.sum((1, 2, 3)), num_kept)
  for place in (0, 15):
    assert np.flatnonzero(kept[place]).tolist() == draw_slowly(IDS[place], 3, num_kept)


def test_random_pixels_depend_on_seed_and_id_alone():
  subset = PixelSubset(random_seed=0, fraction=0.05)
  masks = open_masks(subset)
  together = masks.kept(np.arange(16))
  turned = open_masks(subset, ids=IDS[::-1])
  np.testing.assert_array_equal(turned.kept(np.arange(16)), together[::-1])
  np.testing.assert_array_equal(open_masks(subset, ids=IDS[5:6]).kept(np.array([0])), together[5:6])
  assert turned.description == masks.description
  other = open_masks(PixelSubset(random_seed=1, fraction=0.05))
  assert other.description["masks"] != masks.description["masks"]
  assert len({mask.tobytes() for mask in together}) == 16
  # In a process of its own, with other hashes of texts.
  code = (
    "import sys; from jax_sis.results import pixel_subsets; "
    "print(pixel_subsets.draw_random(sys.argv[1:], fraction=0.05, seed=0, num_features=1024).tobytes().hex())"
  )
  command = [sys.executable, "-c", code, *IDS]
  printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout.strip()
  assert printed == masks.packed.tobytes().hex()


def test_random_pixels_are_everywhere_alike():
  ids = [str(index) for index in range(2000)]
  packed = pixel_subsets.draw_random(ids, fraction=0.25, seed=0, num_features=64)
  shares = np.unpackbits(packed, axis=1, bitorder="little").mean(0)
  # Five standard deviations of 2,000 draws.
  assert abs(shares - 0.25).max() < 5 * (0.25 * 0.75 / 2000) ** 0.5


@pytest.mark.parametrize(
  ("images", "differences"),
  [
    ({"data": "cifar10"}, "data: 'toys' there, 'cifar10' asked"),
    ({"split": "test"}, "split: 'train' there, 'test' asked"),
    ({"version": "2.0.0", "split": "test"}, "split: 'train' there, 'test' asked; version: '1.0.0' there, '2.0.0'"),
    ({"crop": 0.875}, "crop: nothing there, 0.875 asked"),
  ],
)
def test_a_run_on_other_images_is_refused(location: str, images: dict[str, Any], differences: str):
  message = f"the subset's run must be one on these images, but {location!r} is not ({differences}"
  with pytest.raises(ValueError, match=f"^{re.escape(message)}.*; search these images, or name another run\\.$"):
    open_masks(PixelSubset(run=location), images={**IMAGES, **images})


def test_a_folder_of_files_is_known_by_its_files_wherever_it_lies(tmp_path: pathlib.Path):
  images = {"data": "here", "num_images": 16, "crop": None, "files": "f" * 64}
  location = make_run(tmp_path / "run", data=images)
  open_masks(PixelSubset(run=location), images={**images, "data": "there"})
  with pytest.raises(ValueError, match=re.escape("is not (files: 'ffff")):
    open_masks(PixelSubset(run=location), images={**images, "files": "e" * 64})


def test_a_run_of_another_model_is_refused_where_one_is_expected(location: str):
  open_masks(PixelSubset(run=location, expected_model="a" * 64))
  message = f"the subset's run must have searched the model b, but {location!r} searched {'a' * 64}; name another run"
  with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
    open_masks(PixelSubset(run=location, expected_model="b"))


def test_another_fill_than_the_runs_is_refused_unless_it_is_said(location: str):
  message = f"the subset's fill must be what the run masked with, 0.0 in {location!r}, got 0.5; fill with that, or say"
  with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
    open_masks(PixelSubset(run=location, fill=0.5))
  masks = open_masks(PixelSubset(run=location, fill=0.5, allows_other_baseline=True))
  assert masks.fill == masks.description["fill"] == 0.5
  assert masks.description["baseline"] == 0.0


def test_a_run_in_other_units_is_refused_unless_it_is_said(location: str):
  other = Normalisation(mean=(0.5, 0.4, 0.5), std=(0.25, 0.25, 0.25))
  message = (
    "the subset's fill must be what the run masked with, but the classifier normalises images otherwise than that of "
    f"{location!r} (mean: "
  )
  with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
    open_masks(PixelSubset(run=location), normalisation=other)
  masks = open_masks(PixelSubset(run=location, allows_other_baseline=True), normalisation=other)
  assert masks.description["normalisation"] == SPEC["normalisation"]


def test_a_masks_file_whose_run_is_not_described_is_refused(location: str, tmp_path: pathlib.Path):
  masks = read_masks(PixelSubset(run=location))
  with open(tmp_path / "masks.npz", "wb") as file:
    write_masks_file(file, dataclasses.replace(masks, spec={"grid": [8, 8, 1]}))
  with pytest.raises(ValueError, match=r"its run's specification lacks baseline, data, model, normalisation, search"):
    read_masks_file(tmp_path / "masks.npz")


def test_a_small_fraction_shows_a_pixel():
  assert open_masks(PixelSubset(random_seed=0, fraction=1e-10)).kept(np.arange(16)).sum() == 16


def test_images_and_subsets_that_lack_each_other_are_listed(tmp_path: pathlib.Path):
  unfinished = make_run(tmp_path / "run", num_units=1)
  message = (
    f"{unfinished!r} must hold finished subsets of these images and no others, but 12 of 16 images have none: "
    f"{', '.join(repr(name) for name in IDS[4:14])} and 2 more; finish the run, or take the split that it searched."
  )
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    open_masks(PixelSubset(run=unfinished))
  message = "but 1 of 3 images have none: 'new'; and 2 of 4 are of no image: 'image_01', 'image_03'; finish"
  with pytest.raises(ValueError, match=re.escape(message)):
    open_masks(PixelSubset(run=unfinished), ids=("image_02", "new", "image_00"))
  with pytest.raises(
    ValueError, match=re.escape("ids must name one image each, but the images have several of 'image_00'.")
  ):
    open_masks(PixelSubset(run=unfinished), ids=("image_00", "image_00"))
  twice = make_run(tmp_path / "twice", ids=("a", "b", "b", "c"), num_units=1)
  with pytest.raises(
    ValueError, match=re.escape(f"ids must name one image each, but those of {twice!r} have several of 'b'.")
  ):
    open_masks(PixelSubset(run=twice), ids=("a", "b", "c"))


def test_long_ids_are_joined_as_the_store_keeps_them(tmp_path: pathlib.Path):
  ids = tuple(f"{'folder/' * 30}{index}" for index in range(4))
  location = make_run(tmp_path / "run", ids=ids, num_units=1)
  masks = open_masks(PixelSubset(run=location, fraction=0.5), ids=ids[::-1])
  np.testing.assert_array_equal(masks.packed[::-1], read_masks(PixelSubset(run=location, fraction=0.5)).packed)


def test_an_image_without_a_mask_is_named_when_it_is_looked_for():
  masks = open_masks(PixelSubset(random_seed=0, fraction=0.5))
  with pytest.raises(ValueError, match=r"^the subset must show pixels of every image, but has none of 'other'\.$"):
    masks.find_places(["image_00", "other"])


def test_a_grid_that_does_not_fit_the_images_is_refused(location: str):
  with pytest.raises(ValueError, match=re.escape("got grid (8, 8, 1) for inputs of shape (30, 30, 3)")):
    open_masks(PixelSubset(run=location), shape=(30, 30, 3))


@pytest.fixture(scope="module")
def masks_file(location: str, tmp_path_factory: pytest.TempPathFactory) -> str:
  path = tmp_path_factory.mktemp("masks") / "masks.npz"
  assert export.export(location, to=str(path), masks=["mask_fraction_0.3"]) == f"16 images written to {path}."
  return str(path)


def test_a_file_of_masks_stands_for_the_run(location: str, masks_file: str):
  ids = IDS[::-1]
  from_run, from_file = (open_masks(PixelSubset(run=run, fraction=0.3), ids=ids) for run in (location, masks_file))
  np.testing.assert_array_equal(from_file.packed, from_run.packed)
  assert {**vars(from_file), "packed": None} == {**vars(from_run), "packed": None}
  assert json.loads(json.dumps(from_file.description)) == from_run.description
  # As the module says, NumPy alone reads it.
  with np.load(masks_file) as archive:
    bits = np.unpackbits(archive["masks"], axis=1, count=64, bitorder="little")
    assert archive["ids"].tolist() == list(IDS)
    assert json.loads(str(archive["provenance"]))["spec"] == results.read_spec(location)
  np.testing.assert_array_equal(bits[::-1], from_run.kept(np.arange(16))[:, ::4, ::4, 0].reshape(16, 64))


def test_a_file_of_masks_is_checked_as_the_run_is(masks_file: str):
  with pytest.raises(ValueError, match=re.escape(f"but {masks_file!r} is not (split: 'train' there, 'test' asked)")):
    open_masks(PixelSubset(run=masks_file, fraction=0.3), images={**IMAGES, "split": "test"})
  with pytest.raises(ValueError, match=re.escape(f"{masks_file!r} must hold finished subsets of these images and")):
    open_masks(PixelSubset(run=masks_file, fraction=0.3), ids=(*IDS, "new"))
  message = (
    f"{masks_file!r} must hold the subsets that are asked for (threshold 0.9, kind 'sis'), but holds others "
    "(fraction 0.3, kind 'sis')."
  )
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    open_masks(PixelSubset(run=masks_file))


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "text", "format"])
def test_a_damaged_file_of_masks_is_refused(masks_file: str, tmp_path: pathlib.Path, damage: str):
  content = bytearray(pathlib.Path(masks_file).read_bytes())
  path = tmp_path / "masks.npz"
  if damage == "cut":
    path.write_bytes(content[:-100])
  elif damage == "flipped":
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
  elif damage == "foreign":
    np.savez(path, ids=np.array(["a"]))
  elif damage == "text":
    path.write_text("masks")
  else:
    with np.load(masks_file) as archive:
      arrays = dict(archive)
    arrays["provenance"] = np.array(str(arrays["provenance"]).replace("masks/1", "masks/9"))
    np.savez(path, **arrays)
  message = f"{str(path)!r} must be a file of masks in the format 'jax_sis.masks/1', as jax-sis export RUN_DIR --to "
  with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
    open_masks(PixelSubset(run=str(path), fraction=0.3))


def test_a_file_of_masks_cannot_fill_memory(masks_file: str, monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setattr(archives, "MIN_BYTES", 100)
  monkeypatch.setattr(archives, "MAX_RATIO", 0)
  with pytest.raises(ValueError, match=r"cannot be read \(ValueError: its arrays take [\d,]+ bytes, where a file of "):
    read_masks_file(masks_file)


def test_the_masks_of_cifar_take_less_than_ten_megabytes():
  # Of half of the pixels: random bits, which nothing compresses.
  packed = np.random.default_rng(0).integers(0, 256, (60_000, 128), np.uint8)
  ids = tuple(f"train_{index:05}" for index in range(60_000))
  query = SubsetQuery(fraction=0.5)
  file = io.BytesIO()
  write_masks_file(file, RunMasks(location="", spec=SPEC, query=query, ids=ids, packed=packed))
  assert file.tell() < 10_000_000


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({}, "PixelSubset must have either run or random_seed, got run=None and random_seed=None."),
    ({"run": "a", "random_seed": 0}, "PixelSubset must have either run or random_seed, got run='a' and random_seed=0."),
    ({"run": "a", "fraction": 0}, "PixelSubset.fraction must be above 0 and at most 1, got 0."),
    ({"run": "a", "threshold": 1.0}, "PixelSubset.threshold must be a probability strictly between 0 and 1, got 1.0."),
    ({"run": "a", "answer": "all"}, "PixelSubset.answer must be one of sis, smallest, robust, optimum, got 'all'."),
    ({"run": "a", "fill": float("nan")}, "PixelSubset.fill must be finite, got nan."),
    (
      {"run": "a", "fraction": 0.1, "threshold": 0.9},
      "PixelSubset.fraction must come without threshold, and with answer 'sis', got 0.1 with threshold=0.9 and answer",
    ),
    (
      {"run": "a", "fraction": 0.1, "answer": "smallest"},
      "PixelSubset.fraction must come without threshold, and with answer 'sis', got 0.1 with threshold=None and answer",
    ),
    ({"random_seed": -1, "fraction": 0.1}, "PixelSubset.random_seed must be an integer that is not negative, got -1."),
    (
      {"random_seed": 1.5, "fraction": 0.1},
      "PixelSubset.random_seed must be an integer that is not negative, got 1.5.",
    ),
    ({"random_seed": 0}, "PixelSubset.random_seed must come with a fraction, got None."),
    (
      {"random_seed": 0, "fraction": 0.1, "expected_model": "a"},
      "PixelSubset.expected_model and allows_other_baseline must come with a run, not a random_seed.",
    ),
  ],
)
def test_a_subset_that_makes_no_sense_is_refused(settings: dict[str, Any], message: str):
  with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
    PixelSubset(**settings)


def test_a_subset_is_a_value():
  subset = PixelSubset(run="runs/sis", fraction=0.05)
  assert PixelSubset(**json.loads(json.dumps(dataclasses.asdict(subset)))) == subset
  assert len({subset, PixelSubset(run="runs/sis", fraction=0.05), PixelSubset(run="runs/sis")}) == 2
