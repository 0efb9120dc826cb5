"""The options of the commands on runs of `find`: `verify`, `controls`, `status`, `export`, `analyse`, `report`."""

import argparse

from jax_sis.cli.options import add_number_of_devices

VERIFY_DESCRIPTION = """\
Checks what a run of `find` has stored: that every chunk of every finished unit can be read and has its checksum, that
ids and labels are those of the data and the numbers do not contradict each other, and, for some units drawn at random,
that computing them again gives the same bits. It says what is damaged, and takes the marks of these units away, so that
the same `jax-sis find` as before computes them again and no others.

Other versions of JAX and other devices compute other last bits. There, --sample 0 makes all checks but the last.
The exit code is 0 where all that is finished is sound, 1 where something is damaged, 2 where it cannot be checked.
"""
VERIFY_EPILOG = """\
examples:
  jax-sis verify jax-sis-results
  jax-sis verify runs/imagenet --sample 16 --checkpoint CLASSIFIER --data-dir DATA
  jax-sis verify gs://BUCKET/imagenet --sample 0 --report-only
"""
CONTROLS_DESCRIPTION = """\
Do the subsets of a run still work when what may leak is taken away? A subset may convince a classifier by more than the
values of its pixels: by its shape, by edges against one even background, by that background's colour. So each subset is
shown in other ways: with the cells around it put back (1, 2); with the rest black, grey, in the image's mean colour,
blurred, noise, another image of another class, or imputed from what is kept (noisy linear imputation, Rong et al.
2022); its shape alone, in its mean colour or white; as many cells at random; its shape moved elsewhere; all but the
subset; nothing; and nothing of it with the blurred image. Evidence is also looked for towards classes that are not
predicted.

It prints a table and its reading for each kind of subset that the run holds, finished or not, and writes controls.json,
controls.csv (a row an image and control) and controls.png into the run's folder. Columns: the share of the images whose
class is kept, the share that reaches the run's threshold, both with Wilson intervals; the mean confidence; and the
change of the first against the subsets themselves, with a paired bootstrap interval. All in percent but the confidence.
"""
CONTROLS_EPILOG = """\
examples:
  jax-sis controls jax-sis-results
  jax-sis controls runs/sis --limit 1000 --mask-fraction 0.05 --wrong-class 0
  jax-sis controls gs://BUCKET/sis --checkpoint CLASSIFIER --data-dir DATA
"""
STATUS_DESCRIPTION = """\
Says what a run has done, from its folder alone, also while workers are at it: images done of all, images a second and
the time left by the workers that are at work, a line a worker, the parts that nobody works on and how to finish them,
how many images have which status, and the images that could not be searched, with the reasons.
"""
STATUS_EPILOG = """\
examples:
  jax-sis status runs/sis
  jax-sis status s3://bucket/runs/sis --watch 30
"""
EXPORT_DESCRIPTION = """\
Writes the finished images of a run as a table or as the arrays of the method's authors; the ending of FILE says which.

.csv, .parquet  a row an image: id, error, label, target, predicted (each class also by name), full_confidence, and for
                each kind of subset its status, size and certificate. What an image does not have is empty.
.npz            the arrays of Carter et al. (imagenet_backselect.py, and for runs of one pixel a step also SISResult),
                an image along the first axis; with {id} or {index} in FILE a file an image, which their programs read.
                mask_order [1, H, W] int32: the step, from 0, at which a pixel was removed; the run goes to the end, so
                that 0 never stands for "not removed". confidences_over_backselect [T] float32: that of the target
                before the removal of each step, so that the first is the whole image's; the fully masked image has no
                entry. original_confidences: the target's only. target_class_idx: the target.
                ordering_over_entire_backselect [F, 3] int64: (0, row, column), removed first to last.
                values_over_entire_backselect [F] float64: the confidence after each removal. mask [1, H, W] bool: True
                where the subset at the run's threshold keeps the pixel, all False where there is none. sis [k, 3]: its
                pixels, the last removed first (in files of one image only). With --patch a square counts as a pixel.
                Images that were not searched, or met a number that is not finite, are left out; index and id say which
                are there. With --masks NAME, only the subsets of that kind, as `train` and `evaluate` take them by
                --subset without the run: ids [N], masks [N, ceil(F / 8)] uint8, a bit a pixel, row by row, from each
                byte's lowest, and provenance, JSON.
"""
EXPORT_EPILOG = """\
examples:
  jax-sis export runs/sis --to table.csv
  jax-sis export runs/sis --to table.parquet --masks smallest_mask mask_threshold_0.9 mask_fraction_0.05
  jax-sis export runs/sis --to backselect.npz
  jax-sis export runs/sis --to masks.npz --masks mask_fraction_0.05
  jax-sis export runs/sis --to 'saved_models/r20/sis/cifar10_test/cifar10_test_{index}.npz'
"""
ANALYSE_DESCRIPTION = """\
Says what the subsets of whole runs show: how large they are, overall and by class; whether wrong predictions rest on
smaller ones than right predictions of the same confidence; how often the classifier is right by the size of the subset;
where on the image subsets lie, with a test of even use; and how confidence falls along the removal of pixels. Several
runs, of other classifiers or other searches, are also compared on the images that all have.

It prints short tables and writes analysis.json (all numbers, each mean and share with its interval and the number of
images), analysis.csv (sizes by run, threshold and class) and sizes.png, positions.png, confidence.png and
accuracy_by_size.png. What a run does not hold is left out, and it says why.
"""
ANALYSE_EPILOG = """\
examples:
  jax-sis analyse runs/sis
  jax-sis analyse runs/single runs/ensemble runs/dropout --labels single ensemble 'input dropout' --out compared
  jax-sis analyse runs/log_odds runs/probability --thresholds 0.9 0.99
"""
REPORT_DESCRIPTION = """\
Writes what a run of `find` shows as one HTML file that needs nothing else: it works offline, on a telephone as on a
large screen, and holds its pictures itself. Of a run that is not finished, it is of the images that are.

It says what the model needs and how little that is (sizes, why images have no subset, certificates), where that lies,
how far it is from chance and from what leaks, what that has to do with being right, how confidence falls along the
removal of pixels, and where all this comes from, and it shows the most and the least overinterpreted images. The leak
controls are those that `jax-sis controls` left in the run's folder; without them, it says so. The images are read from
where the run had them; without them, it says so, too.
"""
REPORT_EPILOG = """\
examples:
  jax-sis report jax-sis-results
  jax-sis controls runs/sis && jax-sis report runs/sis --out sis.html --gallery 12
  jax-sis report runs/sis --analysis jax-sis-analysis --checkpoint CLASSIFIER --data-dir DATA
"""


