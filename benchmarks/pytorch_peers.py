"""How ReX, captum, SHAP and LIME rank the pixels of images, from their packages: the PyTorch side of `peers.py`.

    python benchmarks/pytorch_peers.py peers --weights resnet20-12fca82f.th [--only captum]

Reads `peers/images.npz`, which `peers.py` writes, and leaves a map an image and method in `peers/maps`, so that the
command goes on where it was stopped. `--only` takes the beginnings of names: ReX wants an older NumPy than the others,
and so an environment of its own. Needs PyTorch, captum, shap, lime and rex-xai, and no JAX.

All are as they come but for what is said in `METHODS`. Masked pixels show the mean colour, 0 where images are
normalised. Seconds are the CPU time of one thread, after one image that does not count.
"""

import argparse
import dataclasses
import importlib.metadata
import pathlib
import time
from collections.abc import Callable

import numpy as np
import torch
from peer_maps import package_of, save
from pytorch_peer import IMAGE_SIZE, ResNet20, load_model

SHAPE = (IMAGE_SIZE, IMAGE_SIZE, 3)
# Side of the window that captum's occlusion moves, which has no default.
WINDOW = 4
SEED = 0
# Of the training images, how many are the background of SHAP's expected gradients.
NUM_BACKGROUNDS = 100
# Forward passes at a time, where a package lets one say; it changes the speed alone.
BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
  """The classifier and one image, in the forms that the packages want.

  Attributes:
    model: normalised images `[N, 3, 32, 32]` -> logits `[N, 10]`.
    image: normalised `[32, 32, 3]`.
    target: the predicted class.
    mean: of the colours, in 0..1.
    std: of the colours.
    pool: training images, normalised `[P, 32, 32, 3]`.
  """

  model: ResNet20
  image: np.ndarray
  target: int
  mean: np.ndarray
  std: np.ndarray
  pool: np.ndarray

  def as_tensor(self) -> torch.Tensor:
    return to_tensor(self.image[None])

  def logits(self, images: np.ndarray) -> np.ndarray:
    """Normalised images `[N, 32, 32, 3]` -> logits `[N, 10]`."""
    with torch.no_grad():
      return self.model(to_tensor(images)).numpy()


def to_tensor(images: np.ndarray) -> torch.Tensor:
  return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32))


def to_map(attributions: torch.Tensor) -> np.ndarray:
  """Of one image, summed over the colours `[32, 32]`."""
  return attributions.detach().numpy().sum(1)[0]


def rex(asked: Asked) -> np.ndarray:
  """The responsibility map, by the steps of the package's own command, which reads images from files alone."""
  from rex_xai.explanation.rex import calculate_responsibility, predict_target
  from rex_xai.input.config import CausalArgs
  from rex_xai.input.input_data import Data
  from rex_xai.responsibility.prediction import default_prediction_function
  from rex_xai.utils._utils import match_resposnibility_style

  args = CausalArgs()
  args.seed, args.batch_size, args.progress_bar = SEED, BATCH_SIZE, False
  args.responsibility_style = match_resposnibility_style(args.responsibility_style)
  data = Data(None, (1, 3, IMAGE_SIZE, IMAGE_SIZE), mode="RGB")
  data.data = asked.as_tensor()
  data.set_mask_value(args.mask_value)
  predict = default_prediction_function(asked.model)
  data.target = predict_target(data, args, predict)
  maps, _ = calculate_responsibility(data, args, predict)
  return maps.get(data.target.classification)


def integrated_gradients(asked: Asked) -> np.ndarray:
  """By default 50 steps from the mean colour."""
  from captum.attr import IntegratedGradients

  return to_map(IntegratedGradients(asked.model).attribute(asked.as_tensor(), target=asked.target))


def grad_cam(asked: Asked) -> np.ndarray:
  """Of the last convolutions, enlarged from 8x8."""
  from captum.attr import LayerAttribution, LayerGradCam

  small = LayerGradCam(asked.model, asked.model.layer3).attribute(asked.as_tensor(), target=asked.target)
  return to_map(LayerAttribution.interpolate(small, (IMAGE_SIZE, IMAGE_SIZE), interpolate_mode="bilinear"))


