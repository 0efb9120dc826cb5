"""State dicts without PyTorch: what is read, what is refused, and that nothing foreign is run."""

import collections
import pathlib
import re
from collections.abc import Callable
from typing import Any

import fake_torch
import numpy as np
import pytest
from fake_torch import FakeTensor
from weight_files import GOLDEN_DIR, HOW_TO_SAVE, PREFIX, TENSOR_FILES, in_both_formats, refuses, refuses_to_read, write

from jax_sis.classifiers import state_dicts

# Files that PyTorch and safetensors wrote.


@pytest.mark.parametrize("name", TENSOR_FILES)
def test_every_dtype_and_every_view_is_read_from_every_kind_of_file(name: str):
  arrays = state_dicts.read_state_dict(GOLDEN_DIR / name)
  counts = np.arange(12)
  expected = {
    dtype: np.abs(counts - 2).astype(dtype)
    for dtype in ("float16", "float64", "int8", "int16", "int32", "int64", "uint8")
  }
  expected["float32"] = np.abs(counts - 2).astype(np.float32) / np.float32(3)
  # Float32 cut to its upper half, after rounding to nearest.
  thirds = (counts.astype(np.float32) / np.float32(3)).view(np.uint32) + 0x8000
  expected["bfloat16"] = (thirds & 0xFFFF0000).astype(np.uint32).view(np.float32)
  expected["bool"] = counts % 3 == 0
  expected["whole"] = counts.astype(np.float32)
  expected["transposed"] = expected["whole"].reshape(4, 3).T
  expected["part"] = np.array([[5, 6], [7, 8]], np.float32)
  expected["every third"] = np.array([1, 4, 7, 10], np.float32)
  expected["number"] = np.array(11)
  expected["empty"] = np.zeros((0, 3), np.float32)
  expected["parameter"] = np.array([[1, 2]], np.float32)
  assert set(arrays) == set(expected)
  for key, array in expected.items():
    np.testing.assert_array_equal(arrays[key], array, strict=True)
    assert arrays[key].flags.writeable and arrays[key].flags.c_contiguous and arrays[key].dtype.isnative


@pytest.mark.parametrize("name", ["tensors.pt", "tensors_legacy.pt", "tensors.npz"])
def test_the_order_of_a_file_is_kept(name: str):
  assert list(state_dicts.read_state_dict(GOLDEN_DIR / name))[:4] == ["float16", "float32", "float64", "bfloat16"]


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth", ""])
@pytest.mark.parametrize("name", TENSOR_FILES)
def test_the_kind_of_a_file_is_told_by_its_content(tmp_path: pathlib.Path, name: str, suffix: str):
  path = write(tmp_path / f"weights{suffix}", (GOLDEN_DIR / name).read_bytes())
  np.testing.assert_array_equal(state_dicts.read_state_dict(path)["part"], [[5, 6], [7, 8]])


@pytest.mark.parametrize("name", ["checkpoint.pt", "checkpoint_with_args.pt"])
def test_a_checkpoint_of_a_trainer_gives_its_weights_without_the_prefix_of_dataparallel(name: str):
  arrays = state_dicts.read_state_dict(GOLDEN_DIR / name)
  layers = ("0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked")
  assert tuple(arrays) == (*layers, "2.weight", "2.bias")
  np.testing.assert_array_equal(arrays["0.weight"], np.arange(54, dtype=np.float32).reshape(2, 3, 3, 3) / 4)
  np.testing.assert_array_equal(arrays["2.weight"], [[3, 3.25], [3.5, 3.75]])
  np.testing.assert_array_equal(arrays["1.running_var"], [1, 1])


@pytest.mark.parametrize(
  ("name", "reason"),
  [
    (
      "module.pt",
      "it is a whole module (torch.nn.modules.container.Sequential), which needs its own code; " + HOW_TO_SAVE,
    ),
    (
      "torchscript.pt",
      "it is a TorchScript archive; with PyTorch, save its weights alone: "
      "torch.save(torch.jit.load(...).state_dict(), ...)",
    ),
  ],
)
def test_what_is_more_than_weights_is_told_what_it_is_and_how_to_save_them(name: str, reason: str):
  with refuses_to_read(GOLDEN_DIR / name, reason):
    state_dicts.read_state_dict(GOLDEN_DIR / name)


# Where in a file the state dict lies.


