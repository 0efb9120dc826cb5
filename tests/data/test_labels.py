"""ImageNet as it lies on disks: folders of wnids, flat folders with wnids in the names, and files of labels."""

import pathlib
import re
import types
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jax_sis.data import labels, sources, tfds
from jax_sis.data.imagenet_classes import imagenet_class_names, imagenet_wnids
from jax_sis.data.images import CENTRAL_FRAMING
from jax_sis.data.sources import NO_LABEL, number_classes

NAMES = imagenet_class_names()
# Of tench, giant panda, and the two of one name.
TENCH, PANDA, BIRD, MACHINE = 0, 388, 134, 517
WNID_OF = dict(enumerate(imagenet_wnids()))
SHAPE = (8, 8, 3)


def open_source(data: str | pathlib.Path, **options: Any) -> sources.ListedSource:
  given = {"split": None, "data_dir": None, "class_names": NAMES, "input_shape": SHAPE, "mean_colour": (0, 0, 0)}
  return sources.open_source(str(data), **{**given, **options})


def read_labels(data: pathlib.Path, **options: Any) -> dict[str, int]:
  source = open_source(data, **options)
  return {name: source[index]["label"] for index, name in enumerate(source.ids())}


def save(*paths: pathlib.Path, mode: str = "RGB") -> None:
  for path in paths:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, SHAPE[:2], 128 if mode == "L" else (0, 10, 20, 30)[: len(mode)]).save(path, "JPEG")


def name_validation(number: int) -> str:
  return f"ILSVRC2012_val_{number:08}.JPEG"


@pytest.fixture
def validation(tmp_path: pathlib.Path) -> pathlib.Path:
  """A flat folder with validation images 1, 2 and 10."""
  folder = tmp_path / "archive" / "ILSVRC" / "Data" / "CLS-LOC" / "val"
  save(*(folder / name_validation(number) for number in (1, 2, 10)))
  return folder


@pytest.mark.parametrize(
  "names", [NAMES, imagenet_wnids(), number_classes(1000), tuple(f"{name}, and so on" for name in NAMES)]
)
def test_folders_of_wnids_fit_a_classifier_of_imagenets_classes_however_it_names_them(
  tmp_path: pathlib.Path, names: tuple[str, ...]
):
  files = [f"{WNID_OF[TENCH]}/{WNID_OF[TENCH]}_10026.JPEG", f"{WNID_OF[BIRD]}/a.JPEG", "n00000001/a.JPEG"]
  save(*(tmp_path / file for file in files))
  assert read_labels(tmp_path, class_names=names) == dict(zip(files, (TENCH, BIRD, NO_LABEL), strict=True))
  assert read_labels(tmp_path, class_names=number_classes(1001)) == dict.fromkeys(files, NO_LABEL)


def test_a_folder_by_the_name_of_two_classes_is_refused(tmp_path: pathlib.Path):
  save(tmp_path / "crane" / "a.JPEG")
  with pytest.raises(ValueError, match=r"but 'crane' is the name of 134 and 517; call the folder by the number\.$"):
    open_source(tmp_path)
  (tmp_path / "crane").rename(tmp_path / "crane (lifting device)")
  assert list(read_labels(tmp_path).values()) == [MACHINE]


def test_a_wnid_in_a_name_is_a_label_in_a_flat_folder(tmp_path: pathlib.Path):
  names = {
    f"{WNID_OF[PANDA]}_10026.JPEG": PANDA,
    f"ILSVRC2012_val_00000293_{WNID_OF[TENCH]}.JPEG": TENCH,
    f"{WNID_OF[MACHINE]}.jpg": MACHINE,
    "n025104550.JPEG": NO_LABEL,
    "cat.jpg": NO_LABEL,
  }
  save(*(tmp_path / name for name in names))
  assert read_labels(tmp_path) == names
  assert read_labels(tmp_path / f"{WNID_OF[MACHINE]}.jpg") == {f"{WNID_OF[MACHINE]}.jpg": MACHINE}


