"""Settings of a search over a set of images."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from jax_sis.core import validation
from jax_sis.core.local_search import Exchanges
from jax_sis.core.searches import BackwardSearch, Exact, Forward, Gradient, Screened
from jax_sis.core.smallest import QUICK
from jax_sis.core.types import ScoreName
from jax_sis.core.validation import require_one_of, require_positive
from jax_sis.data.sources import check_ids

PRECISIONS = ("highest", "high", "default")
SAVED = ("order", "mask", "both")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FindConfig:
  """One run of `jax-sis find`: which images, which classifier, which search.

  Attributes:
    out: the folder for the results, or the URL of one in a bucket; the same again goes on with an unfinished run.
    checkpoint: a classifier's folder; None for the embedded one.
    data: `sample` (embedded CIFAR-10 test images), an image file, a folder of images, or a TFDS name.
    split: the TFDS split.
    data_dir: the TFDS folder; None for TFDS's default.
    ids: the images of the data that are searched, in this order; None for all.
    search: the backward search, which orders all pixels; None leaves it out.
    smallest: the forward search for the smallest evidence, at this run's threshold; None leaves it out.
    exchanges: how its subsets are made smaller, see `minimise`.
    score: what the searches keep up.
    threshold: the confidence that a subset must reach.
    target: `predicted`, `label`, or a class by name or number.
    baseline: what a masked pixel shows, in normalised units; 0 is the data's mean colour.
    patch: pixels a side of the squares that are masked together.
    certificate: `full` also drops each pixel of a subset and looks for smaller ones, which may take longer than the
      search; `alone` evaluates each subset once.
    precision: JAX's matmul precision in the searches; certificates always have the highest.
    saved: what is kept of the backward search: the whole `order`, bit-packed masks (`mask`), or `both`.
    mask_thresholds: masks of the subsets at these confidences; the run's own threshold if no mask is named.
    mask_fractions: masks of these shares of the pixels, the most needed ones.
    batch_size: images a device at a time; None chooses by the memory and the number of images.
    unit_size: images that are stored together, a multiple of the batch; None chooses.
    num_devices: how many local devices; None for all.
    resize: bring image files to the classifier's size.
    gallery: how many images the gallery shows.
    tolerance: how far a certificate's confidence may be from the search's.
    chunk_size: masked copies a model call when certifying.
  """

  out: str
  checkpoint: str | None = None
  data: str = "sample"
  split: str = "test"
  data_dir: str | None = None
  ids: tuple[str, ...] | None = None
  search: BackwardSearch | None = Gradient()
  smallest: Forward | None = QUICK.forward
  exchanges: Exchanges = QUICK.exchanges
  score: ScoreName = "log_odds"
  threshold: float = 0.99
  target: str = "predicted"
  baseline: float = 0.0
  patch: int = 1
  certificate: Literal["full", "alone"] = "full"
  precision: str = "highest"
  saved: Literal["order", "mask", "both"] = "order"
  mask_thresholds: tuple[float, ...] = ()
  mask_fractions: tuple[float, ...] = ()
  batch_size: int | None = None
  unit_size: int | None = None
  num_devices: int | None = None
  resize: bool = False
  gallery: int = 24
  tolerance: float = 1e-3
  chunk_size: int = 64

  def __post_init__(self) -> None:
    validation.check_threshold(self.threshold)
    validation.check_score(self.score)
    if self.search is None and self.smallest is None:
      raise ValueError("FindConfig.search and FindConfig.smallest must not both be None; there is nothing to find.")
    check_ids(self.ids)
    require_positive("--patch", self.patch)
    for name, value in (("--batch", self.batch_size), ("--unit", self.unit_size), ("--devices", self.num_devices)):
      if value is not None:
        require_positive(name, value)
    if self.batch_size and self.unit_size and self.unit_size % self.batch_size:
      raise ValueError(f"--unit must be a multiple of --batch ({self.batch_size}), got {self.unit_size}.")
    if self.gallery < 0:
      raise ValueError(f"--gallery must not be negative, got {self.gallery}.")
    if not math.isfinite(self.baseline):
      raise ValueError(f"--baseline must be finite, got {self.baseline}.")
    require_one_of("--certificate", self.certificate, ("full", "alone"))
    require_one_of("--precision", self.precision, PRECISIONS)
    self._check_masks()

  def _check_masks(self) -> None:
    require_one_of("--save", self.saved, SAVED)
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

  @property
  def saves_order(self) -> bool:
    """Whether the whole order of each image is kept."""
    return self.search is not None and self.saved != "mask"

  @property
  def saved_thresholds(self) -> tuple[float, ...]:
    """The confidences whose subsets are kept as masks."""
    if self.search is None or self.saved == "order":
      return ()
    return self.mask_thresholds if self.mask_thresholds or self.mask_fractions else (self.threshold,)


def settings_to_json(config: FindConfig) -> dict[str, Any]:
  """All settings in JSON types, paths among them."""
  settings = dataclasses.asdict(config)
  for name in ("search", "smallest"):
    search = getattr(config, name)
    settings[name] = None if search is None else {"name": type(search).__name__, **dataclasses.asdict(search)}
  return settings


def settings_from_json(settings: Mapping[str, Any]) -> FindConfig:
  """The settings that `settings_to_json` wrote.

  Raises:
    ValueError: they are not of this version.
  """
  kinds = {kind.__name__: kind for kind in (Gradient, Screened, Exact, Forward)}
  try:
    values = dict(settings)
    for name in ("search", "smallest"):
      if values[name] is not None:
        options = dict(values[name])
        values[name] = kinds[options.pop("name")](**options)
    for name in ("mask_thresholds", "mask_fractions"):
      values[name] = tuple(values[name])
    values["ids"] = None if values["ids"] is None else tuple(values["ids"])
    values["exchanges"] = tuple((int(out), int(others)) for out, others in values["exchanges"])
    return FindConfig(**values)
  except (KeyError, TypeError) as error:
    raise ValueError(
      f"the settings of a run must be those that this version of jax_sis writes, got {error}."
    ) from error