def weight() -> FakeTensor:
  return FakeTensor(np.ones(3, np.float32))


@pytest.mark.usefixtures("pytorch_names")
@pytest.mark.parametrize("names", [("state_dict",), ("model",), ("params_ema",), ("checkpoint", "model_state_dict")])
@in_both_formats
def test_a_state_dict_is_found_inside_one_or_two_dictionaries(
  tmp_path: pathlib.Path, save_fn: Callable[[Any], bytes], names: tuple[str, ...]
):
  content: Any = collections.OrderedDict({"a": weight(), "b": weight(), "step": 3})
  for name in reversed(names):
    best = {"best_acc1": FakeTensor(np.ones(1, np.float32), shape=(), strides=())}
    content = {"epoch": 7, name: content, "lr": [0.1], "best": best}
  path = write(tmp_path / "weights.pt", save_fn(content))
  assert list(state_dicts.read_state_dict(path)) == ["a", "b"]
  assert list(state_dicts.read_state_dict(path, key=".".join(names))) == ["a", "b"]


@pytest.mark.usefixtures("pytorch_names")
def test_several_state_dicts_are_chosen_from_by_key(tmp_path: pathlib.Path):
  content = {"model": {"a": weight()}, "ema": {"decay": 0.9, "shadow": {"b": weight()}}, "mean": weight()}
  path = write(tmp_path / "weights.pt", fake_torch.zip_bytes(content))
  with refuses(f"key must say which state dict of {str(path)!r} is meant, out of ['ema.shadow', 'model']."):
    state_dicts.read_state_dict(path)
  assert list(state_dicts.read_state_dict(path, key="model")) == ["a"]
  assert list(state_dicts.read_state_dict(path, key="ema.shadow")) == ["b"]
  with refuses(f"key must be one of ['ema.shadow', 'model'] in {str(path)!r}, got 'ema'."):
    state_dicts.read_state_dict(path, key="ema")


@pytest.mark.usefixtures("pytorch_names")
def test_the_moments_of_an_optimizer_are_no_state_dict(tmp_path: pathlib.Path):
  # By name, as optimizers of sharded models keep them.
  content = {"model": {"a": weight()}, "optimizer": {"state": {"a": {"exp_avg": weight()}}}}
  assert list(state_dicts.read_state_dict(write(tmp_path / "weights.pt", fake_torch.zip_bytes(content)))) == ["a"]


@pytest.mark.parametrize("name", TENSOR_FILES)
def test_a_key_is_refused_where_there_is_nothing_to_choose(name: str):
  path = GOLDEN_DIR / name
  known = "None, or begin names of arrays, since it holds one state dict and no dictionary"
  with refuses(f"key must be {known} in {str(path)!r}, got 'model'."):
    state_dicts.read_state_dict(path, key="model")


@pytest.mark.usefixtures("pytorch_names")
def test_a_state_dict_by_itself_holds_tensors_only(tmp_path: pathlib.Path):
  path = write(tmp_path / "weights.pt", fake_torch.zip_bytes({"a": weight(), "step": 3, "b": weight(), 5: weight()}))
  with refuses(
    f"path must hold a state dict of tensors, or one inside a dictionary, but in {str(path)!r} ['step', 5] are not "
    f"tensors; {HOW_TO_SAVE}."
  ):
    state_dicts.read_state_dict(path)


@pytest.mark.usefixtures("pytorch_names")
@pytest.mark.parametrize(
  ("content", "keys"),
  [
    ({"epoch": 7, "lr": 0.1}, ["epoch", "lr"]),
    ({"state_dict": {}}, ["state_dict"]),
    # As an optimizer's state alone, whose moments are no weights.
    ({"state": {0: {"exp_avg": weight()}}, "param_groups": []}, ["state", "param_groups"]),
  ],
)
@in_both_formats
def test_a_file_without_weights_is_refused(
  tmp_path: pathlib.Path, save_fn: Callable[[Any], bytes], content: Any, keys: list[str]
):
  path = write(tmp_path / "empty.pt", save_fn(content))
  with refuses(f"path must hold a state dict of tensors, got {str(path)!r} with the keys {keys}."):
    state_dicts.read_state_dict(path)


