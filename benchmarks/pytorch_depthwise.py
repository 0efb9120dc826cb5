"""Gradient search on a network of depthwise convolutions: JAX's own convolutions, ours, and PyTorch.

EfficientNet-Lite0 at 224 pixels with random weights, 100 pixels a step; CPU milliseconds of all threads, an image-step.
`python benchmarks/pytorch_depthwise.py --batch 2`
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytorch_accelerator as peer
import torch
from accelerator_jax import compile_noise_search, make_network
from accelerator_report import make_noise
from jax import lax
from torch import nn
from torch.nn import functional

from jax_sis.classifiers import adapters

SIZE = 224
NUM_CLASSES = 1000
PER_STEP = 100
# Expansion, width, repeats, stride, kernel size (Tan and Le 2019, table 1; Lite0 has no squeeze and excitation).
STAGES = (
  (1, 16, 1, 1, 3),
  (6, 24, 2, 2, 3),
  (6, 40, 2, 2, 5),
  (6, 80, 3, 2, 3),
  (6, 112, 3, 1, 5),
  (6, 192, 4, 2, 5),
  (6, 320, 1, 1, 3),
)
STEM_WIDTH, HEAD_WIDTH = 32, 1280


class ConvNorm(nn.Module):
  """A convolution with TensorFlow's SAME padding, and batch norm."""

  def __init__(self, in_width: int, width: int, kernel_size: int, stride: int, groups: int):
    super().__init__()
    # At stride 2 and even sizes one side gets one zero less, which PyTorch's convolutions cannot do.
    self.margin = (kernel_size - 2) // 2 if stride == 2 else None
    padding = 0 if stride == 2 else kernel_size // 2
    self.conv = nn.Conv2d(in_width, width, kernel_size, stride, padding, groups=groups, bias=False)
    nn.init.kaiming_normal_(self.conv.weight)
    self.bn = nn.BatchNorm2d(width, eps=1e-3)

  def forward(self, inputs: torch.Tensor) -> torch.Tensor:
    if self.margin is not None:
      inputs = functional.pad(inputs, (self.margin, self.margin + 1) * 2)
    return self.bn(self.conv(inputs))


class Block(nn.Module):
  """An inverted residual block."""

  def __init__(self, in_width: int, width: int, expansion: int, kernel_size: int, stride: int):
    super().__init__()
    inner = in_width * expansion
    self.expand = ConvNorm(in_width, inner, 1, 1, 1) if expansion > 1 else None
    self.depthwise = ConvNorm(inner, inner, kernel_size, stride, inner)
    self.project = ConvNorm(inner, width, 1, 1, 1)
    self.has_shortcut = stride == 1 and in_width == width

  def forward(self, inputs: torch.Tensor) -> torch.Tensor:
    hidden = inputs if self.expand is None else functional.relu6(self.expand(inputs))
    outputs = self.project(functional.relu6(self.depthwise(hidden)))
    return inputs + outputs if self.has_shortcut else outputs


class Lite0(nn.Module):
  """EfficientNet-Lite0."""

  def __init__(self):
    super().__init__()
    self.stem = ConvNorm(3, STEM_WIDTH, 3, 2, 1)
    in_width, blocks = STEM_WIDTH, []
    for expansion, width, repeats, stride, kernel_size in STAGES:
      for index in range(repeats):
        blocks.append(Block(in_width, width, expansion, kernel_size, stride if index == 0 else 1))
        in_width = width
    self.blocks = nn.Sequential(*blocks)
    self.top = ConvNorm(in_width, HEAD_WIDTH, 1, 1, 1)
    self.head = nn.Linear(HEAD_WIDTH, NUM_CLASSES)

  def forward(self, inputs: torch.Tensor) -> torch.Tensor:
    hidden = functional.relu6(self.top(self.blocks(functional.relu6(self.stem(inputs)))))
    return self.head(hidden.mean((2, 3)))


