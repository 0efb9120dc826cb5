"""The PyTorch side of the speed comparison: gradient backward selection, a pixel a step, on a CIFAR ResNet-20.

Two ways to do the same work: as the paper's authors do it (`authors_way`), and as well as PyTorch allows
(`best_way`). Each variant hands out callables, so that another program can time them in turn with its own.

  python benchmarks/pytorch_peer.py --num-steps 8 --batch-sizes 16 32
"""

import argparse
import copy
import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

BLOCKS_PER_STAGE = 3
WIDTHS = (16, 32, 64)
NUM_CLASSES = 10
IMAGE_SIZE = 32
NUM_PIXELS = IMAGE_SIZE * IMAGE_SIZE

# A kept mask `[B, 1, 32, 32]`, 1 where the pixel shows -> the pixel to mask next `[B, 1]`; it is masked in place.
StepFn = Callable[[torch.Tensor], torch.Tensor]
# No arguments -> the pixels in the order in which they were masked `[B, num_steps]`.
RunFn = Callable[[], np.ndarray]


class UnavailableError(RuntimeError):
  """A variant cannot run on this machine; the message says why."""


class BasicBlock(nn.Module):
  """Two 3x3 convolutions, each with batch norm, and the parameter-free shortcut of option A.

  Rectifiers and the sum work in place, here and in the network, for both ways alike: no backward pass needs the
  values that they overwrite.
  """

  def __init__(self, in_width: int, width: int, stride: int):
    super().__init__()
    self.stride = stride
    self.new_channels = width - in_width
    self.conv1 = nn.Conv2d(in_width, width, 3, stride=stride, padding=1, bias=False)
    self.bn1 = nn.BatchNorm2d(width)
    self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
    self.bn2 = nn.BatchNorm2d(width)

  def forward(self, inputs: torch.Tensor) -> torch.Tensor:
    """Feature maps -> feature maps."""
    residual = self.bn1(self.conv1(inputs)).relu_()
    residual = self.bn2(self.conv2(residual))
    if self.new_channels:
      before = self.new_channels // 2
      inputs = functional.pad(
        inputs[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.new_channels - before)
      )
    return residual.add_(inputs).relu_()


class ResNet20(nn.Module):
  """ResNet-20 for 32x32 images: normalised images `[B, 3, 32, 32]` -> logits `[B, 10]`, in evaluation mode.

  The names of its arrays are those of Idelbayev's published checkpoints.
  """

  def __init__(self):
    super().__init__()
    self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
    self.bn1 = nn.BatchNorm2d(WIDTHS[0])
    self.layer1 = make_stage(WIDTHS[0], WIDTHS[0], 1)
    self.layer2 = make_stage(WIDTHS[0], WIDTHS[1], 2)
    self.layer3 = make_stage(WIDTHS[1], WIDTHS[2], 2)
    self.linear = nn.Linear(WIDTHS[2], NUM_CLASSES)
    self.eval()

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    """Normalised images -> logits."""
    hidden = self.bn1(self.conv1(images)).relu_()
    hidden = self.layer3(self.layer2(self.layer1(hidden)))
    return self.linear(hidden.mean((2, 3)))


def make_training_fn(batch_size: int, *, num_steps: int, channels_last: bool) -> Callable[[], float]:
  """The seconds of steps of SGD with Nesterov momentum on one random batch, as a PyTorch user writes them."""
  layout = torch.channels_last if channels_last else torch.contiguous_format
  model = ResNet20().train().to(memory_format=layout)
  optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
  images = torch.randn(batch_size, 3, IMAGE_SIZE, IMAGE_SIZE).to(memory_format=layout)
  labels = torch.randint(0, NUM_CLASSES, (batch_size,))

  def run() -> float:
    started = time.perf_counter()
    for _ in range(num_steps):
      optimizer.zero_grad()
      functional.cross_entropy(model(images), labels).backward()
      optimizer.step()
    return time.perf_counter() - started

  return run


