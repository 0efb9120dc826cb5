"""What `find` takes where the command line leaves it open, by the size of the classifier's images."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jax_sis.data.sources import is_large
from jax_sis.runs.config import FindConfig, SearchOptions
from jax_sis.runtime.command_line import iterate_values, write_option

# At 224 x 224 pixels, a search by single pixels takes hours an image, and the paper removes 100 at a time. These steps
# find far smaller subsets in a seventh of the time (docs/coarse_to_fine.md).
OF_IMAGENET = FindConfig(
  preset="imagenet",
  threshold=0.9,
  certificate="alone",
  saved="both",
  mask_fractions=(0.1,),
  **SearchOptions(search="gradient", per_step=10, step_share=0.1, memory=0.95).make(),
)


def settle_preset(config: FindConfig, input_shape: tuple[int, ...]) -> FindConfig:
  """The settings with what their preset says of options that are not given; see `FindConfig.preset`.

  Args:
    config: as asked for.
    input_shape: height, width and channels that the classifier takes.
  """
  is_chosen = config.preset is None and config.given is not None and is_large(input_shape)
  if config.preset != OF_IMAGENET.preset and not is_chosen:
    return config
  given = find_given(config)
  settled = {**settle_search(config, given), **settle_rest(config, given)}
  return dataclasses.replace(config, preset=OF_IMAGENET.preset, given=given, **settled)


def find_given(config: FindConfig) -> frozenset[str]:
  """The names of the options that were given; in Python, of those that are not their defaults."""
  if config.given is not None:
    return config.given
  return frozenset(setting.name for setting, value in iterate_values(config) if value != setting.default)


def settle_search(config: FindConfig, given: frozenset[str]) -> Mapping[str, Any]:
  """The searches, as far as an option that is given leaves them open."""
  options, preset = SearchOptions.of(config), SearchOptions.of(OF_IMAGENET)
  if not given & {"search", "thorough"}:
    options = dataclasses.replace(options, search=preset.search)
  # Who says how many pixels a step masks is not given a share of them: --per-step 100 is the paper's search.
  if options.search in ("gradient", "both") and "per-step" not in given:
    steps = {"per-step": "per_step", "step-share": "step_share", "memory": "memory"}
    options = dataclasses.replace(
      options, **{field: getattr(preset, field) for option, field in steps.items() if option not in given}
    )
  return options.make()


def settle_rest(config: FindConfig, given: frozenset[str]) -> Mapping[str, Any]:
  """The other fields of the preset that no option has set, nor one that they would contradict."""
  fields = {name: getattr(OF_IMAGENET, name) for name in ("threshold", "certificate") if name not in given}
  has_order = settle_search(config, given)["search"] is not None
  if has_order and not given & {"save", "mask-threshold", "mask-fraction"}:
    fields |= {name: getattr(OF_IMAGENET, name) for name in ("saved", "mask_fractions")}
  return fields


def describe_preset(config: FindConfig, input_shape: tuple[int, ...]) -> str:
  """A line on the options that the preset has set; empty where there are none."""
  if config.preset != OF_IMAGENET.preset:
    return ""
  names = {setting.name for setting, value in iterate_values(OF_IMAGENET) if value != setting.default}
  names -= find_given(config) | {"out", "preset"}
  taken = " ".join(
    " ".join(write_option(setting, value))
    for setting, value in iterate_values(config)
    if setting.name in names and value != setting.default
  )
  size = f"{input_shape[1]}x{input_shape[0]}"
  return taken and f"Preset {config.preset}, for {size} pixels: {taken}; --preset small leaves the defaults."
