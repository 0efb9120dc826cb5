"""Files of orders and subsets: the same bits come back, and nothing else is read."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_sis


def find(dtype: Any = jnp.float32) -> tuple[jax_sis.FeatureOrder, jax_sis.Subsets]:
  order = jax_sis.FeatureOrder(
    rank=jnp.array([[0, 1, 2], [2, 1, jax_sis.NOT_RANKED]], jnp.int32),
    confidence=jnp.array([[0.1, 0.95, 0.96, 0.97], [0.1, jnp.nan, 0.3, 0.4]]),
    target=jnp.array([1, 0], jnp.int32),
    finite=jnp.array([True, False]),
    baseline=jnp.full((2, 1), 0.0625, dtype),
    sizes=(0, 1, 2, 3),
    grid=(3,),
    score="log_odds",
  )
  return order, jax_sis.sufficient_subsets(order, 0.9)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_same_bits_come_back(tmp_path: pathlib.Path, dtype: Any):
  order, subsets = find(dtype)
  for found in (order, subsets, (subsets, subsets[0])):
    jax_sis.save(tmp_path / "found.npz", found)
    loaded = jax_sis.load(str(tmp_path / "found.npz"))
    assert jax.tree.structure(loaded) == jax.tree.structure(found)
    for read, written in zip(jax.tree.leaves(loaded), jax.tree.leaves(found), strict=True):
      assert (read.dtype, read.shape) == (written.dtype, written.shape)
      assert np.asarray(read).tobytes() == np.asarray(written).tobytes()
  assert [path.name for path in tmp_path.iterdir()] == ["found.npz"]


def test_no_pickle_no_compression_and_no_damage(tmp_path: pathlib.Path):
  path = tmp_path / "found.npz"
  jax_sis.save(path, find()[1])
  content = path.read_bytes()
  with np.load(path, allow_pickle=False) as arrays:
    header = arrays["header"].tobytes()
    written = dict(arrays)
  for damage, reason in (
    (lambda: path.write_bytes(content[:-40]), "BadZipFile"),
    (lambda: path.write_bytes(b"not a file of arrays"), "BadZipFile"),
    (lambda: path.write_bytes(content.replace(np.float32(0.9).tobytes(), b"\0\0\0\0")), "another checksum"),
    (lambda: np.savez_compressed(path, **written), "it holds compressed arrays"),
    (lambda: np.savez(path, header=np.array([{}], object)), "pickle"),
    (lambda: np.savez(path, other=np.zeros(2)), "it has no header"),
    (lambda: write_header(path, written, header.replace(b"found/1", b"found/2")), "format is 'jax_sis.found/2'"),
    (lambda: write_header(path, written, header.replace(b'"Subsets"', b'"Certificate"')), "TypeError"),
    (lambda: np.savez(path, **{**written, "0.mask": np.zeros((3, 3), bool)}), "not of the same images"),
  ):
    damage()
    with pytest.raises(ValueError, match=reason) as refusal:
      jax_sis.load(path)
    assert "must be a file that jax_sis.save wrote" in str(refusal.value)


def write_header(path: pathlib.Path, arrays: dict[str, np.ndarray], header: bytes) -> None:
  np.savez(path, **{**arrays, "header": np.frombuffer(header, np.uint8)})  # pyright: ignore[reportArgumentType]


def test_other_things_are_refused(tmp_path: pathlib.Path, without_type_checks: None):
  with pytest.raises(ValueError, match=r"found must be one or several of FeatureOrder, Subsets, .*, got dict"):
    jax_sis.save(tmp_path / "x.npz", {})  # pyright: ignore[reportArgumentType]
  with pytest.raises(ValueError, match="got nothing"):
    jax_sis.save(tmp_path / "x.npz", [])
  with pytest.raises(ValueError, match=r"path must end in \.npz, got 'x\.pkl'"):
    jax_sis.save("x.pkl", find()[1])
  assert list(tmp_path.iterdir()) == []