def to_params(model: nn.Module) -> Any:
  """The folded network's weights for `predict`: kernels and biases in order, and the head's."""
  convs = [part for part in model.modules() if isinstance(part, nn.Conv2d)]
  kernels = [(conv.weight.permute(2, 3, 1, 0).numpy(), conv.bias.numpy()) for conv in convs]
  return kernels, (model.head.weight.T.numpy(), model.head.bias.numpy())


def predict(params: Any, inputs: Any) -> Any:
  """The folded network in plain JAX, as a user writes it."""
  weights, (head, head_bias) = params
  remaining = iter(weights)

  def conv(inputs: Any, stride: int = 1) -> Any:
    kernel, bias = next(remaining)
    return bias + lax.conv_general_dilated(
      inputs,
      kernel,
      (stride, stride),
      "SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      feature_group_count=inputs.shape[-1] // kernel.shape[2],
    )

  def relu6(inputs: Any) -> Any:
    return jnp.clip(inputs, 0, 6)

  outputs = relu6(conv(inputs, 2))
  for expansion, _, repeats, stride, _ in STAGES:
    for index in range(repeats):
      hidden = relu6(conv(outputs)) if expansion > 1 else outputs
      hidden = conv(relu6(conv(hidden, stride if index == 0 else 1)))
      outputs = outputs + hidden if index else hidden
  return relu6(conv(outputs)).mean((1, 2)) @ head + head_bias


def make_runs(batch_size: int, num_steps: int, *, is_compiled: bool) -> dict[str, Callable[[], Any]]:
  """The searches' first steps by the names of the variants, after a check that all networks agree."""
  torch.manual_seed(0)
  model = Lite0().eval()
  images, targets = make_noise(batch_size, SIZE, NUM_CLASSES)
  params = to_params(peer.fold_norms(model))
  with torch.no_grad():
    expected = model(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
  runs: dict[str, Callable[[], Any]] = {}
  for name, predict_fn in {"jax own": predict, "jax_sis": adapters.use_fast_convolutions(predict)}.items():
    np.testing.assert_allclose(jax.jit(predict_fn)(params, images), expected, rtol=1e-3, atol=1e-3 * expected.std())
    network = make_network(predict_fn, params, size=SIZE, num_classes=NUM_CLASSES)
    options = {"per_step": PER_STEP, "precision": "highest", "num_steps": num_steps}
    runs[name] = compile_noise_search(network, jax.devices()[0], batch_size=batch_size, **options).run
  options = {"precision": "highest", "per_step": PER_STEP}
  runs["torch authors"] = peer.make_authors_run(model, images, targets, num_steps=num_steps, **options)
  step_fn = peer.make_step_fn(model, images, targets, **options)
  shape = {"batch_size": batch_size, "size": SIZE, "num_steps": num_steps, "is_tf32": False}
  runs["torch best eager"] = peer.make_eager_run(step_fn, **shape)
  if is_compiled:
    runs["torch compile"] = peer.make_compiled_run(step_fn, **shape)
  return runs


def main() -> None:
  """Prints a line for each variant."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--batch", type=int, default=2)
  parser.add_argument("--steps", type=int, default=3)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--compile", action="store_true", help="torch.compile, besides")
  options = parser.parse_args()
  # On a busy machine PyTorch's threads wait for each other in a loop that costs CPU time; one alone does not.
  torch.set_num_threads(1)
  runs = make_runs(options.batch, options.steps, is_compiled=options.compile)
  for run in runs.values():
    run()
  seconds: dict[str, list[float]] = {name: [] for name in runs}
  for _ in range(options.rounds):
    for name, run in runs.items():
      started = time.process_time()
      run()
      seconds[name].append(time.process_time() - started)
  for name, measured in seconds.items():
    each = [1e3 * value / options.batch / options.steps for value in measured]
    print(f"{name}: median {np.median(each):.1f}, {min(each):.1f} to {max(each):.1f} CPU-ms an image-step", flush=True)


if __name__ == "__main__":
  main()
