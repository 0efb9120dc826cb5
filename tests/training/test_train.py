"""Training: killed anywhere, it ends bitwise where an undisturbed run does; what goes wrong is named."""

import dataclasses
import functools
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jax_sis import classifiers, results
from jax_sis.classifiers import checkpoint, resnet
from jax_sis.core.searches import Gradient
from jax_sis.data import cifar_c, normalisation, training_sets
from jax_sis.results import pixel_subsets
from jax_sis.results.query import PixelSubset
from jax_sis.runs import export, find
from jax_sis.runs.config import FindConfig
from jax_sis.training import config, train
from jax_sis.training.config import Augmentation, Stage, StepSchedule, TrainConfig, TriangularSchedule

DRIVER = pathlib.Path(__file__).parents[1] / "training_driver.py"
TINY = TrainConfig(
  model="resnet20",
  dataset="cifar10",
  split="train[:48]",
  batch_size=16,
  num_devices=2,
  stages=(Stage(epochs=1, resolution=8),),
  schedule=StepSchedule(initial=0.1, milestones=()),
)
CONFIG_TEXT = """
from jax_sis.training.config import Stage, StepSchedule, TrainConfig
config = TrainConfig(model="resnet20", dataset="cifar10", split="train[:48]", batch_size=16, num_devices=2,
  stages=(Stage(epochs=1, resolution=8),), schedule=StepSchedule(initial=0.1, milestones=()))
"""
# Each kill is of a run that resumed after the one before. The epochs end at steps 6, 12 and 18; every fourth is saved.
KILLS = (
  ("mid_step", 2),
  ("before_save", 4),
  ("mid_save", 6),
  ("before_commit", 8),
  ("after_commit", 12),
  ("mid_classifier", 18),
)

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
  """What the driver runs in. It has its own compiled programs, since a killed process may leave half of one."""
  cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled"))}
  return {**os.environ, **cache, "PYTHONPATH": os.pathsep.join([str(DRIVER.parents[1]), *sys.path[1:]])}


def drive(
  out_dir: pathlib.Path,
  shared_dir: pathlib.Path,
  num_devices: int,
  environment: dict[str, str],
  *kill: object,
  **options: Any,
) -> subprocess.CompletedProcess[str]:
  """One run of the driver."""
  command = [sys.executable, str(DRIVER), str(out_dir), str(shared_dir / "data/tfds"), str(num_devices)]
  return subprocess.run(
    [*command, *map(str, kill)], check=False, env=environment, capture_output=True, text=True, timeout=300, **options
  )


@pytest.fixture(scope="module")
def undisturbed_fn(
  tmp_path_factory: pytest.TempPathFactory, shared_dir: pathlib.Path, environment: dict[str, str]
) -> Callable[[int], pathlib.Path]:
  """The folder of a run on so many devices that nothing disturbed."""

  @functools.cache
  def run_undisturbed(num_devices: int) -> pathlib.Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    drive(out, shared_dir, num_devices, environment).check_returncode()
    return out

  return run_undisturbed


def assert_same_run(
  actual: pathlib.Path,
  expected: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  resolutions: tuple[int, ...] = (8, 8, 16),
) -> None:
  """Classifiers to the bit, and metrics but for times."""
  monkeypatch.setitem(classifiers.ARCHITECTURES, "tiny", resnet.ResNetConfig(blocks=(1, 1), widths=(4, 8)))
  for name in ("classifier", "best"):
    leaves = [
      jax.tree.leaves(checkpoint.pure_variables(checkpoint.load_classifier(directory / name).module))
      for directory in (actual, expected)
    ]
    for left, right in zip(*leaves, strict=True):
      np.testing.assert_array_equal(left, right)
  records = [
    [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    for directory in (actual, expected)
  ]
  for record in itertools.chain(*records):
    del record["seconds"], record["images_per_second"]
  assert records[0] == records[1]
  assert [(record["epoch"], record["step"], record["resolution"]) for record in records[0]] == [
    (epoch + 1, 6 * (epoch + 1), resolution) for epoch, resolution in enumerate(resolutions)
  ]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("num_devices", "kills", "expected"),
  [(8, KILLS, [[], [], [4], [4, 6], [8, 12], [16, 18]]), (1, KILLS[2:3], [[4]])],
  ids=["8", "1"],
)
def test_a_run_killed_at_every_point_ends_bitwise_where_an_undisturbed_one_does(
  num_devices: int,
  kills: Sequence[tuple[str, int]],
  expected: list[list[int]],
  undisturbed_fn: Callable[[int], pathlib.Path],
  tmp_path: pathlib.Path,
  shared_dir: pathlib.Path,
  environment: dict[str, str],
  monkeypatch: pytest.MonkeyPatch,
):
  killed = tmp_path / "killed"
  # What is saved after each kill.
  saved = []
  for kill in kills:
    result = drive(killed, shared_dir, num_devices, environment, *kill)
    assert result.returncode == -9, (kill, result.stderr)
    saved.append(sorted(int(path.name) for path in (killed / "state").glob("*") if path.name.isdigit()))
  assert saved == expected
  assert not (killed / "classifier").exists()
  drive(killed, shared_dir, num_devices, environment).check_returncode()
  assert_same_run(killed, undisturbed_fn(num_devices), monkeypatch)
  leftovers = [path.name for path in (*killed.iterdir(), *(killed / "state").iterdir()) if "tmp" in path.name]
  assert leftovers == []


