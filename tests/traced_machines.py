"""Searches of photographs, and what accelerators did: docs/results/coarse_to_fine and docs/results/accelerators."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from traced import Texts, fixed, join, read_lines, row, share, traces

from jax_sis.core.searches import backward_sizes

PHOTOGRAPHS = ["chameleon", "koala", "german_shepherd", "bison", "tripod", "espresso"]
# What the page calls cases of coarse_to_fine/searches.jsonl, with their steps.
COARSE_CASES: dict[str, tuple[str, dict[str, Any]]] = {
  "100 a step, the paper's": ("100 a step", {"per_step": 100}),
  "10 a step": ("10 a step", {"per_step": 10}),
  "1000 a step": ("1000 a step", {"per_step": 1000}),
  "10 % a step": ("10 % a step", {"per_step": 10, "share": 0.1}),
  "1000 a step, memory 0.95": ("1000 a step, memory 0.95", {"per_step": 1000}),
  "10 % a step, memory 0.95, what `find` takes": ("10 % a step, memory 0.95", {"per_step": 10, "share": 0.1}),
  "5 % a step, memory 0.975": ("5 % a step, memory 0.975", {"per_step": 10, "share": 0.05}),
}
TRIED_STEPS = {
  "2,000": "2000 a step",
  "1,000": "1000 a step",
  "500": "500 a step",
  "20 %, 10 or more": "20 % a step, at least 10",
  "10 %, 10 or more": "10 % a step, at least 10",
  "5 %, 10 or more": "5 % a step, at least 10",
  "9 % down to 500, then all": "9 % a step down to 500, then all",
  "5.4 % down to 200, then all": "5.4 % a step down to 200, then all",
}
MEMORIES = ("", "0.5", "0.8", "0.9", "0.95", "0.975", "0.98", "0.99")
# As the table says them: without 0.975, 0.97 stands in its column.
NEAR = {"0.975": "0.97"}
COMING_BACK = tuple(
  f"masked pixels may come back, {what}" for what in ("order of the last masking", "subsets on the way down")
)
PRECISIONS = {"float32": ("highest", "f32"), "TF32": ("default", "tf32"), "bfloat16": ("bf16", "bf16")}


@traces("README.md", "docs/index.md")
def first_picture(page: str) -> Texts:
  (found,) = (one for one in read_lines("coarse_to_fine/searches.jsonl") if one["case"] == "100 a step")
  statuses = dict(zip(found["ids"], found["status"], strict=True))
  # The benchmark asks for 0.9; status 0 is that the subset reaches it.
  assert [statuses[name] for name in ("chameleon", "bison", "espresso")] == [0, 0, 0]
  yield "EfficientNet-Lite0 is still at least 90 % sure: of a bison from grass at the edges"


@traces("docs/coarse_to_fine.md")
def searches_of_photographs(page: str) -> Texts:
  found = {one["case"]: one for one in read_lines("coarse_to_fine/searches.jsonl")}
  for name, (case, steps) in COARSE_CASES.items():
    one = found[case]
    assert one["ids"] == PHOTOGRAPHS[: len(one["ids"])]
    pixels = join([fixed(size) for size in one["num_kept"]]) + " (the first alone)" * (len(one["ids"]) == 1)
    mean = share(float(np.mean(one["num_kept"])) / one["num_pixels"], 1)
    gradients = len(backward_sizes(one["num_pixels"], **steps))
    yield row(name, fixed(gradients), pixels, mean, fixed(one["cpu_seconds_per_image"], 1))
  default, paper, ten = (found[case] for case in ("10 % a step, memory 0.95", "100 a step", "10 a step"))
  yield f"| pixels by the gradient, 10 % a step, memory 0.95 | {' | '.join(map(fixed, default['num_kept']))} |"
  sizes = [fixed(one["num_kept"][0]) for one in (ten, paper, default)]
  yield "{} pixels, where a hundred a step needs {} and the default {}.".format(*sizes)
  large, small, pixels = (found[f"smallest evidence, {one}"] for one in ("16x16 squares", "8x8 squares", "pixels"))
  yield (
    f"the same {large['num_kept'][0]} squares of 16x16 pixels in {fixed(large['cpu_seconds_per_image'])} CPU seconds "
    f"and the same {small['num_kept'][0]} of 8x8 in {fixed(small['cpu_seconds_per_image'])}"
  )
  assert pixels["status"] != [0]
  yield f"after {fixed(pixels['cpu_seconds_per_image'])} CPU seconds"


@traces("docs/coarse_to_fine.md")
def what_else_was_tried(page: str) -> Texts:
  found = {one["search"]: one for one in read_lines("coarse_to_fine/tried.jsonl")}
  percents = {name: f"{fixed(one['mean_percent'], 1)} %" for name, one in found.items()}

  def name_of(steps: str, memory: str) -> str:
    return f"{steps}, memory {memory}" if memory else steps

  for name, steps in TRIED_STEPS.items():
    cells = [percents.get(name_of(steps, memory), "") for memory in MEMORIES]
    for place, memory in enumerate(MEMORIES):
      if not cells[place] and name_of(steps, NEAR.get(memory, "none")) in found:
        cells[place] = f"{percents[name_of(steps, NEAR[memory])]} ({NEAR[memory]})"
    (gradients,) = {one["gradients"] for search, one in found.items() if search.partition(", memory")[0] == steps}
    yield row(name, gradients, *cells)
  yield f"{percents['9 % a step down to 500, then all']} with the same number of gradients as 1,000 a step"
  yield f"as 1,000 a step ({percents['1000 a step']})."
  plain = [percents[f"{steps}, memory 0.95"] for steps in ("1000 a step", "10 % a step, at least 10")]
  thousand, tenth = (
    [percents[f"{steps}, memory 0.95, {what}"] for what in ("gradients of equal length", *COMING_BACK)]
    for steps in ("1000 a step", "10 % a step, at least 10")
  )
  yield f"1,000 a step: {thousand[1]} ({thousand[2]} on the way down) for {plain[0]} without it; 10 %: {tenth[1]} for"
  yield f"10 %: {tenth[1]} for {plain[1]}."
  yield f"{thousand[0]} for {plain[0]} at 1,000 a step, {tenth[0]} for {plain[1]} at 10 %."


def h100(name: str, **keys: Any) -> dict[str, Any]:
  """The first line of a file that has these values."""
  lines = read_lines(f"accelerators/h100-{name}.jsonl")
  return next(one for one in lines if keys.items() <= one.items())


@traces("docs/results/accelerators/README.md")
def accelerator_checks(page: str) -> Texts:
  rates = h100("orders-and-resnet20", section="rates", library="jax")
  flops = rates["tflops"]
  yield f"Matrix products of {rates['matmul']:,} at {fixed(flops['highest'])} TFLOP/s in float32"
  yield f"{fixed(flops['default'])} in TF32 and {fixed(flops['bf16'])} in bfloat16"
  yield f"copies at {fixed(rates['copy_gb_per_s'] / 1000, 1)} TB/s"
  names = {"float32 (`highest`, the default)": "highest", "TF32 (`default`)": "default"}
  for name, precision in (names | {"bfloat16, inputs and weights too": "bf16"}).items():
    one = h100("orders-and-resnet20", order=f"device {precision}", against="cpu highest")
    ranks = [fixed(one[f"rank_correlation_{what}"], 2) for what in ("mean", "min")]
    yield row(name, "{} ({})".format(*ranks), share(one["overlap_of_5_percent_mean"]), fixed(one["mean_pixels_at_99"]))
  cpu, card = (
    h100("orders-and-resnet20", order=f"{where} highest", against="cpu highest") for where in ("cpu", "device")
  )
  yield f"pixels at 0.99, mean (CPU: {fixed(cpu['mean_pixels_at_99'])})"
  images = h100("orders-and-resnet20", order="device highest", images=24)["images"]
  yield f"even float32 differs on {fixed((1 - card['identical_images']) * images)} of {images} images"
  sizes = h100("orders-and-resnet20", what="smallest on device")["sizes"]
  assert sizes == h100("orders-and-resnet20", what="smallest on cpu")["sizes"]
  yield f"({len(sizes)} of {len(sizes)} images, {min(sizes)} to {max(sizes)} pixels)"
  logits = h100("orders-and-resnet20", check="logits at highest agree with the CPU's")["largest_difference"]
  again = [
    h100("orders-and-resnet20", check=f"device {one}: confidences again on the CPU")["largest_difference"]
    for one in ("highest", "default")
  ]
  yield f"logits at most {logits:.0e} from".replace("e-0", "e-")
  yield "({:.0e} apart in float32, {:.0e} in TF32)".format(*again).replace("e-0", "e-")


@traces("docs/results/accelerators/README.md")
def accelerator_speeds(page: str) -> Texts:
  milliseconds = []
  for batch in (64, 256, 1024):
    for name, (ours, theirs) in PRECISIONS.items():
      one = h100("orders-and-resnet20", section="gradient20", variant=f"jax {ours}", batch=batch)
      best = min(one[f"times_{way} {theirs}"] for way in ("eager", "graph"))
      roofline = f"{fixed(one['share_of_roofline'], 2)} of {one['roofline']}"
      speed = fixed(round(one["image_steps_per_s"], -2))
      yield row(f"{batch:,}", name, speed, fixed(one[f"times_authors {theirs}"], 1), fixed(best, 2), roofline)
      if batch == 64:
        milliseconds.append(fixed(one["ms_per_step"], 1))
  (at_64,) = set(milliseconds)
  yield f"At 64 images every precision takes {at_64} ms a step"
  for at_a_time in (1, 16, 64):
    before, since = (
      h100(name, section="smallest", at_a_time=at_a_time)["images_per_s"]
      for name in ("smallest-evidence", "packed-trials")
    )
    yield row(at_a_time, fixed(before, 1), fixed(since, 1))
  find = h100("find", section="find")
  yield f"{fixed(find['images_per_s'])} images a second, from host arrays to host arrays, compiled in"
  yield f"compiled in {find['compile_s']} s"
  yield f"costs nothing ({fixed(find['images_per_s_one_launch_ahead'])})"
  steps = [
    fixed(h100("packed-trials", variant=variant, batch=batch)["ms_per_step"], 2)
    for variant in ("default", "command buffers for loops")
    for batch in (1, 64)
  ]
  yield "A step of one image takes {} ms and one of 64 images {} ms".format(*steps)
  yield "{} and {} ms. At 64 images the card is busy".format(*steps[2:])
  some, many = (h100("packed-trials", section="profile", precision="default", batch=batch) for batch in (64, 1024))
  busy = [fixed(one[name], 2) for one in (some, many) for name in ("busy_ms_per_step", "ms_per_step")]
  yield "busy for {} of {} ms under the profiler, at 1,024 for {} of {} ms".format(*busy)
  yield f"{share(many['top'][0]['share'])} of it in one kernel"


def describe_program(one: Mapping[str, Any]) -> str:
  """A line of the TPU's table."""
  network = {"resnet20": "ResNet-20", "resnet50": "ResNet-50"}[one["network"]]
  name = f"{network}, {one['per_step']}" + ", at `default`" * (one["precision"] == "default")
  mib = [one[f"{what}_bytes"] / 2**20 for what in ("argument", "output", "program", "temporary")]
  temporary = f"{fixed(mib[3] / 1024, 2)} GiB" if mib[3] >= 1000 else f"{fixed(mib[3], 1)} MiB"
  traffic = one["step_bytes_hbm"]
  moved = f"{fixed(traffic / 1e3, 1)} kB" if traffic < 1e6 else f"{fixed(traffic / 1e6, 1 if traffic < 1e7 else 0)} MB"
  return row(
    name,
    f"{one['batch']:,}",
    join([fixed(size, 1) for size in mib[:3]]) + " MiB",
    temporary,
    fixed(one["step_flops"] / 1e9, 3 if one["network"] == "resnet20" else 1),
    moved,
    f"{one['bound_by_operations']:,}, {one['bound_by_memory']:,}",
    f"{fixed(one['compile_s'])} ({fixed(one['compile_core_s'])})",
  )


@traces("docs/results/benchmarks.md")
def programs_for_a_tpu(page: str) -> Texts:
  for one in read_lines("accelerators/v5e-ahead-of-time.jsonl"):
    if one["search"] == "gradient":
      yield describe_program(one)
    else:
      temporary, program = (fixed(one[f"{what}_bytes"] / 2**20, 1) for what in ("temporary", "program"))
      seconds = f"{fixed(one['compile_s'])} s ({fixed(one['compile_core_s'])} s of CPU)"
      yield f"{temporary} MiB of temporaries, a program of {program} MiB, compiled in {seconds}."
