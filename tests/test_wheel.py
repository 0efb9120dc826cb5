"""A wheel that stands alone: built, installed into an empty environment and used away from the checkout."""

import os
import pathlib
import shutil
import subprocess
import sys
import venv

import pytest


def run(*words: str, cwd: pathlib.Path, must_work: bool = True) -> subprocess.CompletedProcess[str]:
  """Runs a command that does not see this checkout."""
  environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
  finished = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=900)
  assert not must_work or finished.returncode == 0, finished.stderr
  return finished


# What a user writes, with all types said.
TYPED_SCRIPT = """
import jax
import numpy as np

import jax_sis
from jax_sis import FeatureOrder, Forward, Gradient, PredictFn, Status, Subsets

Params = dict[str, jax.Array]


def predict(params: Params, inputs: jax.Array) -> jax.Array:
  return inputs.reshape(inputs.shape[0], -1) @ params["weights"]


def search(predict_fn: PredictFn, params: Params, images: jax.Array, labels: list[int]) -> FeatureOrder:
  return jax_sis.backselect(predict_fn, params, images, labels, search=Gradient(per_step=4), grid=(4, 4))


def sizes_of(subsets: Subsets) -> list[int]:
  is_found: jax.Array = subsets.status == Status.OK
  return np.asarray(subsets.num_kept)[np.asarray(is_found)].tolist()


images: jax.Array = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
params: Params = {"weights": jax.random.normal(jax.random.key(1), (192, 5))}
order: FeatureOrder = search(predict, params, images, [0, 1])
rank: jax.Array = order.rank
subsets: Subsets = jax_sis.sufficient_subsets(order, np.array([0.9, 0.8], np.float32))
everywhere = np.ones((8, 8), np.bool_)
smallest: Subsets = jax_sis.smallest_subsets(predict, params, np.asarray(images), threshold=0.9, available=everywhere)
few: tuple[Subsets, ...] = jax_sis.sis_collection(predict, params, images, search=Forward(candidates=8), max_subsets=2)
fewer: Subsets = jax_sis.minimise(predict, params, images, subsets)
certificate: jax_sis.Certificate = jax_sis.certify(predict, params, images, fewer)
minimal: list[bool] = np.asarray(certificate.is_minimal).tolist()
print(rank.shape, sizes_of(subsets), sizes_of(smallest), minimal, [len(one.mask) for one in few])
"""


def check_types(python: str, folder: pathlib.Path) -> None:
  """Runs the script, and pyright on it, as the environment of this interpreter knows the package."""
  (folder / "script.py").write_text(TYPED_SCRIPT)
  assert run(python, "script.py", cwd=folder).stdout.startswith("(2, 16) ")
  # The folder alone, since our own settings may lie above it.
  (folder / "pyrightconfig.json").write_text('{"include": ["script.py"], "typeCheckingMode": "strict"}')
  checked = run(sys.executable, "-m", "pyright", "--pythonpath", python, cwd=folder, must_work=False)
  assert checked.returncode == 0, checked.stdout


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
  pytest.importorskip("pyright")
  typed = tmp_path / "typed"
  typed.mkdir()
  check_types(python, typed)
  run(*pip, "uninstall", "--yes", "jax_sis", cwd=tmp_path)
  run(*pip, "install", "--no-deps", "--editable", str(sources), cwd=tmp_path)
  where = run(python, "-c", "import jax_sis; print(jax_sis.__file__)", cwd=typed)
  assert pathlib.Path(where.stdout.strip()).is_relative_to(sources)
  check_types(python, typed)
