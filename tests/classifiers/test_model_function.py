"""The classifier that a user's function makes: what is taken, and what is said of anything else."""

import os
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jax_sis.classifiers import ImageModel, Normalisation, checkpoint, model_function, on_images
from jax_sis.classifiers.model_function import hash_program, load_model

HEAD = """
import numpy as np
from jax_sis.classifiers import ImageModel, Normalisation
SETTINGS = {
  "predict_fn": lambda params, images: images.mean((1, 2)) @ params["kernel"],
  "params": {"kernel": np.ones((3, 4), np.float32)},
  "input_shape": (32, 32, 3),
  "normalisation": Normalisation(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
}
number = 3
def load():
  return ImageModel(**SETTINGS)
"""
pytestmark = pytest.mark.usefixtures("without_type_checks", "folder", "allow_rank_promotion")


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
  """A current folder with the module `mine`; what is imported from there is forgotten afterwards."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "path", list(sys.path))
  before = set(sys.modules)
  (tmp_path / "mine.py").write_text(HEAD)
  yield tmp_path
  for name in set(sys.modules) - before:
    if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
      del sys.modules[name]


def test_a_function_is_found_in_a_module_a_package_and_a_file(folder: pathlib.Path):
  package = folder / "own"
  package.mkdir()
  (package / "__init__.py").touch()
  (package / "neighbour.py").write_text(HEAD)
  (package / "net.py").write_text("from .neighbour import load\n")
  (package / "beside.py").write_text("from neighbour import load\n")
  models = [
    load_model(name) for name in ("mine:load", "own.net:load", "own/beside.py:load", f"{package}/beside.py:load")
  ]
  assert [model.model_name for model in models] == ["mine:load", "own.net:load", "beside:load", "beside:load"]
  assert {model.class_names for model in models} == {("0", "1", "2", "3")}
  assert len({hash_program(model) for model in models}) == 1
  assert len({checkpoint.hash_arrays(model.params) for model in models}) == 1


def test_what_a_function_gives_is_brought_into_form(folder: pathlib.Path):
  (folder / "lists.py").write_text(
    HEAD + "def lists():\n"
    "  own = dict(input_shape=[32, 32, 3], class_names=list('abcd'), params=[np.ones((3, 4)), 2])\n"
    "  own['normalisation'] = Normalisation(mean=[np.float32(0.5)] * 3, std=[1] * 3)\n"
    "  own['predict_fn'] = lambda params, images: params[1] * images.mean((1, 2)) @ params[0].astype('float32')\n"
    "  return ImageModel(**SETTINGS | own)\n"
  )
  model = load_model("lists:lists")
  assert (model.input_shape, model.class_names) == ((32, 32, 3), ("a", "b", "c", "d"))
  assert model.normalisation == Normalisation(mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0))
  assert model.params[1].dtype == jnp.int32


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("mine", "--model must be package.module:function or file.py:function, got 'mine'."),
    (
      "mine.load",
      "--model must be package.module:function or file.py:function, got 'mine.load'; did you mean mine:load?",
    ),
    ("mine:load()", "got 'mine:load()'; did you mean mine:load?"),
    ("own/mine:load", "got 'own/mine' before the colon; a file's name ends in .py."),
    ("own/mine.py:load", "--model must name an existing file, got 'own/mine.py', which is none in "),
    (
      "nowhere.mine:load",
      "got 'nowhere.mine', but there is no module 'nowhere'; a file elsewhere is named as path/to/",
    ),
    ("mine:laod", "--model must name a function of mine, got 'laod', but it has none; did you mean load?"),
    ("mine:number", "got 'number', but it holds something of type int there; it has load."),
  ],
)
def test_a_name_that_names_no_function_is_refused(name: str, message: str):
  with pytest.raises(ValueError, match=re.escape(message)):
    load_model(name)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    (
      "import nowhere",
      "could not be imported, since it raised ModuleNotFoundError: No module named 'nowhere' (FILE, line 1).",
    ),
    ("1 / 0", "could not be imported, since it raised ZeroDivisionError: division by zero (FILE, line 1)."),
    ("raise SystemExit(2)", "could not be imported, since it raised SystemExit: 2 (FILE, line 1)."),
    ("def f(:", "could not be imported, since it raised SyntaxError: invalid syntax (wrong.py, line 1)."),
    ("def f():\n  return {}['x']", "--model wrong:f: the function raised KeyError: 'x' (FILE, line 2)."),
    (
      "def f(path): pass",
      "--model wrong:f: the function must take no arguments, but wants path; name one that returns",
    ),
    ("def f(): return 1, 2", "--model wrong:f: the function must return a jax_sis.classifiers.ImageModel(predict_fn="),
  ],
)
def test_a_function_that_fails_is_named_with_its_line(folder: pathlib.Path, text: str, message: str):
  (folder / "wrong.py").write_text(text)
  with pytest.raises(ValueError, match=re.escape(message.replace("FILE", str(folder / "wrong.py")))):
    load_model("wrong:f")


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ("params={'a': [1, 'text']}", "tuples or registered classes, but ['a'][1] is str; what is"),
    ("params={'f': load}", "but ['f'] is function; what is no array belongs into predict_fn"),
    ("params={'o': np.array([None])}", "but ['o'] is ndarray"),
    ("params={}", "ImageModel.params must hold the model's arrays, got none; a run knows the model by them"),
    ("params={'a': np.array([1, np.nan])}", "ImageModel.params must be finite, but ['a'] holds numbers that are not"),
    ("input_shape=(3, 32, 32)", "must have channels last, got (3, 32, 32); give (32, 32, 3), and begin"),
    ("input_shape=(1, 32, 32, 3)", "must be height, width and channels of an image, got (1, 32, 32, 3)"),
    ("input_shape='32x32'", "ImageModel.input_shape must be a tuple, got '32x32'"),
    ("input_shape=(32, 32, 1)", "must have a mean for each of the 1 channels of input_shape (32, 32, 1), got 3"),
    ("normalisation='cifar10'", "must be a jax_sis.classifiers.Normalisation(mean=..., std=...), got str"),
    ("class_names=[1, 2, 3, 4]", "ImageModel.class_names must be strings, got 1"),
    ("class_names=['a', 'b']", "must name each of the 4 logits that predict_fn gives, got 2 names (a, b)."),
    ("crop=2", "ImageModel.crop must be above 0 and at most 1, got 2"),
    ("params={'kernel': np.ones((3, 1), 'f4')}", "predict_fn must return logits of shape [2, K] with K >= 2"),
    ("params={'kernel': np.ones((4, 4), 'f4')}", "(params, inputs) with inputs float32[2, 32, 32, 3]"),
    ("predict_fn=3", "--model wrong:f: predict_fn must be a function (params, inputs) -> logits, got int."),
  ],
)  # fmt: skip
def test_a_model_that_is_none_is_refused(folder: pathlib.Path, change: str, message: str):
  (folder / "wrong.py").write_text(f"{HEAD}def f():\n  return ImageModel(**SETTINGS | dict({change}))\n")
  with pytest.raises(ValueError, match=re.escape(message)):
    load_model("wrong:f")


def test_a_folder_and_a_function_are_not_both_taken():
  with pytest.raises(
    ValueError, match=r"^--checkpoint and --model must not both be given, got 'a' and 'mine:load'; each"
  ):
    on_images.open_classifier("a", "mine:load")


def test_the_digests_know_parameters_and_program(folder: pathlib.Path):
  def describe(**changes: Any) -> dict[str, Any]:
    settings = vars(load_model("mine:load")) | changes
    return on_images.describe_model(model_function.LoadedModel(**settings))

  first = describe()
  assert first["model"]["name"] == "mine:load"
  assert describe() == first
  others = describe(params={"kernel": np.full((3, 4), 2, np.float32)})
  assert others["model"]["sha256"] != first["model"]["sha256"]
  assert others["program"] == first["program"]
  twice = describe(predict_fn=lambda params, images: images.mean((1, 2)) @ params["kernel"] * 2)
  assert twice["model"] == first["model"]
  assert twice["program"] != first["program"]


@pytest.mark.parametrize("make", ["from_nnx", "nnx", "linen"])
def test_models_of_flax_are_taken(folder: pathlib.Path, make: str):
  (folder / "net.py").write_text(f"""{HEAD}
