"""`find --features`: label maps in the place of squares, kept with the run, computed again, drawn and exported."""

import csv
import pathlib
import sys
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny_runs import GRADIENT

import jax_sis
from jax_sis import results
from jax_sis.classifiers.on_images import open_on_images
from jax_sis.display.pixels import BORDER
from jax_sis.runs import export, find, verify
from jax_sis.runs.config import FindConfig
from jax_sis.runs.feature_maps import MAPS_FILE, number_maps, open_kept, read_maps
from jax_sis.studies.controls.config import ControlsConfig
from jax_sis.studies.controls.program import controls
from jax_sis.studies.holds.asked import open_runs
from jax_sis.studies.holds.config import HoldsConfig

THRESHOLD = 0.6


def make_maps(num_images: int) -> np.ndarray:
  """Stripes of different widths in each image, whose numbers leave gaps."""
  rows = np.arange(32)[:, None] + np.zeros((1, 32), int)
  return np.stack([10 + 3 * (rows // (2 + place % 3)) for place in range(num_images)])


@pytest.fixture(scope="module")
def asked(tiny_checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
  sample = open_on_images(FindConfig(out="unused", checkpoint=tiny_checkpoint), batch_size=5)
  ids = tuple(sample.source.ids()[:5])
  folder = tmp_path_factory.mktemp("maps")
  for image_id, one in zip(ids, make_maps(5), strict=True):
    if image_id == ids[0]:
      Image.fromarray(one.astype(np.uint8)).save(folder / f"{image_id}.png")
    else:
      np.save(folder / f"{image_id}.npy", one)
  options = {**GRADIENT, "threshold": THRESHOLD, "batch_size": 5, "num_devices": 1, "gallery": 3, "saved": "both"}
  return {**options, "checkpoint": tiny_checkpoint, "ids": ids, "features": str(folder)}


@pytest.mark.slow
def test_a_run_on_label_maps_is_stored_verified_and_drawn(asked: dict[str, Any], tmp_path: pathlib.Path):
  config = FindConfig(out=str(tmp_path / "run"), **asked)
  with jax.numpy_rank_promotion("allow"):
    find.find(config)
    store = results.open(tmp_path / "run")
    assert verify.verify(str(tmp_path / "run"), num_devices=1)
    images = open_on_images(config, batch_size=5)
    (batch,) = images.read(range(5))
    inputs = jnp.asarray(images.normalise(batch["image"][:5]))
    order = jax_sis.backselect(images.predict_fn, images.params, inputs, features=make_maps(5))
  assert store.spec["grid"] == [16, 1, 1]
  numbers, is_there = np.arange(16)[None], np.asarray(order.rank) < 16
  np.testing.assert_array_equal(store.read("rank"), np.where(is_there, order.rank, numbers))
  np.testing.assert_allclose(store.read("confidence"), order.confidence, rtol=1e-4, atol=1e-6)
  subsets = jax_sis.sufficient_subsets(order, THRESHOLD)
  np.testing.assert_array_equal(store.read("sis_num_kept"), subsets.num_kept)
  maps = open_kept(store)
  assert maps is not None
  assert maps.named[1, :4].tolist() == [10, 13, 16, 19]
  assert (tmp_path / "run/gallery.png").read_bytes().startswith(b"\x89PNG")
  (mask,) = (name for name in store.fields if name.startswith("mask_threshold"))
  export.export(str(tmp_path / "run"), to=str(tmp_path / "table.csv"), masks=[mask])
  with (tmp_path / "table.csv").open(newline="") as file:
    rows = list(csv.DictReader(file))
  for row, kept, one in zip(rows, np.asarray(subsets.kept), make_maps(5), strict=True):
    names = np.unique(one)
    assert row[mask] == " ".join(str(names[feature]) for feature in np.flatnonzero(kept))
  run_dir = str(tmp_path / "run")
  for ask in (lambda: controls(ControlsConfig(run_dir=run_dir)), lambda: open_runs(HoldsConfig(run_dirs=(run_dir,)))):
    with pytest.raises(ValueError, match="RUN_DIR must be a run on pixels or squares"):
      ask()
  # The run's own copy counts, and a damaged one is refused.
  kept = (tmp_path / "run" / MAPS_FILE).read_bytes()
  (tmp_path / "run" / MAPS_FILE).write_bytes(number_maps(make_maps(5) // 4, {}).encode())
  with pytest.raises(ValueError, match=r"features\.npz' must be the label maps that the run began with"):
    verify.verify(str(tmp_path / "run"), num_devices=1)
  (tmp_path / "run" / MAPS_FILE).write_bytes(kept)


@pytest.mark.slow
def test_a_run_makes_its_superpixels_once(
  asked: dict[str, Any], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
  pytest.importorskip("skimage")
  config = FindConfig(out=str(tmp_path / "run"), **{**asked, "features": "superpixels", "segments": 30})
  with jax.numpy_rank_promotion("allow"):
    find.find(config)
    # What the run keeps is enough from here on.
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    find.find(config)
    assert verify.verify(str(tmp_path / "run"), num_devices=1)
    monkeypatch.undo()
    (batch,) = open_on_images(config, batch_size=5).read(range(5))
  store = results.open(tmp_path / "run")
  maps = open_kept(store)
  assert maps is not None
  np.testing.assert_array_equal(maps.labels, jax_sis.features.superpixels(batch["image"][:5], 30))
  assert (store.spec["features"]["from"], store.spec["features"]["segments"]) == ("superpixels", 30)
  assert store.spec["grid"] == [maps.num_existing.max(), 1, 1]
  num_ranked = (store.read("rank") < maps.num_existing[:, None]).sum(1)
  np.testing.assert_array_equal(num_ranked, maps.num_existing)
  picture = np.asarray(Image.open(tmp_path / "run/gallery.png").convert("RGB"))
  assert (picture == BORDER).all(-1).any()


# What maps are read for: two images of four by three pixels.
IMAGES: Any = types.SimpleNamespace(
  source=types.SimpleNamespace(ids=lambda: ["cat/1.jpg", "2"]),
  classifier=types.SimpleNamespace(input_shape=(4, 3, 3)),
)


def test_maps_are_read_by_id_or_for_all(tmp_path: pathlib.Path):
  (tmp_path / "cat").mkdir()
  first = np.arange(12).reshape(4, 3)
  Image.fromarray(first.astype(np.uint8)).save(tmp_path / "cat/1.png")
  np.save(tmp_path / "2.npy", first // 2)
  np.testing.assert_array_equal(read_maps(IMAGES, str(tmp_path)), [first, first // 2])
  np.testing.assert_array_equal(read_maps(IMAGES, str(tmp_path / "2.npy")), [first // 2, first // 2])
  maps = number_maps(np.stack([first, first // 4 + 7]), {"from": "here"})
  assert maps.num_existing.tolist() == [12, 3]
  assert maps.named[1].tolist() == [7, 8, 9, *[-1] * 9]
  spread = maps.spread(np.arange(12)[None], np.array([1]))
  np.testing.assert_array_equal(spread[0, ..., 0], first // 4)


@pytest.mark.parametrize(
  ("make_fn", "message"),
  [
    (lambda folder: folder / "none", "--features must be 'superpixels', a file of label maps, or a folder"),
    (lambda folder: folder, r"must have a map for each image.* has none for cat/1\.jpg, 2"),
    (lambda folder: save(folder, np.ones((4, 4), int)), r"must hold a map \[4, 3\] for all images, or \[2, 4, 3\]"),
    (lambda folder: save(folder, np.ones((4, 3))), "must be whole numbers, the label of each pixel, got float64"),
    (lambda folder: save(folder, np.ones((4, 3, 3), np.uint8), ".png"), r"it has colours \(RGB\), and no number"),
  ],
)
def test_other_maps_are_refused(tmp_path: pathlib.Path, make_fn: Any, message: str):
  with pytest.raises(ValueError, match=message):
    read_maps(IMAGES, str(make_fn(tmp_path)))


def save(folder: pathlib.Path, values: np.ndarray, suffix: str = ".npy") -> pathlib.Path:
  path = folder / f"map{suffix}"
  if suffix == ".npy":
    np.save(path, values)
  else:
    Image.fromarray(values).save(path)
  return path


def test_each_pixel_may_be_a_feature_of_its_own():
  one = np.arange(300 * 300).reshape(1, 300, 300)
  maps = number_maps(7 + 2 * one, {})
  np.testing.assert_array_equal(maps.labels, one)
  assert maps.named[0, -1] == 7 + 2 * one.max()


def test_settings_that_do_not_go_with_maps_are_refused():
  with pytest.raises(ValueError, match=r"^--patch must not come with --features"):
    FindConfig(features="superpixels", patch=2)
  with pytest.raises(ValueError, match=r"^--segments is for --features superpixels, got --features maps"):
    FindConfig(features="maps", segments=30)
