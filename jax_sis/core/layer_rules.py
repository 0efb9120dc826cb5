"""What each step of a traced network makes of an activation with missing positions: the table of layer masking."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_sis.core import traced
from jax_sis.core.layer_shapes import (
  Values,
  bind,
  broadcast,
  concatenate,
  pad,
  reshape,
  reshape_mask,
  split,
  take_slice,
  transpose,
)
from jax_sis.core.masked import Masked, Shift, scale_up

# Each number of the result is of one position.
ELEMENTWISE = frozenset(
  """abs add add_any and atan2 cbrt ceil clamp convert_element_type copy copy_p cos div eq erf erfc exp exp2 expm1 floor
  ge gt integer_pow is_finite le log log1p logistic lt max min mul ne neg nextafter not or pow pvary pcast
  optimization_barrier reduce_precision rem round rsqrt select_n sharding_constraint sign sin sinh cosh sqrt square
  stop_gradient sub tan tanh xor""".split()
)
SUMS = ("add", "add_any")
REDUCTIONS = {"reduce_sum": 0.0, "reduce_max": -math.inf}
WINDOW_REDUCTIONS = {"reduce_window_sum": 0.0, "reduce_window_max": -math.inf}
SUPPORTED = (
  "convolutions, pooling, norms as products and sums, functions of single numbers, residual sums, concatenations of "
  "channels, and layers on the mean over all positions"
)
Rule = Callable[[Any, Values], list[Any] | None]


def refuse(equation: Any, reason: str = "") -> ValueError:
  """What to say of a step that has no counterpart under layer masking."""
  name = equation.primitive.name
  return ValueError(
    f'removal "layer" cannot be applied to the step {name} of this network{reason and f" ({reason})"}; it knows '
    f'{SUPPORTED}. Take removal="value", or for a network with tokens removal="tokens".'
  )


def step(equation: Any, inputs: Values) -> list[Any] | None:
  """One step of a network on activations with missing positions; None where none goes into it."""
  if not any(isinstance(one, Masked) for one in inputs):
    return None
  name = equation.primitive.name
  if name not in SUMS:
    inputs = [one.settle() if isinstance(one, Masked) else one for one in inputs]
  convolution = find_convolution(equation)
  if convolution is not None:
    return convolve(equation, inputs, convolution)
  if is_elementwise(equation):
    return apply_elementwise(equation, inputs)
  program = traced.called_program(equation)
  if program is not None:
    return traced.evaluate(program, traced.called_arguments(equation, inputs), step)
  rule = RULES.get(name)
  outputs = rule(equation, inputs) if rule else None
  if outputs is None:
    raise refuse(equation)
  return outputs


def is_elementwise(equation: Any) -> bool:
  """Whether a step, or all that a call runs, is done to each number on its own, along numbers of the same axes."""
  program = traced.called_program(equation)
  if program is not None:
    return all(is_elementwise(inner) for inner in program.jaxpr.eqns)
  return equation.primitive.name in ELEMENTWISE


def apply_elementwise(equation: Any, inputs: Values) -> list[Any]:
  """Done as it stands; a position of the result is there if it is in any of those that go into it."""
  masked = [one for one in inputs if isinstance(one, Masked)]
  first = masked[0]
  if any(one.roles != first.roles for one in masked):
    raise refuse(equation, f"of axes {' and '.join(one.roles for one in masked)}")
  name = equation.primitive.name
  if name in SUMS and len(masked) == 2 and is_same_window(*masked):
    return [add_shifted(equation, *masked)]
  masked = [one.settle() for one in masked]
  is_same = all(one.mask is first.mask for one in masked)
  # Of several, the maximum is of those that are there, and nothing is added to them by others.
  nothing = -math.inf if name == "max" and not is_same else 0.0
  shown = iter(one.value if is_same else one.hide(nothing) for one in masked)
  results = traced.run(equation, [next(shown) if isinstance(one, Masked) else one for one in inputs])
  mask, inside = first.mask, first.inside
  for one in masked[1:] if not is_same else ():
    mask = jnp.maximum(mask, one.mask)
    inside = None if inside is None or one.inside is None else np.maximum(inside, one.inside)
  found = [Masked(value=result, mask=mask, inside=inside, roles=first.roles) for result in results]
  if nothing != 0:
    return [one.hidden() for one in found]
  return found


def is_same_window(one: Masked, other: Masked) -> bool:
  """Whether both are made of shifted slices of one array, so that their sum is one over a window."""
  return one.shift is not None and other.shift is not None and one.shift.source is other.shift.source


def add_shifted(equation: Any, one: Masked, other: Masked) -> Masked:
  """The sum of shifted slices, as far as they are there."""
  assert one.shift is not None and other.shift is not None
  mine, more = one.shift, other.shift
  shift = Shift(
    source=mine.source,
    num_slices=mine.num_slices + more.num_slices,
    num_there=mine.num_there + more.num_there,
    num_inside=mine.num_inside + more.num_inside,
  )
  return Masked(
    value=bind(equation, [one.hide(), other.hide()]),
    mask=jnp.maximum(one.mask, other.mask),
    roles=one.roles,
    is_hidden=True,
    shift=shift,
  )


class Convolution(NamedTuple):
  """A convolution that a step consists of: its parameters, and which of the values that go in are image and kernel."""

  params: dict[str, Any]
  image: int
  kernel: int


def find_convolution(equation: Any) -> Convolution | None:
  """The convolution that a step is or calls and nothing else; None where it does something else."""
  if equation.primitive.name == "conv_general_dilated":
    return Convolution(equation.params, 0, 1)
  program = traced.called_program(equation)
  if program is None:
    return None
  steps = [inner for inner in program.jaxpr.eqns if inner.primitive.name != "platform_index"]
  if len(steps) != 1 or list(program.jaxpr.outvars) != list(steps[0].outvars):
    return None
  inner = find_convolution(steps[0])
  arguments = list(program.jaxpr.invars)
  if inner is None or any(steps[0].invars[place] not in arguments for place in (inner.image, inner.kernel)):
    return None
  skipped = len(equation.invars) - len(arguments)
  image, kernel = (arguments.index(steps[0].invars[place]) + skipped for place in (inner.image, inner.kernel))
  return Convolution(inner.params, image, kernel)


def convolve(equation: Any, inputs: Values, convolution: Convolution) -> list[Any]:
  """Convolves the image, its missing positions filled as far as the kernel reaches, by the step as it stands."""
  params, image, kernel = convolution.params, inputs[convolution.image], inputs[convolution.kernel]
  layout = params["dimension_numbers"]
  if not isinstance(image, Masked) or isinstance(kernel, Masked):
    raise refuse(equation, "with a kernel that depends on the image")
  is_forward = set(params["lhs_dilation"]) == {1} and params["batch_group_count"] == 1
  expected = {layout.lhs_spec[0]: "n", layout.lhs_spec[1]: "c"}
  if not is_forward or len(layout.lhs_spec) != 4 or any(image.roles[axis] != role for axis, role in expected.items()):
    raise refuse(equation, "transposed, or not over the rows and columns of images")
  kernel_size = [kernel.shape[axis] for axis in layout.rhs_spec[2:]]
  extents = [(size - 1) * step + 1 for size, step in zip(kernel_size, params["rhs_dilation"], strict=True)]
  values = [image.fill(max(extents) if max(extents) > 1 else 0) if one is image else one for one in inputs]
  roles = [image.roles[axis] for axis in layout.lhs_spec]
  out_roles = "".join(role for _, role in sorted(zip(layout.out_spec, roles, strict=True)))
  window = conv_window(image, params, kernel_size)
  order = [image.roles.index(role) for role in out_roles]
  return [Masked(value=bind(equation, values), mask=image.pool_mask(**window).transpose(order), roles=out_roles)]


def conv_window(image: Masked, params: dict[str, Any], kernel_size: Sequence[int]) -> dict[str, Any]:
  """The windows of a convolution, as arguments of `reduce_window`."""
  axes = params["dimension_numbers"].lhs_spec[2:]
  settings = {
    "window_dimensions": (kernel_size, 1),
    "window_strides": (params["window_strides"], 1),
    "padding": (params["padding"], (0, 0)),
    "window_dilation": (params["rhs_dilation"], 1),
  }
  window = {}
  for name, (numbers, other) in settings.items():
    by_axis = dict(zip(axes, numbers, strict=True))
    window[name] = tuple(by_axis.get(axis, other) for axis in range(len(image.roles)))
  return window


def pool(equation: Any, inputs: Values) -> list[Any] | None:
  """The maximum, or the sum as it would be of whole windows, of what is there in each."""
  (image,) = inputs
  params = equation.params
  names = ("window_dimensions", "window_strides", "padding", "window_dilation")
  window = {name: params[name] for name in names}
  is_spatial = all(
    role in "hw" or size == 1 for role, size in zip(image.roles, params["window_dimensions"], strict=True)
  )
  if not is_spatial or set(params["base_dilation"]) != {1}:
    return None
  nothing = WINDOW_REDUCTIONS[equation.primitive.name]
  value = bind(equation, [image.hide(nothing)])
  if nothing == 0:
    value = scale_up(value, image.count(image.mask, **window), image.count(image.all_inside, **window))
  return [Masked(value=value, mask=image.pool_mask(**window), roles=image.roles).hidden()]


def reduce(equation: Any, inputs: Values) -> list[Any] | None:
  """Over all positions, as in pooling, after which nothing is missing; or over the channels of each."""
  (image,) = inputs
  axes = equation.params["axes"]
  reduced = {image.roles[axis] for axis in axes}
  if reduced <= {"c", "1"}:
    left = [axis for axis in range(len(image.roles)) if axis not in axes]
    return [reshape_mask(image, "".join(image.roles[axis] for axis in left), bind(equation, [image.value]))]
  nothing = REDUCTIONS.get(equation.primitive.name)
  if not {"h", "w"} <= reduced or "n" in reduced or nothing is None:
    return None
  value = bind(equation, [image.hide(nothing)])
  num_there = image.mask.sum(axes)
  if nothing == 0:
    return [scale_up(value, num_there, image.all_inside.sum())]
  return [jnp.where(num_there > 0, value, 0)]


def multiply(equation: Any, inputs: Values) -> list[Any] | None:
  """A layer on the channels of each position: a convolution by a kernel of one position."""
  place = next(number for number, one in enumerate(inputs) if isinstance(one, Masked))
  image = inputs[place]
  contracted, batch = equation.params["dimension_numbers"]
  axes = [image.roles[axis] for axis in contracted[place]]
  if isinstance(inputs[1 - place], Masked) or batch[place] or axes != ["c"]:
    return None
  if inputs[1 - place].ndim != 2:
    return None
  positions = image.roles.replace("c", "")
  roles = f"{positions}c" if place == 0 else f"c{positions}"
  values = [one.value if isinstance(one, Masked) else one for one in inputs]
  return [dataclasses.replace(reshape_mask(image, roles, bind(equation, values)), is_hidden=False)]


def scan(equation: Any, inputs: Values) -> list[Any] | None:
  """The same layers again and again; what they hand on must go on knowing what is missing, or go on without."""
  params = equation.params
  num_consts, num_handed = count_parts(params)
  consts, rest = inputs[:num_consts], inputs[num_consts:]
  first, slices = [hand_on(one) for one in rest[:num_handed]], list(rest[num_handed:])

  def run_once(handed: list[Any], some: list[Any]) -> tuple[list[Any], list[Any]]:
    outputs = traced.evaluate(traced.as_program(params["jaxpr"]), [*consts, *handed, *some], step)
    stacked = outputs[num_handed:]
    if any(isinstance(one, Masked) for one in stacked):
      raise refuse(equation, "which collects what has positions")
    return [hand_on(one) for one in outputs[:num_handed]], stacked

  if any(isinstance(one, Masked) for one in slices):
    return None
  options = {name: params[name] for name in ("length", "reverse", "unroll")}
  handed, stacked = lax.scan(run_once, first, slices, **options)
  outputs = [*handed, *stacked]
  return outputs if len(outputs) == len(equation.outvars) else None


def count_parts(params: Mapping[str, Any]) -> tuple[int, int]:
  """How many inputs of a scan are the same in all rounds, and how many are handed on."""
  if "num_consts" in params:
    return params["num_consts"], params["num_carry"]
  # From JAX 0.12 on.
  consts, handed, _ = params["ft_in"].unpack()
  return len(list(consts)), len(list(handed))


def hand_on(one: Any) -> Any:
  """An activation in the one form that every round hands on."""
  return one.settle().hidden() if isinstance(one, Masked) else one


RULES: dict[str, Rule] = {
  "broadcast_in_dim": broadcast,
  "concatenate": concatenate,
  "dot_general": multiply,
  "pad": pad,
  "reduce_max": reduce,
  "reduce_min": reduce,
  "reduce_sum": reduce,
  "reduce_window_max": pool,
  "reduce_window_sum": pool,
  "reshape": reshape,
  "scan": scan,
  "slice": take_slice,
  "split": split,
  "squeeze": reshape,
  "transpose": transpose,
}
