"""Settings of the commands that look after runs of `find`; `FindConfig` is in `config`."""

import dataclasses
from typing import Annotated, Literal

from jax_sis.core.searches import Gradient
from jax_sis.core.validation import require_positive
from jax_sis.data.config import ModelFunction, NumDevices, OptionalFolder, RunFolder
from jax_sis.runtime.command_line import Option

AcceleratorName = Literal["a100", "h100", "h200", "l4", "v4", "v5e", "v5p", "v6e"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanOptions:
  """What `jax-sis plan` asks beside the run.

  Attributes:
    num_workers: machines like this one, or with as many chips as --devices says, that share the run.
    accelerator: estimate for chips of this kind, GPUs (a100, h100, h200, l4) or TPUs (v4, v5e, v5p, v6e), from counted
      work and their data sheets, without one at hand (default: a timed probe on this machine).
    preempted_every: simulate --engine ray on these workers, of which each is taken away so often on average, at random
      times: 90s, 30m, 2h or never; of the sizes of unit that are tried, the best is named (default: no simulation).
    replaced_after: until another machine is there and starts its worker.
    spread: standard deviation of the speed of machines, and of the time that single units take, as a share of the mean.
    is_json: print one JSON object; the table goes to standard error.
  """

  num_workers: Annotated[int, Option(name="workers")] = 1
  accelerator: Annotated[AcceleratorName | None, Option(name="on")] = None
  preempted_every: Annotated[str | None, Option(metavar="TIME")] = None
  replaced_after: Annotated[str, Option(metavar="TIME")] = "2m"
  spread: float = 0.1
  is_json: Annotated[bool, Option(name="json")] = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifyOptions:
  """Which run `jax-sis verify` checks, and how.

  Attributes:
    directory: the run's folder, or the URL of one in a bucket.
    num_sampled: units that are computed again and compared bit by bit; 0 leaves that out.
    seed: which units these are.
    checkpoint: the classifier's folder (default: where the run had it).
    model_function: the function that makes the classifier, file.py:function where the file has moved.
    data_dir: the TFDS folder (default: where the run had it).
    is_report_only: say what is damaged, and leave the marks of the units as they are.
    num_devices: devices to use (default: all; on a CPU one device a core).
  """

  directory: RunFolder
  num_sampled: Annotated[int, Option(name="sample")] = 4
  seed: int = 0
  checkpoint: OptionalFolder = None
  model_function: ModelFunction = None
  data_dir: OptionalFolder = None
  is_report_only: Annotated[bool, Option(name="report-only")] = False
  num_devices: NumDevices = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class StatusOptions:
  """Which run `jax-sis status` shows.

  Attributes:
    run_dir: the run's folder, what find calls --out.
    watch_seconds: show it again every SECONDS seconds until all images are done.
    is_json: as one line of JSON, for programs.
  """

  run_dir: RunFolder
  watch_seconds: Annotated[float | None, Option(name="watch", metavar="SECONDS")] = None
  is_json: Annotated[bool, Option(name="json")] = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions:
  """What `jax-sis export` writes of which run.

  Attributes:
    run_dir: the run's folder, what find calls --out.
    to: the file, which ends in .csv, .parquet, .npz or .png.
    masks: in tables, columns with the features that a subset keeps, numbered row by row from 0; in an .npz, one kind of
      subset alone, as masks; as .png, the kinds that are drawn: smallest_mask, mask_threshold_P or mask_fraction_S.
    is_partial: of an unfinished run, write what is there.
    checkpoint: for pictures, the classifier's folder (default: where the run had it).
    data_dir: for pictures, the TFDS folder (default: where the run had it).
  """

  run_dir: RunFolder
  to: Annotated[str, Option(metavar="FILE")]
  masks: Annotated[tuple[str, ...], Option(metavar="NAME [NAME ...]")] = ()
  is_partial: Annotated[bool, Option(name="partial")] = False
  checkpoint: OptionalFolder = None
  data_dir: OptionalFolder = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchOptions:
  """What `jax-sis bench` times.

  Attributes:
    checkpoint_dir: a classifier's folder, or `imagenet` for EfficientNet-Lite0 (default: the embedded ResNet-20).
    model_function: instead of a folder, a function of yours, as for find.
    batch_sizes: images per device at a time, a line of the table each.
    search: as for find; of gradient, screened and exact the first steps on random images, of smallest all on the
      embedded images.
    per_step: pixels that a step of the gradient search masks.
    num_steps: steps a timed run (default: 32 of gradient, 4 of screened, 1 of exact).
    num_runs: timed runs a line.
    is_json: print one JSON object instead of the table, which goes to standard error.
    num_devices: devices to use (default: all; on a CPU one device a core).
  """

  checkpoint_dir: Annotated[str | None, Option(name="checkpoint", metavar="DIR")] = None
  model_function: ModelFunction = None
  batch_sizes: Annotated[tuple[int, ...], Option(name="batch")] = (2, 8, 32)
  search: Literal["gradient", "screened", "exact", "smallest"] = "gradient"
  per_step: int = Gradient.per_step
  num_steps: Annotated[int | None, Option(name="steps")] = None
  num_runs: Annotated[int, Option(name="runs")] = 5
  num_devices: NumDevices = None
  is_json: Annotated[bool, Option(name="json")] = False

  def __post_init__(self) -> None:
    if self.num_steps is not None:
      require_positive("--steps", self.num_steps)
      if self.search == "smallest":
        raise ValueError("--steps must come with a backward search, got --search smallest, which is timed as a whole.")
    for name, value in (("--runs", self.num_runs), *(("--batch", size) for size in self.batch_sizes)):
      require_positive(name, value)
