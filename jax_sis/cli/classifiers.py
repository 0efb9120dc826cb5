"""The commands on classifiers: `evaluate`, `bench`, `train`, `checkpoint import`, `checkpoint ensemble`."""

import dataclasses
from typing import Annotated, Literal

from jax_sis.cli.options import DEVICE, IMAGE, WORKER, get_devices_ready
from jax_sis.cli.parsing import BEGINS_ANEW, Command
from jax_sis.data.config import Folder, OptionalFolder
from jax_sis.evaluation.config import EvaluateConfig
from jax_sis.results.subset_options import SubsetOptions
from jax_sis.runs.options import BenchOptions
from jax_sis.runtime import devices
from jax_sis.runtime.command_line import Option
from jax_sis.runtime.engines import Engine

SUBSET = "subset subset_fraction subset_threshold subset_answer random_fraction subset_seed fill"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions:
  """What `jax-sis train` trains, of what, and where.

  Attributes:
    config: a recipe: a Python file that binds `config`, or one that comes with jax_sis, by name: cifar10_resnet20.
    data_dir: the folder that holds the TFDS data set (default: TFDS's own).
    out: gets the state, the metrics and the classifier.
    overrides: changes a setting of the recipe, such as seed=1, schedule.peak=0.3 or augmentation.flip=none; epochs=30
      shortens or lengthens all stages and the schedule alike; may come several times.
    tensorboard: also write TensorBoard events (needs jax_sis[tensorboard]).
  """

  config: Annotated[str, Option(metavar="CONFIG", is_positional=True)]
  data_dir: OptionalFolder = None
  out: Folder
  overrides: Annotated[tuple[str, ...], Option(name="set", metavar="NAME=VALUE", is_repeated=True)] = ()
  tensorboard: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportOptions:
  """Of which weights `jax-sis checkpoint import` makes a classifier.

  Attributes:
    file: the file with the state dict.
    normalisation: what is made of pixels: cifar10, cifar100 or imagenet2012, or six numbers separated by commas, the
      means and standard deviations of red, green and blue in 0..1 (default: the recipe's).
    recipe: how the input is made, by interpolation, size and shorter side, such as bicubic-224-256 (default: that of
      the architecture's published weights of ImageNet).
    model: the architecture (default: the one that the arrays fit).
    classes: a text file with one class per line, an index in JSON, or a TFDS data set (default: ImageNet's for 1,000
      classes by a recipe, else numbers).
    data_dir: the folder that holds that data set (default: TFDS's own).
    size: pixels a side (default: the recipe's, or 32).
    key: which state dict, where the file holds several, or what the names of the network's arrays begin with.
    out: the classifier's folder.
  """

  file: Annotated[str, Option(metavar="FILE", is_positional=True)]
  normalisation: Annotated[str | None, Option(metavar="NAME")] = None
  recipe: Annotated[str | None, Option(metavar="NAME")] = None
  model: Annotated[str | None, Option(metavar="NAME")] = None
  classes: Annotated[str | None, Option(metavar="NAME")] = None
  data_dir: OptionalFolder = None
  size: int | None = None
  key: Annotated[str | None, Option(metavar="NAME")] = None
  out: Folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnsembleOptions:
  """Which classifiers `jax-sis checkpoint ensemble` joins.

  Attributes:
    members: the members' folders.
    average: what is averaged.
    out: the ensemble's folder.
  """

  members: Annotated[tuple[str, ...], Option(metavar="DIR [DIR ...]", is_positional=True)]
  average: Literal["probabilities", "logits"] = "probabilities"
  out: Folder


def run_evaluate(config: EvaluateConfig, engine: Engine) -> None:
  get_devices_ready(config.num_devices, engine)
  from jax_sis.evaluation import evaluate

  evaluate.evaluate(config, engine)


def run_bench(options: BenchOptions) -> None:
  devices.use_one_cpu_device_per_core(options.num_devices)
  from jax_sis.runs import bench

  bench.bench(options)


def run_train(options: TrainOptions, shown: SubsetOptions) -> None:
  from jax_sis.training import train
  from jax_sis.training.config import load_config

  config = load_config(options.config, options.overrides)
  config = dataclasses.replace(config, subset=shown.make()["subset"] or config.subset)
  devices.use_one_cpu_device_per_core(config.num_devices)
  directory = train.train(config, data_dir=options.data_dir, out_dir=options.out, tensorboard=options.tensorboard)
  print(f"Written to {directory}; use it by jax-sis find --checkpoint {directory}")