def add_verify(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
  """`jax-sis verify`."""
  parser = commands.add_parser(
    "verify",
    help="check what a run of find has stored",
    description=VERIFY_DESCRIPTION,
    epilog=VERIFY_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("run_dir", metavar="RUN_DIR", help="the run's folder, or the URL of one in a bucket")
  parser.add_argument(
    "--sample",
    type=int,
    default=4,
    metavar="N",
    help="units that are computed again and compared bit by bit; 0 leaves that out (default: %(default)s)",
  )
  parser.add_argument("--seed", type=int, default=0, metavar="S", help="which units these are (default: %(default)s)")
  parser.add_argument("--checkpoint", metavar="DIR", help="the classifier's folder (default: where the run had it)")
  parser.add_argument("--data-dir", metavar="DIR", help="the TFDS folder (default: where the run had it)")
  parser.add_argument(
    "--report-only", action="store_true", help="say what is damaged, and leave the marks of the units as they are"
  )
  add_number_of_devices(parser.add_argument_group("devices"))


def add_controls(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
  """`jax-sis controls`."""
  parser = commands.add_parser(
    "controls",
    help="see whether subsets still work when what may leak is taken away",
    description=CONTROLS_DESCRIPTION,
    epilog=CONTROLS_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("run_dir", metavar="RUN_DIR", help="the run's folder, or the URL of one in a bucket")
  parser.add_argument(
    "--limit",
    type=int,
    default=500,
    metavar="N",
    help="of each kind of subset, only the first N images that have one (default: %(default)s)",
  )
  parser.add_argument(
    "--mask-fraction",
    type=float,
    nargs="+",
    default=(),
    metavar="S",
    help="also the subsets of these shares of the pixels, the most needed ones, such as 0.05",
  )
  parser.add_argument(
    "--wrong-class",
    type=int,
    default=64,
    metavar="N",
    help="images on which evidence of other classes is looked for; 0 leaves it out (default: %(default)s)",
  )
  parser.add_argument(
    "--max-features",
    type=int,
    default=64,
    metavar="M",
    help="the size at which that is given up (default: %(default)s)",
  )
  parser.add_argument(
    "--seed", type=int, default=0, metavar="S", help="of all that is drawn at random (default: %(default)s)"
  )
  parser.add_argument("--checkpoint", metavar="DIR", help="the classifier's folder (default: where the run had it)")
  parser.add_argument("--data-dir", metavar="DIR", help="the TFDS folder (default: where the run had it)")


def add_status(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
  """`jax-sis status`."""
  parser = commands.add_parser(
    "status",
    help="show what a run has done",
    description=STATUS_DESCRIPTION,
    epilog=STATUS_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("run_dir", metavar="RUN_DIR", help="the run's folder, what find calls --out")
  parser.add_argument(
    "--watch", type=float, metavar="SECONDS", help="show it again every so often until all images are done"
  )


def add_export(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
  """`jax-sis export`."""
  parser = commands.add_parser(
    "export",
    help="write a run's results as CSV, parquet or the authors' npz, or its masks",
    description=EXPORT_DESCRIPTION,
    epilog=EXPORT_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("run_dir", metavar="RUN_DIR", help="the run's folder, what find calls --out")
  parser.add_argument("--to", required=True, metavar="FILE", help="the file, which ends in .csv, .parquet or .npz")
  parser.add_argument(
    "--masks",
    nargs="+",
    default=(),
    metavar="NAME",
    help="in tables, columns with the features that a subset keeps, numbered row by row from 0; in an .npz, one kind "
    "of subset alone, as masks: smallest_mask, mask_threshold_P or mask_fraction_S",
  )
  parser.add_argument("--partial", action="store_true", help="of an unfinished run, write what is there")


def add_analyse(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
  """`jax-sis analyse`."""
  parser = commands.add_parser(
    "analyse",
    help="say what the subsets of whole runs show, and compare runs",
    description=ANALYSE_DESCRIPTION,
    epilog=ANALYSE_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    "run_dirs",
    nargs="+",
    metavar="RUN_DIR",
    help="the run's folder, what find calls --out; the others are compared with the first",
  )
  parser.add_argument(
    "--out", default="jax-sis-analysis", metavar="DIR", help="where tables and pictures go (default: %(default)s)"
  )
  parser.add_argument(
    "--labels", nargs="+", default=(), metavar="NAME", help="what the runs are called (default: as their folders)"
  )
  parser.add_argument(
    "--thresholds",
    type=float,
    nargs="*",
    default=(0.9, 0.95, 0.99),
    metavar="P",
    help="confidences beside the run's own at which sizes are given, where it holds orders (default: 0.9 0.95 0.99)",
  )
  parser.add_argument(
    "--fraction",
    type=float,
    default=0.05,
    metavar="S",
    help="the share of the pixels, the most needed ones, whose places are counted (default: %(default)s)",
  )
  parser.add_argument(
    "--class-curves", action="store_true", help="confidence along the removal also by class, in analysis.json"
  )
  parser.add_argument("--seed", type=int, default=0, metavar="S", help="of all intervals (default: %(default)s)")


def add_report(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
  """`jax-sis report`."""
  parser = commands.add_parser(
    "report",
    help="write what a run shows as one HTML file",
    description=REPORT_DESCRIPTION,
    epilog=REPORT_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("run_dir", metavar="RUN_DIR", help="the run's folder, what find calls --out")
  parser.add_argument("--out", metavar="FILE", help="the file (default: report.html in RUN_DIR)")
  parser.add_argument(
    "--analysis",
    metavar="DIR",
    help="the folder that jax-sis analyse wrote of this run, whose numbers are shown (default: it is analysed here)",
  )
  parser.add_argument("--title", metavar="T", help="the title of the page (default: it names the model and the data)")
  parser.add_argument(
    "--gallery",
    type=int,
    default=6,
    metavar="N",
    help="of each kind of subset, the images with the N smallest and the N largest are shown (default: %(default)s)",
  )
  parser.add_argument("--checkpoint", metavar="DIR", help="the classifier's folder (default: where the run had it)")
  parser.add_argument("--data-dir", metavar="DIR", help="the TFDS folder (default: where the run had it)")
