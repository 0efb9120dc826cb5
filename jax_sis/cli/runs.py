"""The commands that look after a run: `verify`, `status`, `export`, `report`."""

from jax_sis.cli.options import get_devices_ready
from jax_sis.cli.parsing import BEGINS_ANEW, KEEPS_NOTHING, Command
from jax_sis.report.config import ReportConfig
from jax_sis.runs.options import ExportOptions, StatusOptions, VerifyOptions


def run_verify(options: VerifyOptions) -> int:
  """Returns 1 if something is damaged."""
  get_devices_ready(options.num_devices)
  from jax_sis.runs import verify

  return 0 if verify.verify(**vars(options)) else 1


def run_status(options: StatusOptions) -> None:
  from jax_sis.runs import status

  status.status(**vars(options))


def run_export(options: ExportOptions) -> None:
  from jax_sis.runs import export

  print(export.export(**vars(options)))


def run_report(config: ReportConfig) -> None:
  from jax_sis.report import program

  program.report(config)


COMMANDS = {
  "verify": Command(
    settings=(VerifyOptions,),
    run_fn=run_verify,
    description="""\
Checks what a run of `find` has stored: that every chunk of every finished unit can be read and has its checksum, that
ids and labels are those of the data and the numbers do not contradict each other, and, for some units drawn at random,
that computing them again gives the same bits. It says what is damaged, and takes the marks of these units away, so that
the same `jax-sis find` as before computes them again and no others.

Other versions of JAX and other devices compute other last bits. There, --sample 0 makes all checks but the last.
The exit code is 0 where all that is finished is sound, 1 where something is damaged, 2 where it cannot be checked.
""",
    examples=(
      "verify jax-sis-results",
      "verify runs/imagenet --sample 16 --checkpoint CLASSIFIER --data-dir DATA",
      "verify gs://BUCKET/imagenet --sample 0 --report-only",
    ),
    after_interrupt=BEGINS_ANEW,
  ),
  "status": Command(
    settings=(StatusOptions,),
    run_fn=run_status,
    description="""\
Says what a run has done, from its folder alone, also while workers are at it: images done of all, images a second in
the last minutes and the time left at that rate, when the last ones were stored, how many images have which status, and
the images that could not be searched, with the reasons. When they were stored, the dates of the files say; a bucket has
none that can be read, and there --watch counts what comes.

Who is at work, those say that started it: `ray status`, `squeue`, `kubectl get pods`.
""",
    examples=("status runs/sis", "status s3://bucket/runs/sis --watch 30", "status runs/sis --json | jq .seconds_left"),
    after_interrupt="the run itself is not touched",
  ),
  "export": Command(
    settings=(ExportOptions,),
    run_fn=run_export,
    description="""\
Writes the finished images of a run as a table, as the arrays of the method's authors, or as pictures; the ending of
FILE says which.
""",
    tables={
      "endings of FILE": {
        ".csv, .parquet": "one row per image: id, error, label, target, predicted (each class also by name), "
        "full_confidence, and for each kind of subset its status, size and certificate. What an image does not have is "
        "empty.",
        ".npz": "the arrays of Carter et al. (imagenet_backselect.py, and for runs of one pixel a step also "
        "SISResult), images along the first axis; with {id} or {index} in FILE one file per image, which their "
        "programs read. With --patch a square counts as a pixel. Images that were not searched, or met a number that "
        "is not finite, are left out; index and id say which are there.",
        ".png": "with {id} or {index} in FILE: of each subset of each image a mask (white where a pixel is kept) and "
        "an overlay (kept pixels as they are, the rest dark), at the size of the image's own file, also where find had "
        "--resize. NAME of --masks, or sis and smallest, stands in the files' names.",
        ".npz, --masks NAME": "only the subsets of that kind, as `train` and `evaluate` take them by --subset without "
        "the run: ids [N], masks [N, ceil(F / 8)] uint8, a bit a pixel, row by row, from each byte's lowest, and "
        "provenance, JSON.",
      },
      "arrays of Carter et al.": {
        "mask_order": "[1, H, W] int32: the step, from 0, at which a pixel was removed; the run goes to the end, so "
        'that 0 never stands for "not removed".',
        "confidences_over_backselect": "[T] float32: that of the target before the removal of each step, so that the "
        "first is the whole image's; the fully masked image has no entry.",
        "original_confidences": "the target's only.",
        "target_class_idx": "the target.",
        "ordering_over_entire_backselect": "[F, 3] int64: (0, row, column), removed first to last.",
        "values_over_entire_backselect": "[F] float64: the confidence after each removal.",
        "mask": "[1, H, W] bool: True where the subset at the run's threshold keeps the pixel, all False where there "
        "is none.",
        "sis": "[k, 3]: its pixels, the last removed first (in files of one image only).",
      },
    },
    examples=(
      "export runs/sis --to table.csv",
      "export runs/sis --to table.parquet --masks smallest_mask mask_threshold_0.9 mask_fraction_0.05",
      "export runs/sis --to backselect.npz",
      "export runs/sis --to masks.npz --masks mask_fraction_0.05",
      "export runs/photos --to 'pictures/{id}.png'",
      "export runs/sis --to 'saved_models/r20/sis/cifar10_test/cifar10_test_{index}.npz'",
    ),
    after_interrupt=KEEPS_NOTHING,
  ),
  "report": Command(
    settings=(ReportConfig,),
    run_fn=run_report,
    description="""\
Writes what a run of `find` shows as one HTML file that needs nothing else: it works offline, on a telephone as on a
large screen, and holds its pictures itself. Of a run that is not finished, it is of the images that are.

It says what the model needs and how little that is (sizes, why images have no subset, certificates), where that lies,
how far it is from chance and from what leaks, what that has to do with being right, how confidence falls along the
removal of pixels, and where all this comes from, and it shows the most and the least overinterpreted images. The leak
controls are those that `jax-sis controls` left in the run's folder; without them, it says so. The images are read from
where the run had them; without them, it says so, too.
""",
    examples=(
      "report jax-sis-results",
      "controls runs/sis && jax-sis report runs/sis --out sis.html --gallery 12",
      "report runs/sis --analysis jax-sis-analysis --checkpoint CLASSIFIER --data-dir DATA",
      "report runs/sis --soundness jax-sis-soundness",
    ),
    after_interrupt=KEEPS_NOTHING,
  ),
}
