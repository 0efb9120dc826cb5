"""The command line: help that reads well, and options that arrive."""

import os
import pathlib
import subprocess
import sys

import pytest

from jax_sis.cli import main, parser
from jax_sis.results.query import PixelSubset
from jax_sis.version import __version__

COMMANDS = (
  "find",
  "plan",
  "verify",
  "controls",
  "status",
  "export",
  "analyse",
  "attributions",
  "disjoint",
  "report",
  "evaluate",
  "bench",
  "train",
  "reproduce",
  "checkpoint",
  "data",
)


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_explains_every_option(command: list[str], capsys: pytest.CaptureFixture[str]):
  with pytest.raises(SystemExit) as finished:
    main.main([*command, "--help"])
  assert finished.value.code == 0
  text = capsys.readouterr().out
  assert text.startswith("usage: jax-sis")
  assert max(map(len, text.splitlines())) <= 120
  made = parser.make_parser()
  for action in made._subparsers._group_actions[0].choices[command[0]]._actions if command else made._actions:  # pyright: ignore
    assert action.help or action.dest == "command", action


def test_help_does_not_load_the_programs():
  code = "import sys; from jax_sis.cli import main, parser; parser.make_parser(); sys.exit('flax' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]):
  with pytest.raises(SystemExit):
    main.main(["--version"])
  assert capsys.readouterr().out == f"jax-sis {__version__}\n"


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]):
  with pytest.raises(SystemExit) as finished:
    main.main(["serach"])
  assert finished.value.code == 2
  assert "invalid choice: 'serach'" in capsys.readouterr().err


def test_thorough_needs_a_search_that_it_can_deepen(capsys: pytest.CaptureFixture[str]):
  assert main.main(["find", "--search", "gradient", "--thorough"]) == 2
  assert "--thorough must come with --search both or smallest, got --search gradient." in capsys.readouterr().err


def test_an_interrupt_that_gets_lost_ends_the_run_all_the_same():
  # As in JAX's callback of the garbage collector: what is raised there is reported and dropped.
  code = """
import gc, signal, sys, time
from jax_sis.cli import main as cli
def run(options):
  gc.callbacks.append(lambda phase, _: phase == "start" and signal.raise_signal(signal.SIGINT))
  gc.collect()
  gc.callbacks.clear()
  print("lost", flush=True)
  time.sleep(60)
signal.signal(signal.SIGINT, signal.default_int_handler)
cli.RUNNERS["find"] = run
sys.exit(cli.main(["find"]))
"""
  finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=50)
  assert finished.stdout == ""
  assert finished.returncode == 130
  assert finished.stderr == "\njax-sis find: interrupted; the same command goes on where it stopped.\n"


@pytest.mark.slow
def test_a_reader_who_has_seen_enough_ends_a_command_quietly(tmp_path: pathlib.Path):
  read_end, write_end = os.pipe()
  os.close(read_end)
  finished = subprocess.run(
    [sys.executable, "-m", "jax_sis", "find"],
    stdout=write_end,
    stderr=subprocess.PIPE,
    text=True,
    check=False,
    cwd=tmp_path,
    env={**os.environ, "PYTHONPATH": str(pathlib.Path(main.__file__).parents[2])},
  )
  os.close(write_end)
  assert finished.stderr == ""
  assert finished.returncode == 141


def test_per_step_needs_the_gradient_search(capsys: pytest.CaptureFixture[str]):
  assert main.main(["find", "--search", "smallest", "--per-step", "4"]) == 2
  assert "--per-step must come with --search both or gradient, got --search smallest." in capsys.readouterr().err


@pytest.mark.slow
def test_bench_prints_a_line_a_batch_size():
  command = [sys.executable, "-m", "jax_sis", "bench", "--batch", "1", "2", "--steps", "2", "--runs", "2"]
  finished = subprocess.run(command, capture_output=True, text=True, check=True)
  lines = finished.stdout.splitlines()
  assert "resnet20 on 32x32x3, Gradient(per_step=1), float32" in lines[0]
  assert "GFLOP/s" in lines[1]
  assert [line.split()[0] for line in lines[3:]] == ["1", "2"]
  assert all(float(line.split()[1]) > 0 for line in lines[3:])


def test_bench_refuses_a_batch_of_none():
  command = [sys.executable, "-m", "jax_sis", "bench", "--batch", "0"]
  finished = subprocess.run(command, capture_output=True, text=True, check=False)
  assert finished.returncode == 2
  assert finished.stderr == "jax-sis bench: --batch must be positive, got 0.\n"


@pytest.mark.parametrize(
  ("options", "subset"),
  [
    ([], None),
    (["--subset", "runs/sis"], PixelSubset(run="runs/sis")),
    (["--subset", "a.npz", "--subset-fraction", "0.05"], PixelSubset(run="a.npz", fraction=0.05)),
    (
      ["--subset", "gs://b/sis", "--subset-threshold", "0.9", "--subset-answer", "smallest", "--fill", "0"],
      PixelSubset(run="gs://b/sis", threshold=0.9, answer="smallest", allows_other_baseline=True),
    ),
    (["--random-fraction", "0.05"], PixelSubset(random_seed=0, fraction=0.05)),
    (
      ["--random-fraction", "0.1", "--subset-seed", "3", "--fill", "-1.5"],
      PixelSubset(random_seed=3, fraction=0.1, fill=-1.5),
    ),
  ],
)
@pytest.mark.parametrize("command", [["evaluate"], ["train", "config.py", "--out", "runs/mine"]])
def test_options_say_which_pixels_are_shown(command: list[str], options: list[str], subset: PixelSubset | None):
  assert main.make_subset(parser.make_parser().parse_args([*command, *options])) == subset


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (["--subset", "a", "--random-fraction", "0.1"], "--subset and --random-fraction must not both be given; each says"),
    (["--subset-fraction", "0.1"], "--subset-fraction must come with --subset RUN."),
    (["--random-fraction", "0.1", "--subset-answer", "sis"], "--subset-answer must come with --subset RUN."),
    (["--subset", "a", "--subset-seed", "0"], "--subset-seed must come with --random-fraction."),
    (["--fill", "0.5"], "--fill must come with --subset or --random-fraction."),
    (["--random-fraction", "2"], "PixelSubset.fraction must be above 0 and at most 1, got 2.0."),
  ],
)
def test_options_on_pixels_that_make_no_sense_are_refused(
  options: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
):
  assert main.main(["evaluate", "--out", str(tmp_path), *options]) == 2
  assert capsys.readouterr().err.startswith(f"jax-sis evaluate: {message}")


def test_a_subset_of_no_run_is_refused(tmp_path: pathlib.Path):
  command = [sys.executable, "-m", "jax_sis", "evaluate", "--subset", "nowhere", "--out", str(tmp_path / "out")]
  finished = subprocess.run(command, capture_output=True, text=True, check=False)
  assert finished.returncode == 2
  assert finished.stderr.startswith("jax-sis evaluate: directory must hold the results of a run (spec.json)")