def test_the_ground_truth_counts_in_the_challenges_own_order(validation: pathlib.Path):
  # The first ten lines of the published file; the classes are those that TFDS lists for these images.
  path = validation / "ILSVRC2012_validation_ground_truth.txt"
  path.write_text("490\n361\n171\n822\n297\n482\n13\n704\n599\n164\n")
  found = read_labels(validation)
  assert [WNID_OF[found[name_validation(number)]] for number in (1, 2, 10)] == ["n01751748", "n09193705", "n02328150"]
  kit = validation.parent / "ILSVRC2012_devkit_t12" / "data"
  kit.mkdir(parents=True)
  path.rename(kit / path.name)
  assert read_labels(validation) == found
  assert f"Labels are those of {kit / path.name}." in open_source(validation).notes
  (kit / path.name).write_text("1001\n" * 10)
  with pytest.raises(ValueError, match=r"must be the challenge's numbers, 1 to 1000, got 1001\.$"):
    open_source(validation)


@pytest.mark.parametrize(
  ("name", "lines"),
  [
    (
      "../../../../LOC_val_solution.csv",
      [
        "ImageId,PredictionString",
        f"ILSVRC2012_val_00000002,{WNID_OF[BIRD]} 85 1 499 272 {WNID_OF[BIRD]} 1 1 9 9 ",
        f"ILSVRC2012_val_00000001,{WNID_OF[TENCH]} 0 0 1 1 ",
        f"ILSVRC2012_val_00000010,{WNID_OF[PANDA]} 0 0 1 1 ",
      ],
    ),
    ("labels.txt", [f"val/{name_validation(1)} 0", f"{name_validation(10)} giant panda", f"{name_validation(2)}\t134"]),
    ("labels.csv", ["file,class", *(f"{name_validation(n)},{c}" for n, c in {1: "Tench", 2: 134, 10: 388}.items())]),
    ("labels.txt", [WNID_OF[n] for n in (TENCH, BIRD, 5, 5, 5, 5, 5, 5, 5, PANDA)]),
  ],
)
def test_a_file_of_labels_says_the_class_of_each_image(validation: pathlib.Path, name: str, lines: list[str]):
  (validation / name).write_text("\n".join(lines) + "\n")
  assert read_labels(validation) == {name_validation(1): TENCH, name_validation(2): BIRD, name_validation(10): PANDA}
  source = open_source(validation)
  assert not any("left out" in note for note in source.notes)
  digest = source.description["labels"]
  with (validation / name).open("a") as file:
    file.write(f"{name_validation(11)} 3\n" if len(lines) < 10 else "n01440764\n")
  assert open_source(validation).description["labels"] != digest


def test_what_a_file_of_labels_lacks_is_named(validation: pathlib.Path):
  path = validation / "labels.txt"
  path.write_text(f"{name_validation(1)} {WNID_OF[TENCH]}\n")
  message = (
    f"--data must have a label for each image in {validation}, but {path} has none for 2 of 3: "
    f"{name_validation(2)}, {name_validation(10)}; add their lines, take these images out of the folder, or call the "
    "file by another name to do without labels."
  )
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    open_source(validation)
  path.write_text(f"{name_validation(1)} unicorn\n")
  with pytest.raises(ValueError, match=r"but 'unicorn', of .*00000001.JPEG', is none of the checkpoint's classes; cor"):
    open_source(validation)
  path.write_text(f"{name_validation(1)} crane\n")
  with pytest.raises(ValueError, match=r"but 'crane', of .* is the name of 134 and 517; correct the line"):
    open_source(validation)
  path.write_text("\n")
  with pytest.raises(ValueError, match=r"labels\.txt' must have a line for each image, but there is none\.$"):
    open_source(validation)
  path.unlink()
  assert open_source(validation).notes[1:] == (
    f"Images without a label: 3 of ImageNet's validation images, such as {name_validation(1)}. Put "
    f"ILSVRC2012_validation_ground_truth.txt or LOC_val_solution.csv into {validation}, or labels.txt with a name and "
    "a class a line.",
  )


def test_greyscale_and_cmyk_photographs_are_read_as_rgb(tmp_path: pathlib.Path):
  save(tmp_path / "grey.JPEG", mode="L")
  save(tmp_path / "ink.JPEG", mode="CMYK")
  grey, ink = (open_source(tmp_path)[index]["image"][0, 0] for index in range(2))
  np.testing.assert_array_equal(grey, [128, 128, 128])
  # Black takes 30 of 255, and inks 0, 10 and 20 of what is left.
  np.testing.assert_allclose(ink, [225, 216, 207], atol=2)