@pytest.mark.slow
def test_a_killed_training_on_pixels_ends_bitwise_where_an_undisturbed_one_does(
  tmp_path: pathlib.Path, shared_dir: pathlib.Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
  undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
  environment = {**environment, "TRAIN_ON_PIXELS": "1"}
  result = drive(undisturbed, shared_dir, 2, environment)
  result.check_returncode()
  assert "Shown of each image: 0.2 of the pixels at random (seed 0).\n" in result.stdout
  assert drive(killed, shared_dir, 2, environment, "mid_step", 9).returncode == -9
  drive(killed, shared_dir, 2, environment).check_returncode()
  assert_same_run(killed, undisturbed, monkeypatch, resolutions=(32, 32, 32))


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_state_and_is_said(
  undisturbed_fn: Callable[[int], pathlib.Path],
  tmp_path: pathlib.Path,
  shared_dir: pathlib.Path,
  environment: dict[str, str],
  monkeypatch: pytest.MonkeyPatch,
):
  limited = tmp_path / "limited"
  assert drive(limited, shared_dir, 1, environment, "after_commit", 6).returncode == -9
  result = drive(limited, shared_dir, 1, environment, "full_disk", 4000)
  assert result.returncode == 1
  assert re.search(
    r"ValueError: the state of step 8 could not be saved in '.*state' \(.*\); that of step 6 stays\. "
    r"Free some space, and the same command goes on from there\.",
    result.stderr,
  ), result.stderr
  drive(limited, shared_dir, 1, environment).check_returncode()
  assert_same_run(limited, undisturbed_fn(1), monkeypatch)


def run_tiny(tmp_path: pathlib.Path, shared_dir: pathlib.Path, **changes: Any) -> pathlib.Path:
  return train.train(
    dataclasses.replace(TINY, **changes), data_dir=str(shared_dir / "data/tfds"), out_dir=tmp_path / "run"
  )


@pytest.fixture
def tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setitem(classifiers.ARCHITECTURES, "resnet20", resnet.ResNetConfig(blocks=(1,), widths=(4,)))


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_network")
def test_a_loss_that_is_not_finite_names_the_step_and_nothing_of_it_is_saved(
  tmp_path: pathlib.Path, shared_dir: pathlib.Path
):
  schedule = StepSchedule(initial=1e30, milestones=())
  with pytest.raises(
    ValueError, match=r"^training diverged at step [23]: the loss is (nan|inf|\d).* The state of step 0"
  ):
    run_tiny(tmp_path, shared_dir, schedule=schedule)
  assert not (tmp_path / "run" / "classifier").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_network")
def test_a_gradient_above_the_limit_names_the_step(tmp_path: pathlib.Path, shared_dir: pathlib.Path):
  with pytest.raises(
    ValueError,
    match=r"^training diverged at step 1: the loss is .* and the gradient's norm .* \(gradient_norm_limit is 1e-06\)",
  ):
    run_tiny(tmp_path, shared_dir, gradient_norm_limit=1e-6)


@pytest.mark.usefixtures("tiny_network")
def test_a_folder_with_a_run_of_another_recipe_is_refused(tmp_path: pathlib.Path, shared_dir: pathlib.Path):
  run_tiny(tmp_path, shared_dir)
  with pytest.raises(
    ValueError, match=r"holds a run of another recipe \(seed was 0 and is 1\); name another folder\.$"
  ):
    run_tiny(tmp_path, shared_dir, seed=1)
  # The same recipe again is done at once.
  assert run_tiny(tmp_path, shared_dir) == tmp_path / "run" / "classifier"


@pytest.mark.usefixtures("tiny_network")
@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"batch_size": 15, "num_devices": None},
      "batch_size must be a multiple of the 8 devices, got 15; set num_devices,",
    ),
    ({"batch_size": 64}, "batch_size must be at most the 48 images to train on, got 64."),
    ({"num_validation": 48}, "num_validation must be below the 48 images of the split, got 48."),
    (
      {"dataset": "./no/folder"},
      "--data-dir and --split are for TFDS data sets, but dataset names files, './no/folder'",
    ),
  ],
)
def test_data_that_do_not_fit_are_refused(
  changes: dict[str, Any], message: str, tmp_path: pathlib.Path, shared_dir: pathlib.Path
):
  with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
    run_tiny(tmp_path, shared_dir, **changes)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_network")