import jax, jax.numpy as jnp
from flax import linen, nnx
from jax_sis.classifiers import adapters
class Net(nnx.Module):
  def __init__(self, rngs):
    self.dropout, self.head = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(3, 4, rngs=rngs)
  def __call__(self, images):
    return self.head(self.dropout(images.mean((1, 2))))
net = Net(nnx.Rngs(0))
net.eval()
dense = linen.Dense(4)
MODELS = {{
  "from_nnx": lambda: adapters.from_nnx(net),
  "nnx": lambda: (lambda net, images: net(images), net),
  "linen": lambda: (lambda variables, images: dense.apply(variables, images.mean((1, 2))), dense.init(
    jax.random.key(0), jnp.ones((1, 3)))),
}}
def load():
  predict_fn, params = MODELS["{make}"]()
  return ImageModel(**SETTINGS | dict(predict_fn=predict_fn, params=params))
""")
  model = load_model("net:load")
  assert len(checkpoint.hash_arrays(model.params)) == 64
  assert model.predict_fn(model.params, jnp.ones((2, 32, 32, 3))).shape == (2, 4)


def test_the_class_can_be_made_in_python():
  plain = Normalisation(mean=(0.0,), std=(1.0,))
  model = ImageModel(predict_fn=jnp.matmul, params=np.ones(3), input_shape=(8, 8, 1), normalisation=plain)
  assert (model.class_names, model.crop) == ((), 1.0)


@pytest.mark.parametrize(("place", "name"), [(0, "mine"), (1, "linen_net")])
def test_the_documented_models_are_what_they_say(folder: pathlib.Path, repository: pathlib.Path, place: int, name: str):
  blocks = re.findall(r"```python\n(.*?)```", (repository / "docs" / "models.md").read_text(), re.DOTALL)
  assert blocks[place].startswith(f"# {name}.py\n")
  (folder / "documented.py").write_text(blocks[place])
  shapes = {"w1": (3072, 8), "b1": (8,), "w2": (8, 10), "b2": (10,)}
  np.savez(folder / "weights.npz", **{key: np.ones(shape, np.float32) for key, shape in shapes.items()})  # pyright: ignore
  model = load_model("documented:load")
  assert len(model.class_names) == 10
  assert model.predict_fn(model.params, jnp.ones((2, 32, 32, 3))).shape == (2, 10)


def test_a_file_that_was_changed_within_the_second_is_read_again(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
  monkeypatch.setattr(sys, "dont_write_bytecode", False)
  file = tmp_path / "mine.py"
  for number in (1, 2):
    file.write_text(f"NUMBER = {number}\n")
    os.utime(file, (1_000_000_000, 1_000_000_000))
    assert model_function.import_file(str(file)).NUMBER == number
