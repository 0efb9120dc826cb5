"""Training images: every one once an epoch, whatever the source; what cannot be read is named."""

import itertools
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from jax_sis.data import images, normalisation, training_sets


def make_set(num_images: int = 10) -> training_sets.InMemory:
  """Images whose pixels are their place."""
  return training_sets.InMemory(
    images=np.broadcast_to(np.arange(num_images, dtype=np.uint8)[:, None, None, None], (num_images, 4, 4, 3)),
    labels=np.arange(num_images, dtype=np.int32) % 3,
    ids=tuple(map(str, range(num_images))),
    description={},
    class_names=("a", "b", "c"),
    normalisation=normalisation.IMAGENET_NORMALISATION,
  )


def all_indices(**options: int) -> list[list[int]]:
  batches = training_sets.training_batches(
    make_set(), np.arange(10), **({"batch_size": 5, "num_epochs": 3, "seed": 0} | options)
  )
  return [batch.indices.tolist() for batch in batches]


def test_an_epoch_visits_every_image_once_in_an_order_of_its_own():
  batches = all_indices()
  epochs = [batches[2 * epoch] + batches[2 * epoch + 1] for epoch in range(3)]
  assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 3
  assert len({tuple(epoch) for epoch in epochs}) == 3
  assert all_indices() == batches
  assert all_indices(seed=1) != batches


def test_batches_are_full_and_belong_to_one_epoch():
  batches = all_indices(batch_size=4)
  assert [len(batch) for batch in batches] == [4] * 6
  for epoch in range(3):
    assert len(set(batches[2 * epoch] + batches[2 * epoch + 1])) == 8


def test_images_and_labels_stay_together():
  for batch in training_sets.training_batches(make_set(), np.arange(10), batch_size=5, num_epochs=2, seed=0):
    np.testing.assert_array_equal(batch.images[:, 0, 0, 0], batch.indices)
    np.testing.assert_array_equal(batch.labels, batch.indices % 3)


def test_shards_share_the_images_out():
  shards = [all_indices(num_epochs=1, shard_index=shard, num_shards=2) for shard in range(2)]
  seen = [sorted(itertools.chain(*batches)) for batches in shards]
  assert seen == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]


@pytest.mark.parametrize("num_taken", [0, 1, 3, 5])
def test_an_iterator_goes_on_from_its_state(num_taken: int):
  def batches():
    return training_sets.training_batches(make_set(), np.arange(10), batch_size=5, num_epochs=3, seed=0)

  first = batches()
  for _ in range(num_taken):
    next(first)
  second = batches()
  second.set_state(first.get_state())
  assert [batch.indices.tolist() for batch in second] == all_indices()[num_taken:]


def test_held_out_images_are_not_trained_on():
  train, validation = training_sets.split_off_validation(100, 10, seed=0)
  assert len(validation) == 10
  np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), np.arange(100))
  assert (training_sets.split_off_validation(100, 10, seed=1)[1] != validation).any()
  with pytest.raises(ValueError, match=r"^num_validation must be below the 100 images of the split, got 100\.$"):
    training_sets.split_off_validation(100, 100, seed=0)


def test_cifar_is_read_in_the_order_of_its_ids(shared_dir: pathlib.Path, cifar_test: tuple[np.ndarray, np.ndarray]):
  training_set = training_sets.open_training_set(
    "cifar10", "test", data_dir=shared_dir / "data/tfds", image_size=None, on_error="refuse"
  )
  assert isinstance(training_set, training_sets.InMemory)
  assert training_set.image_shape == (32, 32, 3)
  assert training_set.class_names[3] == "cat"
  np.testing.assert_array_equal(training_set.images, cifar_test[0])
  np.testing.assert_array_equal(training_set.labels, cifar_test[1])


def test_a_data_set_too_large_for_memory_is_streamed(
  shared_dir: pathlib.Path, cifar_test: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
):
  monkeypatch.setattr(training_sets, "MOST_BYTES_IN_MEMORY", 1000)
  training_set = training_sets.open_training_set(
    "cifar10", "test[:6]", data_dir=shared_dir / "data/tfds", image_size=None, on_error="refuse"
  )
  assert isinstance(training_set, training_sets.Streamed)
  batch = training_set.read(np.arange(6), np.random.default_rng(0))
  assert batch.images.shape == (6, 32, 32, 3)
  for image, label in zip(batch.images, batch.labels, strict=True):
    (place,) = np.flatnonzero((cifar_test[0] == image).all((1, 2, 3)))
    assert cifar_test[1][place] == label