def make_stage(in_width: int, width: int, stride: int) -> nn.Sequential:
  """The blocks of one resolution; the first one changes it."""
  blocks = [BasicBlock(in_width, width, stride)]
  blocks += [BasicBlock(width, width, 1) for _ in range(BLOCKS_PER_STAGE - 1)]
  return nn.Sequential(*blocks)


def load_model(path: str | os.PathLike[str]) -> ResNet20:
  """The network with the weights of a published checkpoint, with or without `module.` before each name."""
  checkpoint = torch.load(path, map_location="cpu", weights_only=True)
  state_dict = checkpoint.get("state_dict", checkpoint)
  model = ResNet20()
  model.load_state_dict({name.removeprefix("module."): array for name, array in state_dict.items()})
  return model


def random_model(seed: int) -> ResNet20:
  """The network with random weights, which take as long as trained ones."""
  with torch.random.fork_rng(devices=[]):
    torch.manual_seed(seed)
    return ResNet20()


def freeze(model: ResNet20) -> ResNet20:
  """A copy with batch norm folded into kernels and biases, channels last, and nothing that wants a gradient."""
  frozen = copy.deepcopy(model).eval()
  blocks = [module for module in frozen.modules() if isinstance(module, BasicBlock)]
  for owner, number in [(frozen, 1), *((block, number) for block in blocks for number in (1, 2))]:
    conv, norm = (getattr(owner, f"{name}{number}") for name in ("conv", "bn"))
    setattr(owner, f"conv{number}", fuse_conv_bn_eval(conv, norm))
    setattr(owner, f"bn{number}", nn.Identity())
  return frozen.requires_grad_(False).to(memory_format=torch.channels_last)


def authors_way(model: ResNet20, images: torch.Tensor, targets: torch.Tensor, num_steps: int) -> torch.Tensor:
  """Masks `num_steps` pixels an image by the gradient of the softmax probability, as the authors' code works.

  The weights want gradients, so that the backward pass forms theirs too, batch norm is a layer of its own, and
  memory is NCHW. Left out are the authors' unseeded noise against ties and their bookkeeping beyond the order.

  Args:
    model: batch norm not folded, parameters as they are after construction.
    images: normalised images `[B, 3, 32, 32]`.
    targets: the class of each image whose probability is kept up `[B]`.
    num_steps: pixels to mask, from the whole image on.

  Returns:
    The masked pixels in order, as row * 32 + column `[B, num_steps]`.
  """
  images = images.contiguous()
  removed = torch.zeros((len(images), 1, *images.shape[2:]), requires_grad=True)
  order = []
  for _ in range(num_steps):
    model.zero_grad()
    removed.grad = None
    probabilities = model((1 - removed) * images).softmax(1)
    probabilities.gather(1, targets[:, None]).sum().backward()
    assert removed.grad is not None
    with torch.no_grad():
      gradient = removed.grad.flatten(1).masked_fill(removed.flatten(1) > 0, -torch.inf)
      chosen = gradient.argmax(1, keepdim=True)
      removed.view(len(images), -1).scatter_(1, chosen, 1.0)
    order.append(chosen)
  return torch.cat(order, 1)


def best_way(
  frozen: ResNet20, images: torch.Tensor, targets: torch.Tensor, num_steps: int, *, compiled: bool = False
) -> torch.Tensor:
  """Masks `num_steps` pixels an image by the gradient of the log-odds, with no work that the order does not need.

  Args:
    frozen: what `freeze` returns.
    images: normalised images `[B, 3, 32, 32]`.
    targets: the class of each image whose log-odds are kept up `[B]`.
    num_steps: pixels to mask, from the whole image on.
    compiled: whether a step goes through torch.compile. To compile once and run often, use `variants`.

  Returns:
    The masked pixels in order, as row * 32 + column `[B, num_steps]`.
  """
  make_step_fn = make_compiled_step_fn if compiled else make_eager_step_fn
  return run_steps(make_step_fn(frozen, *prepare_inputs(images, targets)), len(images), num_steps)


