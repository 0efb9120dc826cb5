"""PyTorch state dicts -> our modules, by tables of names; PyTorch itself is not needed."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_sis import classifiers


def load_resnet_cifar(model_name: str, state_dict: dict[str, np.ndarray]) -> classifiers.ResNetCifar:
  """Builds a CIFAR ResNet from a state dict in the names of Idelbayev's `pytorch_resnet_cifar10`.

  Raises:
    ValueError: a key is missing or left over, or an array has another shape.
  """
  # A counter that PyTorch keeps for norms without a momentum; evaluation does not use it.
  state_dict = {name: array for name, array in state_dict.items() if not name.endswith("num_batches_tracked")}
  module = classifiers.build(model_name, num_classes=len(state_dict.get("linear.bias", range(10))))
  names = resnet_cifar_names(module)
  missing, unused = sorted(set(names) - set(state_dict)), sorted(set(state_dict) - set(names))
  if missing or unused:
    raise ValueError(
      f"state_dict must hold exactly the arrays of {model_name}; "
      f"missing: {missing or 'none'}; not used: {unused or 'none'}."
    )
  for name, variable in names.items():
    array = jnp.asarray(state_dict[name].T if state_dict[name].ndim == 2 else to_hwio(state_dict[name]))
    if array.shape != variable.shape:
      raise ValueError(f"state_dict[{name!r}] must have the shape {variable.shape} in our layout, got {array.shape}.")
    variable[...] = array.astype(variable.dtype)
  module.eval()
  return module


def resnet_cifar_names(module: classifiers.ResNetCifar) -> dict[str, nnx.Variable[jax.Array]]:
  """PyTorch's name of every array -> our variable."""
  names = {"conv1.weight": module.stem_conv.kernel, **norm_names("bn1", module.stem_norm)}
  blocks_per_stage = module.config.blocks_per_stage
  for index, block in enumerate(module.blocks):
    prefix = f"layer{index // blocks_per_stage + 1}.{index % blocks_per_stage}"
    for number, conv, norm in ((1, block.conv1, block.norm1), (2, block.conv2, block.norm2)):
      names[f"{prefix}.conv{number}.weight"] = conv.kernel
      names |= norm_names(f"{prefix}.bn{number}", norm)
  return names | {"linear.weight": module.head.kernel, "linear.bias": module.head.bias}


def norm_names(prefix: str, norm: nnx.BatchNorm) -> dict[str, nnx.Variable[jax.Array]]:
  """The names of one batch norm."""
  # Flax types its scale and bias as optional; ours always has them.
  assert norm.scale is not None and norm.bias is not None
  return {
    f"{prefix}.weight": norm.scale,
    f"{prefix}.bias": norm.bias,
    f"{prefix}.running_mean": norm.mean,
    f"{prefix}.running_var": norm.var,
  }


def to_hwio(array: np.ndarray) -> np.ndarray:
  """OIHW kernels -> HWIO; anything else as it is."""
  return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