def test_held_out_images_choose_the_best_classifier(tmp_path: pathlib.Path, shared_dir: pathlib.Path):
  run_tiny(tmp_path, shared_dir, num_validation=16, stages=(Stage(epochs=4, resolution=8),), evaluate_every=2)
  records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
  accuracies = [record.get("validation_accuracy") for record in records]
  assert accuracies[0] is accuracies[2] is None
  best = checkpoint.load_classifier(tmp_path / "run" / "best")
  # The held-out images are read as they are, at full resolution.
  training = train.open_training(dataclasses.replace(TINY, num_validation=16), str(shared_dir / "data/tfds"))
  _, images, labels, _ = training.training_set.read(training.validation_indices, None)
  predicted = np.asarray(best.module(jnp.asarray(best.normalisation.apply(images)))).argmax(1)
  assert (predicted == labels).mean() == max(accuracies[1], accuracies[3]) == records[3]["best_validation_accuracy"]


ON_PIXELS = {
  "stages": (Stage(epochs=1, resolution=32),),
  "subset": PixelSubset(random_seed=0, fraction=0.2),
}


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_network")
def test_held_out_images_show_the_same_pixels(tmp_path: pathlib.Path, shared_dir: pathlib.Path):
  run_tiny(tmp_path, shared_dir, num_validation=16, **ON_PIXELS)
  (record,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
  best = checkpoint.load_classifier(tmp_path / "run" / "best")
  training = train.open_training(dataclasses.replace(TINY, num_validation=16), str(shared_dir / "data/tfds"))
  assert isinstance(training.training_set, training_sets.InMemory)
  _, images, labels, kept = training.training_set.read(training.validation_indices, None)
  assert kept is None
  ids = [training.training_set.ids[index] for index in training.validation_indices]
  packed = pixel_subsets.draw_random(ids, fraction=0.2, seed=0, num_features=1024)
  kept = np.unpackbits(packed, axis=1, bitorder="little").reshape(-1, 32, 32, 1)
  inputs = jnp.asarray(best.normalisation.apply(images) * kept)
  logits: np.ndarray = np.asarray(best.module(inputs)).astype(np.float64)
  assert record["validation_accuracy"] == (logits.argmax(1) == labels).mean()
  losses = np.asarray(special.logsumexp(logits, axis=1)) - logits[np.arange(16), labels]
  assert record["validation_loss"] == pytest.approx(losses.mean(), rel=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_network")
def test_training_on_all_pixels_is_training_on_images(tmp_path: pathlib.Path, shared_dir: pathlib.Path):
  options = {"stages": ON_PIXELS["stages"], "augmentation": Augmentation(crop_padding=0)}
  everything = PixelSubset(random_seed=0, fraction=1.0)
  leaves = [
    jax.tree.leaves(checkpoint.pure_variables(checkpoint.load_classifier(run).module))
    for run in (
      run_tiny(tmp_path / "images", shared_dir, **options),
      run_tiny(tmp_path / "pixels", shared_dir, subset=everything, **options),
    )
  ]
  for left, right in zip(*leaves, strict=True):
    np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("tiny_network")
@pytest.mark.slow
def test_a_training_on_other_pixels_in_the_same_folder_is_refused(tmp_path: pathlib.Path, shared_dir: pathlib.Path):
  run_tiny(tmp_path, shared_dir, **ON_PIXELS)
  recipe = json.loads((tmp_path / "run" / "recipe.json").read_text())
  assert recipe["subset"]["random_seed"] == 0
  assert recipe["subset"]["mean_num_kept"] == 205
  run_tiny(tmp_path, shared_dir, **ON_PIXELS)
  for other in (PixelSubset(random_seed=1, fraction=0.2), PixelSubset(random_seed=0, fraction=0.2, fill=0.5), None):
    with pytest.raises(
      ValueError, match=r"holds a run of another recipe \(subset was {'random_seed': 0, 'fraction': 0\.2"
    ):
      run_tiny(tmp_path, shared_dir, **{**ON_PIXELS, "subset": other})


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_network")
def test_a_training_goes_on_with_the_masks_of_its_run(tmp_path: pathlib.Path, shared_dir: pathlib.Path):
  searched = classifiers.Classifier(
    model_name="resnet20",
    module=classifiers.build("resnet20", num_classes=10),
    class_names=cifar_c.CLASS_NAMES,
    normalisation=normalisation.CIFAR_NORMALISATION,
    input_shape=(32, 32, 3),
  )
  checkpoint.save_classifier(tmp_path / "searched", searched)
  config = FindConfig(
    out=str(tmp_path / "sis"),
    checkpoint=str(tmp_path / "searched"),
    data="cifar10",
    data_dir=str(shared_dir / "data/tfds"),
    split="train[:48]",
    search=Gradient(per_step=256),
    smallest=None,
    certificate="alone",
    gallery=0,
    num_devices=2,
    batch_size=8,
  )
  find.find(config)
  options = {**ON_PIXELS, "subset": PixelSubset(run=config.out, fraction=0.05)}
  classifier = run_tiny(tmp_path, shared_dir, **options)
  recipe = json.loads((tmp_path / "run" / "recipe.json").read_text())
  assert recipe["subset"]["model"]["sha256"] == results.read_spec(config.out)["model"]["sha256"]
  assert recipe["subset"]["mean_num_kept"] == 52
  # The file of the masks is the same subset.
  export.export(config.out, to=str(tmp_path / "masks.npz"), masks=["mask_fraction_0.05"])
  options["subset"] = PixelSubset(run=str(tmp_path / "masks.npz"), fraction=0.05)
  assert run_tiny(tmp_path, shared_dir, **options) == classifier
  with pytest.raises(ValueError, match=r"is not \(split: 'train\[:48\]' there, 'train\[:32\]' asked\)"):
    run_tiny(tmp_path / "other", shared_dir, **{**options, "split": "train[:32]"})


@pytest.mark.usefixtures("tiny_network")
def test_a_subset_of_images_that_are_resized_or_streamed_is_refused(
  tmp_path: pathlib.Path, shared_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
  stages = (Stage(epochs=1, resolution=24), Stage(epochs=1, resolution=32))
  message = "stages must show the images' own resolution, 32, where a subset of their pixels is shown, got 24; resizing"
  with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
    run_tiny(tmp_path, shared_dir, **{**ON_PIXELS, "stages": stages})
  with pytest.raises(
    ValueError, match=r"^TrainConfig\.subset must come with images of one size, image_size=None, got "
  ):
    dataclasses.replace(TINY, subset=ON_PIXELS["subset"], image_size=64)
  monkeypatch.setattr(training_sets, "MOST_BYTES_IN_MEMORY", 1000)
  message = "subset must be of images of one size that fit the memory, got dataset 'cifar10', which is streamed."
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    run_tiny(tmp_path, shared_dir, **ON_PIXELS)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_network")
def test_an_adversarial_training_with_dropout_runs(tmp_path: pathlib.Path, shared_dir: pathlib.Path):
  run_tiny(tmp_path, shared_dir, adversarial=config.Pgd(num_steps=2), keep_pixels=0.8)
  (record,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
  assert np.isfinite(record["train_loss"])


@pytest.mark.usefixtures("tiny_network")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboardX")
def test_tensorboard_events_hold_the_metrics(tmp_path: pathlib.Path, shared_dir: pathlib.Path):
  train.train(TINY, data_dir=str(shared_dir / "data/tfds"), out_dir=tmp_path / "run", tensorboard=True)
  (events,) = (tmp_path / "run" / "tensorboard").iterdir()
  assert b"train_loss" in events.read_bytes()
  assert b"images_per_second" in events.read_bytes()


@pytest.mark.parametrize(
  "name", ["cifar10_resnet20", "cifar10_resnet18", "cifar10_vgg16", "cifar10_vit_cifar", "cifar10_wrn28_10"]
)
def test_shipped_configurations_load_by_name(repository: pathlib.Path, name: str):
  shipped = config.load_config(name)
  assert shipped == config.load_config(repository / "configs" / f"{name}.py")
  assert shipped.model == name.removeprefix("cifar10_")
  assert shipped.model in classifiers.ARCHITECTURES


def test_the_recipe_for_pixels_never_resizes_images(repository: pathlib.Path):
  shipped = config.load_config(repository / "configs" / "cifar10_resnet20_subset.py")
  assert (shipped.model, shipped.dataset, shipped.subset) == ("resnet20", "cifar10", None)
  assert {stage.resolution for stage in shipped.stages} == {32}


def test_the_budget_recipe_sees_small_images_first(repository: pathlib.Path):
  shipped = config.load_config(repository / "configs" / "cifar10_resnet20.py")
  assert shipped.num_epochs == 32
  assert [shipped.resolution(epoch) for epoch in (0, 17, 18, 31)] == [24, 24, 32, 32]
  with pytest.raises(ValueError, match=r"^epoch must be below num_epochs \(32\), got 32\.$"):
    shipped.resolution(32)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"stages": ()}, "TrainConfig.stages must name at least one Stage, got none."),
    ({"batch_size": 0}, "TrainConfig.batch_size must be positive, got 0."),
    ({"batch_size": 15}, "TrainConfig.batch_size must be a multiple of num_devices, got 15 and 2."),
    ({"num_devices": 0}, "TrainConfig.num_devices must be positive, got 0."),
    ({"keep_pixels": 0.0}, "TrainConfig.keep_pixels must be above 0 and at most 1, got 0.0."),
    ({"label_smoothing": 1.0}, "TrainConfig.label_smoothing must be at least 0 and below 1, got 1.0."),
    ({"num_validation": -1}, "TrainConfig.num_validation must not be negative, got -1."),
    ({"optimizer": "adam"}, "TrainConfig.optimizer must be one of sgd, adamw, got 'adam'."),
    ({"on_error": "stop"}, "TrainConfig.on_error must be one of refuse, skip, got 'stop'."),
  ],
)
def test_a_wrong_recipe_is_refused(changes: dict[str, Any], message: str):
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    dataclasses.replace(TINY, **changes)