@pytest.mark.usefixtures("pytorch_names", "without_type_checks")
@pytest.mark.parametrize("content", [[1, 2], 3])
@in_both_formats
def test_a_file_that_holds_no_dictionary_is_refused(
  tmp_path: pathlib.Path, save_fn: Callable[[Any], bytes], content: Any
):
  path = write(tmp_path / "list.pt", save_fn(content))
  with refuses_to_read(path, f"it holds a {type(content).__name__}"):
    state_dicts.read_state_dict(path)


@pytest.mark.parametrize(
  ("names", "expected"),
  [
    (["module.a", "module.b"], ["a", "b"]),
    (["module._orig_mod.model.a", "module._orig_mod.model.b"], ["a", "b"]),
    (["_orig_mod.module.a.weight", "_orig_mod.module.net.weight"], ["a.weight", "net.weight"]),
    (["backbone.net.a", "backbone.net.b"], ["a", "b"]),
    (["module.a", "b"], ["module.a", "b"]),
    (["model.a", "criterion.b"], ["model.a", "criterion.b"]),
    (["modules.a", "modules.b"], ["modules.a", "modules.b"]),
    (["layer1.0.a", "layer1.0.b"], ["layer1.0.a", "layer1.0.b"]),
  ],
)
def test_prefixes_of_wrappers_are_taken_off_where_all_names_have_them(
  tmp_path: pathlib.Path, names: list[str], expected: list[str]
):
  np.savez(tmp_path / "weights.npz", allow_pickle=False, **{name: np.ones(2) for name in names})
  assert list(state_dicts.read_state_dict(tmp_path / "weights.npz")) == expected


def test_weights_that_are_not_finite_are_named(tmp_path: pathlib.Path):
  arrays = {f"layer{number}": np.array([0, number * np.inf], np.float32) for number in range(1, 8)}
  np.savez(tmp_path / "weights.npz", allow_pickle=False, good=np.ones(2), count=np.array(3), **arrays)
  path = tmp_path / "weights.npz"
  with refuses(
    f"path must hold finite weights, but in {str(path)!r} 7 of 9 arrays hold NaN, infinity or numbers beyond 1e+18, "
    "first ['layer1', 'layer2', 'layer3', 'layer4', 'layer5']; take an earlier checkpoint."
  ):
    state_dicts.read_state_dict(path)


# What PyTorch writes here and now, where it is installed.


def make_network(torch: Any) -> Any:
  """Two layers with random weights."""
  torch.manual_seed(0)
  network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
  torch.nn.init.normal_(network[1].running_mean)
  return network


@pytest.mark.parametrize(
  "options",
  [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}],
  ids=["zip", "legacy", "protocol 4"],
)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_what_pytorch_saves_is_read(tmp_path: pathlib.Path, dtype: str, options: dict[str, Any]):
  torch = pytest.importorskip("torch")
  network = make_network(torch).to(getattr(torch, dtype))
  torch.save({"epoch": 3, "model": torch.nn.DataParallel(network).state_dict()}, tmp_path / "network.pt", **options)
  arrays = state_dicts.read_state_dict(tmp_path / "network.pt")
  assert list(arrays) == list(network.state_dict())
  for name, tensor in network.state_dict().items():
    expected = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    np.testing.assert_array_equal(arrays[name], expected.numpy(), strict=True)


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("is_zip", [True, False])
def test_what_pytorch_saves_beyond_weights_is_refused(tmp_path: pathlib.Path, is_zip: bool):
  torch = pytest.importorskip("torch")
  network = make_network(torch)
  path = tmp_path / "network.pt"
  for content, reason in (
    (network, "it is a whole module (torch.nn.modules.container.Sequential), which needs its own code"),
    ({"model": network, "epoch": 3}, "it is a whole module (torch.nn.modules.container.Sequential), which needs"),
    ({"a": torch.ones(3).to(torch.float8_e4m3fn)}, "it names torch._utils._rebuild_tensor_v3"),
    ({"a": torch.ones(1).expand(3)}, "a tensor has more numbers than its storage"),
    ({"a": torch.ones(3).to_sparse()}, "it names torch._utils._rebuild_sparse_tensor"),
  ):
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(ValueError, match=f"^{re.escape(PREFIX)}.* cannot be read so: {re.escape(reason)}"):
      state_dicts.read_state_dict(path)
  torch.jit.trace(network.eval(), torch.ones(1, 3, 5, 5)).save(path)
  with pytest.raises(ValueError, match="cannot be read so: it is a TorchScript archive"):
    state_dicts.read_state_dict(path)
