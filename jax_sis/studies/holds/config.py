"""Settings of `jax-sis holds`, the orders that it makes itself, and the conditions under which orders are judged."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, ClassVar

from jax_sis.core.validation import require_positive
from jax_sis.data.config import BatchSize, Folder, ModelFunction, NumDevices, OptionalFolder
from jax_sis.runtime.command_line import FolderCommand, Option, name_folder

ATTRIBUTIONS = {
  "gradient_x_input": "gradient x input",
  "integrated_gradients": "integrated gradients",
  "grad_cam": "Grad-CAM",
  "rise": "RISE",
  "random": "random order",
}
CONDITIONS = {
  "images": "on unseen images",
  "noise": "in noise",
  "blur": "in the image's own blur",
  "added": "after {} added true pixels",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class HoldsConfig(FolderCommand):
  """One run of `jax-sis holds`.

  Attributes:
    run_dirs: the runs whose orders are judged, what find calls --out; of the same images, classifier and masks.
    out: results folder; the same folder again goes on with an unfinished run (default: jax-sis-holds, and in its name
      what is asked beyond the defaults).
    labels: what the runs are called (default: as their folders).
    attributions: orders that are judged beside those of the runs; none where no name follows.
    conditions: what is around the pixels that are kept.
    pool: the images to draw backgrounds from, as find takes them by --pool; without it, `images` is left out.
    pool_split: the TFDS split of the pool (default: test).
    num_pool: the most images that the pool is made of, chosen by the seed.
    num_images: the first N images that all runs have and of which the classifier is confident enough.
    num_draws: backgrounds an image, under each condition.
    num_added: true pixels that are added to those kept, at random.
    sizes: numbers of pixels at which orders are judged, ascending (default: 15 between 1/64 and 7/8 of all).
    rate: the share of the draws on which the class must be kept.
    batch_size: images per device at a time; it is part of what the run is.
    num_devices: devices to use (default: all; on a CPU one device a core).
    seed: of all that is random.
    checkpoint: the classifier's folder (default: where the first run had it).
    model_function: the function that makes the classifier, file.py:function where the file has moved.
    data_dir: the TFDS folder (default: where the first run had it).
  """

  COMMAND: ClassVar[str] = "holds"

  run_dirs: Annotated[tuple[str, ...], Option(metavar="RUN_DIR [RUN_DIR ...]", is_positional=True)]
  out: Folder = ""
  labels: Annotated[tuple[str, ...], Option(metavar="NAME [NAME ...]")] = ()
  attributions: Annotated[tuple[str, ...], Option(metavar="NAME [NAME ...]")] = tuple(ATTRIBUTIONS)
  conditions: Annotated[tuple[str, ...], Option(metavar="NAME [NAME ...]")] = tuple(CONDITIONS)
  pool: Annotated[str | None, Option(metavar="DATA")] = None
  pool_split: str | None = None
  num_pool: Annotated[int, Option(name="pool-images")] = 2000
  num_images: Annotated[int, Option(name="images")] = 64
  num_draws: Annotated[int, Option(name="draws")] = 100
  num_added: Annotated[int, Option(name="added")] = 10
  sizes: tuple[int, ...] = ()
  rate: float = 0.9
  batch_size: BatchSize = 4
  num_devices: NumDevices = None
  seed: int = 0
  checkpoint: OptionalFolder = None
  model_function: ModelFunction = None
  data_dir: OptionalFolder = None

  def __post_init__(self) -> None:
    if not self.run_dirs:
      raise ValueError("RUN_DIR must name at least one run, got none.")
    if self.labels and len(self.labels) != len(self.run_dirs):
      raise ValueError(
        f"--labels must name each run, got {len(self.labels)} labels for {len(self.run_dirs)} runs; put them in quotes "
        "where they hold spaces."
      )
    check_names("--attributions", self.attributions, tuple(ATTRIBUTIONS))
    check_names("--conditions", self.conditions, tuple(CONDITIONS))
    if not self.conditions:
      raise ValueError(f"--conditions must be of {', '.join(CONDITIONS)}, got none.")
    if self.pool is None and self.pool_split is not None:
      raise ValueError(f"--pool-split must come with --pool, got {self.pool_split!r} alone.")
    require_positive("--pool-images", self.num_pool)
    require_positive("--images", self.num_images)
    require_positive("--draws", self.num_draws)
    require_positive("--added", self.num_added)
    require_positive("--batch", self.batch_size)
    if min(self.sizes, default=1) < 1 or list(self.sizes) != sorted(set(self.sizes)):
      raise ValueError(f"--sizes must be positive and ascend, got {list(self.sizes)}.")
    if not 0 < self.rate <= 1:
      raise ValueError(f"--rate must be above 0 and at most 1, got {self.rate}.")
    if self.num_devices is not None:
      require_positive("--devices", self.num_devices)
    if not 0 <= self.seed < 2**31:
      raise ValueError(f"--seed must lie in 0..2**31 - 1, got {self.seed}.")
    name_folder(self, "jax-sis-holds")


def check_names(option: str, names: Sequence[str], known: Sequence[str]) -> None:
  """Raises ValueError unless each name is a known one, and stands there once."""
  unknown = [name for name in names if name not in known]
  if unknown:
    raise ValueError(f"{option} must be of {', '.join(known)}, got {unknown[0]}.")
  if len(set(names)) < len(names):
    raise ValueError(f"{option} must name each once, got {' '.join(names)}.")
