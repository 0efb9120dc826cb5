"""The published networks of inverted residual blocks, as tables of their blocks."""

import math
from collections.abc import Sequence

from jax_sis.classifiers.mobile import Activation, BlockConfig, MobileConfig, Source

# A stage: blocks, kernel size, stride of the first, how much wider the middle is, channels.
Stage = tuple[int, int, int, int, int]
EFFICIENTNET_STAGES: tuple[Stage, ...] = (
  (1, 3, 1, 1, 16),
  (2, 3, 2, 6, 24),
  (2, 5, 2, 6, 40),
  (3, 3, 2, 6, 80),
  (3, 5, 1, 6, 112),
  (4, 5, 2, 6, 192),
  (1, 3, 1, 6, 320),
)
MOBILENET_V2_STAGES: tuple[Stage, ...] = (
  (1, 3, 1, 1, 16),
  (2, 3, 2, 6, 24),
  (3, 3, 2, 6, 32),
  (4, 3, 2, 6, 64),
  (3, 3, 1, 6, 96),
  (3, 3, 2, 6, 160),
  (1, 3, 1, 6, 320),
)
# Howard et al. (2019), tables 1 and 2. A block: kernel size, stride, channels in the middle, channels, whether they are
# weighed. Stages of the second list have the hard swish.
V3Block = tuple[int, int, int, int, bool]
V3Stages = tuple[tuple[V3Block, ...], ...]
MOBILENET_V3_LARGE: tuple[V3Stages, V3Stages] = (
  (
    ((3, 1, 16, 16, False),),
    ((3, 2, 64, 24, False), (3, 1, 72, 24, False)),
    ((5, 2, 72, 40, True), (5, 1, 120, 40, True), (5, 1, 120, 40, True)),
  ),
  (
    ((3, 2, 240, 80, False), (3, 1, 200, 80, False), (3, 1, 184, 80, False), (3, 1, 184, 80, False)),
    ((3, 1, 480, 112, True), (3, 1, 672, 112, True)),
    ((5, 2, 672, 160, True), (5, 1, 960, 160, True), (5, 1, 960, 160, True)),
  ),
)
MOBILENET_V3_SMALL: tuple[V3Stages, V3Stages] = (
  (((3, 2, 16, 16, True),), ((3, 2, 72, 24, False), (3, 1, 88, 24, False))),
  (
    ((5, 2, 96, 40, True), (5, 1, 240, 40, True), (5, 1, 240, 40, True)),
    ((5, 1, 120, 48, True), (5, 1, 144, 48, True)),
    ((5, 2, 288, 96, True), (5, 1, 576, 96, True), (5, 1, 576, 96, True)),
  ),
)


def round_width(width: float) -> int:
  """The nearest multiple of eight that is not under 90 % of a number of channels."""
  rounded = max(8, int(width + 4) // 8 * 8)
  return rounded if rounded >= 0.9 * width else rounded + 8


def make_stages(
  table: Sequence[Stage], *, activation: Activation, width: float = 1.0, depth: float = 1.0, has_squeeze: bool = False
) -> tuple[tuple[BlockConfig, ...], ...]:
  """The blocks of a table, `width` times as wide and `depth` times as deep; the first and last stage keep their depth.

  What weighs channels has a quarter of those that its block gets.
  """
  stages: list[tuple[BlockConfig, ...]] = []
  in_width = 32
  for number, (num_blocks, kernel_size, stride, expansion, base_width) in enumerate(table):
    is_end = number in (0, len(table) - 1)
    blocks: list[BlockConfig] = []
    for index in range(num_blocks if is_end else math.ceil(depth * num_blocks)):
      block = BlockConfig(
        width=round_width(width * base_width),
        hidden=expansion * in_width,
        kernel_size=kernel_size,
        stride=stride if index == 0 else 1,
        squeezed=in_width // 4 if has_squeeze else 0,
        activation=activation,
      )
      blocks.append(block)
      in_width = block.width
    stages.append(tuple(blocks))
  return tuple(stages)


def make_v3(
  tables: tuple[V3Stages, V3Stages], *, hidden: int, epsilon: float, sources: tuple[Source, ...]
) -> MobileConfig:
  """MobileNet v3, whose last convolution is as wide as the middle of the block before it."""
  stages = tuple(
    tuple(
      BlockConfig(
        width=width,
        hidden=middle,
        kernel_size=kernel_size,
        stride=stride,
        squeezed=round_width(middle / 4) if has_squeeze else 0,
        activation=activation,
      )
      for kernel_size, stride, middle, width, has_squeeze in stage
    )
    for table, activation in zip(tables, ("relu", "hard_swish"), strict=True)
    for stage in table
  )
  return MobileConfig(
    stem=16,
    stages=stages,
    last=stages[-1][-1].hidden,
    hidden=hidden,
    activation="hard_swish",
    gate="hard_sigmoid",
    epsilon=epsilon,
    sources=sources,
  )


def make_efficientnet_lite(*, width: float, depth: float) -> MobileConfig:
  return MobileConfig(
    stages=make_stages(EFFICIENTNET_STAGES, activation="relu6", width=width, depth=depth),
    activation="relu6",
    padding="same",
    epsilon=1e-3,
    sources=("efficientnet-pytorch", "timm"),
  )


EFFICIENTNET_B0 = make_stages(EFFICIENTNET_STAGES, activation="swish", has_squeeze=True)
# Those of timm that differ in what no array shows, the padding or the norms' epsilon, have timm's names.
MOBILE_NETWORKS = {
  **{
    f"efficientnet_lite{number}": make_efficientnet_lite(width=width, depth=depth)
    for number, (width, depth) in enumerate(((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8)))
  },
  "efficientnet_b0": MobileConfig(stages=EFFICIENTNET_B0, activation="swish", sources=("torchvision", "timm")),
  "tf_efficientnet_b0": MobileConfig(
    stages=EFFICIENTNET_B0,
    activation="swish",
    padding="same",
    epsilon=1e-3,
    sources=("efficientnet-pytorch", "transformers", "timm"),
  ),
  "mobilenet_v2": MobileConfig(
    stages=make_stages(MOBILENET_V2_STAGES, activation="relu6"), activation="relu6", sources=("torchvision", "timm")
  ),
  "mobilenet_v3_large": make_v3(MOBILENET_V3_LARGE, hidden=1280, epsilon=1e-3, sources=("torchvision",)),
  "mobilenet_v3_small": make_v3(MOBILENET_V3_SMALL, hidden=1024, epsilon=1e-3, sources=("torchvision",)),
  "mobilenetv3_large_100": make_v3(MOBILENET_V3_LARGE, hidden=1280, epsilon=1e-5, sources=("timm",)),
  "mobilenetv3_small_100": make_v3(MOBILENET_V3_SMALL, hidden=1024, epsilon=1e-5, sources=("timm",)),
}