def prepare_inputs(images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
  """Images in channels-last memory, and targets as a mask of logits `[B, 10]`."""
  is_target = functional.one_hot(targets, NUM_CLASSES).bool()
  return images.contiguous(memory_format=torch.channels_last), is_target


def run_steps(step_fn: StepFn, num_images: int, num_steps: int) -> torch.Tensor:
  """The order that a step function yields from the whole images on."""
  kept = torch.ones(num_images, 1, IMAGE_SIZE, IMAGE_SIZE)
  return torch.cat([step_fn(kept) for _ in range(num_steps)], 1)


def total_log_odds(frozen: ResNet20, images: torch.Tensor, is_target: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
  """Target logit minus logsumexp of the others, summed over the images."""
  logits = frozen(images * kept)
  others = logits.masked_fill(is_target, -torch.inf).logsumexp(1)
  return logits.masked_fill(~is_target, 0.0).sum() - others.sum()


def mask_next(kept: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
  """Masks, in place, the kept pixel of each image that the score wants least, and returns it `[B, 1]`."""
  kept = kept.view(len(kept), -1)
  chosen = gradient.reshape(kept.shape).masked_fill(kept == 0, torch.inf).argmin(1, keepdim=True)
  kept.scatter_(1, chosen, 0.0)
  return chosen


def make_eager_step_fn(frozen: ResNet20, images: torch.Tensor, is_target: torch.Tensor) -> StepFn:
  """A step in eager mode, differentiated with respect to the mask alone."""

  def step_fn(kept: torch.Tensor) -> torch.Tensor:
    leaf = kept.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(total_log_odds(frozen, images, is_target, leaf), leaf)
    return mask_next(kept, gradient)

  return step_fn


def make_compiled_step_fn(
  frozen: ResNet20, images: torch.Tensor, is_target: torch.Tensor, *, freezing: bool = True
) -> StepFn:
  """A step as one graph of torch.compile: forward pass, gradient with respect to the mask, choice and update.

  Args:
    frozen: what `freeze` returns.
    images: normalised images `[B, 3, 32, 32]`.
    is_target: 1 at the logit of each image's class `[B, 10]`.
    freezing: whether the weights become constants of the graph, laid out ahead of time.

  Raises:
    UnavailableError: torch.compile does not work here.
  """

  def step(kept: torch.Tensor) -> torch.Tensor:
    # torch.compile takes torch.func.grad whole, where it refuses torch.autograd.grad.
    gradient = torch.func.grad(lambda mask: total_log_odds(frozen, images, is_target, mask))(kept)
    return mask_next(kept, gradient)

  # Without isolation all batch sizes and variants share one limit of eight compilations.
  compiled_fn = torch.compile(
    step, fullgraph=True, dynamic=False, options={"freezing": freezing}, isolate_recompiles=True
  )

  def step_fn(kept: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
      return compiled_fn(kept)

  try:
    run_steps(step_fn, len(images), 1)
  except Exception as error:  # Whatever the compiler lacks, the other variants still run.
    reason = " ".join(str(error).split())[:300]
    raise UnavailableError(f"torch.compile failed: {type(error).__name__}: {reason}") from error
  return step_fn


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
  """One way to do the work.

  Attributes:
    name: for tables.
    make_fn: batch size -> a callable that masks the first pixels of a fixed batch and returns their order
      `[B, num_steps]`. Compiling happens here, not in the callable; raises UnavailableError where it cannot.
  """

  name: str
  make_fn: Callable[[int], RunFn]


def make_variants(model: ResNet20, *, num_steps: int, seed: int = 0) -> tuple[Variant, ...]:
  """Every variant, on the batch that `make_batch` yields for the seed. All are in float32 on CPU."""
  frozen = freeze(model)

  def make_authors_fn(batch_size: int) -> RunFn:
    images, targets = to_tensors(*make_batch(batch_size, seed))
    return lambda: authors_way(model, images, targets, num_steps).numpy()

  def make_best_fn(make_step_fn: Callable[..., StepFn], batch_size: int, **options: bool) -> RunFn:
    images, targets = to_tensors(*make_batch(batch_size, seed))
    step_fn = make_step_fn(frozen, *prepare_inputs(images, targets), **options)
    return lambda: run_steps(step_fn, batch_size, num_steps).numpy()

  return (
    Variant(name="authors' way", make_fn=make_authors_fn),
    Variant(name="best, eager", make_fn=lambda size: make_best_fn(make_eager_step_fn, size)),
    Variant(name="best, compiled", make_fn=lambda size: make_best_fn(make_compiled_step_fn, size, freezing=False)),
    Variant(name="best, compiled, frozen", make_fn=lambda size: make_best_fn(make_compiled_step_fn, size)),
  )


def make_batch(batch_size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Noise as normalised images `[B, 32, 32, 3]`, in the layout that JAX wants, and random targets `[B]`."""
  generator = np.random.default_rng(seed)
  images = generator.standard_normal((batch_size, IMAGE_SIZE, IMAGE_SIZE, 3), np.float32)
  return images, generator.integers(NUM_CLASSES, size=batch_size, dtype=np.int32)


def to_tensors(images: np.ndarray, targets: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
  """Images `[B, 32, 32, 3]` and targets `[B]` -> contiguous `[B, 3, 32, 32]`, and 64-bit targets."""
  return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(targets).long()


def use_all_cores() -> int:
  """Gives PyTorch a thread for each core that this process may use, and returns their number."""
  num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
  torch.set_num_threads(num_cores)
  return num_cores


def time_in_turn(run_fns: Sequence[RunFn], *, repeats: int) -> list[float]:
  """Median seconds of each callable, after one run that does not count; all run once before any runs again."""
  for run_fn in run_fns:
    run_fn()
  seconds: list[list[float]] = [[] for _ in run_fns]
  for _ in range(repeats):
    for run_fn, measured in zip(run_fns, seconds, strict=True):
      start = time.perf_counter()
      run_fn()
      measured.append(time.perf_counter() - start)
  return [statistics.median(measured) for measured in seconds]


def measure(variants: Sequence[Variant], batch_size: int, *, num_steps: int, repeats: int) -> Iterator[tuple[str, str]]:
  """Yields the name of each variant with its image-steps a second, or with the reason why it cannot run."""
  run_fns: dict[str, RunFn] = {}
  reasons: dict[str, str] = {}
  for variant in variants:
    try:
      run_fns[variant.name] = variant.make_fn(batch_size)
    except UnavailableError as error:
      reasons[variant.name] = str(error)
  seconds = dict(zip(run_fns, time_in_turn(list(run_fns.values()), repeats=repeats), strict=True))
  for variant in variants:
    if variant.name in seconds:
      yield variant.name, f"{batch_size * num_steps / seconds[variant.name]:.0f}"
    else:
      yield variant.name, reasons[variant.name]


def main(arguments: Sequence[str] | None = None) -> None:
  """Prints image-steps a second of every variant and batch size."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--num-steps", type=int, default=24, help="pixels to mask in a run")
  parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 32], help="images at a time")
  parser.add_argument("--repeats", type=int, default=5, help="timed runs of each variant; the median counts")
  parser.add_argument("--weights", help="a checkpoint of ResNet-20; random weights without it")
  parser.add_argument("--seed", type=int, default=0, help="seed of the images and of random weights")
  options = parser.parse_args(arguments)

  num_threads = use_all_cores()
  print(
    f"PyTorch {torch.__version__}, {num_threads} threads, {options.num_steps} steps, median of {options.repeats} runs"
  )
  model = load_model(options.weights) if options.weights else random_model(options.seed)
  variants = make_variants(model, num_steps=options.num_steps, seed=options.seed)
  print(f"{'batch':>5}  {'variant':<24}{'image-steps/s':>14}")
  for batch_size in options.batch_sizes:
    for name, result in measure(variants, batch_size, num_steps=options.num_steps, repeats=options.repeats):
      print(f"{batch_size:>5}  {name:<24}{result:>14}")


if __name__ == "__main__":
  main()
