"""Classifiers made of PyTorch's weights, and of other classifiers: on disk as they should be."""

import pathlib
import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import random_weights

from jax_sis import classifiers
from jax_sis.classifiers import checkpoint, ensemble, frozen, import_checkpoint, torch_weights
from jax_sis.cli import main
from jax_sis.data.normalisation import Normalisation

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")

NORMALISATION = Normalisation(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
WEIGHTS_FILE = "data/weights/resnet20-12fca82f.th"


@pytest.fixture
def weights_file(tmp_path: pathlib.Path) -> pathlib.Path:
  """A state dict of ResNet-20, as NumPy keeps it."""
  arrays: dict[str, Any] = {**random_weights.read_golden_logits("resnet20").state_dict()}
  np.savez(tmp_path / "weights.npz", **arrays)
  return tmp_path / "weights.npz"


def make_classifier(seed: int, *, class_names: tuple[str, ...] = ("a", "b", "c")) -> classifiers.Classifier:
  module = classifiers.build("resnet20", num_classes=len(class_names), seed=seed)
  module.eval()
  return classifiers.Classifier(
    model_name="resnet20",
    module=module,
    class_names=class_names,
    normalisation=NORMALISATION,
    input_shape=(32, 32, 3),
  )


@pytest.mark.slow
def test_imported_weights_give_pytorchs_logits_after_a_round_trip(weights_file: pathlib.Path, tmp_path: pathlib.Path):
  import_checkpoint.import_weights(weights_file, out_dir=tmp_path / "out", normalisation=NORMALISATION)
  loaded = checkpoint.load_classifier(tmp_path / "out")
  assert loaded.model_name == "resnet20"
  assert loaded.class_names == tuple("0123456789")
  assert loaded.normalisation == NORMALISATION
  assert loaded.input_shape == (32, 32, 3)
  golden = random_weights.read_golden_logits("resnet20")
  inputs = jnp.asarray(golden.inputs().transpose(0, 2, 3, 1), jnp.float32)
  np.testing.assert_allclose(loaded.module(inputs), golden.logits, rtol=0, atol=1e-4)


def test_class_names_and_architecture_must_fit(weights_file: pathlib.Path, tmp_path: pathlib.Path):
  options = {"out_dir": tmp_path / "out", "normalisation": NORMALISATION}
  with pytest.raises(ValueError, match=r"^class_names must have a name for each of the 10 classes, got 2\.$"):
    import_checkpoint.import_weights(weights_file, class_names=("a", "b"), **options)
  with pytest.raises(ValueError, match=r"^state_dict must hold exactly the arrays of vgg16, .* it is a state dict of"):
    import_checkpoint.import_weights(weights_file, model_name="vgg16", **options)
  assert not (tmp_path / "out").exists()


def test_the_published_weights_are_imported_from_the_command_line(
  shared_dir: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  out, data_dir = tmp_path / "out", shared_dir / "data/tfds"
  command = ["checkpoint", "import", str(shared_dir / WEIGHTS_FILE), "--normalisation", "imagenet2012"]
  assert main.main([*command, "--classes", "cifar10", "--data-dir", str(data_dir), "--out", str(out)]) == 0
  assert capsys.readouterr().out == f"resnet20, 10 classes; use it by --checkpoint {out}\n"
  loaded = checkpoint.load_classifier(out)
  assert loaded.class_names[3] == "cat"
  assert loaded.normalisation.mean == (0.485, 0.456, 0.406)


def test_class_names_come_from_a_file(tmp_path: pathlib.Path):
  (tmp_path / "names.txt").write_text("red fox\n arctic fox \n\n")
  assert import_checkpoint.read_class_names(str(tmp_path / "names.txt"), data_dir=None) == ("red fox", "arctic fox")
  with pytest.raises(ValueError, match="'no_such_set'"):
    import_checkpoint.read_class_names("no_such_set", data_dir=str(tmp_path))


INDEX = '{"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}'
NAMES = ("tench", "goldfish")


@pytest.mark.parametrize(
  ("content", "expected"),
  [
    (b"\xef\xbb\xbftench\r\ngoldfish\r\n", NAMES),
    ("tench\ngoldfish\n".encode("utf-16"), NAMES),
    ("\ufefftench\ngoldfish".encode("utf-16-be"), NAMES),
    (INDEX.encode(), NAMES),
    (b"\xef\xbb\xbf" + INDEX.encode(), NAMES),
    (b'["tench", "lady\'s slipper"]', ("tench", "lady's slipper")),
    (b'{"1": "goldfish", "0": "tench"}', NAMES),
    (b'{"goldfish": 1, "tench": 0}', NAMES),
    (b"{0: 'tench',\n 1: 'goldfish'}", NAMES),
    (b'{"architectures": ["R"], "head": null, "id2label": {"0": "tench", "1": "goldfish"}}', NAMES),
    ("\u72ac\nn\xe9non".encode(), ("\u72ac", "n\xe9non")),
  ],
)
def test_class_names_are_read_as_editors_and_libraries_write_them(
  tmp_path: pathlib.Path, content: bytes, expected: tuple[str, ...]
):
  (tmp_path / "names").write_bytes(content)
  assert import_checkpoint.read_class_names(str(tmp_path / "names"), data_dir=None) == expected


@pytest.mark.parametrize(
  ("content", "reason"),
  [
    (b"n\xe9non\n", "must be a text in UTF-8 or UTF-16, got "),
    (b'{"0": "tench"', "must be a list of names or an index in JSON, got "),
    (b'{"1": "tench", "2": "goldfish"}', "must number its names 0, 1, 2 and so on, got "),
    (b'{"0": {"name": "tench"}}', "must number its names 0, 1, 2 and so on, got "),
    (b'{"0": [], "1": ["a"]}', "must number its names 0, 1, 2 and so on, got "),
    (b"{'tench', 'goldfish'}", "must be a list of names or an index in JSON, got "),
    (b"[1, 2]", "must number its names 0, 1, 2 and so on, got "),
  ],
)
def test_a_file_without_class_names_is_refused(tmp_path: pathlib.Path, content: bytes, reason: str):
  (tmp_path / "names").write_bytes(content)
  with pytest.raises(ValueError, match=f"^--classes {reason}"):
    import_checkpoint.read_class_names(str(tmp_path / "names"), data_dir=None)


def test_a_single_logit_is_imported_as_two_and_what_is_left_out_is_said(
  weights_file: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  with np.load(weights_file) as file:
    arrays = {f"encoder.{name}": array for name, array in file.items()}
  arrays["encoder.linear.weight"], arrays["encoder.linear.bias"] = np.ones((1, 64), np.float32), np.ones(1, np.float32)
  other = {f"ema.{name}": array for name, array in arrays.items()}
  np.savez(weights_file, allow_pickle=False, queue=np.ones(3, np.float32), **arrays, **other)
  (tmp_path / "names").write_text("benign\nmalignant\n")
  out = tmp_path / "out"
  command = ["checkpoint", "import", str(weights_file), "--normalisation", "cifar10", "--out", str(out)]
  assert main.main([*command, "--classes", str(tmp_path / "names"), "--model", "resnet20"]) == 2
  assert "whose names begin with 'encoder', 'ema.encoder'; say by key" in " ".join(capsys.readouterr().err.split())
  assert main.main([*command, "--classes", str(tmp_path / "names"), "--key", "ema"]) == 0
  assert capsys.readouterr().out.splitlines()[:-1] == [
    "Its single logit z becomes the logits [0, z] of two classes; z speaks for the second."
  ]
  loaded = checkpoint.load_classifier(out)
  assert loaded.class_names == ("benign", "malignant")
  predict_fn, params = frozen.freeze(loaded.module)
  assert (np.asarray(predict_fn(params, jnp.ones((2, 32, 32, 3))))[:, 0] == 0).all()


def test_a_normalisation_is_a_name_or_six_numbers():
  assert import_checkpoint.parse_normalisation("cifar10").mean[0] == 125.3 / 255
  assert import_checkpoint.parse_normalisation("0.1,0.2,0.3,0.4,0.5,0.6") == NORMALISATION
  for text in ("mnist", "1,2,3", "a,b,c,d,e,f"):
    message = (
      "--normalisation must be one of cifar10, cifar100, imagenet2012 or six numbers separated by commas, "
      f"got {text!r}."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
      import_checkpoint.parse_normalisation(text)


@pytest.mark.slow
@pytest.mark.parametrize("average", ["probabilities", "logits"])
def test_an_ensemble_on_disk_answers_with_the_mean_of_its_members(average: ensemble.Average, tmp_path: pathlib.Path):
  members = [make_classifier(seed) for seed in range(2)]
  folders = [tmp_path / name for name in ("first", "second")]
  for folder, member in zip(folders, members, strict=True):
    checkpoint.save_classifier(folder, member)
  out = tmp_path / "ensemble"
  assert main.main(["checkpoint", "ensemble", *map(str, folders), "--average", average, "--out", str(out)]) == 0
  loaded = checkpoint.load_classifier(out)
  assert loaded.model_name == "ensemble of 2"
  assert loaded.ensemble == ensemble.EnsembleConfig(members=("resnet20", "resnet20"), average=average)
  inputs = jnp.asarray(np.random.default_rng(0).normal(size=(3, 32, 32, 3)), jnp.float32)
  logits = np.stack([np.asarray(member.module(inputs), np.float64) for member in members])
  if average == "probabilities":
    logits = np.log(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))
    expected = np.log(np.exp(logits).mean(0))
  else:
    expected = logits.mean(0)
  predict_fn, params = frozen.freeze(loaded.module)
  np.testing.assert_allclose(predict_fn(params, inputs), expected, rtol=1e-4, atol=1e-4)


def test_members_that_do_not_fit_together_are_refused(tmp_path: pathlib.Path):
  first, second, both = (tmp_path / name for name in ("first", "second", "both"))
  checkpoint.save_classifier(first, make_classifier(0))
  checkpoint.save_classifier(second, make_classifier(1, class_names=("a", "b", "d")))
  with pytest.raises(ValueError, match=r"^an ensemble must have at least two members, got 1\.$"):
    import_checkpoint.join_ensemble([first], average="logits", out_dir=both)
  with pytest.raises(ValueError, match=r"^members must have the same class_names, got \('a', 'b', 'c'\) in "):
    import_checkpoint.join_ensemble([first, second], average="logits", out_dir=both)
  checkpoint.save_classifier(second, make_classifier(1, class_names=("0", "1", "2")))
  assert import_checkpoint.join_ensemble([second, first], average="logits", out_dir=both).class_names == ("a", "b", "c")
  with pytest.raises(ValueError, match=r"^members must be single classifiers, but '.*both' is an ensemble; name its"):
    import_checkpoint.join_ensemble([first, both], average="logits", out_dir=tmp_path / "more")


def test_identify_and_load_agree_with_the_file(weights_file: pathlib.Path):
  with np.load(weights_file) as file:
    assert torch_weights.identify(dict(file)) == "resnet20"
