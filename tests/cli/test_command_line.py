"""Settings -> the command that asks for them -> the same settings."""

import pathlib
import re
import shlex
from typing import Any

import pytest

from jax_sis.cli import main, parsing
from jax_sis.cli.classifiers import EnsembleOptions, ImportOptions, TrainOptions
from jax_sis.cli.data import PrepareOptions
from jax_sis.cli.find import WorkerOptions
from jax_sis.cli.reproduce import StagesOptions
from jax_sis.core.searches import Exact, Forward, Gradient, Screened
from jax_sis.core.smallest import THOROUGH
from jax_sis.evaluation.config import EvaluateConfig
from jax_sis.report.config import ReportConfig
from jax_sis.reproduction.audit.config import AuditConfig
from jax_sis.reproduction.config import ReproduceConfig
from jax_sis.results.query import PixelSubset
from jax_sis.results.subset_options import SubsetOptions
from jax_sis.runs.completion import CompletionSettings
from jax_sis.runs.config import FindConfig
from jax_sis.runs.options import BenchOptions, ExportOptions, PlanOptions, StatusOptions, VerifyOptions
from jax_sis.runtime.command_line import FolderCommand, command_line
from jax_sis.runtime.engines import Engine
from jax_sis.studies.analysis.config import StudyConfig
from jax_sis.studies.attributions.config import AttributionsConfig
from jax_sis.studies.clusters.config import ClustersConfig, ShortcutConfig
from jax_sis.studies.components.config import ComponentsConfig
from jax_sis.studies.controls.config import ControlsConfig
from jax_sis.studies.disjoint.config import DisjointConfig
from jax_sis.studies.holds.config import HoldsConfig
from jax_sis.studies.labels.config import LabelsConfig
from jax_sis.studies.ranking.config import RankingConfig
from jax_sis.studies.soundness.config import SoundnessConfig

REPOSITORY = pathlib.Path(__file__).parents[2]
# Without a checkout, those that lie beside the tests.
PAGES = sorted([*REPOSITORY.glob("README.md"), *(REPOSITORY / "docs").rglob("*.md")])