def test_wrong_parts_of_a_recipe_are_refused():
  with pytest.raises(ValueError, match=r"^TriangularSchedule\.peak must be positive, got -1\.0\.$"):
    TriangularSchedule(peak=-1.0)
  with pytest.raises(ValueError, match=r"^StepSchedule\.milestones must ascend, got \(3, 2\)\.$"):
    StepSchedule(milestones=(3, 2))
  with pytest.raises(ValueError, match=r"^Augmentation\.border must be one of zero, reflect, got 'blue'\.$"):
    Augmentation(border="blue")  # pyright: ignore[reportArgumentType]


def test_a_configuration_file_is_read_with_its_overrides(tmp_path: pathlib.Path):
  path = tmp_path / "config.py"
  path.write_text(CONFIG_TEXT)
  assert config.load_config(path) == TINY
  changed = config.load_config(path, ["seed=3", "dataset=cifar100", "momentum=0.5"])
  assert changed == dataclasses.replace(TINY, seed=3, dataset="cifar100", momentum=0.5)


def test_an_unknown_setting_names_the_nearest_one(tmp_path: pathlib.Path):
  path = tmp_path / "config.py"
  path.write_text(CONFIG_TEXT.replace("batch_size", "bach_size"))
  with pytest.raises(ValueError, match=r"TrainConfig has no setting 'bach_size'; did you mean 'batch_size'\? It has"):
    config.load_config(path)
  path.write_text(CONFIG_TEXT.replace("initial=0.1", "inital=0.1"))
  with pytest.raises(ValueError, match="StepSchedule has no setting 'inital'; did you mean 'initial'"):
    config.load_config(path)
  path.write_text(CONFIG_TEXT)
  with pytest.raises(ValueError, match=r"^--set sede=1: TrainConfig has no setting 'sede'; did you mean 'seed'"):
    config.load_config(path, ["sede=1"])
  with pytest.raises(ValueError, match=r"^--set must be name=value, got 'seed'\.$"):
    config.load_config(path, ["seed"])


def test_a_configuration_file_must_bind_config(tmp_path: pathlib.Path):
  (tmp_path / "config.py").write_text("recipe = 1\n")
  with pytest.raises(ValueError, match=r"must bind `config` to a TrainConfig, got NoneType\."):
    config.load_config(tmp_path / "config.py")
  with pytest.raises(ValueError, match="config must be an existing Python file or one of cifar10_resnet18, "):
    config.load_config(tmp_path / "none.py")
