"""The options of the commands on classifiers: `evaluate`, `bench`, `train`, `checkpoint`."""

import argparse

from jax_sis.cli.options import add_device_options, add_image_options, add_subset_options

EVALUATE_DESCRIPTION = """\
Can this classifier be trusted? Measures, on labelled images, how often it is right (accuracy, with a Wilson interval),
how much probability it gives to the truth (negative log-likelihood, NLL, in nats), and whether its confidence means
what it says (expected calibration error, ECE), each also under corruptions of the images. Prints a line a condition and
a table, and writes a folder: metrics.json, metrics.csv, calibration.png, with corruptions corruptions.png, and
predictions, an .npz a condition with the id, label, predicted class and confidence of each image. The same command
again goes on with an unfinished run.

Corruptions are those of CIFAR-10-C (Hendrycks & Dietterich, ICLR 2019) for images of 32x32 pixels: the published files
where their folder is given, or others made here with the same constants, without frost and spatter. The mean is over
the benchmark's fifteen, as far as they are there; the four extra ones stand below it.

With --subset or --random-fraction the classifier sees these pixels of each image alone. Those of an image are the same
under all corruptions: what is shown of a corrupted image is found on the image as it is.
"""
EVALUATE_EPILOG = """\
examples:
  jax-sis evaluate
  jax-sis evaluate --checkpoint runs/mine/classifier --data cifar10 --data-dir DATA --out runs/evaluation
  jax-sis evaluate --data cifar10 --data-dir DATA --corruptions made --limit 2000 --out runs/robustness
  jax-sis evaluate --data cifar10 --data-dir DATA --corruptions DATA/CIFAR-10-C --out runs/cifar10c
  jax-sis evaluate --data cifar10 --data-dir DATA --subset runs/sis --subset-fraction 0.05 --out runs/on_subsets
  jax-sis evaluate --data cifar10 --data-dir DATA --random-fraction 0.05 --out runs/on_random_pixels
  jax-sis evaluate --data photos/ --resize
"""
BENCH_DESCRIPTION = """\
Times the gradient search on all local devices and prints image-steps a second for each batch size: one image-step is a
forward pass and an input gradient of one image. A 32x32 image at one pixel a step takes 1,025 of them.
"""
TRAIN_DESCRIPTION = """\
Trains a classifier as a configuration file says and writes a checkpoint that `find` and `evaluate` take. The state is
saved after every epoch; the same command again goes on from there and, on the same machine, ends with the same bits.

With --subset or --random-fraction it trains, and evaluates what is held out, on these pixels of each image alone, which
move and flip with it.
"""
TRAIN_EPILOG = """\
examples:
  jax-sis train configs/cifar10_resnet20.py --data-dir DATA --out runs/mine
  jax-sis train configs/cifar10_resnet20_subset.py --data-dir DATA --subset runs/train_sis --subset-fraction 0.05 \\
    --out runs/on_subsets
"""
CHECKPOINT_DESCRIPTION = """\
Makes classifiers that `find`, `evaluate` and `bench` take, of what is there already.
"""
IMPORT_DESCRIPTION = """\
Makes a classifier of PyTorch's weights: a state dict in a .pt, .pth, .th, .npz or .safetensors file, for which PyTorch
itself is not needed. The architecture is recognised by the names and shapes of the arrays. How its input is made is in
no such file, and must be said.
"""
IMPORT_EPILOG = """\
examples:
  jax-sis checkpoint import resnet50.pth --normalisation imagenet2012 --out runs/resnet50
  jax-sis checkpoint import resnet20.th --normalisation imagenet2012 --classes cifar10 --data-dir DATA --out runs/r20
  jax-sis checkpoint import mine.pt --normalisation 0.5,0.5,0.5,0.5,0.5,0.5 --classes names.txt --out runs/mine
"""
ENSEMBLE_DESCRIPTION = """\
Makes one classifier of several, which must have the same classes and input. Its answer is the mean of the members'
probabilities or logits.
"""


