"""The PyTorch side of `accelerator.py`: gradient backward selection as the authors run it, and as fast as it can be.

The networks are `pytorch_peer.ResNet20` and torchvision's ResNet-50, on the GPU where there is one.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerator_report import TORCH_NAMES, Report
from pytorch_peer import ResNet20
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# A kept mask `[B, 1, S, S]` -> the pixels to mask next `[B, per_step]`; they are masked in place.
StepFn = Callable[[torch.Tensor], torch.Tensor]
RunFn = Callable[[], np.ndarray]


def set_tf32(is_on: bool) -> None:
  torch.backends.cudnn.allow_tf32 = is_on
  torch.backends.cuda.matmul.allow_tf32 = is_on


def make_matmuls(size: int) -> dict[str, Callable[[], None]]:
  """Five products of a random matrix of `size` with itself, in each precision."""

  def make(dtype: torch.dtype, is_tf32: bool) -> Callable[[], None]:
    matrix = torch.randn(size, size, device=DEVICE).to(dtype)

    def run() -> None:
      set_tf32(is_tf32)
      for _ in range(5):
        matrix @ matrix
      torch.cuda.synchronize()

    return run

  return {"f32": make(torch.float32, False), "tf32": make(torch.float32, True), "bf16": make(torch.bfloat16, False)}


def resnet20() -> nn.Module:
  """ResNet-20 with random weights."""
  torch.manual_seed(0)
  return ResNet20().eval().to(DEVICE)


def resnet50() -> nn.Module:
  """ResNet-50 with random weights; ImportError without torchvision."""
  import torchvision

  torch.manual_seed(0)
  return torchvision.models.resnet50(weights=None).eval().to(DEVICE)


def fold_norms(model: nn.Module) -> nn.Module:
  """A copy with batch norms folded into the convolutions before them, and nothing that wants a gradient."""
  frozen = copy.deepcopy(model)
  for owner in list(frozen.modules()):
    children = dict(owner.named_children())
    for name, child in children.items():
      norm = "bn" + name.removeprefix("conv")
      if name.startswith("conv") and isinstance(children.get(norm), nn.BatchNorm2d):
        setattr(owner, name, fuse_conv_bn_eval(child, children[norm]))
        setattr(owner, norm, nn.Identity())
    if isinstance(owner, nn.Sequential) and len(owner) == 2 and isinstance(owner[1], nn.BatchNorm2d):
      owner[0], owner[1] = fuse_conv_bn_eval(owner[0], owner[1]), nn.Identity()
  return frozen.requires_grad_(False)


def make_runs(
  report: Report,
  section: str,
  model: nn.Module,
  images: np.ndarray,
  targets: np.ndarray,
  *,
  per_step: int,
  num_steps: int,
  precisions: tuple[str, ...],
  is_compiled: bool = False,
) -> dict[str, RunFn]:
  """Callables that mask the first pixels of a batch, by the name of the variant.

  Args:
    report: where it says which variants do not work.
    section: for its lines.
    model: on DEVICE, batch norm as layers.
    images: normalised `[B, S, S, 3]`.
    targets: classes `[B]`.
    per_step: pixels a step.
    num_steps: steps.
    precisions: highest (float32), default (TF32), bf16.
    is_compiled: torch.compile besides.
  """
  torch.backends.cudnn.benchmark = True
  options = {"per_step": per_step, "num_steps": num_steps}
  runs: dict[str, RunFn] = {}
  for precision in precisions:
    name = TORCH_NAMES[precision]
    with report.part(section, variant=f"torch authors {name}"):
      runs[f"torch authors {name}"] = make_authors_run(model, images, targets, precision=precision, **options)
    # A graph is never slower than what it recorded. Replaying one that holds a top-k of 224 x 224 pixels reads memory
    # that is not its own (PyTorch 2.11), and nothing runs on the card after that, of any library.
    makers = {"graph": make_graph_run} if DEVICE.type == "cuda" and per_step == 1 else {"eager": make_eager_run}
    makers |= {"compile": make_compiled_run} if is_compiled else {}
    for way, make in makers.items():
      with report.part(section, variant=f"torch {way} {name}"):
        set_tf32(precision == "default")
        step_fn = make_step_fn(model, images, targets, precision=precision, per_step=per_step)
        runs[f"torch {way} {name}"] = make(
          step_fn, batch_size=len(images), size=images.shape[1], num_steps=num_steps, is_tf32=precision == "default"
        )
  return runs


def make_authors_run(
  model: nn.Module, images: np.ndarray, targets: np.ndarray, *, precision: str, per_step: int, num_steps: int
) -> RunFn:
  """As their code works: weights want gradients, batch norm is a layer, softmax, NCHW, eager.

  TF32 in convolutions is PyTorch's default, so `default` is what they ran. Their noise against ties and their
  bookkeeping are left out.
  """
  dtype = torch.bfloat16 if precision == "bf16" else torch.float32
  theirs = copy.deepcopy(model).to(dtype)
  inputs = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(DEVICE, dtype)
  wanted = torch.from_numpy(targets).long().to(DEVICE)

  def run() -> np.ndarray:
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = precision == "default", False
    removed = torch.zeros(len(inputs), 1, *inputs.shape[2:], device=DEVICE, dtype=dtype, requires_grad=True)
    order = []
    for _ in range(num_steps):
      theirs.zero_grad()
      removed.grad = None
      theirs((1 - removed) * inputs).float().softmax(1).gather(1, wanted[:, None]).sum().backward()
      assert removed.grad is not None
      with torch.no_grad():
        gradient = removed.grad.flatten(1).masked_fill(removed.flatten(1) > 0, -torch.inf)
        chosen = choose(gradient, per_step)
        removed.view(len(inputs), -1).scatter_(1, chosen, 1.0)
      order.append(chosen)
    return torch.cat(order, 1).cpu().numpy()

  return run


def choose(preference: torch.Tensor, per_step: int) -> torch.Tensor:
  return preference.argmax(1, keepdim=True) if per_step == 1 else preference.topk(per_step, dim=1).indices


def make_step_fn(model: nn.Module, images: np.ndarray, targets: np.ndarray, *, precision: str, per_step: int) -> StepFn:
  """A step without needless work: norms folded, channels last, log-odds differentiated by the mask alone."""
  dtype = torch.bfloat16 if precision == "bf16" else torch.float32
  frozen = fold_norms(model).to(dtype).to(memory_format=torch.channels_last)
  pictures = (
    torch.from_numpy(images).permute(0, 3, 1, 2).to(DEVICE, dtype).contiguous(memory_format=torch.channels_last)
  )
  wanted = torch.from_numpy(targets).long().to(DEVICE)
  with torch.no_grad():
    num_classes = frozen(pictures[:1]).shape[1]
  is_target = functional.one_hot(wanted, num_classes).bool()

  def total_log_odds(mask: torch.Tensor) -> torch.Tensor:
    logits = frozen(pictures * mask.to(dtype)).float()
    others = logits.masked_fill(is_target, -torch.inf).logsumexp(1)
    return logits.masked_fill(~is_target, 0.0).sum() - others.sum()

  def step_fn(kept: torch.Tensor) -> torch.Tensor:
    # torch.compile takes torch.func.grad whole, where it refuses torch.autograd.grad.
    gradient = torch.func.grad(total_log_odds)(kept)
    flat = kept.view(len(kept), -1)
    chosen = choose((-gradient).reshape(flat.shape).masked_fill(flat == 0, -torch.inf), per_step)
    flat.scatter_(1, chosen, 0.0)
    return chosen

  return step_fn


def make_eager_run(step_fn: StepFn, *, batch_size: int, size: int, num_steps: int, is_tf32: bool) -> RunFn:
  def run() -> np.ndarray:
    set_tf32(is_tf32)
    with torch.no_grad():
      kept = torch.ones(batch_size, 1, size, size, device=DEVICE)
      return torch.cat([step_fn(kept) for _ in range(num_steps)], 1).cpu().numpy()

  return run


def make_compiled_run(step_fn: StepFn, **options: Any) -> RunFn:
  """Through torch.compile, with its own CUDA graphs."""
  compiled = torch.compile(step_fn, fullgraph=True, dynamic=False, mode="max-autotune-no-cudagraphs")
  return make_graph_run(compiled, **options) if DEVICE.type == "cuda" else make_eager_run(compiled, **options)


def make_graph_run(step_fn: StepFn, *, batch_size: int, size: int, num_steps: int, is_tf32: bool) -> RunFn:
  """A step captured once as a CUDA graph, and replayed."""
  set_tf32(is_tf32)
  with torch.no_grad():
    kept = torch.ones(batch_size, 1, size, size, device=DEVICE)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
      for _ in range(3):
        step_fn(kept)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
      chosen = step_fn(kept)

  def run() -> np.ndarray:
    kept.fill_(1.0)
    order = []
    for _ in range(num_steps):
      graph.replay()
      order.append(chosen.clone())
    return torch.cat(order, 1).cpu().numpy()

  return run


def peak_mib() -> float:
  """The most memory that PyTorch has held on the GPU since it was last asked."""
  if DEVICE.type != "cuda":
    return 0.0
  peak = torch.cuda.max_memory_allocated() / 2**20
  torch.cuda.empty_cache()
  torch.cuda.reset_peak_memory_stats()
  return round(peak, 1)
