"""Writes small files as PyTorch and safetensors write them, for tests of reading where neither PyTorch is.

python tests/golden/make_state_dicts.py
"""

import argparse
import collections
import io
import pathlib
import zipfile

import numpy as np
import safetensors.torch
import torch
from torch import nn

GOLDEN_DIR = pathlib.Path(__file__).parent


def make_module() -> nn.Module:
  """A network of three layers, all numbers of which are known."""
  module = nn.Sequential(nn.Conv2d(3, 2, 3, bias=False), nn.BatchNorm2d(2), nn.Linear(2, 2)).eval()
  with torch.no_grad():
    for number, parameter in enumerate(module.parameters()):
      parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape) / 4 + number)
  return module


def make_tensors() -> dict[str, torch.Tensor]:
  """A tensor of every dtype and every way to lie in a storage."""
  counts = torch.arange(12)
  dtypes = ("float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8")
  tensors = collections.OrderedDict((name, (counts - 2).abs().to(getattr(torch, name))) for name in dtypes)
  tensors["float32"] = tensors["float32"] / 3
  tensors["bfloat16"] = (counts / 3).to(torch.bfloat16)
  tensors["bool"] = counts % 3 == 0
  shared = counts.to(torch.float32)
  tensors["whole"] = shared
  tensors["transposed"] = shared.reshape(4, 3).T
  tensors["part"] = shared[5:9].reshape(2, 2)
  tensors["every third"] = shared[1::3]
  tensors["number"] = torch.tensor(11)
  tensors["empty"] = torch.zeros(0, 3)
  tensors["parameter"] = nn.Parameter(torch.tensor([[1.0, 2.0]]), requires_grad=True)
  return tensors


def make_checkpoint() -> dict[str, object]:
  """What a trainer saves after an epoch."""
  module = make_module()
  optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
  for parameter in module.parameters():
    parameter.grad = torch.zeros_like(parameter)
  optimizer.step()
  return {
    "epoch": 7,
    "arch": "small",
    "best_acc1": torch.tensor(91.5),
    "state_dict": nn.DataParallel(module).state_dict(),
    "optimizer": optimizer.state_dict(),
  }


def make_torchscript() -> bytes:
  """A TorchScript archive without its debugging files, since these name folders of the machine."""
  script = torch.jit.script(make_module()).save_to_buffer()
  target = io.BytesIO()
  with zipfile.ZipFile(io.BytesIO(script)) as source, zipfile.ZipFile(target, "w") as archive:
    for entry in source.infolist():
      if not entry.filename.endswith(".debug_pkl"):
        archive.writestr(entry, source.read(entry))
  return target.getvalue()


def main() -> None:
  """Writes all files."""
  tensors = make_tensors()
  torch.save(tensors, GOLDEN_DIR / "tensors.pt")
  torch.save(tensors, GOLDEN_DIR / "tensors_legacy.pt", _use_new_zipfile_serialization=False)
  contiguous = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
  safetensors.torch.save_file(contiguous, GOLDEN_DIR / "tensors.safetensors", metadata={"format": "pt"})
  arrays = {name: tensor.float() if tensor.dtype == torch.bfloat16 else tensor for name, tensor in contiguous.items()}
  np.savez_compressed(GOLDEN_DIR / "tensors.npz", **{name: tensor.numpy() for name, tensor in arrays.items()})
  checkpoint = make_checkpoint()
  torch.save(checkpoint, GOLDEN_DIR / "checkpoint.pt")
  torch.save(checkpoint | {"args": argparse.Namespace(epochs=8)}, GOLDEN_DIR / "checkpoint_with_args.pt")
  torch.save(make_module(), GOLDEN_DIR / "module.pt")
  (GOLDEN_DIR / "torchscript.pt").write_bytes(make_torchscript())


if __name__ == "__main__":
  main()