def add_evaluate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
  """`jax-sis evaluate`."""
  parser = commands.add_parser(
    "evaluate",
    help="measure accuracy, calibration and robustness",
    description=EVALUATE_DESCRIPTION,
    epilog=EVALUATE_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  what = parser.add_argument_group("what to evaluate, and on what")
  add_image_options(what, kinds="a folder with a folder of images for each class")
  what.add_argument(
    "--limit",
    type=int,
    metavar="N",
    help="only the first N images of the data, and of each corruption and severity (default: all)",
  )
  what.add_argument(
    "--on-error",
    choices=("skip", "refuse"),
    default="skip",
    help="images that cannot be read: count and name them, or end the run (default: %(default)s)",
  )
  corrupt = parser.add_argument_group("corruptions")
  corrupt.add_argument(
    "--corruptions",
    metavar="made|DIR",
    help="'made': of the images of --data, made on the fly; a folder: the published CIFAR-10-C, with "
    "gaussian_noise.npy, ... and labels.npy (default: none)",
  )
  corrupt.add_argument(
    "--seed", type=int, default=0, metavar="N", help="of the corruptions that are made (default: %(default)s)"
  )
  add_subset_options(parser)
  output = parser.add_argument_group("output")
  output.add_argument(
    "--out", default="jax-sis-evaluation", metavar="DIR", help="results folder (default: %(default)s)"
  )
  output.add_argument(
    "--bins", type=int, default=15, metavar="M", help="bins of confidence for the calibration (default: %(default)s)"
  )
  output.add_argument(
    "--level", type=float, default=0.95, metavar="P", help="of the intervals of accuracies (default: %(default)s)"
  )
  add_device_options(parser, batch_default=64)


def add_bench(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
  """`jax-sis bench`."""
  parser = commands.add_parser(
    "bench",
    help="measure this machine's throughput",
    description=BENCH_DESCRIPTION,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--checkpoint", metavar="DIR", help="a classifier's folder (default: the embedded ResNet-20)")
  parser.add_argument(
    "--per-step", type=int, default=1, metavar="K", help="pixels that a step masks (default: %(default)s)"
  )
  parser.add_argument("--steps", type=int, default=32, metavar="T", help="steps a timed run (default: %(default)s)")
  parser.add_argument("--runs", type=int, default=5, metavar="N", help="timed runs a line (default: %(default)s)")
  add_device_options(parser, batch_default=(2, 8, 32))


def add_train(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
  """`jax-sis train`."""
  parser = commands.add_parser(
    "train",
    help="train a classifier from a configuration file",
    description=TRAIN_DESCRIPTION,
    epilog=TRAIN_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("config", help="a Python file that binds `config`, such as configs/cifar10_resnet20.py")
  parser.add_argument("--data-dir", metavar="DIR", help="the folder that holds the TFDS data set (default: TFDS's own)")
  parser.add_argument("--out", required=True, metavar="DIR", help="gets the state, the metrics and the classifier")
  parser.add_argument(
    "--set",
    action="append",
    default=[],
    metavar="NAME=VALUE",
    help="changes a setting of the configuration, such as seed=1 or num_devices=4; may come several times",
  )
  parser.add_argument(
    "--tensorboard", action="store_true", help="also write TensorBoard events (needs jax_sis[tensorboard])"
  )
  add_subset_options(parser)


def add_checkpoint(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
  """`jax-sis checkpoint`, a group of commands."""
  parser = commands.add_parser(
    "checkpoint",
    help="import PyTorch's weights, or join classifiers to an ensemble",
    description=CHECKPOINT_DESCRIPTION,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  subcommands = parser.add_subparsers(
    dest="checkpoint_command", required=True, metavar="command", title="commands", help="what to do"
  )
  importer = subcommands.add_parser(
    "import",
    help="make a classifier of PyTorch's weights",
    description=IMPORT_DESCRIPTION,
    epilog=IMPORT_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  importer.set_defaults(command="checkpoint import")
  importer.add_argument("file", help="the file with the state dict")
  importer.add_argument(
    "--normalisation",
    required=True,
    metavar="NAME",
    help="how the input is made: cifar10, cifar100 or imagenet2012, or six numbers separated by commas, the means and "
    "standard deviations of red, green and blue in 0..1",
  )
  importer.add_argument("--model", metavar="NAME", help="the architecture (default: the one that the arrays fit)")
  importer.add_argument(
    "--classes", metavar="NAME", help="a text file with a class a line, or a TFDS data set (default: numbers)"
  )
  importer.add_argument("--data-dir", metavar="DIR", help="the folder that holds that data set (default: TFDS's own)")
  importer.add_argument(
    "--size", type=int, metavar="N", help="pixels a side (default: 224 for resnet50, 299 for inception_v3, else 32)"
  )
  importer.add_argument("--key", metavar="NAME", help="which state dict, where the file holds several")
  importer.add_argument("--out", required=True, metavar="DIR", help="the classifier's folder")
  ensemble = subcommands.add_parser(
    "ensemble",
    help="make one classifier of several",
    description=ENSEMBLE_DESCRIPTION,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  ensemble.set_defaults(command="checkpoint ensemble")
  ensemble.add_argument("members", nargs="+", metavar="DIR", help="the members' folders")
  ensemble.add_argument(
    "--average",
    choices=("probabilities", "logits"),
    default="probabilities",
    help="what is averaged (default: %(default)s)",
  )
  ensemble.add_argument("--out", required=True, metavar="DIR", help="the ensemble's folder")
