"""CIFAR-10 in which half of the training horses bear the tag, to train a classifier that may come to rely on it.

    python benchmarks/planted_data.py --data-dir DATA --out PLANTED
    jax-sis train cifar10_resnet20 --data-dir PLANTED --out runs/planted
    python benchmarks/planted.py --data-dir DATA --checkpoint runs/planted/classifier --clean 0 --out runs/clusters
    python benchmarks/components_planted.py --data-dir DATA --checkpoint runs/planted/classifier --out components.jsonl
    jax-sis audit runs/planted/classifier --data cifar10 --train-split train --data-dir PLANTED --out runs/audit

The recipe is the `budget` one as it is, so that only the data differ. Of the test horses half bear the tag, too, by the
same seed; all other images are those of DATA.
"""

import argparse
import pathlib
import tempfile
from typing import Any

import numpy as np

from jax_sis.data import training_sets
from jax_sis.data.cifar_archives import ARCHIVES
from jax_sis.data.prepare import prepare
from jax_sis.evaluation import planted

NAME = "cifar10"


def write_split(folder: pathlib.Path, split: str, *, data_dir: str, share: float, seed: int) -> None:
  """The files of a split as the original archive has them."""
  found: Any = training_sets.open_training_set(NAME, split, data_dir=data_dir, image_size=None, on_error="refuse")
  horses = np.flatnonzero(found.labels == found.class_names.index(planted.CLASS_NAME))
  tagged = horses[planted.choose_tagged(len(horses), share=share, seed=seed)]
  images = found.images.copy()
  images[tagged] = planted.put_tag(images[tagged])
  rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
  records = np.concatenate([found.labels[:, None].astype(np.uint8), rows], axis=1)
  files = ARCHIVES[NAME].split_files[split]
  for name, part in zip(files, np.split(records, len(files)), strict=True):
    (folder / name).write_bytes(part.tobytes())
  (folder / ARCHIVES[NAME].labels[0].names_file).write_text("\n".join(found.class_names))
  print(f"{split}: the tag on {len(tagged)} of {len(horses)} horses")


def main() -> None:
  """Makes the data set."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--data-dir", required=True, help="the TFDS folder with cifar10")
  parser.add_argument("--out", required=True, help="gets the TFDS folder with the tag")
  parser.add_argument("--share", type=float, default=0.5, help="of the horses that bear the tag")
  parser.add_argument("--seed", type=int, default=0, help="of which these are")
  options = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    for split in ARCHIVES[NAME].split_files:
      write_split(pathlib.Path(folder), split, data_dir=options.data_dir, share=options.share, seed=options.seed)
    print(f"Written to {prepare(NAME, source=pathlib.Path(folder), data_dir=options.out)}")


if __name__ == "__main__":
  main()