IMAGES: dict[str, Any] = {
  "out": "my runs/1",
  "checkpoint": "runs/it's mine",
  "model_function": "my nets/net.py:load",
  "data": "cifar10",
  "split": "test[:64]",
  "data_dir": "DATA",
  "ids": ("test_00003", "test_00001"),
  "resize": True,
  "background": "#00ff00",
  "patch": 2,
  "threshold": 0.9,
  "batch_size": 3,
  "num_devices": 2,
}
FIND = FindConfig(
  **IMAGES,
  search=Gradient(per_step=4, share=0.05, memory=0.5),
  smallest=None,
  score="probability",
  target="label",
  completion=CompletionSettings(
    kind="mixture",
    pool="cifar100",
    pool_split="train",
    num_pooled=64,
    num_draws=16,
    num_tried=4,
    rate=0.8,
    level=0.9,
    num_tested=100,
    seed=7,
  ),
  certificate="alone",
  precision="high",
  chunk_size=96,
  saved="both",
  mask_thresholds=(0.5, 0.9),
  mask_fractions=(0.05,),
  unit_size=6,
  gallery=0,
  preset="small",
)
# What does not go together with all of that.
FIND_APART: list[dict[str, Any]] = [
  {"lattice": True, "patch": 8, "removal": "layer"},
  {"features": "superpixels", "segments": 30},
  {"search": None, "question": "both", "margin": 2.0},
  {"search": Gradient(per_step=4, share=0.1, memory=0.9)},
]
EVALUATE = EvaluateConfig(
  **{name: value for name, value in IMAGES.items() if name not in ("ids", "patch", "threshold")},
  limit=10,
  on_error="refuse",
  corruptions="made",
  subset=PixelSubset(run="runs/sis", threshold=0.9, answer="smallest", fill=-1.5, allows_other_baseline=True),
  seed=3,
  num_bins=5,
  level=0.9,
)
ON_RAY = Engine(engine="ray", address="head:6379")
# Every command, each option with another value than its default.
WRITTEN: list[tuple[Any, ...]] = [
  ("find", FIND, WorkerOptions(shard="1/4")),
  ("find", FIND, WorkerOptions(engine="ray", address="head:6379")),
  *(("find", FindConfig(out="o", **options), WorkerOptions()) for options in FIND_APART),
  ("plan", FIND, PlanOptions(
    num_workers=64, accelerator="v5e", preempted_every="30m", replaced_after="3m", spread=0.2, is_json=True
  )),
  *(("plan", FindConfig(out="o", **options), PlanOptions()) for options in FIND_APART),
  ("verify", VerifyOptions(
    directory="gs://bucket/run", num_sampled=0, seed=1, checkpoint="c", model_function="m:f", data_dir="d",
    is_report_only=True, num_devices=1,
  )),
  ("controls", ControlsConfig(
    run_dir="runs/a b", limit=9, num_wrong_class=0, max_features=5, mask_fractions=(0.1, 0.2), seed=2, checkpoint="c",
    model_function="m:f", data_dir="-d",
  ), ON_RAY),
  ("status", StatusOptions(run_dir="runs/sis", watch_seconds=0.5, is_json=True)),
  ("export", ExportOptions(
    run_dir="r", to="{id}.png", masks=("smallest_mask", "mask_fraction_0.1"), is_partial=True, checkpoint="c",
    data_dir="d",
  )),
  ("analyse", StudyConfig(
    run_dirs=("a", "b"), out="o", labels=("one", "input dropout"), thresholds=(), fraction=0.1, has_class_curves=True,
    seed=4,
  )),
  ("attributions", AttributionsConfig(**IMAGES, seed=5, num_images=3, methods=("rise", "sis"), per_step=2), ON_RAY),
  ("disjoint", DisjointConfig(**IMAGES, seed=6, num_images=3, per_step=2, max_subsets=4, is_minimised=True), ON_RAY),
  ("soundness", SoundnessConfig(**IMAGES, seed=6, num_images=3, per_step=2, num_classes=4, orders=("random",))),
  ("clusters", ClustersConfig(
    run_dir="a", out="o", kind="smallest", fraction=0.1, classes=("cat",), max_images=30, region=0.2, num_judged=5,
    batch_size=2, num_devices=1, seed=7, checkpoint="c", model_function="m:f", data_dir="d",
  )),
  ("clusters", ClustersConfig(run_dir="a", is_together=True)),
  ("audit", AuditConfig(
    checkpoint="runs/a b", data="cifar10", split="test[:9]", train_split="train", data_dir="DATA", resize=True,
    background="#00ff00", out="o", size="smoke", num_devices=2, seed=3,
  ), StagesOptions(is_plan=True)),
  ("audit", AuditConfig(model_function="m:f", data="photos"), StagesOptions()),
  ("demo shortcut", ShortcutConfig(
    data_dir="d", out="o", num_images=30, num_others=5, checkpoint="c", num_devices=1, seed=3
  )),
  ("components", ComponentsConfig(
    **IMAGES, seed=6, classes=("cat", "sea boat"), validation="p", validation_split="s", num_components=4,
    labels="my marks.json", num_searched=3, num_images=6, search="gradient", per_step=2, completion="images",
  )),
  ("holds", HoldsConfig(
    run_dirs=("a", "b"), out="o", labels=("one", "input dropout"), attributions=(), conditions=("noise", "images"),
    pool="p", pool_split="train", num_pool=9, num_images=3, num_draws=4, num_added=2, sizes=(1, 4), rate=0.5,
    batch_size=2, num_devices=1, seed=7, checkpoint="c", model_function="m:f", data_dir="d",
  ), ON_RAY),
  ("ranking", RankingConfig(
    **{name: value for name, value in IMAGES.items() if name not in ("patch", "threshold")}, seed=6, num_images=3,
    beside=("a.npy", "b"), region="square:1,2,3", completion="images", pool="p", pool_split="train", num_pooled=9,
    num_draws=4, ends=0.2,
  )),
  ("ranking", RankingConfig(out="o", removal="layer")),
  ("ranking", RankingConfig(out="o", component=2, components="my parts")),
  ("labels", LabelsConfig(
    **{name: value for name, value in IMAGES.items() if name not in ("patch", "threshold")}, seed=6, num_images=3,
    planted=0.1, votes="v.json", human="h.npz", people=("a", "b"), runs=("a", "b c"), kind="smallest", at=0.5,
  )),
  ("report", ReportConfig(
    run_dir="r", out="r.html", analysis="a", soundness="s", title="What's left", gallery=0, checkpoint="c",
    model_function="m:f", data_dir="d",
  )),
  ("evaluate", EVALUATE, ON_RAY),
  ("bench", BenchOptions(
    checkpoint_dir="c", model_function="m:f", batch_sizes=(1, 4), search="exact", per_step=2, num_steps=3, num_runs=4,
    num_devices=1, is_json=True,
  )),
  ("train", TrainOptions(
    config="c.py", data_dir="d", out="o", overrides=("seed=1", "split='train[:9]'"), tensorboard=True
  ), SubsetOptions(random_fraction=0.1, subset_seed=3, fill=-1.0)),
  ("reproduce", ReproduceConfig(preset="paper", out="o", data_dir="d", is_summary=True), StagesOptions()),
  ("reproduce", ReproduceConfig(preset="smoke"), StagesOptions(is_plan=True)),
  ("reproduce", ReproduceConfig(preset="imagenet", data="p", checkpoints=("a", "b"), until="data"), StagesOptions()),
  ("checkpoint import", ImportOptions(
    file="w.pt", normalisation="0.5,0.5,0.5,0.5,0.5,0.5", recipe="r", model="vgg16", classes="n.txt", data_dir="d",
    size=64, key="k", out="o",
  )),
  ("checkpoint ensemble", EnsembleOptions(members=("a", "b"), average="logits", out="o")),
  ("data prepare", PrepareOptions(name="cifar100", source="x.tar.gz", data_dir="d")),
]  # fmt: skip


