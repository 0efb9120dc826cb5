"""Training: a killed run ends bitwise where an undisturbed one does, and augmentation does what it says."""

import dataclasses
import json
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_sis import checkpoint, config, train
from jax_sis.config import Stage, TrainConfig

TINY = TrainConfig(
  model="resnet20",
  dataset="cifar10",
  split="train[:48]",
  stages=(Stage(epochs=2, resolution=8), Stage(epochs=1, resolution=16)),
  batch_size=16,
  num_shards=2,
  warmup_epochs=1,
)
CONFIG_TEXT = """
from jax_sis.config import Stage, TrainConfig
config = TrainConfig(model="resnet20", dataset="cifar10", split="train[:48]", batch_size=16, num_shards=2,
  stages=(Stage(epochs=2, resolution=8), Stage(epochs=1, resolution=16)), warmup_epochs=1)
"""

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")


def test_a_killed_training_ends_bitwise_where_an_undisturbed_one_does(tmp_path: pathlib.Path, shared_dir: pathlib.Path):
  (tmp_path / "config.py").write_text(CONFIG_TEXT)
  assert config.load_config(tmp_path / "config.py") == TINY
  data_dir = str(shared_dir / "data/tfds")
  command = [sys.executable, "-m", "jax_sis", "train", str(tmp_path / "config.py"), "--data-dir", data_dir, "--out"]
  subprocess.run([*command, str(tmp_path / "undisturbed")], check=True, capture_output=True)
  undisturbed = checkpoint.load_classifier(tmp_path / "undisturbed" / "classifier")
  command.append(str(tmp_path / "killed"))
  with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
    assert process.stderr is not None
    for line in process.stderr:
      if line.startswith('{"epoch": 1'):
        break
    process.kill()
  assert not (tmp_path / "killed" / "classifier").exists()
  subprocess.run(command, check=True, capture_output=True)
  resumed = checkpoint.load_classifier(tmp_path / "killed" / "classifier")
  expected = jax.tree.leaves(checkpoint.pure_variables(undisturbed.module))
  actual = jax.tree.leaves(checkpoint.pure_variables(resumed.module))
  for left, right in zip(actual, expected, strict=True):
    np.testing.assert_array_equal(left, right)
  records = [json.loads(line) for line in (tmp_path / "undisturbed" / "metrics.jsonl").read_text().splitlines()]
  assert [(record["epoch"], record["resolution"]) for record in records] == [(1, 8), (2, 8), (3, 16)]


def augment(images: np.ndarray, indices: list[int], epoch: int, *, crop_padding: int = 3) -> np.ndarray:
  return np.asarray(
    train.augment(jnp.asarray(images), jnp.array(indices), jnp.int32(epoch), seed=0, crop_padding=crop_padding)
  )


def test_each_image_is_flipped_in_every_second_epoch():
  images = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3), np.uint8)
  indices = list(range(32))
  first, second, third = (augment(images, indices, epoch, crop_padding=0) for epoch in range(3))
  flipped = [bool((first[i] == images[i, :, ::-1]).all()) for i in indices]
  assert 4 < sum(flipped) < 28
  for i in indices:
    np.testing.assert_array_equal(first[i], images[i, :, ::-1] if flipped[i] else images[i])
  np.testing.assert_array_equal(second, first[:, :, ::-1])
  np.testing.assert_array_equal(third, first)


def test_shifts_reach_from_end_to_end_and_mirror_the_border():
  # Far enough from the border not to be mirrored.
  image = np.zeros((1, 16, 16, 3), np.uint8)
  image[0, 8, 8] = 255
  shifted = augment(np.repeat(image, 400, axis=0), list(range(400)), 0)[..., 0]
  rows, columns = np.nonzero(shifted == 255)[1:]
  assert len(rows) == 400
  assert set(rows - 8) == set(range(-3, 4))
  # Unflipped around 8, flipped around 7.
  assert set(columns) == set(range(4, 12))
  corner = np.zeros((1, 16, 16, 3), np.uint8)
  corner[0, 1, 8] = 255
  assert max((augment(corner, [index], 0) == 255).sum() for index in range(40)) == 2 * 3


def test_augmentation_does_not_depend_on_the_batch():
  images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
  together = augment(images, [5, 6, 7, 8], 3)
  np.testing.assert_array_equal(augment(images[2:3], [7], 3)[0], together[2])


def test_an_epoch_visits_every_example_once_in_a_new_order():
  epochs = [np.concatenate(list(train.epoch_batches(12, 4, seed=0, epoch=epoch))) for epoch in range(2)]
  assert [sorted(epoch) for epoch in epochs] == [list(range(12))] * 2
  assert epochs[0].tolist() != epochs[1].tolist()


def test_the_shipped_configuration_loads(repository: pathlib.Path):
  shipped = config.load_config(repository / "configs" / "cifar10_resnet20.py")
  assert shipped.num_epochs == 32
  assert [shipped.resolution(epoch) for epoch in (0, 17, 18, 31)] == [24, 24, 32, 32]


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"stages": ()}, "TrainConfig.stages must name at least one Stage, got none."),
    ({"batch_size": 0}, "TrainConfig.batch_size must be positive, got 0."),
    ({"batch_size": 15}, "TrainConfig.batch_size must be a multiple of num_shards, got 15 and 2."),
    ({"peak_learning_rate": -1.0}, "TrainConfig.peak_learning_rate must be positive, got -1.0."),
  ],
)
def test_a_wrong_recipe_is_refused(changes: dict[str, object], message: str):
  with pytest.raises(ValueError, match=re.escape(message)):
    dataclasses.replace(TINY, **changes)


def test_a_configuration_file_must_bind_config(tmp_path: pathlib.Path):
  (tmp_path / "config.py").write_text("recipe = 1\n")
  with pytest.raises(ValueError, match=r"must bind `config` to a TrainConfig, got NoneType\."):
    config.load_config(tmp_path / "config.py")
  with pytest.raises(ValueError, match="config must be an existing Python file"):
    config.load_config(tmp_path / "none.py")
