"""The bridge that docs/pytorch.md prints: any module of PyTorch, searched from JAX."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_sis

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install torch")


def test_the_printed_bridge_gives_pytorchs_logits_gradients_and_subsets(repository: pathlib.Path):
  (code,) = re.findall(r"```python\n(.*?)```", (repository / "docs/pytorch.md").read_text(), re.DOTALL)
  namespace: dict = {}
  exec(code, namespace)
  torch.manual_seed(0)
  module = torch.nn.Sequential(
    torch.nn.Conv2d(3, 8, 3, padding=1, groups=1),
    torch.nn.GroupNorm(2, 8),
    torch.nn.GELU(),
    torch.nn.AdaptiveAvgPool2d(4),
    torch.nn.Flatten(),
    torch.nn.Linear(128, 5),
  )
  predict_fn, params = namespace["from_torch"](module, 5)
  inputs = jnp.asarray(np.random.default_rng(0).normal(size=(3, 16, 16, 3)), jnp.float32)
  leaf = torch.tensor(np.asarray(inputs)).permute(0, 3, 1, 2).requires_grad_()
  expected = module(leaf)
  expected.square().sum().backward()
  logits = jax.jit(predict_fn)(params, inputs)
  np.testing.assert_allclose(logits, expected.detach().numpy(), rtol=1e-5, atol=1e-6)
  gradient = jax.jit(jax.grad(lambda inputs: (predict_fn(params, inputs) ** 2).sum()))(inputs)
  np.testing.assert_allclose(gradient, leaf.grad.permute(0, 2, 3, 1).numpy(), rtol=1e-4, atol=1e-5)
  order = jax_sis.backselect(predict_fn, params, inputs, search=jax_sis.Gradient(per_step=16))
  subsets = jax_sis.sufficient_subsets(order, threshold=0.3)
  report = jax_sis.certify(predict_fn, params, inputs, subsets)
  assert np.asarray(order.finite).all()
  assert report is not None