def run_import(options: ImportOptions) -> None:
  from jax_sis.classifiers import import_checkpoint

  class_names = options.classes and import_checkpoint.read_class_names(options.classes, data_dir=options.data_dir)
  given = options.normalisation
  classifier = import_checkpoint.import_weights(
    options.file,
    out_dir=options.out,
    normalisation=None if given is None else import_checkpoint.parse_normalisation(given),
    recipe=options.recipe,
    model_name=options.model,
    class_names=class_names,
    image_size=options.size,
    key=options.key,
  )
  print(f"{classifier.model_name}, {len(classifier.class_names)} classes; use it by --checkpoint {options.out}")


def run_ensemble(options: EnsembleOptions) -> None:
  from jax_sis.classifiers import import_checkpoint

  classifier = import_checkpoint.join_ensemble(options.members, average=options.average, out_dir=options.out)
  print(f"{classifier.model_name}, mean of {options.average}; use it by --checkpoint {options.out}")


COMMANDS = {
  "evaluate": Command(
    settings=(EvaluateConfig, Engine),
    run_fn=run_evaluate,
    description="""\
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
""",
    examples=(
      "evaluate",
      "evaluate --checkpoint runs/mine/classifier --data cifar10 --data-dir DATA --out runs/evaluation",
      "evaluate --data cifar10 --data-dir DATA --corruptions made --limit 2000 --out runs/robustness",
      "evaluate --data cifar10 --data-dir DATA --corruptions DATA/CIFAR-10-C --out runs/cifar10c",
      "evaluate --data cifar10 --data-dir DATA --subset runs/sis --subset-fraction 0.05 --out runs/on_subsets",
      "evaluate --data cifar10 --data-dir DATA --random-fraction 0.05 --out runs/on_random_pixels",
      "evaluate --data photos/ --resize",
    ),
    groups={
      "image": f"{IMAGE} limit on_error",
      "corruption": "corruptions seed",
      "pixel subset": SUBSET,
      "output": "out num_bins level",
      "device": DEVICE,
      "worker": WORKER,
    },
  ),
  "bench": Command(
    settings=(BenchOptions,),
    run_fn=run_bench,
    description="""\
Times a search on all local devices and prints for each batch size image-steps a second, seconds for a whole image, and
which share of the rate of a large matrix product its own products and sums reach. One image-step of the gradient search
is a forward pass and an input gradient of one image; a 32x32 image at one pixel a step takes 1,025 of them.
""",
    examples=(
      "bench --batch 8 32",
      "bench --search screened --model mine.py:load --json",
    ),
    groups={"device": "batch_sizes num_devices"},
    after_interrupt=BEGINS_ANEW,
  ),
  "train": Command(
    settings=(TrainOptions, SubsetOptions),
    run_fn=run_train,
    description="""\
Trains a classifier as a configuration file says and writes a checkpoint that `find` and `evaluate` take. The state is
saved after every epoch; the same command again goes on from there and, on the same machine, ends with the same bits.

With --subset or --random-fraction it trains, and evaluates what is held out, on these pixels of each image alone, which
move and flip with it.
""",
    examples=(
      "train cifar10_resnet20 --data-dir DATA --out runs/mine",
      "train cifar10_resnet20 --set epochs=8 --set seed=1 --data-dir DATA --out runs/short",
      "train cifar10_resnet20_subset --data-dir DATA --subset runs/train_sis --subset-fraction 0.05 "
      "--out runs/on_subsets",
    ),
    groups={"pixel subset": SUBSET},
  ),
  "checkpoint import": Command(
    settings=(ImportOptions,),
    run_fn=run_import,
    description="""\
Makes a classifier of PyTorch's weights: a state dict in a .pt, .pth, .th, .npz or .safetensors file, for which PyTorch
itself is not needed; what a trainer has saved beside it is left out. The architecture is recognised by the names and
shapes of the arrays, whatever these names begin with. How its input is made is in no such file; for architectures with
published weights of ImageNet their recipe is taken, and said, and for all others --normalisation must say it.
""",
    examples=(
      "checkpoint import resnet50.pth --out runs/resnet50",
      "checkpoint import resnet20.th --normalisation imagenet2012 --classes cifar10 --data-dir DATA --out runs/r20",
      "checkpoint import mine.pt --normalisation 0.5,0.5,0.5,0.5,0.5,0.5 --classes names.txt --out runs/mine",
    ),
    after_interrupt=BEGINS_ANEW,
  ),
  "checkpoint ensemble": Command(
    settings=(EnsembleOptions,),
    run_fn=run_ensemble,
    description="""\
Makes one classifier of several, which must have the same classes and input. Its answer is the mean of the members'
probabilities or logits.
""",
    after_interrupt=BEGINS_ANEW,
  ),
}
