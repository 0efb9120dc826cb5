"""What `find` takes for large classifiers unless told otherwise, and what it says of it and of long runs."""

import dataclasses
import pathlib
import shlex
from typing import Any

import pytest
import tiny_classifier

from jax_sis import results
from jax_sis.classifiers import checkpoint
from jax_sis.cli import main, parsing
from jax_sis.core.searches import Gradient
from jax_sis.data.imagenet_classes import imagenet_class_names
from jax_sis.results import folder
from jax_sis.runs import find, long_runs, setup
from jax_sis.runs.config import FindConfig, settings_from_json, settings_to_json
from jax_sis.runs.presets import describe_preset, settle_preset

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")
SMALL, LARGE = (127, 224, 3), (128, 160, 3)
STEPS = "--per-step 10 --step-share 0.1 --memory 0.95 "
ALL = f"--search gradient {STEPS}--threshold 0.9 --certificate alone --save both --mask-fraction 0.1"


def parse(line: str) -> FindConfig:
  return parsing.parse("find", main.load_command("find"), shlex.split(line))[0]


def test_the_preset_is_fast_on_photographs_and_leaves_small_classifiers_alone():
  asked = parse("")
  assert settle_preset(asked, SMALL) is asked
  settled = settle_preset(asked, LARGE)
  assert (settled.search, settled.smallest) == (Gradient(per_step=10, share=0.1, memory=0.95), None)
  assert (settled.threshold, settled.certificate, settled.mask_fractions) == (0.9, "alone", (0.1,))
  assert settled.saves_order
  assert settled.out == asked.out
  in_python = FindConfig()
  assert settle_preset(in_python, LARGE) is in_python
  named = FindConfig(preset="imagenet", threshold=0.8)
  assert settle_preset(named, SMALL) == dataclasses.replace(settled, out=named.out, threshold=0.8)


@pytest.mark.parametrize(
  ("line", "taken"),
  [
    ("", ALL),
    ("--threshold 0.99", ALL.replace("--threshold 0.9 ", "")),
    ("--threshold=0.99 --per_step 1 --certificate full", "--search gradient --save both --mask-fraction 0.1"),
    ("--per-step 100", ALL.replace(STEPS, "")),
    ("--memory 0", ALL.replace("--memory 0.95 ", "")),
    ("--search smallest", "--threshold 0.9 --certificate alone"),
    ("--search exact", "--threshold 0.9 --certificate alone --save both --mask-fraction 0.1"),
    ("--thorough", ALL.replace("--search gradient ", "")),
    ("--save order", ALL.removesuffix(" --save both --mask-fraction 0.1")),
    ("--save mask --mask-fraction 0.2", ALL.removesuffix(" --save both --mask-fraction 0.1")),
    ("--preset small", ""),
  ],
)
def test_options_that_are_given_stay_and_the_others_are_said(line: str, taken: str):
  asked = parse(line)
  settled = settle_preset(asked, LARGE)
  note = f"Preset imagenet, for 160x128 pixels: {taken}; --preset small leaves the defaults." if taken else ""
  assert describe_preset(settled, LARGE) == note
  told = {setting: getattr(asked, setting) for setting in ("threshold", "certificate") if f"--{setting}" in line}
  assert {setting: getattr(settled, setting) for setting in told} == told
  assert settle_preset(settled, LARGE) == settled
  # The command that errors and `status` show asks for the same.
  again = settle_preset(parse(settled.command_in(settled.out).removeprefix("jax-sis find")), LARGE)
  assert dataclasses.replace(again, preset=None) == dataclasses.replace(settled, preset=None)


@pytest.mark.parametrize(
  ("search", "stored"),
  [
    # As versions before the share and the memory wrote it.
    (Gradient(per_step=4), {"name": "Gradient", "per_step": 4}),
    (Gradient(share=0.1, memory=0.0), {"name": "Gradient", "per_step": 1, "share": 0.1, "memory": 0.0}),
  ],
)
def test_a_run_stores_the_steps_of_its_search_and_reads_them_again(search: Gradient, stored: dict[str, Any]):
  config = FindConfig(search=search)
  settings = settings_to_json(config)
  assert settings["search"] == stored
  assert settings_from_json(settings) == config


def test_a_run_of_more_than_an_hour_says_how_long_and_what_is_faster(
  tiny_checkpoint: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
  config = FindConfig(out=str(tmp_path), checkpoint=tiny_checkpoint, num_devices=2, batch_size=2)
  job = setup.make_job(config, folder.open_folder(tmp_path))
  assert not long_runs.may_be_long(job, 24)
  assert long_runs.may_be_long(job, 10**8)
  timed = []
  monkeypatch.setattr(long_runs, "estimate_seconds", lambda job, num_images: timed.append(num_images) or 7200.0)
  assert (long_runs.warn_of_long_run(job, 24), timed) == ("", [])
  assert long_runs.warn_of_long_run(job, 10**8).splitlines() == [
    "This will take about 2:00:00 for 100000000 images on 2 cpu device(s), from some timed steps of the backward "
    "search; it can be stopped and goes on by the same command. Faster would be:",
    "  --per-step 4: a quarter of the steps, and larger subsets",
    "  --certificate alone: without dropping each pixel of each subset",
    "  --ids FILE: fewer images",
    "  --shard I/N: the same command on N machines, each with its own I",
    "  a GPU or TPU: jax-sis plan --on h100 with these options says how much",
  ]
  monkeypatch.setattr(long_runs, "estimate_seconds", lambda job, num_images: 3599.0)
  assert long_runs.warn_of_long_run(job, 10**8) == ""


@pytest.mark.slow
def test_the_photographs_are_searched_as_the_preset_says(
  tiny_checkpoint: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  tiny_classifier.register()
  small = checkpoint.load_classifier(tiny_checkpoint)
  names = imagenet_class_names()[:10]
  large = dataclasses.replace(small, input_shape=(128, 128, 3), class_names=names)
  checkpoint.save_classifier(tmp_path / "large", large)
  line = shlex.join(["--checkpoint", str(tmp_path / "large"), "--out", str(tmp_path / "out"), "--devices", "2"])
  find.find(parse(f"{line} --batch 3"))
  printed = capsys.readouterr().out
  assert f"Preset imagenet, for 128x128 pixels: {ALL}; --preset small leaves the defaults.\n" in printed
  store = results.open(tmp_path / "out")
  assert store.read_text("id") == ["chameleon", "koala", "german_shepherd", "bison", "tripod", "espresso"]
  assert store.spec["data"]["data"] == "imagenet sample"
  assert store.spec["search"] == {"name": "Gradient", "per_step": 10, "share": 0.1, "memory": 0.95}
  assert store.read("mask_fraction_0.1").reshape(6, -1).sum(1).tolist() == [1639] * 6
  with pytest.raises(ValueError, match=r"--threshold 0\.99"):
    find.find(parse(f"{line} --threshold 0.99"))