class Wnids:
  """A TFDS data set of two classes, by wnid, in another order than the classifier's."""

  dataset_info = types.SimpleNamespace(
    version="1.0.0",
    features={"image": None, "label": types.SimpleNamespace(names=[WNID_OF[PANDA], WNID_OF[TENCH]])},
  )

  def __len__(self) -> int:
    return 2

  def __getitem__(self, index: int) -> dict[str, Any]:
    return {"image": np.zeros(SHAPE, np.uint8), "label": index, "file_name": f"{index}.JPEG".encode()}


def test_a_tfds_data_set_of_wnids_fits_whatever_its_order(monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setattr(tfds, "open_data_source", lambda *place, **options: Wnids())
  source = open_source("imagenette", split="validation")
  assert [source[index]["label"] for index in range(2)] == [PANDA, TENCH]
  assert source.ids() == ["0.JPEG", "1.JPEG"]
  assert source.class_names == NAMES
  assert open_source("imagenette", split="validation", class_names=number_classes(1000)).class_names == NAMES
  own = open_source("imagenette", split="validation", class_names=("n02510455", "n01440764"))
  assert [own[index]["label"] for index in range(2)] == [0, 1]
  with pytest.raises(ValueError, match=r"classes must be the classifier's, got 2 in imagenette .* and 1001 in the"):
    open_source("imagenette", split="validation", class_names=number_classes(1001))


def test_large_classifiers_have_photographs_for_a_sample():
  source = open_source("sample", input_shape=(224, 224, 3), framing=CENTRAL_FRAMING)
  assert source.description["data"] == "imagenet sample"
  assert source.ids() == ["chameleon", "koala", "german_shepherd", "bison", "tripod", "espresso"]
  records = [source[index] for index in range(6)]
  assert [record["error"] for record in records] == [""] * 6
  assert [NAMES[record["label"]] for record in records] == [
    "African chameleon",
    "koala",
    "German shepherd",
    "bison",
    "tripod",
    "espresso",
  ]
  assert all(min(source.read_whole(index).shape[:2]) == 320 for index in range(6))
  files = sorted(sources.PHOTOS_DIR.glob("*.jpg"))
  assert max(path.stat().st_size for path in files) <= 60_000
  credits = (sources.PHOTOS_DIR / "README.md").read_text()
  assert all(f"`{path.name}`" in credits for path in files)
  assert open_source("sample").description["data"] == "sample"


@pytest.mark.slow
def test_the_250_images_in_each_layout_have_the_labels_that_they_were_given(
  shared_dir: pathlib.Path, tmp_path: pathlib.Path
):
  folder = shared_dir / "data" / "imagenet"
  if not folder.exists():
    pytest.skip("needs shared/data/imagenet, which is not part of the project")
  with np.load(folder / "efficientnet_lite0_logits.npz") as stored:
    numbers = stored["labels"].tolist()
    paths = [next((folder / "images").glob(f"{pathlib.Path(str(name)).stem}.*")) for name in stored["names"]]
  layouts = {
    "wnids": lambda place, path: f"{WNID_OF[numbers[place]]}/{place:04}{path.suffix}",
    "named": lambda place, path: f"{place:04}_{WNID_OF[numbers[place]]}{path.suffix}",
    "flat": lambda place, path: name_validation(place + 1),
  }
  for layout, name_fn in layouts.items():
    for place, path in enumerate(paths):
      target = tmp_path / layout / name_fn(place, path)
      target.parent.mkdir(parents=True, exist_ok=True)
      target.symlink_to(path)
  order = labels.challenge_wnids()
  truth = [f"{order.index(WNID_OF[number]) + 1}\n" for number in numbers]
  (tmp_path / "flat" / labels.GROUND_TRUTH).write_text("".join(truth))
  for layout in layouts:
    source = open_source(tmp_path / layout, input_shape=(224, 224, 3), framing=CENTRAL_FRAMING)
    records = [source[index] for index in range(len(source))]
    assert [record["error"] for record in records] == [""] * 250
    assert sorted(record["label"] for record in records) == sorted(numbers)
    if layout != "wnids":
      assert [record["label"] for record in records] == numbers
