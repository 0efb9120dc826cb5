"""Settings of a search over a set of images."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from jax_sis.core import validation
from jax_sis.core.chunks import LARGEST_CHUNK
from jax_sis.core.label_maps import NUM_SEGMENTS
from jax_sis.core.local_search import Exchanges
from jax_sis.core.questions import DEFAULT_MARGIN, Question, QuestionName, check_question
from jax_sis.core.searches import BackwardSearch, Exact, Forward, Gradient, Screened
from jax_sis.core.smallest import QUICK, THOROUGH
from jax_sis.core.types import Removal, ScoreName
from jax_sis.core.validation import require_one_of, require_positive
from jax_sis.data.config import Background, Folder, Ids, ModelFunction, NumDevices, OptionalFolder, check_ids
from jax_sis.runs.completion import CompletionSettings
from jax_sis.runtime.command_line import NOT_AN_OPTION, MadeBy, Option, command_line, name_folder

Precision = Literal["highest", "high", "default"]
Saved = Literal["order", "mask", "both"]
PresetName = Literal["small", "imagenet"]
# TF32 was up to 0.0012 off in 144 confidences of an H100; a TPU's bfloat16 products keep three bits less.
REDUCED_TOLERANCE = 1e-2
# The target of a run that looks for evidence of classes that nobody sees in the images.
RANDOM_TARGET = "random"
# What --features may say in the place of a file or folder.
SUPERPIXELS = "superpixels"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchOptions:
  """The options that say how `FindConfig` searches.

  Attributes:
    search: gradient: one gradient ranks all pixels (the paper's; seconds an image); screened: the gradient and earlier
      trials name a few pixels, forward passes choose (exact's size; some ten seconds); exact: every pixel is tried at
      every step (minutes); smallest: pixels are added to the masked image, then dropped and exchanged (the smallest
      subsets; seconds, no order); both: gradient and smallest side by side.
    thorough: look for the smallest subsets with four times the candidates and more exchanges (several times as long).
    per_step: pixels that a step of the gradient search masks, or with --step-share, at least.
    step_share: of the pixels that are left, how many a step of it masks, such as 0.05: many at first, few at the end.
    memory: how much of what earlier steps said counts in what its next step masks, at least 0 and below 1 (default:
      auto, nothing, and 0.9 with --completion).
  """

  search: Literal["gradient", "screened", "exact", "smallest", "both"] = "both"
  thorough: bool = False
  per_step: int = Gradient.per_step
  step_share: float = Gradient.share
  memory: Annotated[float | None, Option(word_for_none="auto")] = Gradient.memory

  def __post_init__(self) -> None:
    if self.thorough and self.search not in ("both", "smallest"):
      raise ValueError(f"--thorough must come with --search both or smallest, got --search {self.search}.")
    asked = {"--per-step": self.per_step, "--step-share": self.step_share, "--memory": self.memory}
    for (name, value), default in zip(asked.items(), dataclasses.astuple(Gradient()), strict=True):
      if value != default and self.search not in ("both", "gradient"):
        raise ValueError(f"{name} must come with --search both or gradient, got --search {self.search}.")
    require_positive("--per-step", self.per_step)
    for name in ("--step-share", "--memory"):
      if asked[name] is not None and not 0 <= asked[name] < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, got {asked[name]}.")

  def make(self) -> dict[str, Any]:
    gradient = Gradient(per_step=self.per_step, share=self.step_share, memory=self.memory)
    backward = {"gradient": gradient, "both": gradient, "screened": Screened(), "exact": Exact(), "smallest": None}
    effort = THOROUGH if self.thorough else QUICK
    return {
      "search": backward[self.search],
      "smallest": effort.forward if self.search in ("both", "smallest") else None,
      "exchanges": effort.exchanges,
    }

  @classmethod
  def of(cls, settings: "FindConfig") -> Self:
    """The options that make the searches of a run; ValueError if no options say this."""
    is_thorough = settings.smallest is not None and settings.exchanges == THOROUGH.exchanges
    for name in get_args(cls.__annotations__["search"]):
      if is_thorough and name not in ("both", "smallest"):
        continue
      found = settings.search if name in ("both", "gradient") and isinstance(settings.search, Gradient) else Gradient()
      options = cls(
        search=name, thorough=is_thorough, per_step=found.per_step, step_share=found.share, memory=found.memory
      )
      if all(getattr(settings, field) == value for field, value in options.make().items()):
        return options
    raise ValueError(f"the command line has no options for the searches {settings.search} and {settings.smallest}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FindConfig:
  """One run of `jax-sis find`: which images, which classifier, which search.

  Attributes:
    out: results folder, or the URL of one in a bucket: gs://, s3://, s3+http://HOST:PORT/BUCKET/PATH; the same again
      goes on with an unfinished run (default: jax-sis-results, and in its name what is asked beyond the defaults).
    checkpoint: a classifier's folder, or `imagenet` for EfficientNet-Lite0 (default: the embedded ResNet-20).
    model_function: instead of a folder, a function of yours that returns a `jax_sis.classifiers.ImageModel`:
      package.module:function or file.py:function, looked for from the current folder.
    data: `sample` (embedded CIFAR-10 test images; for classifiers of 128 pixels a side or more, photographs), an image
      file, a folder of images, an .npy of 8-bit pixels [N, H, W, C] with labels in `NAME_labels.npy` (of
      `NAME_data.npy`, too) or `labels.npy` beside it, or a TFDS name such as cifar10.
    split: the TFDS split, for example `test[:64]`, which counts in the order that the data set is stored in and TFDS
      shuffles (default: test).
    data_dir: the folder that holds the TFDS data set (default: TFDS's own). It and --split say that --data is one.
    ids: only these images, in this order; on the command line a text file with one id per line (default: all).
    search: the backward search, which orders all pixels; None leaves it out.
    smallest: the forward search for the smallest evidence, at this run's threshold; None leaves it out.
    exchanges: how its subsets are made smaller, see `minimise`.
    score: what the search keeps up; probability is the original authors' and ties at 1.0.
    threshold: the probability that a subset must reach.
    question: what the smallest evidence is: sufficient alone; contrastive: with it alone masked another class is
      predicted, under this fill; both: one subset does both.
    margin: by how much, in log-odds, that class must then be ahead; with --question contrastive or both.
    target: whose confidence is kept up: `predicted`, `label`, a class by name or number, or as a control `random`:
      for each image, by its id, one of the classes that are not predicted.
    baseline: what a masked pixel shows, in normalised units; 0 is the data's mean colour.
    completion: what it shows instead, drawn again and again; None for the baseline.
    removal: value: masked pixels show the baseline or the completion; layer: they are absent, by layer masking of a
      convolutional network; tokens: their tokens are absent from a transformer.
    lattice: beside the searches, evaluate every subset, of at most 16 squares of --patch pixels a side (on accelerators
      20): the smallest subset that there is (optimum), all minimal sets, exact Shapley values.
    patch: mask squares of N x N pixels together.
    features: mask together what a label map says: `superpixels` (SLIC, from `jax_sis[superpixels]`), an .npy or .png
      file with a number for each pixel (one map [H, W], or [N, H, W] in the order of the images), or a folder with one
      an image, ID.npy or ID.png.
    segments: about how many superpixels an image is divided into.
    certificate: full: evaluate each subset afresh, drop each of its pixels, look for smaller ones; alone: only the
      first of these, for large runs, since the others may take longer than the search.
    precision: of matrix products in the searches, on accelerators: highest is float32, default the fastest (TF32 on a
      GPU, bfloat16 products on a TPU); certificates always have the highest. Orders depend on it: on an H100, against
      float32 on a CPU (embedded ResNet-20, 24 images, 8 pixels a step), ranks correlated by 0.97 with highest and 0.62
      with default, the 5 percent needed most were the same to 0.92 and 0.30, and subsets had 235 and 254 pixels for
      233. All of it in bfloat16, which is no choice here: 0.57, 0.29, and 251 pixels.
    saved: keep each image's whole order and confidences, the masks of subsets in bits, or both.
    mask_thresholds: masks of the subsets at these confidences (default: at --threshold).
    mask_fractions: masks of these shares of the pixels, the most needed ones, such as 0.05.
    batch_size: images per device at a time; it is part of what the run is (default: auto, by memory and images).
    unit_size: images that are stored together, a multiple of the batch (default: by the number of images, at most 256).
    num_devices: devices to use (default: all; on a CPU one device a core).
    resize: show the middle of images of another size, brought to the classifier's; by a recipe of the classifier they
      always are.
    background: what shows through transparent pixels of image files, by name or as #RRGGBB (default: the mean colour).
    gallery: images that the gallery shows.
    tolerance: how far a certificate's confidence may be from that of a search in float32.
    chunk_size: masked copies at a time, where searches and certificates try some; like the batch it is part of what the
      run is (default: auto, by platform, size of the images and memory).
    preset: what options are that are not given: small: their defaults here; imagenet: --search gradient --per-step 10
      --step-share 0.1 --memory 0.95 (the last two unless --per-step is given: --per-step 100 is the paper's search)
      --threshold 0.9 --certificate alone --save both --mask-fraction 0.1 (default: auto, imagenet for classifiers of
      128 pixels a side or more).
    given: the options of the command line, which a preset leaves as they are; None for settings made in Python, which
      have no preset unless they name one.
  """

  out: Folder = ""
  checkpoint: OptionalFolder = None
  model_function: ModelFunction = None
  data: str = "sample"
  split: str | None = None
  data_dir: OptionalFolder = None
  ids: Ids = None
  search: Annotated[BackwardSearch | None, MadeBy(SearchOptions)] = Gradient()
  smallest: Annotated[Forward | None, NOT_AN_OPTION] = QUICK.forward
  exchanges: Annotated[Exchanges, NOT_AN_OPTION] = QUICK.exchanges
  score: ScoreName = "log_odds"
  threshold: float = 0.99
  question: QuestionName = "sufficient"
  margin: float = DEFAULT_MARGIN
  target: str = "predicted"
  baseline: float = 0.0
  completion: Annotated[CompletionSettings | None, MadeBy(CompletionSettings)] = None
  removal: Removal = "value"
  lattice: bool = False
  patch: int = 1
  features: Annotated[str | None, Option(metavar="superpixels|FILE|FOLDER")] = None
  segments: int = NUM_SEGMENTS
  certificate: Literal["full", "alone"] = "full"
  precision: Precision = "highest"
  saved: Annotated[Saved, Option(name="save")] = "order"
  mask_thresholds: Annotated[tuple[float, ...], Option(name="mask-threshold")] = ()
  mask_fractions: Annotated[tuple[float, ...], Option(name="mask-fraction")] = ()
  batch_size: Annotated[int | None, Option(name="batch", word_for_none="auto")] = None
  unit_size: Annotated[int | None, Option(name="unit")] = None
  num_devices: NumDevices = None
  resize: bool = False
  background: Background = None
  gallery: int = 24
  tolerance: Annotated[float, NOT_AN_OPTION] = 1e-3
  chunk_size: Annotated[int | None, Option(name="chunk", word_for_none="auto")] = None
  preset: Annotated[PresetName | None, Option(word_for_none="auto")] = None
  given: Annotated[frozenset[str] | None, NOT_AN_OPTION] = dataclasses.field(default=None, compare=False)

  def __post_init__(self) -> None:
    validation.check_threshold(self.threshold, "--threshold")
    validation.check_score(self.score)
    if self.search is None and self.smallest is None:
      raise ValueError("FindConfig.search and FindConfig.smallest must not both be None; there is nothing to find.")
    if self.asked is not None and (self.smallest is None or self.completion is not None):
      raise ValueError(
        f"--question {self.question} must come with --search smallest or both, which look for it, and without "
        "--completion."
      )
    check_ids(self.ids)
    require_positive("--patch", self.patch)
    self._check_features()
    sizes = {"--batch": self.batch_size, "--chunk": self.chunk_size, "--unit": self.unit_size}
    for name, value in {**sizes, "--devices": self.num_devices}.items():
      if value is not None:
        require_positive(name, value)
    if self.batch_size and self.unit_size and self.unit_size % self.batch_size:
      raise ValueError(f"--unit must be a multiple of --batch ({self.batch_size}), got {self.unit_size}.")
    if self.gallery < 0:
      raise ValueError(f"--gallery must not be negative, got {self.gallery}.")
    if not math.isfinite(self.baseline):
      raise ValueError(f"--baseline must be finite, got {self.baseline}.")
    if self.preset is not None:
      require_one_of("--preset", self.preset, get_args(PresetName))
    require_one_of("--removal", self.removal, get_args(Removal))
    if self.removal != "value":
      self._check_removal()
    require_one_of("--certificate", self.certificate, ("full", "alone"))
    require_one_of("--precision", self.precision, get_args(Precision))
    self._check_masks()
    if self.completion is not None:
      self._settle_completion()
    name_folder(self, "jax-sis-results")

  def _check_removal(self) -> None:
    """Raises ValueError for what masked pixels cannot show where they are absent."""
    shown = {"--completion": self.completion is not None, "--baseline": self.baseline != 0}
    for name, is_given in shown.items():
      if is_given:
        raise ValueError(f"{name} must not come with --removal {self.removal}, under which masked pixels show nothing.")

  def _settle_completion(self) -> None:
    """Leaves out what a certificate on unseen draws stands in for; ValueError for what cannot go with one."""
    if self.search is None or self.smallest not in (None, QUICK.forward):
      raise ValueError("--completion must come with --search gradient, screened or exact, whose orders are certified.")
    if self.baseline != 0:
      raise ValueError(f"--baseline must not come with --completion, which is shown in its place, got {self.baseline}.")
    if self.lattice:
      raise ValueError("--lattice must not come with --completion; jax_sis.lattice takes one, image by image.")
    object.__setattr__(self, "smallest", None)
    object.__setattr__(self, "certificate", "alone")

  def _check_features(self) -> None:
    if self.features is not None and self.patch != 1:
      raise ValueError(f"--patch must not come with --features, which say what is masked together, got {self.patch}.")
    if self.features is not None and self.lattice:
      raise ValueError(
        f"--lattice evaluates squares of --patch pixels a side, got --features {self.features}; leave one of them out."
      )
    if self.segments < 2:
      raise ValueError(f"--segments must be at least 2, got {self.segments}.")
    if self.segments != FindConfig.segments and self.features != SUPERPIXELS:
      raise ValueError(f"--segments is for --features {SUPERPIXELS}, got --features {self.features}; leave it out.")

  def _check_masks(self) -> None:
    require_one_of("--save", self.saved, get_args(Saved))
    is_asked = self.saved != "order" or bool(self.mask_thresholds or self.mask_fractions)
    if is_asked and self.search is None:
      raise ValueError("--save and the masks are read from a backward search's order, but --search has none.")
    if self.saved == "order" and (self.mask_thresholds or self.mask_fractions):
      raise ValueError("--mask-threshold and --mask-fraction must come with --save mask or both, got --save order.")
    for threshold in self.mask_thresholds:
      validation.check_threshold(threshold, "--mask-threshold")
    for fraction in self.mask_fractions:
      if not 0 < fraction <= 1:
        raise ValueError(f"--mask-fraction must be above 0 and at most 1, got {fraction}.")

  def command_in(self, out: str) -> str:
    """The command line that asks for the same in this folder."""
    return command_line("find", dataclasses.replace(self, out=out), has_defaults=False, given=self.given or ())

  @property
  def asked(self) -> Question | None:
    """The question of the smallest evidence; None for sufficient subsets."""
    return check_question(self.question, self.threshold, self.margin, self.score)

  @property
  def certificate_tolerance(self) -> float:
    """How far a certificate's confidence may be from the search's, at this run's precision."""
    return self.tolerance if self.precision == "highest" else max(self.tolerance, REDUCED_TOLERANCE)

  @property
  def num_draws(self) -> int:
    """Copies of each image that a step of the search evaluates, as many as fit of a lattice."""
    if self.lattice:
      return LARGEST_CHUNK
    return 1 if self.completion is None else self.completion.num_draws

  @property
  def tries_copies(self) -> bool:
    """Whether anything but the searches evaluates masked copies, `chunk_size` at a time."""
    return self.certificate == "full" or self.lattice

  @property
  def saves_order(self) -> bool:
    return self.search is not None and self.saved != "mask"

  @property
  def saved_thresholds(self) -> tuple[float, ...]:
    if self.search is None or self.saved == "order":
      return ()
    return self.mask_thresholds if self.mask_thresholds or self.mask_fractions else (self.threshold,)


def describe_precision(spec: Mapping[str, Any]) -> str:
  """What a line about the run of this specification ends with where its searches are less exact than by default."""
  precision = spec.get("precision", FindConfig.precision)
  return "" if precision == FindConfig.precision else f", precision {precision}"


def settings_to_json(config: FindConfig) -> dict[str, Any]:
  settings = dataclasses.asdict(config)
  for name in ("search", "smallest"):
    search = getattr(config, name)
    settings[name] = None if search is None else {"name": type(search).__name__, **dataclasses.asdict(search)}
    if isinstance(search, Gradient):
      # As earlier versions wrote it.
      for later in ("share", "memory"):
        if getattr(search, later) == getattr(Gradient, later):
          del settings[name][later]
  # What came of them stands in the other settings.
  del settings["preset"], settings["given"]
  if config.model_function is None:
    # Earlier versions read the settings of all other runs.
    del settings["model_function"]
  if config.completion is None:
    del settings["completion"]
  if config.removal == "value":
    del settings["removal"]
  if config.question == "sufficient":
    del settings["question"], settings["margin"]
  if config.features is None:
    del settings["features"], settings["segments"]
  if not config.lattice:
    del settings["lattice"]
  return settings


def settings_from_json(settings: Mapping[str, Any]) -> FindConfig:
  """The settings that `settings_to_json` wrote; ValueError if they are not of this version."""
  kinds = {kind.__name__: kind for kind in (Gradient, Screened, Exact, Forward)}
  try:
    values = dict(settings)
    for name in ("search", "smallest"):
      if values[name] is not None:
        options = dict(values[name])
        values[name] = kinds[options.pop("name")](**options)
    for name in ("mask_thresholds", "mask_fractions"):
      values[name] = tuple(values[name])
    if "completion" in values:
      values["completion"] = CompletionSettings(**values["completion"])
    values["ids"] = None if values["ids"] is None else tuple(values["ids"])
    values["exchanges"] = tuple((int(out), int(others)) for out, others in values["exchanges"])
    return FindConfig(**values)
  except (KeyError, TypeError) as error:
    raise ValueError(
      f"the settings of a run must be those that this version of jax_sis writes, got {error}."
    ) from error
