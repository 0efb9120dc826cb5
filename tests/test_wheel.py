"""A wheel that stands alone: built, installed into an empty environment and used away from the checkout."""

import os
import pathlib
import shutil
import subprocess
import venv

import pytest


def run(*words: str, cwd: pathlib.Path, must_work: bool = True) -> subprocess.CompletedProcess[str]:
  """Runs a command that does not see this checkout."""
  environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
  finished = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=900)
  assert not must_work or finished.returncode == 0, finished.stderr
  return finished


@pytest.mark.slow
def test_a_wheel_finds_subsets_and_knows_its_recipes(repository: pathlib.Path, tmp_path: pathlib.Path):
  if not (repository / "jax_sis").is_dir():
    pytest.skip("needs the sources, which are not beside these tests")
  venv.create(tmp_path / "environment", with_pip=True)
  python = str(tmp_path / "environment" / "bin" / "python")
  pip = (python, "-m", "pip", "--quiet", "--disable-pip-version-check")
  # A copy: building in place packs what an earlier build has left there.
  leftovers = shutil.ignore_patterns(".git", ".venv", "build", "dist", "*.egg-info", "__pycache__")
  sources = shutil.copytree(repository, tmp_path / "sources", symlinks=True, ignore=leftovers)
  built = run(*pip, "wheel", "--no-deps", "-w", str(tmp_path), str(sources), cwd=tmp_path, must_work=False)
  if "No matching distribution found for setuptools" in built.stderr:
    pytest.skip("needs a package index, and none can be reached")
  assert built.returncode == 0, built.stderr
  (wheel,) = tmp_path.glob("*.whl")
  run(*pip, "install", str(wheel), cwd=tmp_path)
  where = run(python, "-c", "import jax_sis; print(jax_sis.__file__)", cwd=tmp_path)
  assert pathlib.Path(where.stdout.strip()).is_relative_to(tmp_path / "environment")
  find = ("find", "--search", "gradient", "--patch", "8", "--gallery", "2", "--out", "found")
  assert "Written to found: gallery.png" in run(python, "-m", "jax_sis", *find, cwd=tmp_path).stdout
  recipe = "from jax_sis.training.config import load_config; print(load_config('cifar10_vgg16').model)"
  assert run(python, "-c", recipe, cwd=tmp_path).stdout == "vgg16\n"
