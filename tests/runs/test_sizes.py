"""How many images and masked copies are worked on at a time, by platform, run and memory."""

from typing import Any

import pytest

from jax_sis.core.searches import Exact, Forward, Gradient, Screened
from jax_sis.core.smallest import QUICK, THOROUGH, Effort
from jax_sis.runs import sizes
from jax_sis.runs.config import FindConfig
from jax_sis.runs.sizes import Open, Sizes

CIFAR, IMAGENET = (32, 32, 3), (224, 224, 3)


@pytest.mark.parametrize(
  ("platform", "shape", "num_images", "num_devices", "expected"),
  [
    ("cpu", CIFAR, 24, 2, 2),
    ("cpu", CIFAR, 10_000, 2, 16),
    ("cpu", IMAGENET, 1, 8, 1),
    # One launch, of which 24 images are padding.
    ("gpu", CIFAR, 1000, 1, 1024),
    # Rather five launches than two, of which the second would be nearly empty.
    ("gpu", CIFAR, 1100, 1, 256),
    ("gpu", CIFAR, 24, 1, 32),
    ("gpu", CIFAR, 1, 8, 1),
    ("tpu", CIFAR, 10_000, 8, 256),
    ("gpu", IMAGENET, 50_000, 1, 256),
    ("gpu", (2**14, 2**14, 3), 5, 1, 1),
  ],
)
def test_the_batch_suits_the_platform_and_the_run(
  platform: str, shape: tuple[int, ...], num_images: int, num_devices: int, expected: int
):
  assert sizes.default_batch_size(platform, shape, num_images=num_images, num_devices=num_devices) == expected


@pytest.mark.parametrize(
  ("platform", "options", "expected"),
  [
    # What all runs of before had on a CPU, so that they can go on.
    ("cpu", {}, (None, 64, 64)),
    ("cpu", {"search": Screened()}, (64, 64, 64)),
    ("cpu", {"search": Exact()}, (128, 64, 64)),
    ("gpu", {"search": Exact()}, (16384, 16384, 16384)),
    ("gpu", {"search": Exact(), "chunk_size": 96}, (96, 96, 96)),
    ("gpu", {"search": Screened(chunk_size=7), "chunk_size": 96}, (7, 96, 96)),
    ("gpu", {"search": Screened(chunk_size=7), "smallest": None}, (7, None, 16384)),
  ],
)
def test_every_number_of_copies_is_settled(platform: str, options: dict[str, Any], expected: tuple[int | None, ...]):
  settled = sizes.settle_chunks(FindConfig(**options), platform, CIFAR)
  found = *(getattr(search, "chunk_size", None) for search in (settled.search, settled.smallest)), settled.chunk_size
  assert found == expected


def test_a_run_that_goes_on_keeps_its_numbers_of_copies():
  stored = {"search": {"name": "Gradient"}, "smallest": {"name": "Forward", "chunk_size": 96}}
  settled = sizes.settle_chunks(FindConfig(), "gpu", CIFAR, stored=stored)
  assert settled.smallest is not None
  assert (settled.smallest.chunk_size, settled.chunk_size) == (96, 64)
  settled = sizes.settle_chunks(FindConfig(), "gpu", CIFAR, stored={**stored, "chunk_size": 512})
  assert settled.chunk_size == 512
  # Another that is asked for is not, so that it is refused as another run.
  settled = sizes.settle_chunks(FindConfig(chunk_size=32), "gpu", CIFAR, stored=stored)
  assert settled.smallest is not None
  assert (settled.smallest.chunk_size, settled.chunk_size) == (32, 32)


@pytest.mark.parametrize(
  ("options", "expected"),
  [
    ({"chunk_size": 64}, {}),
    ({"chunk_size": 16384}, {"chunk_size": 16384}),
    ({"chunk_size": 16384, "certificate": "alone"}, {}),
  ],
)
def test_specifications_say_what_is_not_as_it_always_was(options: dict[str, Any], expected: dict[str, int]):
  assert sizes.describe_certificate_chunk(FindConfig(**options)) == expected