def parse(line: str) -> tuple[Any, ...]:
  """The settings that a line for a shell asks for."""
  program, *words = shlex.split(line)
  assert program == "jax-sis"
  name = next(name for name in (" ".join(words[:2]), words[0]) if name in main.COMMANDS)
  return parsing.parse(name, main.load_command(name), words[len(name.split()) :])


def test_settings_say_the_command_that_they_are_of():
  named = {name: part.COMMAND for name, part, *_ in WRITTEN if isinstance(part, FolderCommand)}
  assert len(named) == 8
  assert all(name == command for name, command in named.items())


@pytest.mark.parametrize("written", WRITTEN, ids=lambda written: written[0])
def test_the_command_line_of_settings_makes_the_same(
  written: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
  # `--ids` names a file, whose content is the setting.
  monkeypatch.chdir(tmp_path)
  pathlib.Path("FILE").write_text("\n".join(IMAGES["ids"]))
  name, *settings = written
  assert parse(command_line(name, *settings)) == tuple(settings)


def test_every_command_is_written_with_every_option():
  assert {name for name, *_ in WRITTEN} == set(main.COMMANDS)
  written = {
    (name, word.split("=")[0]) for name, *settings in WRITTEN for word in shlex.split(command_line(name, *settings))
  }
  for name in main.COMMANDS:
    for option in parsing.iterate_options(main.load_command(name).settings):
      is_written = option.option.is_positional or (name, f"--{option.name}") in written
      assert is_written or (name, option.name) in LEFT_OUT, (name, option.name)


# What does not go together with what is written, or has a case of its own.
LEFT_OUT = {
  *((name, "thorough") for name in ("find", "plan")),
  *(("evaluate", option) for option in ("subset-fraction", "random-fraction", "subset-seed")),
  *(("train", f"subset{rest}") for rest in ("", "-fraction", "-threshold", "-answer")),
  *(("reproduce", option) for option in ("plan", "summary", "data-dir", "data", "checkpoint", "until")),
}


@pytest.mark.parametrize(
  "searches",
  [
    {},
    {"search": None},
    {"search": Screened(), "smallest": None},
    {"search": Exact(), "smallest": None},
    {"search": Gradient(per_step=8)},
    {"smallest": None},
    {"smallest": THOROUGH.forward, "exchanges": THOROUGH.exchanges},
    {"search": None, "smallest": THOROUGH.forward, "exchanges": THOROUGH.exchanges},
  ],
)
def test_the_searches_of_a_run_are_written_and_read(searches: dict[str, Any]):
  config = FindConfig(**searches)
  assert parse(command_line("find", config)) == (config, WorkerOptions())


def test_searches_that_no_options_make_are_refused():
  with pytest.raises(ValueError, match="no options for the searches"):
    command_line("find", FindConfig(smallest=Forward(candidates=7)))


@pytest.mark.parametrize(
  ("settings", "name"),
  [
    (FindConfig(), "jax-sis-results"),
    (FindConfig(num_devices=1, gallery=3, data_dir="DATA"), "jax-sis-results"),
    (FindConfig(data="photos/", resize=True), "jax-sis-results-photos-resize"),
    (FindConfig(data="./photos", resize=True), "jax-sis-results-photos-resize"),
    (FindConfig(search=Exact(), smallest=None, threshold=0.9), "jax-sis-results-search-exact-threshold-0.9"),
    (FindConfig(target="label", batch_size=8), "jax-sis-results-target-label-batch-8"),
    (FindConfig(out="mine", threshold=0.9), "mine"),
    (EvaluateConfig(), "jax-sis-evaluation"),
    (EvaluateConfig(corruptions="made", data="cifar10"), "jax-sis-evaluation-cifar10-corruptions-made"),
    (DisjointConfig(num_images=8), "jax-sis-disjoint-images-8"),
    (AttributionsConfig(), "jax-sis-attributions"),
  ],
)
def test_a_run_without_a_folder_gets_that_of_its_question(settings: Any, name: str):
  """The second of two commands of the README was refused in the folder of the first."""
  assert settings.out == name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_the_commands_of_a_page_are_understood_and_each_question_has_its_folder(
  page: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
  monkeypatch.chdir(tmp_path)
  blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
  lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
  found = [re.search(r"(?:^|[ /])jax-sis ((?!-)[^|&]*)", line.partition("  #")[0]) for line in lines]
  folders: dict[str, set[str]] = {}
  for words in (shlex.split(command[1], comments=True) for command in found if command and "..." not in command[1]):
    if "--ids" in words:
      pathlib.Path(words[words.index("--ids") + 1]).write_text("an image")
    name = next(name for name in (" ".join(words[:2]), words[0]) if name in main.COMMANDS)
    settings = parsing.parse(name, main.load_command(name), words[len(name.split()) :])[0]
    if name in ("find", "evaluate", "disjoint", "attributions"):
      folders.setdefault(settings.out, set()).add(repr(settings))
  assert [questions for questions in folders.values() if len(questions) > 1] == []


def test_no_two_questions_share_a_folder():
  questions: list[dict[str, Any]] = [
    {"split": "test[:64]"}, {"split": "test[64:]"}, {"data": "/a/b"}, {"data": "a/b"}, {"data": "a_b"}, {"data": ".."},
    {"ids": ("a", "b")}, {"ids": ("a+b",)}, {"ids": tuple(f"image {i}" for i in range(99))}, {"baseline": -1.0},
    {"baseline": 1.0}, {"smallest": Forward(candidates=7)}, {"smallest": Forward(candidates=9)},
    {"checkpoint": "x" * 300, "data": "y" * 300, "target": "z" * 300, "split": "test[:9]", "threshold": 0.9},
  ]  # fmt: skip
  names = [FindConfig(**question).out for question in questions]
  assert len(set(names)) == len(names)
  assert names == [FindConfig(**question).out for question in questions]
  assert all(len(name) <= 100 and "/" not in name and not name.endswith(".") for name in names)


@pytest.mark.parametrize(
  "subset",
  [
    None,
    PixelSubset(run="r", fraction=0.05),
    PixelSubset(run="r", threshold=0.5),
    PixelSubset(run="r", fill=0.0, allows_other_baseline=True),
    PixelSubset(random_seed=7, fraction=1.0, fill=2.0),
  ],
)
def test_the_pixels_that_are_shown_are_written_and_read(subset: PixelSubset | None):
  config = EvaluateConfig(subset=subset)
  assert parse(command_line("evaluate", config)) == (config, Engine())


def test_a_subset_that_no_options_make_is_refused():
  with pytest.raises(ValueError, match="no options for PixelSubset"):
    command_line("evaluate", EvaluateConfig(subset=PixelSubset(run="r", expected_model="abc")))


@pytest.mark.parametrize(
  ("line", "settings"),
  [
    ("find", (FindConfig(), WorkerOptions())),
    ("find --batch auto --chunk auto", (FindConfig(), WorkerOptions())),
    ("find --batch 8 --search smallest --thorough", (
      FindConfig(batch_size=8, search=None, smallest=THOROUGH.forward, exchanges=THOROUGH.exchanges), WorkerOptions()
    )),
    ("find --save both --mask-threshold .5 .9 --mask-fraction .05", (
      FindConfig(saved="both", mask_thresholds=(0.5, 0.9), mask_fractions=(0.05,)), WorkerOptions()
    )),
    ("find --baseline -1e-3 --out=-o", (FindConfig(baseline=-1e-3, out="-o"), WorkerOptions())),
    ("find --data None", (FindConfig(data="None"), WorkerOptions())),
    ("plan", (FindConfig(), PlanOptions())),
    ("verify r", (VerifyOptions(directory="r"),)),
    ("controls r", (ControlsConfig(run_dir="r"), Engine())),
    ("controls --limit 3 r", (ControlsConfig(run_dir="r", limit=3), Engine())),
    ("status r", (StatusOptions(run_dir="r"),)),
    ("export r --to t.csv", (ExportOptions(run_dir="r", to="t.csv"),)),
    ("analyse a b", (StudyConfig(run_dirs=("a", "b")),)),
    ("analyse --class-curves a", (StudyConfig(run_dirs=("a",), has_class_curves=True),)),
    ("attributions", (AttributionsConfig(), Engine())),
    ("disjoint", (DisjointConfig(), Engine())),
    ("holds a b", (HoldsConfig(run_dirs=("a", "b")), Engine())),
    ("report r", (ReportConfig(run_dir="r"),)),
    ("evaluate", (EvaluateConfig(), Engine())),
    ("bench", (BenchOptions(),)),
    ("train c.py --out o --set seed=1 --set batch_size=8", (
      TrainOptions(config="c.py", out="o", overrides=("seed=1", "batch_size=8")), SubsetOptions()
    )),
    ("reproduce --preset smoke", (ReproduceConfig(preset="smoke", out="jax-sis-study-smoke"), StagesOptions())),
    ("checkpoint import w.pt --normalisation cifar10 --out o", (
      ImportOptions(file="w.pt", normalisation="cifar10", out="o"),
    )),
    ("checkpoint ensemble a b --out o", (EnsembleOptions(members=("a", "b"), out="o"),)),
    ("data prepare cifar10 --from x", (PrepareOptions(name="cifar10", source="x"),)),
  ],
)  # fmt: skip
def test_what_is_not_written_is_as_the_settings_class_says(line: str, settings: tuple[Any, ...]):
  assert parse(f"jax-sis {line}") == settings
