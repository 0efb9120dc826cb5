"""Masks and overlays at the size of the user's files."""

import pathlib
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_runs import find_tiny

from jax_sis import results
from jax_sis.cli import main
from jax_sis.core.subsets import Status
from jax_sis.data.images import WHOLE_FRAMING, Framing, find_central_box, place_mask, read_framing
from jax_sis.data.sources import SAMPLE_DIR

SIZES = [(96, 64), (64, 80), (32, 32), (33, 47), (200, 100)]


@pytest.fixture(scope="module")
def run(tiny_checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> results.Results:
  """Photographs of several sizes, in folders, and a file that cannot be read."""
  photos = tmp_path_factory.mktemp("photos")
  for number, (path, size) in enumerate(zip(sorted(SAMPLE_DIR.glob("*/*.png")), SIZES, strict=False)):
    (photos / "cat").mkdir(exist_ok=True)
    with Image.open(path) as image:
      image.convert("RGB").resize(size).save(photos / "cat" / f"{number}.png")
  (photos / "broken.png").write_bytes(b"no image")
  return find_tiny(tmp_path_factory.mktemp("run") / "out", tiny_checkpoint, data=str(photos), resize=True)


def check_pictures(run: results.Results, pictures: pathlib.Path, files: dict[str, pathlib.Path], kind: str) -> int:
  """Compares the pictures of one kind with the masks of the run; how many images have some."""
  masks, num_pictures = run.masks(kind=kind)[..., 0], 0
  for index, (name, status) in enumerate(zip(run.read_text("id"), run.read(f"{kind}_status"), strict=True)):
    paths = [pictures / f"{name}_{kind}_{what}.png" for what in ("mask", "overlay")]
    assert [path.exists() for path in paths] == [status == Status.OK] * 2
    if status != Status.OK:
      continue
    num_pictures += 1
    image = np.asarray(Image.open(files[name]).convert("RGB"))
    mask, overlay = (np.asarray(Image.open(path)) for path in paths)
    assert mask.shape == image.shape[:2] == overlay.shape[:2]
    assert set(np.unique(mask)) <= {0, 255}
    kept = mask == 255
    np.testing.assert_array_equal(overlay[kept], image[kept])
    assert kept.all() or (overlay[~kept] != image[~kept]).any(-1).mean() > 0.9
    # Each square of the search is one rectangle of the middle of the file.
    box = find_central_box(image.shape[:2], (32, 32), read_framing(run.spec["data"]))
    for cell in np.ndindex(4, 4):
      column, row = (
        int(low + (high - low) * (place + 0.5) / 4) for low, high, place in zip(box, box[2:], cell[::-1], strict=False)
      )
      assert kept[row, column] == masks[index][cell]
    left, top, right, bottom = np.ceil(box).astype(int)
    assert kept.sum() == kept[top - 1 * (top > 0) : bottom, left - 1 * (left > 0) : right].sum()
  return num_pictures


def test_a_mask_and_an_overlay_of_each_subset(tiny_run: pathlib.Path, tmp_path: pathlib.Path, capsys: Any):
  words = ["export", str(tiny_run), "--to", f"{tmp_path}/{{id}}.png", "--masks", "smallest_mask"]
  assert main.main(words) == 0
  files = {path.stem: path for path in SAMPLE_DIR.glob("*/*.png")}
  count = check_pictures(results.open(tiny_run), tmp_path, files, "smallest")
  assert len(list(tmp_path.iterdir())) == 2 * count > 8
  assert f"{count} images written to {tmp_path}/{{id}}.png; {24 - count} have no subset." in capsys.readouterr().out


@pytest.mark.slow
def test_pictures_have_the_size_of_the_files(run: results.Results, tmp_path: pathlib.Path):
  assert main.main(["export", run.folder.location, "--to", f"{tmp_path}/{{id}}.png"]) == 0
  photos = pathlib.Path(run.spec["data"]["data"])
  files = {name: photos / name for name in run.read_text("id")}
  assert sum(check_pictures(run, tmp_path, files, kind) for kind in ("sis", "smallest")) > 4
  words = ["export", run.folder.location, "--to", f"{tmp_path}/few/{{index}}.png", "--masks", "mask_fraction_0.25"]
  assert main.main(words) == 0
  found = {path.name.partition("_")[2] for path in (tmp_path / "few").iterdir()}
  assert found == {"fraction_0.25_mask.png", "fraction_0.25_overlay.png"}


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["--to", "all.png"], "--to must have {id} or {index} in the name of a .png, which is one of many, got 'all.png'."),
    (["--to", "t.csv", "--data-dir", "d"], "--checkpoint and --data-dir must come with a .png, which needs the images"),
  ],
)
def test_wrong_names_are_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]):
  assert main.main(["export", "nowhere", *words]) == 2
  assert message in capsys.readouterr().err


def test_a_mask_is_placed_on_the_pixels_whose_middle_it_covers():
  mask = np.array([[True, False], [False, True]])
  whole = place_mask(mask, (4, 6), find_central_box((4, 6), (2, 2), WHOLE_FRAMING))
  expected = np.zeros((4, 6), bool)
  expected[:2, 1:3] = expected[2:, 3:5] = True
  np.testing.assert_array_equal(whole, expected)
  assert place_mask(mask, (8, 8), find_central_box((8, 8), (2, 2), Framing(crop=0.5))).sum() == 8