@pytest.mark.parametrize(("effort", "num_lanes"), [(QUICK, 256), (THOROUGH, 64)])
def test_a_gpu_looks_for_the_smallest_evidence_of_many_images_at_a_time(effort: Effort, num_lanes: int):
  settled = sizes.settle_chunks(FindConfig(smallest=effort.forward), "gpu", CIFAR)
  assert settled.smallest is not None
  assert settled.smallest.chunk_size is not None
  assert settled.smallest.chunk_size // effort.forward.candidates == num_lanes
  assert sizes.default_batch_size("gpu", CIFAR, num_images=1000, num_devices=1) >= num_lanes


@pytest.mark.parametrize(
  ("options", "expected"),
  [
    ({"chunk_size": 16384}, 1024),
    ({"chunk_size": 96, "smallest": Forward(chunk_size=64)}, 96),
    ({"chunk_size": 96, "smallest": Forward(chunk_size=64), "certificate": "alone"}, 64),
    ({"chunk_size": 96, "search": Gradient(), "smallest": None, "certificate": "alone"}, 0),
  ],
)
def test_the_copies_of_a_model_call_are_those_of_any_search(options: dict[str, Any], expected: int):
  assert sizes.read_sizes(FindConfig(**options), 8) == Sizes(8, expected)


ALL = Open(batch=True, chunk=True)


@pytest.mark.parametrize(
  ("platform", "before", "is_open", "share", "expected"),
  [
    ("gpu", (1024, 1024), ALL, 0.5, (512, 1024)),
    ("gpu", (512, 1024), ALL, 0.5, (512, 512)),
    ("gpu", (512, 1024), ALL, 0.2, (512, 128)),
    # It does not fit, whatever the share says.
    ("gpu", (512, 0), ALL, 0.9, (256, 0)),
    ("gpu", (3, 1), ALL, 0.5, (1, 1)),
    ("gpu", (1, 3), ALL, 0.5, (1, 1)),
    ("gpu", (1, 1), ALL, 0.5, None),
    ("gpu", (512, 1024), Open(batch=True, chunk=False), 0.5, (256, 1024)),
    ("gpu", (512, 1024), Open(batch=False, chunk=True), 0.5, (512, 512)),
    ("gpu", (512, 512), Open(batch=False, chunk=True), 0.5, None),
    ("cpu", (16, 64), ALL, 0.5, (8, 64)),
    ("cpu", (16, 64), ALL, 0.01, (1, 64)),
    ("cpu", (1, 64), ALL, 0.5, (1, 32)),
    ("cpu", (16, 64), Open(batch=False, chunk=True), 0.5, None),
  ],
)
def test_what_is_larger_is_made_smaller(
  platform: str, before: tuple[int, int], is_open: Open, share: float, expected: tuple[int, int] | None
):
  smaller = sizes.shrink(Sizes(*before), platform, is_open, fitting_share=share)
  assert smaller == (None if expected is None else Sizes(*expected))


@pytest.mark.parametrize(
  ("options", "expected"),
  [
    ({}, (True, True)),
    ({"batch_size": 8}, (False, True)),
    ({"chunk_size": 8}, (True, False)),
    ({"search": Exact(chunk_size=8)}, (True, False)),
  ],
)
def test_what_settings_name_is_not_open(options: dict[str, Any], expected: tuple[bool, bool]):
  assert sizes.find_open(FindConfig(**options)) == expected


def test_a_certificate_allows_for_the_precision_of_the_search():
  assert FindConfig().certificate_tolerance == 1e-3
  assert FindConfig(precision="default").certificate_tolerance == 1e-2
  assert FindConfig(precision="default", tolerance=0.1).certificate_tolerance == 0.1
