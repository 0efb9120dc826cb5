"""Components against a known shortcut: is the tag found, and does taking its component away undo it?

  python benchmarks/components_planted.py --data-dir DATA --out planted.jsonl [--checkpoint runs/planted/classifier]

A detector of a tag is wired into the embedded ResNet-20 (`jax_sis.evaluation.planted`), so that the tag says "horse".
Components of "horse" are found on training images of it, half of which bear the tag. Asked of the one of the largest
share: how well it tells tagged from clean test images (area under the ROC curve), and without it (SpuFix), how many
tagged images of other classes are called "horse", and how many clean images are right. With --checkpoint the same of a
classifier that was trained with the tag (`planted_data.py`); DATA are the images without it.
"""

import argparse
import json
from typing import Any

import numpy as np

from jax_sis.classifiers import checkpoint, frozen, linear_head
from jax_sis.data import training_sets
from jax_sis.evaluation import planted
from jax_sis.runtime import devices
from jax_sis.runtime.device_program import DeviceProgram
from jax_sis.statistics.estimates import difference_of, share_of
from jax_sis.statistics.separation import separate
from jax_sis.studies.components.principal import find_components

NUM_TRAINED = 1000
BATCH_SIZE = 100


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--data-dir")
  parser.add_argument("--checkpoint", help="a classifier that was trained with the tag (default: it is wired in)")
  parser.add_argument("--detector", nargs="+", default=["linear"], choices=["linear", "distance"])
  parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
  parser.add_argument("--out", required=True)
  options = parser.parse_args()
  devices.use_one_cpu_device_per_core()
  train, test = (
    training_sets.open_training_set("cifar10", split, data_dir=options.data_dir, image_size=None, on_error="refuse")
    for split in ("train", "test")
  )
  with open(options.out, "a") as file:
    for detector in ["trained"] if options.checkpoint else options.detector:
      for line in measure(train, test, detector, options.checkpoint, options.seeds):
        print(json.dumps(line), flush=True)
        file.write(f"{json.dumps(line)}\n")


def measure(train: Any, test: Any, detector: Any, folder: str | None, seeds: list[int]) -> list[dict[str, Any]]:
  """A line a seed, which decides the training images and which of them bear the tag."""
  classifier = checkpoint.load_classifier(folder or checkpoint.EMBEDDED_CLASSIFIER)
  normalisation, target = classifier.normalisation, classifier.class_names.index(planted.CLASS_NAME)
  predict_fn, params = frozen.freeze(classifier.module)
  if folder:
    split = linear_head.find_linear_head(classifier, predict_fn, params)
    features_fn, kernel, bias = split.features_fn, split.kernel, split.bias
  else:
    predict_fn, params = planted.wire_tag(
      predict_fn, params, normalisation=normalisation, target=target, detector=detector
    )
    features_fn = predict_fn.features
    kernel, bias = (np.asarray(array, np.float64) for array in predict_fn.head(params))
  program = DeviceProgram(features_fn, params, local_devices=devices.local_devices(None), batch_size=BATCH_SIZE)

  def see(images: np.ndarray) -> np.ndarray:
    size = program.launch_size
    batches = ((None, (normalisation.apply(images[at : at + size]),)) for at in range(0, len(images), size))
    return np.concatenate([found for _, found in program.run_all(batches)])

  is_own = test.labels == target
  clean, tagged = see(test.images), see(planted.put_tag(test.images))
  horses = np.flatnonzero(train.labels == target)
  # Each horse once, with the tag and without.
  both = [see(images) for images in (train.images[horses], planted.put_tag(train.images[horses]))]
  lines = []
  for seed in seeds:
    chosen = np.random.default_rng(seed).permutation(len(horses))[:NUM_TRAINED]
    is_tagged = planted.choose_tagged(NUM_TRAINED, share=0.5, seed=seed)
    features = np.where(is_tagged[:, None], both[1][chosen], both[0][chosen])
    found = find_components(features, kernel[:, target], float(bias[target]))
    place = int(found.shares.argmax())
    values = {name: found.project(seen)[:, place] for name, seen in (("clean", clean), ("tagged", tagged))}
    logits = {name: seen @ kernel + bias for name, seen in (("clean", clean), ("tagged", tagged))}
    fixed = {name: logits[name].copy() for name in logits}
    for name, array in fixed.items():
      array[:, target] -= np.maximum(values[name], 0)
    right = {kind: array["clean"].argmax(1) == test.labels for kind, array in (("as_is", logits), ("fixed", fixed))}
    lines.append(
      {
        "detector": detector,
        "seed": seed,
        "component": place + 1,
        "share": float(found.shares[place]),
        "area_among_horses": separate(values["tagged"][is_own], values["clean"][is_own]).area,
        "area_among_all": separate(values["tagged"], values["clean"]).area,
        # Of every component, to see whether another one is the tag.
        "areas_of_first_ten": [
          separate(found.project(tagged[is_own])[:, one], found.project(clean[is_own])[:, one]).area
          for one in range(10)
        ],
        "tagged_others_called_horse": {
          kind: share_of(array["tagged"][~is_own].argmax(1) == target).to_json()
          for kind, array in (("as_is", logits), ("fixed", fixed))
        },
        "clean_accuracy": {kind: share_of(is_right).to_json() for kind, is_right in right.items()},
        "clean_change": difference_of(right["fixed"], right["as_is"], seed=seed).to_json(),
        "clean_horses_right": {kind: share_of(is_right[is_own]).to_json() for kind, is_right in right.items()},
      }
    )
  return lines


if __name__ == "__main__":
  main()
