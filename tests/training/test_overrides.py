"""Settings of a recipe by name: any can be changed, and none to another type."""

import dataclasses
import pathlib
import re
import types
from typing import Any

import pytest

from jax_sis.data.normalisation import CIFAR_NORMALISATION
from jax_sis.training.config import CosineSchedule, Pgd, Stage, StepSchedule, load_config, settings_to_dict
from jax_sis.training.train import RECIPE_FILE, claim_folder

NAME = "cifar10_resnet20"
SHIPPED = load_config(NAME)


class NoImages:
  """What a recipe's file says of the images."""

  class_names = ("a", "b")
  image_shape = (32, 32, 3)

  def __len__(self) -> int:
    return 0


@pytest.mark.parametrize(
  ("text", "changes"),
  [
    ("seed=3", {"seed": 3}),
    ("momentum=1", {"momentum": 1}),
    ("num_devices=None", {"num_devices": None}),
    ("split='train[:9]'", {"split": "train[:9]"}),
    ("dataset=123", {"dataset": "123"}),
    ("schedule.peak=0.3", {"schedule": dataclasses.replace(SHIPPED.schedule, peak=0.3)}),
    ("augmentation.flip=none", {"augmentation": dataclasses.replace(SHIPPED.augmentation, flip="none")}),
    ("adversarial.radius=0.1", {"adversarial": Pgd(radius=0.1)}),
    ("stages.1.epochs=2", {"stages": (SHIPPED.stages[0], Stage(epochs=2, resolution=32))}),
  ],
)
def test_any_setting_is_changed_by_its_name(text: str, changes: dict[str, Any]):
  assert load_config(NAME, [text]) == dataclasses.replace(SHIPPED, **changes)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("seed=1.5", "--set seed=1.5: seed must be a whole number, got 1.5."),
    ("batch_size=64x", "--set batch_size=64x: batch_size must be a whole number, got '64x'."),
    ("num_devices=True", "--set num_devices=True: num_devices must be a whole number or None, got True."),
    ("schedule.peak=high", "--set schedule.peak=high: schedule.peak must be a number, got 'high'."),
    ("on_error=stop", "--set on_error=stop: on_error must be one of refuse, skip, got 'stop'."),
    ("stages=3", "--set stages=3: stages is set by its parts, stages.0.epochs, stages.0.resolution, stages.1."),
    (
      "subset=r",
      "--set subset=r: subset must be a PixelSubset, which only a recipe's file can make, or None, got 'r'.",
    ),
    ("epochs=0", "--set epochs=0: epochs must be a positive whole number, got '0'."),
    ("epochs=many", "--set epochs=many: epochs must be a positive whole number, got 'many'."),
    ("epoch=3", "--set epoch=3: TrainConfig has no setting 'epoch'; did you mean 'epochs'? It has model, "),
    ("peak=1", "--set peak=1: TrainConfig has no setting 'peak'; did you mean 'schedule.peak'? It has model, "),
    (
      "stages.5.epochs=3",
      "--set stages.5.epochs=3: TrainConfig has no setting 'stages.5.epochs'; did you mean 'stages.",
    ),
  ],
)
def test_another_type_or_name_is_refused(text: str, message: str):
  with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
    load_config(NAME, [text])


@pytest.mark.parametrize(
  ("num_epochs", "stages"), [(32, (18, 14)), (30, (16, 14)), (2, (1, 1)), (1, (1,)), (64, (36, 28))]
)
def test_epochs_shorten_all_stages_and_the_last_one_stays(num_epochs: int, stages: tuple[int, ...]):
  changed = load_config(NAME, [f"epochs={num_epochs}"])
  assert changed.num_epochs == num_epochs
  assert tuple(stage.epochs for stage in changed.stages) == stages
  assert changed.stages[-1].resolution == 32
  assert changed.schedule == dataclasses.replace(SHIPPED.schedule, warmup_epochs=3 * num_epochs / 32)


def test_the_parts_of_a_schedule_keep_their_share_of_the_epochs():
  assert StepSchedule(milestones=(60, 120, 160)).scale(0.15) == StepSchedule(milestones=(9, 18, 24))
  assert StepSchedule(milestones=(60, 61)).scale(0.1) == StepSchedule(milestones=(6,))
  assert CosineSchedule(peak=1.0, warmup_epochs=4).scale(0.5) == CosineSchedule(peak=1.0, warmup_epochs=2.0)


def test_only_another_optimizer_is_kept_by_name():
  assert "optimizer" not in settings_to_dict(SHIPPED)
  assert settings_to_dict(load_config(NAME, ["optimizer=adamw"]))["optimizer"] == "adamw"


def test_the_recipe_that_is_kept_has_the_changed_settings(tmp_path: pathlib.Path):
  training: Any = types.SimpleNamespace(
    masks=None,
    local_devices=[None],
    normalisation=CIFAR_NORMALISATION,
    training_set=NoImages(),
  )
  claim_folder(tmp_path / "run", load_config(NAME, ["epochs=30", "schedule.peak=0.3"]), training)
  recipe = (tmp_path / "run" / RECIPE_FILE).read_text()
  assert '"peak": 0.3' in recipe
  with pytest.raises(
    ValueError, match=r"another recipe \(schedule was .*; stages was .*'epochs': 16.* is .*'epochs': 18"
  ):
    claim_folder(tmp_path / "run", SHIPPED, training)
