"""Runs one training with a tiny network, and kills itself with SIGKILL at a named point if one is given.

The point `full_disk` limits the size of files to STEP bytes instead. With TRAIN_ON_PIXELS=1 in the environment, the
training is on random pixels of whole images.

python training_driver.py OUT DATA_DIR NUM_DEVICES [POINT STEP]
"""

import dataclasses
import os
import resource
import signal
import sys
from typing import Any

import jax


def die() -> None:
  """As by the kernel when memory runs out: nothing is cleaned up."""
  os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str, step: int, out_dir: str) -> None:
  """Arranges for death at this point of this step's work."""
  from jax_sis.training import train

  state_dir = os.path.join(os.path.abspath(out_dir), "state")
  if point == "mid_step":
    make_train_step = train.make_train_step

    def make_deadly_step(*arguments: Any) -> Any:
      step_fn = make_train_step(*arguments)

      def deadly_step(state: Any, *batch: Any) -> Any:
        result = step_fn(state, *batch)
        # Dispatched, and still computing.
        if int(batch[4]) == step:
          die()
        return result

      return deadly_step

    train.make_train_step = make_deadly_step
  elif point in ("before_save", "after_commit"):
    save = train.checkpoint.TrainingCheckpoints.save

    def deadly_save(self: Any, saved_step: int, *arguments: Any) -> None:
      if saved_step == step and point == "before_save":
        die()
      save(self, saved_step, *arguments)
      if saved_step == step:
        die()

    deadly: Any = deadly_save
    train.checkpoint.TrainingCheckpoints.save = deadly
  elif point == "full_disk":
    # Nearly so: files larger than this cannot be written. The kernel then fails the write, as it does on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (step, step))
  else:
    num_writes = 0

    def deadly_hook(event: str, arguments: tuple[Any, ...]) -> None:
      nonlocal num_writes
      if event == "open" and isinstance(arguments[1], str) and arguments[1][0] in "wax":
        num_writes += str(arguments[0]).startswith(os.path.join(state_dir, f"{step}."))
        if point == "mid_save" and num_writes == 2:
          die()
      elif event == "os.rename":
        is_commit = str(arguments[1]) == os.path.join(state_dir, str(step))
        is_classifier = str(arguments[1]) == os.path.join(os.path.abspath(out_dir), "classifier")
        if (point == "before_commit" and is_commit) or (point == "mid_classifier" and is_classifier):
          die()

    # Audit events see the files that Orbax opens and renames, whatever its version.
    sys.addaudithook(deadly_hook)


def main() -> None:
  """Trains."""
  out_dir, data_dir, num_devices, *kill = sys.argv[1:]
  jax.config.update("jax_num_cpu_devices", int(num_devices))
  from jax_sis import classifiers
  from jax_sis.classifiers import resnet
  from jax_sis.results import query
  from jax_sis.training import config, train

  classifiers.ARCHITECTURES["tiny"] = resnet.ResNetConfig(blocks=(1, 1), widths=(4, 8))
  if kill:
    arm(kill[0], int(kill[1]), out_dir)
  on_pixels: dict[str, Any] = {
    "stages": (config.Stage(epochs=3, resolution=32),),
    "subset": query.PixelSubset(random_seed=0, fraction=0.2),
  }
  recipe = config.TrainConfig(
    model="tiny",
    dataset="cifar10",
    split="train[:112]",
    num_validation=16,
    batch_size=16,
    num_devices=int(num_devices),
    stages=(config.Stage(epochs=2, resolution=8), config.Stage(epochs=1, resolution=16)),
    schedule=config.TriangularSchedule(peak=0.1, warmup_epochs=1),
    keep_pixels=0.8,
    label_smoothing=0.1,
    save_every_steps=4,
  )
  if os.environ.get("TRAIN_ON_PIXELS") == "1":
    recipe = dataclasses.replace(recipe, **on_pixels)
  train.train(recipe, data_dir=data_dir, out_dir=out_dir)


if __name__ == "__main__":
  main()
