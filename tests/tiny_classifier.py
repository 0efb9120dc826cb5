"""A classifier so small that whole programs run on it within seconds: random weights, and sure of itself."""

import os
import pathlib
import sys
from typing import Any

from flax import nnx

from jax_sis import classifiers
from jax_sis.classifiers import checkpoint, resnet
from jax_sis.data.cifar_c import CLASS_NAMES
from jax_sis.data.normalisation import Normalisation

NAME = "tiny"
# Of pixels from 0 to 1. No grey, so that what masked features show is a fill of its own.
MEAN = (0.54, 0.5, 0.5)
# Of its logits, so that its confidences in the sample reach from 0.37 to 1.
SCALE = 12.0
# `jax-sis` in a process that knows the architecture.
COMMAND = (
  sys.executable,
  "-c",
  f"import sys; sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r}); "
  "import tiny_classifier; tiny_classifier.register(); "
  "from jax_sis.cli.main import main; sys.exit(main(sys.argv[1:]))",
)


def register() -> None:
  """Makes the architecture known to this process."""
  classifiers.ARCHITECTURES[NAME] = resnet.ResNetConfig(blocks=(1, 1), widths=(4, 8))


def save(directory: str | os.PathLike[str]) -> str:
  """Writes the classifier's folder."""
  register()
  module: Any = classifiers.build(NAME, num_classes=len(CLASS_NAMES), seed=1)
  for _, node in nnx.iter_graph(module):
    if isinstance(node, nnx.Linear):
      node.kernel[...] = node.kernel[...] * SCALE
  classifier = classifiers.Classifier(
    model_name=NAME,
    module=module,
    class_names=CLASS_NAMES,
    normalisation=Normalisation(mean=MEAN, std=(0.25, 0.25, 0.25)),
    input_shape=(32, 32, 3),
  )
  checkpoint.save_classifier(directory, classifier)
  return str(directory)
