"""Is a planted shortcut found, on several draws of images, and is none found where there is none?

    python benchmarks/planted.py --data-dir DATA --out DIR [--seeds 5] [--clean 1000] [--detector 16]
    python benchmarks/planted.py --data-dir DATA --out DIR --checkpoint runs/planted/classifier --clean 0

The embedded ResNet-20 with the tag wired in (`jax-sis demo shortcut`): for each seed 120 horses of CIFAR-10's test
split, a quarter tagged, and 180 other images; clusters, precision and recall of the best one, and what pasting its
region does; or another classifier's, such as one that was trained with the tag (`planted_data.py`). Then, with no tag
anywhere, the clusters of the embedded classifier itself on the first test images. With --detector N also the blind
spot: on N tagged horses, how many of the tag's four squares of 2x2 pixels are the four that searches find most needed,
also where the detector has no gradient at the exact tag. Lines of JSON.
"""

import argparse
import dataclasses
import json
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

import jax_sis
from jax_sis.classifiers import checkpoint, frozen
from jax_sis.core.searches import Gradient
from jax_sis.data import training_sets
from jax_sis.evaluation import planted
from jax_sis.runs.config import FindConfig
from jax_sis.runs.find import find
from jax_sis.runtime import devices
from jax_sis.studies.clusters import demo, program
from jax_sis.studies.clusters.config import ClustersConfig, ShortcutConfig

PIXELS_A_STEP = 64
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
AT_STRENGTHS = "gradient at four strengths, 16 a step"
# Of 2x2 pixels, of which the tag has four.
SQUARES = (16, 16, 1)


def ask_seed(options: argparse.Namespace, seed: int) -> dict[str, Any]:
  """The demo on the images of one seed."""
  out = pathlib.Path(options.out) / f"seed-{seed}"
  found = demo.shortcut(
    ShortcutConfig(data_dir=options.data_dir, out=str(out), checkpoint=options.checkpoint, seed=seed)
  )
  answer = json.loads((out / "clusters/clusters.json").read_text())
  beyond = [f"{one['class']} {one['cluster']}" for one in answer["ranking"] if one["is_beyond_chance"]]
  return {"seed": seed, **dataclasses.asdict(found), "beyond_chance": beyond}


def ask_clean(options: argparse.Namespace) -> dict[str, Any]:
  """The clusters of the classifier as it is."""
  out = pathlib.Path(options.out) / "clean"
  run_dir = str(out / "run")
  find(
    FindConfig(
      out=run_dir,
      data="cifar10",
      split=f"test[:{options.clean}]",
      data_dir=options.data_dir,
      search=Gradient(per_step=PIXELS_A_STEP),
      smallest=None,
      certificate="alone",
      gallery=0,
    )
  )
  answer = program.clusters(ClustersConfig(run_dir=run_dir, out=str(out / "clusters"), data_dir=options.data_dir))
  pasted = [cluster["pasted"] for one in answer["classes"].values() for cluster in one["clusters"]]
  return {
    "clean_images": options.clean,
    "clusters": len(pasted),
    "beyond_chance": sum(one["is_beyond_chance"] for one in answer["ranking"]),
    "most_turned": max(one["turned"]["share"] for one in pasted),
    "largest_difference": max(one["difference"]["mean"] for one in pasted),
    "smallest_p": min(one["p_value"] for one in pasted),
  }


def at_strengths(predict_fn: Any) -> Any:
  """The mean logits of the image at several strengths, whose gradient is none of one saturated point alone."""

  def predict(params: Any, inputs: Any) -> Any:
    return jnp.stack([predict_fn(params, strength * inputs) for strength in STRENGTHS]).mean(0)

  return predict


def ask_detectors(options: argparse.Namespace) -> list[dict[str, Any]]:
  """Of the tag's squares, how many are among as many that a search finds most needed, for both detectors."""
  classifier = checkpoint.load_classifier(checkpoint.EMBEDDED_CLASSIFIER)
  test: Any = training_sets.open_training_set(
    "cifar10", "test", data_dir=options.data_dir, image_size=None, on_error="refuse"
  )
  horse = classifier.class_names.index(planted.CLASS_NAME)
  images = test.images[np.flatnonzero(test.labels == horse)[: options.detector]]
  inputs = jnp.asarray(classifier.normalisation.apply(planted.put_tag(images)))
  region = planted.find_region()[::2, ::2].ravel()
  searches = {
    "gradient, 1 a step": jax_sis.Gradient(),
    "gradient, 16 a step": jax_sis.Gradient(per_step=16),
    "screened": jax_sis.Screened(),
    AT_STRENGTHS: jax_sis.Gradient(per_step=16),
  }
  lines = []
  for detector in ("linear", "distance"):
    predict_fn, params = planted.wire_tag(
      *frozen.freeze(classifier.module), normalisation=classifier.normalisation, target=horse, detector=detector
    )
    for name, search in searches.items():
      asked_fn = at_strengths(predict_fn) if name == AT_STRENGTHS else predict_fn
      order = jax_sis.backselect(asked_fn, params, inputs, horse, search=search, grid=SQUARES)
      ranks = np.asarray(order.rank)[:, region]
      found = {"tag_among_first": float((ranks < region.sum()).mean()), "mean_rank": float(ranks.mean())}
      lines.append({"detector": detector, "search": name, "images": len(images), **found})
  return lines


def main() -> None:
  """Asks what is asked for."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--data-dir", required=True, help="the TFDS folder with cifar10")
  parser.add_argument("--out", required=True, help="gets the runs; the same folder goes on with what is missing")
  parser.add_argument("--checkpoint", help="a classifier that was trained with the tag (default: it is wired in)")
  parser.add_argument("--seeds", type=int, default=5, help="draws of images with the tag")
  parser.add_argument("--clean", type=int, default=1000, help="test images without it; 0 leaves them out")
  parser.add_argument("--detector", type=int, default=0, help="tagged images on which searches are compared")
  options = parser.parse_args()
  devices.use_one_cpu_device_per_core(None)
  for seed in range(options.seeds):
    print(json.dumps(ask_seed(options, seed)), flush=True)
  if options.clean:
    print(json.dumps(ask_clean(options)), flush=True)
  if options.detector:
    for line in ask_detectors(options):
      print(json.dumps(line), flush=True)


if __name__ == "__main__":
  main()
