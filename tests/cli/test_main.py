"""The command line: help that reads well, and options that arrive."""

import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import pytest

from jax_sis.cli import main, parsing
from jax_sis.evaluation.config import EvaluateConfig
from jax_sis.results.query import PixelSubset
from jax_sis.version import __version__

HEAVY = {"flax", "grain", "orbax", "tensorflow_datasets", "matplotlib", "torch", "PIL", "optax"}


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
  """What `--help` prints of a command."""
  try:
    code = main.main([*command.split(), "--help"])
  except SystemExit as finished:
    code = finished.code
  assert code == 0
  return capsys.readouterr().out


@pytest.mark.parametrize("columns", [72, 80, 200])
@pytest.mark.parametrize("command", ["", "checkpoint", *main.COMMANDS])
def test_help_fits_the_terminal(
  command: str, columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
  monkeypatch.setenv("COLUMNS", str(columns))
  text = help_of(command, capsys)
  assert text.startswith(f"usage: jax-sis {command}")
  assert max(map(len, text.splitlines())) <= columns
  assert "\x1b" not in text


@pytest.mark.parametrize("name", main.COMMANDS)
def test_help_explains_every_option(name: str, capsys: pytest.CaptureFixture[str]):
  text = help_of(name, capsys)
  command = main.load_command(name)
  for option in parsing.iterate_options(command.settings):
    assert parsing.describe_setting(option)
    assert option.option.is_positional or f"--{option.name} " in text
  for heading in command.groups:
    assert f"{heading} options" in text
  assert ("examples:" in text) == bool(command.examples)


@pytest.mark.parametrize(
  "command",
  ["", *(name if name == "find" else pytest.param(name, marks=pytest.mark.slow) for name in main.COMMANDS)],
)
def test_help_loads_no_heavy_library(command: str):
  code = (
    "import sys\nfrom jax_sis.cli import main\ntry: main.main(sys.argv[1:])\nexcept SystemExit: pass\n"
    "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
  )
  finished = subprocess.run(
    [sys.executable, "-c", code, *command.split(), "--help"], capture_output=True, text=True, check=True
  )
  assert finished.stdout.startswith("usage: jax-sis")
  assert HEAVY & set(finished.stderr.split()) == set()


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]):
  assert main.main(["--version"]) == 0
  assert capsys.readouterr().out == f"jax-sis {__version__}\n"


@pytest.mark.parametrize("words", [[], ["checkpoint"], ["data"]])
def test_without_a_command_help_is_printed_as_an_error(words: list[str], capsys: pytest.CaptureFixture[str]):
  assert main.main(words) == 2
  printed = capsys.readouterr()
  assert printed.out == ""
  assert printed.err.startswith("usage: jax-sis")
  assert "data prepare" in printed.err or words == ["checkpoint"]


@pytest.mark.parametrize(
  ("words", "message"),
  [
    (["xyz"], "there is no command 'xyz'; jax-sis --help lists all commands."),
    (["fnd", "--out", "x"], "there is no command 'fnd'; did you mean find?"),
    (["analyze"], "there is no command 'analyze'; did you mean analyse?"),
    (["checkpoint", "imprt", "x"], "there is no command 'checkpoint imprt'; did you mean checkpoint import?"),
    (["--verson"], "there is no command '--verson'; did you mean --version?"),
    (["--print-completion", "csh"], "--print-completion must name bash, zsh or fish."),
  ],
)
def test_an_unknown_command_is_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]):
  assert main.main(words) == 2
  assert capsys.readouterr().err == f"jax-sis: {message}\n"


@pytest.mark.parametrize(
  ("words", "named"),
  [
    (["find", "--treshold", "0.9"], ["--treshold", "--threshold"]),
    (["find", "--search", "random"], ["--search", "gradient"]),
    (["find", "--batch", "many"], ["--batch", "many"]),
    (["controls"], ["RUN_DIR"]),
    (["train", "c.py"], ["--out"]),
  ],
)
def test_errors_name_the_option(words: list[str], named: list[str], capsys: pytest.CaptureFixture[str]):
  with pytest.raises(SystemExit) as finished:
    main.main(words)
  assert finished.value.code == 2
  error = capsys.readouterr().err
  assert all(name in error for name in named)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_command(shell: str, capsys: pytest.CaptureFixture[str]):
  assert main.main(["--print-completion", shell]) == 0
  script = capsys.readouterr().out
  assert all(word in script for name in main.COMMANDS for word in name.split())
  assert "wrong-class" in script
  if shutil.which(shell):
    subprocess.run([shell, "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(
  ("line", "replies"),
  [
    ("jax-sis contr", "controls"),
    ("jax-sis checkpoint im", "import"),
    ("jax-sis data pre", "prepare"),
    ("jax-sis find --thr", "--threshold"),
    ("jax-sis find --search s", "screened smallest"),
  ],
)
def test_bash_completes(line: str, replies: str, capsys: pytest.CaptureFixture[str]):
  main.main(["--print-completion", "bash"])
  script = capsys.readouterr().out
  script += f"""
COMP_WORDS=({line})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
$(complete -p jax-sis | sed 's/.*-F \\([^ ]*\\).*/\\1/')
echo "${{COMPREPLY[*]}}"
"""
  finished = subprocess.run(["bash"], input=script, capture_output=True, text=True, check=True)
  assert finished.stdout.split() == replies.split()


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


def test_bench_refuses_a_batch_of_none(capsys: pytest.CaptureFixture[str]):
  assert main.main(["bench", "--batch", "0"]) == 2
  assert capsys.readouterr().err == "jax-sis bench: --batch must be positive, got 0.\n"


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
  name, *words = [*command, *options]
  settings: Any = parsing.parse(name, main.load_command(name), words)[0 if name == "evaluate" else -1]
  assert (settings.subset if isinstance(settings, EvaluateConfig) else settings.make()["subset"]) == subset


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (["--subset", "a", "--random-fraction", "0.1"], "--subset and --random-fraction must not both be given; each says"),
    (["--subset-fraction", "0.1"], "--subset-fraction must come with --subset RUN."),
    (["--random-fraction", "0.1", "--subset-answer", "sis"], "--subset-answer must come with --subset RUN."),
    (["--subset", "a", "--subset-seed", "0"], "--subset-seed must come with --random-fraction."),
    (["--fill", "0.5"], "--fill must come with --subset or --random-fraction."),
    (["--random-fraction", "2"], "--random-fraction must be above 0 and at most 1, got 2.0."),
  ],
)
def test_options_on_pixels_that_make_no_sense_are_refused(
  options: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
):
  assert main.main(["evaluate", "--out", str(tmp_path), *options]) == 2
  assert capsys.readouterr().err.startswith(f"jax-sis evaluate: {message}")


# In a process of its own, since the command sets the number of CPU devices.
def test_a_subset_of_no_run_is_refused(tmp_path: pathlib.Path):
  command = [sys.executable, "-m", "jax_sis", "evaluate", "--subset", "nowhere", "--out", str(tmp_path / "out")]
  finished = subprocess.run(command, capture_output=True, text=True, check=False)
  assert finished.returncode == 2
  assert finished.stderr.startswith("jax-sis evaluate: directory must hold the results of a run (spec.json)")