def occlusion(asked: Asked) -> np.ndarray:
  """A window moved a pixel at a time."""
  from captum.attr import Occlusion

  return to_map(
    Occlusion(asked.model).attribute(
      asked.as_tensor(),
      sliding_window_shapes=(3, WINDOW, WINDOW),
      strides=(3, 1, 1),
      target=asked.target,
      perturbations_per_eval=BATCH_SIZE,
    )
  )


def shap_partition(asked: Asked) -> np.ndarray:
  """Owen values of halves, quarters and so on, of the logit, by default from 500 evaluations."""
  import shap

  masker = shap.maskers.Image(np.zeros(SHAPE, np.float32), SHAPE)
  explainer = shap.PartitionExplainer(asked.logits, masker, seed=SEED)
  values = explainer(asked.image[None], batch_size=BATCH_SIZE, outputs=[asked.target], silent=True).values
  return values[0].sum((2, 3))


def shap_gradient(asked: Asked) -> np.ndarray:
  """Expected gradients of the logit, from training images in place of the mean colour."""
  import shap

  class Target(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
      return asked.model(images)[:, [asked.target]]

  explainer = shap.GradientExplainer(Target(), to_tensor(asked.pool[:NUM_BACKGROUNDS]))
  return explainer.shap_values(asked.as_tensor(), rseed=SEED)[0, ..., 0].sum(0)


def lime(asked: Asked) -> np.ndarray:
  """Weights of superpixels, by default quickshift's, from 1,000 samples of the probability."""
  from lime.lime_image import LimeImageExplainer

  def predict(images: np.ndarray) -> np.ndarray:
    logits = torch.from_numpy(asked.logits((images - asked.mean) / asked.std))
    return logits.softmax(1).numpy()

  found = LimeImageExplainer(random_state=SEED).explain_instance(
    asked.image.astype(float) * asked.std + asked.mean,
    predict,
    labels=(asked.target,),
    top_labels=None,
    hide_color=tuple(asked.mean),
  )
  weights = dict(found.local_exp[asked.target])
  return np.vectorize(weights.__getitem__, otypes=[float])(found.segments)


# By the name that tables have, which begins with the package's.
METHODS: dict[str, Callable[[Asked], np.ndarray]] = {
  "ReX": rex,
  "captum integrated gradients": integrated_gradients,
  "captum Grad-CAM": grad_cam,
  "captum occlusion": occlusion,
  "SHAP partition, 500": shap_partition,
  "SHAP gradient, training images": shap_gradient,
  "LIME, its superpixels": lime,
}
PACKAGES = {"ReX": "rex-xai", "captum": "captum", "SHAP": "shap", "LIME": "lime"}


def describe_version(name: str) -> str:
  """The package that a method is from, with its version."""
  package = PACKAGES[package_of(name)]
  return f"{package} {importlib.metadata.version(package)}"


def run_method(name: str, folder: pathlib.Path, given: dict[str, np.ndarray], model: ResNet20) -> None:
  """Leaves the maps that are not there yet."""
  folder = folder / "maps" / name
  folder.mkdir(parents=True, exist_ok=True)
  paths = {place: folder / f"{one}.npz" for place, one in enumerate(given["ids"])}
  missing = {place: path for place, path in paths.items() if not path.exists()}
  shared = {"model": model, **{key: given[key] for key in ("mean", "std", "pool")}}
  is_warm = False
  for place, path in missing.items():
    asked = Asked(image=given["inputs"][place], target=int(given["targets"][place]), **shared)
    if not is_warm:
      METHODS[name](asked)
      is_warm = True
    started = time.process_time()
    scores = METHODS[name](asked)
    seconds = time.process_time() - started
    save(path, scores=scores.astype(np.float64), seconds=seconds, version=describe_version(name))
    print(f"{name:<30} {given['ids'][place]:>4} {seconds:8.2f} s", flush=True)


def main() -> None:
  """Runs what is asked for and not there yet."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("folder", type=pathlib.Path, help="the folder that peers.py began")
  parser.add_argument("--weights", required=True, help="the published ResNet-20 state dict, resnet20-12fca82f.th")
  parser.add_argument("--only", nargs="+", metavar="NAME", help="the beginnings of the names of methods")
  options = parser.parse_args()
  torch.set_num_threads(1)
  with np.load(options.folder / "images.npz") as arrays:
    given = dict(arrays)
  model = load_model(options.weights)
  for name in METHODS:
    if not options.only or name.startswith(tuple(options.only)):
      run_method(name, options.folder, given, model)


if __name__ == "__main__":
  main()
