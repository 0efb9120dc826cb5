"""`jax-sis demo shortcut`: is a shortcut that is known found?

The embedded classifier gets a detector of a small tag (`evaluation.planted`), and a quarter of some horses the tag; or
a classifier that was trained with it is asked. The clusters of the horses' subsets should tell the tagged ones from the
others, and the region of the tag alone should make images of other classes horses.
"""

import contextlib
import dataclasses
import io
import pathlib
from typing import Any

import numpy as np

from jax_sis.core.searches import Gradient
from jax_sis.data import training_sets
from jax_sis.display.pixels import encode_png
from jax_sis.evaluation import planted
from jax_sis.runs.config import FindConfig
from jax_sis.runs.find import find
from jax_sis.studies.clusters import program
from jax_sis.studies.clusters.config import ClustersConfig, ShortcutConfig
from jax_sis.studies.clusters.summaries import ClassClusters

MODEL = "jax_sis.evaluation.planted:embedded_with_tag"
PIXELS_A_STEP = 64
# In the name of a file.
TAGGED = "_tagged"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TagFound:
  """How well the tag was found.

  Attributes:
    num_clusters: of the horses.
    precision: of the cluster that fits the tagged images best.
    recall: of the same.
    is_first: whether it is the one to look at first.
    pasted: the share of images of other classes that its region makes horses.
  """

  num_clusters: int
  precision: float
  recall: float
  is_first: bool
  pasted: float


def shortcut(config: ShortcutConfig) -> TagFound:
  """Plants the tag, searches, and finds the clusters, or goes on with it; prints how well the tag is found.

  Raises:
    ValueError: there is no CIFAR-10 here, or the folder holds another run.
  """
  out = pathlib.Path(config.out)
  write_images(config, out / "images")
  print(f"Searching {config.num_images} horses and {9 * config.num_others} other images.", flush=True)
  run_dir = str(out / "run")
  with contextlib.redirect_stdout(io.StringIO()):
    find(
      FindConfig(
        out=run_dir,
        checkpoint=config.checkpoint,
        model_function=None if config.checkpoint else MODEL,
        data=str(out / "images"),
        search=Gradient(per_step=PIXELS_A_STEP),
        smallest=None,
        certificate="alone",
        num_devices=config.num_devices,
        gallery=0,
      )
    )
  asked = ClustersConfig(run_dir=run_dir, out=str(out / "clusters"), seed=config.seed, num_devices=config.num_devices)
  answer = program.clusters(asked)
  found = judge(answer, program.study(asked))
  print(
    f"The tag: {found.num_clusters} clusters of horses; the one that fits it has a precision of {found.precision:.2f} "
    f"and a recall of {found.recall:.2f}, is {'' if found.is_first else 'not '}first in the list, and its region makes "
    f"{found.pasted:.0%} of other images horses."
  )
  return found


def write_images(config: ShortcutConfig, folder: pathlib.Path) -> None:
  """A folder of images for each class; names of those with the tag end with it."""
  training_set: Any = training_sets.open_training_set(
    "cifar10", "test", data_dir=config.data_dir, image_size=None, on_error="refuse"
  )
  rng = np.random.default_rng(config.seed)
  is_tagged = planted.choose_tagged(config.num_images, share=0.25, seed=config.seed)
  for number, name in enumerate(training_set.class_names):
    is_target = name == planted.CLASS_NAME
    chosen = rng.choice(
      np.flatnonzero(training_set.labels == number),
      config.num_images if is_target else config.num_others,
      replace=False,
    )
    (folder / name).mkdir(parents=True, exist_ok=True)
    for place, index in enumerate(chosen):
      has_tag = is_target and is_tagged[place]
      pixels = training_set.images[index : index + 1]
      pixels = planted.put_tag(pixels) if has_tag else pixels
      path = folder / name / f"{training_set.ids[index]}{TAGGED if has_tag else ''}.png"
      path.write_bytes(encode_png(pixels[0]))


def judge(answer: dict[str, Any], classes: list[ClassClusters]) -> TagFound:
  """How well the cluster that fits the tagged images best fits them."""
  horses = next(one for one in classes if one.name == planted.CLASS_NAME)
  numbers, is_tagged = np.array(horses.numbers), np.array([TAGGED in name for name in horses.ids])
  hits = np.array([(is_tagged & (numbers == number)).sum() for number in range(len(horses.clusters))])
  sizes = np.bincount(numbers)
  best = int((hits / (sizes + is_tagged.sum())).argmax())
  pasted = horses.clusters[best].pasted
  assert pasted is not None and pasted.turned.value is not None
  first = answer["ranking"][0]
  return TagFound(
    num_clusters=len(horses.clusters),
    precision=float(hits[best] / sizes[best]),
    recall=float(hits[best] / is_tagged.sum()),
    is_first=(first["class"], first["cluster"]) == (horses.name, best + 1),
    pasted=pasted.turned.value,
  )