def make_folder(folder: pathlib.Path, *, size: tuple[int, int] = (40, 30)) -> pathlib.Path:
  """Three classes of two random images each."""
  rng = np.random.default_rng(0)
  for name in ("cat", "dog", "eel"):
    (folder / name).mkdir(parents=True)
    for index in range(2):
      pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
      Image.fromarray(pixels).save(folder / name / f"{index}.png")
  return folder


def open_folder(folder: pathlib.Path, *, on_error: str = "refuse", image_size: int | None = 16):
  return training_sets.open_training_set(
    str(folder),
    "train",
    data_dir=None,
    image_size=image_size,
    on_error=on_error,  # pyright: ignore[reportArgumentType]
  )


def test_a_folder_has_one_directory_a_class(tmp_path: pathlib.Path):
  training_set = open_folder(make_folder(tmp_path))
  assert training_set.class_names == ("cat", "dog", "eel")
  assert len(training_set) == 6
  batch = training_set.read(np.arange(6), None)
  assert batch.images.shape == (6, 16, 16, 3)
  np.testing.assert_array_equal(batch.labels, [0, 0, 1, 1, 2, 2])
  # Evaluation sees the central square of 0.875 of the shorter side: 26.25 pixels of 40 x 30.
  with Image.open(tmp_path / "dog" / "0.png") as file:
    central = file.resize((16, 16), Image.Resampling.BILINEAR, box=(6.875, 1.875, 33.125, 28.125))
  np.testing.assert_array_equal(batch.images[2], np.asarray(central))


def test_random_crops_differ_and_stay_inside(tmp_path: pathlib.Path):
  training_set = open_folder(make_folder(tmp_path, size=(64, 48)))
  rng = np.random.default_rng(0)
  crops = [training_set.read(np.array([0]), rng).images[0] for _ in range(8)]
  assert len({crop.tobytes() for crop in crops}) == 8
  image = np.zeros((48, 64, 3), np.uint8)
  image[:, 32:] = 200
  means = [images.random_crop(image, 8, rng).mean() / 200 for _ in range(300)]
  # Some show the one half or the other alone; on average, half of each.
  assert min(means) == 0
  assert max(means) == 1
  assert abs(np.mean(means) - 0.5) < 0.1


def test_a_broken_image_is_named_and_refused(tmp_path: pathlib.Path):
  folder = make_folder(tmp_path)
  (folder / "dog" / "0.png").write_text("no image")
  training_set = open_folder(folder)
  message = "dog/0.png cannot be read: cannot identify image file '0.png'. To train without it, set on_error='skip'."
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    training_set.read(np.arange(6), None)
  batches = training_sets.training_batches(training_set, np.arange(6), batch_size=6, num_epochs=1, seed=0)
  with pytest.raises(ValueError, match=re.escape(message)):
    next(batches)


def test_a_broken_image_is_skipped_where_asked_and_the_next_one_takes_its_place(tmp_path: pathlib.Path):
  folder = make_folder(tmp_path)
  whole = open_folder(folder).read(np.arange(6), None)
  (folder / "dog" / "0.png").write_text("no image")
  training_set = open_folder(folder, on_error="skip")
  said: list[str] = []
  training_set.report_fn = said.append
  batch = training_set.read(np.arange(6), None)
  np.testing.assert_array_equal(batch.images, whole.images[[0, 1, 3, 3, 4, 5]])
  np.testing.assert_array_equal(batch.labels, [0, 0, 1, 1, 2, 2])
  assert said == ["skipped: dog/0.png cannot be read: cannot identify image file '0.png'."]


def test_a_folder_without_any_readable_image_is_refused(tmp_path: pathlib.Path):
  folder = make_folder(tmp_path)
  for path in folder.rglob("*.png"):
    path.write_text("no image")
  with pytest.raises(ValueError, match=r"^dataset must hold an image that can be read, but none of its images can be"):
    open_folder(folder, on_error="skip").read(np.arange(1), None)


def test_what_is_no_data_set_is_refused(tmp_path: pathlib.Path):
  with pytest.raises(ValueError, match=r"^dataset must be an existing folder or the name of a TFDS data set, got 'no/"):
    open_folder(pathlib.Path("no/such/folder"))
  with pytest.raises(ValueError, match=r"^image_size must be given for a folder of images, "):
    open_folder(make_folder(tmp_path / "images"), image_size=None)
  (tmp_path / "empty").mkdir()
  with pytest.raises(
    ValueError, match=r"^dataset must be a folder with a directory for each class, at least two, got .* 0"
  ):
    open_folder(tmp_path / "empty")


def test_labels_out_of_range_are_named():
  with pytest.raises(ValueError, match=r"^labels must be in 0\.\.2, but 2 of 4 are not: b has 3, d has -1\.$"):
    training_sets.check_labels(np.array([0, 3, 2, -1]), ["a", "b", "c", "d"], 3)
