"""A function that JAX has traced, computed step by step, where some steps may be computed in another way."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.extend

# The parameter that holds the program of a call; JAX has renamed the first of these primitives.
PROGRAMS = {
  "jit": "jaxpr",
  "pjit": "jaxpr",
  "closed_call": "call_jaxpr",
  "core_call": "call_jaxpr",
  "checkpoint": "jaxpr",
  "remat2": "jaxpr",
  "custom_jvp_call": "call_jaxpr",
  "custom_vjp_call": "call_jaxpr",
}
# What a step comes to, or None where it is to be computed as it stands.
StepFn = Callable[[Any, list[Any]], list[Any] | None]


class Program(NamedTuple):
  """What a call runs: its equations, and the arrays that it closes over."""

  jaxpr: Any
  consts: Sequence[Any]


def evaluate(program: Program, arguments: Sequence[Any], step_fn: StepFn) -> list[Any]:
  """The results of a program.

  Args:
    program: what was traced.
    arguments: its arguments, flat.
    step_fn: is asked at each equation, with the values that go into it.
  """
  values: dict[Any, Any] = {}

  def read(variable: Any) -> Any:
    return variable.val if is_literal(variable) else values[variable]

  values.update(zip(program.jaxpr.constvars, program.consts, strict=True))
  values.update(zip(program.jaxpr.invars, arguments, strict=True))
  for equation in program.jaxpr.eqns:
    inputs = [read(variable) for variable in equation.invars]
    outputs = step_fn(equation, inputs)
    values.update(zip(equation.outvars, run(equation, inputs) if outputs is None else outputs, strict=True))
  return [read(variable) for variable in program.jaxpr.outvars]


def run(equation: Any, inputs: Sequence[Any]) -> list[Any]:
  """The step as it stands."""
  primitive = equation.primitive
  parameters = primitive.get_bind_params(equation.params)
  # Earlier versions of JAX return functions and parameters separately.
  functions, parameters = parameters if isinstance(parameters, tuple) else ((), parameters)
  result = primitive.bind(*functions, *inputs, **parameters)
  return list(result) if primitive.multiple_results else [result]


def is_literal(variable: Any) -> bool:
  """Whether it stands for a number, and for no result of an equation."""
  return isinstance(variable, jax.extend.core.Literal)


def called_program(equation: Any) -> Program | None:
  """What a call runs; None for an equation that is no call.

  Of a choice by platform, that is the form for all platforms that have none of their own.
  """
  platforms = equation.params.get("branches_platforms")
  if platforms is not None:
    return as_program(equation.params["branches"][platforms.index(None)])
  inner = equation.params.get(PROGRAMS.get(equation.primitive.name, ""))
  return None if inner is None else as_program(inner)


def called_arguments(equation: Any, inputs: Sequence[Any]) -> Sequence[Any]:
  """What goes into the program of a call: all but the number of a choice by platform."""
  return inputs[1:] if equation.params.get("branches_platforms") is not None else inputs


def as_program(jaxpr: Any) -> Program:
  """Equations with or without their arrays."""
  if isinstance(jaxpr, jax.extend.core.ClosedJaxpr):
    return Program(jaxpr.jaxpr, jaxpr.consts)
  return Program(jaxpr, ())
