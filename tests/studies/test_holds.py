"""Which orders hold: counts by a plain loop over the same draws, what is summed up, gone on with, and refused."""

import csv
import hashlib
import itertools
import json
import pathlib
import re
import shutil
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from tiny_runs import GRADIENT, find_tiny

from jax_sis import results
from jax_sis.classifiers import Classifier, checkpoint
from jax_sis.cli import main
from jax_sis.core.completions import Blur, Images, Noise
from jax_sis.core.drawing import Purpose
from jax_sis.core.features import Grid
from jax_sis.data.sources import SAMPLE_DIR
from jax_sis.studies.holds import judge, program, report, summaries
from jax_sis.studies.holds.config import ATTRIBUTIONS, CONDITIONS, HoldsConfig
from jax_sis.studies.holds.summaries import Held, Order

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")
SIZES = (5, 9, 13)
# What the logits are multiplied by, so that the classifier is sure of images again.
SHARPNESS = 16.0
SETTINGS: dict[str, Any] = {
  "attributions": ("random",),
  "pool": "sample",
  "num_pool": 15,
  "num_images": 4,
  "num_draws": 6,
  "num_added": 3,
  "sizes": SIZES,
  "batch_size": 1,
  "num_devices": 2,
  "seed": 5,
}


def hold(out: pathlib.Path, *runs: pathlib.Path, **options: Any) -> dict[str, Any]:
  with jax.numpy_rank_promotion("allow"):
    return program.holds(HoldsConfig(run_dirs=tuple(map(str, runs)), out=str(out), **{**SETTINGS, **options}))


def predict(classifier: Classifier, inputs: np.ndarray) -> np.ndarray:
  """The logits, before anything is folded or sharded."""
  return np.asarray(jax.jit(classifier.module)(jnp.asarray(inputs, jnp.float32)))


@pytest.fixture(scope="module")
def checkpoint_dir(tiny_checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> str:
  """The folder of the tiny classifier, changed to see other classes than one: that one is kept whatever is shown."""
  folder = str(tmp_path_factory.mktemp("centred"))
  with jax.numpy_rank_promotion("allow"):
    classifier = checkpoint.load_classifier(tiny_checkpoint)
    mean = predict(classifier, np.stack(list(read_sample(classifier).values()))).mean(0)
    for _, node in nnx.iter_graph(classifier.module):
      if isinstance(node, nnx.Linear):
        assert node.bias is not None
        node.bias[...] = SHARPNESS * (node.bias[...] - mean)
        node.kernel[...] = SHARPNESS * node.kernel[...]
    checkpoint.save_classifier(folder, classifier)
  return folder


@pytest.fixture(scope="module")
def run(checkpoint_dir: str, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """The folder of a run of find on it."""
  folder = tmp_path_factory.mktemp("run") / "mine"
  options = {**GRADIENT, "saved": "order", "mask_thresholds": (), "mask_fractions": ()}
  find_tiny(folder, checkpoint_dir, **options)
  return folder


@pytest.fixture(scope="module")
def held(run: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, dict[str, Any]]:
  out = tmp_path_factory.mktemp("holds") / "out"
  return out, hold(out, run)


def read_sample(classifier: Classifier) -> dict[str, np.ndarray]:
  """The normalised images of the sample by id."""
  paths = sorted(SAMPLE_DIR.glob("*/*.png"), key=lambda path: path.stem)
  return {path.stem: classifier.normalisation.apply(np.asarray(Image.open(path))[None])[0] for path in paths}


def make_key(name: str) -> Any:
  """What all draws of an image are made of."""
  key = jax.random.fold_in(jax.random.key(SETTINGS["seed"]), zlib.crc32(name.encode()) & 0x7FFFFFFF)
  return jax.random.fold_in(key, Purpose.MEASURE)


def show(image: np.ndarray, kept: np.ndarray, fill: np.ndarray | float) -> np.ndarray:
  return np.where(kept.reshape(4, 4, 1).repeat(8, axis=0).repeat(8, axis=1), image, fill)


def view_all(name: str, image: np.ndarray, rank: np.ndarray, pool: np.ndarray) -> np.ndarray:
  """What is shown under each condition, size by size and draw by draw."""
  num_draws, num_added = SETTINGS["num_draws"], SETTINGS["num_added"]
  number_keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
  # The number of the empty mask is 0.
  fill_keys = number_keys(jax.random.fold_in(make_key(name), 0), jnp.arange(num_draws))
  fills = [
    np.asarray(jax.vmap(completion.draw, in_axes=(0, None, None))(fill_keys, jnp.asarray(image), Grid((4, 4, 1))))
    for completion in (Images(pool=jnp.asarray(pool)), Noise(), Blur())
  ]
  mixed_keys = number_keys(make_key(name), jnp.arange(num_draws))
  mixed = np.asarray(jax.vmap(lambda key: jax.random.permutation(key, 16))(mixed_keys))
  views: list[list[np.ndarray]] = [[] for _ in CONDITIONS]
  for size in SIZES:
    kept = rank < size
    for number in range(num_draws):
      for place, drawn in enumerate(fills):
        views[place].append(show(image, kept, drawn[number]))
      grown = kept.copy()
      grown[[feature for feature in mixed[number] if not kept[feature]][:num_added]] = True
      views[-1].append(show(image, grown, 0.0))
  return np.array(views)


def test_the_counts_are_those_of_a_plain_loop(
  held: tuple[pathlib.Path, dict[str, Any]], run: pathlib.Path, checkpoint_dir: str
):
  _, answer = held
  classifier = checkpoint.load_classifier(checkpoint_dir)
  images, store = read_sample(classifier), results.open(run)
  names = answer["images"]
  assert len(names) == 4
  mixed = sorted(
    images, key=lambda name: hashlib.blake2b(f"{SETTINGS['seed']}/{name}".encode(), digest_size=8).digest()
  )
  pool = np.stack([images[name] for name in mixed if name not in names][:15])
  stored = store.read("rank", store.find_images(names)).astype(int)
  keys = [
    jax.random.fold_in(jax.random.key(SETTINGS["seed"]), zlib.crc32(name.encode()) & 0x7FFFFFFF) for name in names
  ]
  at_random = [np.argsort(np.argsort(-np.asarray(jax.random.uniform(key, (16,))))) for key in keys]
  told_apart = dict.fromkeys(CONDITIONS, 0)
  for title, ranks in (("mine", stored), ("random order", at_random)):
    for place, name in enumerate(names):
      views = view_all(name, images[name], ranks[place], pool)
      shown = np.concatenate([images[name][None], *views])
      target, *predicted = predict(classifier, shown).argmax(1)
      expected = (np.array(predicted).reshape(len(CONDITIONS), len(SIZES), -1) == target).mean(2)
      for condition, rates in zip(CONDITIONS, expected, strict=True):
        orders = answer["conditions"][condition]["orders"].values()
        found = next(order["per_image"][place] for order in orders if order["title"] == title)
        assert found == rates.tolist(), (title, name, condition)
        told_apart[condition] += ((rates > 0) & (rates < 1)).sum()
  # Where the class is always kept or never, any draws would do.
  assert min(told_apart.values()) >= 3, told_apart


def test_the_judged_images_in_the_pool_are_left_out_and_counted(
  held: tuple[pathlib.Path, dict[str, Any]],
):
  _, answer = held
  assert answer["pool"]["num_images"] == 15
  assert any(
    re.search(r"left out of these: [1-4] that are among the judged images\.", note) for note in answer["notes"]
  )


@pytest.mark.slow
def test_it_goes_on_and_counts_do_not_depend_on_batch_or_devices(
  held: tuple[pathlib.Path, dict[str, Any]], run: pathlib.Path, tmp_path: pathlib.Path
):
  out, answer = held
  lines = (out / program.LINES_FILE).read_bytes().splitlines(keepends=True)
  assert len(lines) == 2 * len(CONDITIONS)
  changed = {**json.loads(lines[0]), "num_kept": [[0, 0, 6]] * 4}
  tmp_path.joinpath("spec.json").write_bytes((out / "spec.json").read_bytes())
  # What a kill leaves in the middle of the last line.
  rest = [json.dumps(changed).encode() + b"\n", *lines[1:-1], lines[-1][:20]]
  tmp_path.joinpath(program.LINES_FILE).write_bytes(b"".join(rest))
  resumed = hold(tmp_path, run)
  order = next(iter(answer["conditions"]["images"]["orders"]))
  assert resumed["conditions"]["images"]["orders"][order]["per_image"] == [[0, 0, 1]] * 4
  assert resumed["conditions"]["added"] == answer["conditions"]["added"]
  alone = hold(tmp_path / "alone", run, num_devices=1, batch_size=3, attributions=(), conditions=("noise",))
  assert (
    alone["conditions"]["noise"]["orders"][order]["per_image"]
    == (answer["conditions"]["noise"]["orders"][order]["per_image"])
  )
  with pytest.raises(ValueError, match=re.escape("holds another run (num draws 6 there, 7 here)")):
    hold(tmp_path, run, num_draws=7)


def test_several_runs_are_judged_on_the_images_that_all_have(
  tiny_run: pathlib.Path, tiny_half_run: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  options = {"attributions": (), "conditions": ("images", "noise"), "num_images": 64, "num_devices": 1}
  answer = hold(tmp_path, tiny_run, tiny_half_run, labels=("one", "half"), **{**options, "pool": None})
  half = results.open(tiny_half_run)
  assert set(answer["images"]) <= set(half.read_text("id", half.done_images()))
  assert [order["title"] for order in answer["conditions"]["noise"]["orders"].values()] == ["one", "half"]
  assert set(answer["conditions"]) == {"noise"}
  assert "Left out: unseen images (--pool names images to draw from).\n" in capsys.readouterr().out


def test_features_are_added_in_one_order_whatever_is_kept():
  key, draw = jax.random.key(3), jnp.int32(1)
  add_fn = jax.jit(judge.add_features)
  none = jnp.zeros(9, bool)
  grown = [np.asarray(add_fn(none, key, draw, count)) for count in range(1, 10)]
  assert [mask.sum() for mask in grown] == list(range(1, 10))
  assert all((before <= after).all() for before, after in itertools.pairwise(grown))
  # Two that come first, and one that comes later: the next two come in.
  kept = grown[1].copy()
  kept[np.argmin(grown[3])] = True
  assert (np.asarray(add_fn(jnp.asarray(kept), key, draw, 2)) == (grown[3] | kept)).all()
  assert np.asarray(add_fn(~none, key, draw, 2)).all()


def make_held(*kept: list[list[float]]) -> Held:
  return Held(
    orders={str(number): Order(title=f"order {number}", kind="search") for number in range(len(kept))},
    conditions=("noise",),
    ids=[f"image {number}" for number in range(len(kept[0]))],
    sizes=(2, 4, 8),
    num_features=16,
    num_draws=10,
    num_added=1,
    rate=0.9,
    kept={(str(number), "noise"): np.array(rates) for number, rates in enumerate(kept)},
  )


def test_the_smallest_size_that_holds_is_summed_up_and_the_best_order_named():
  # Curves are not monotone: the first size counts; where none holds, the whole image.
  late = [[0.0, 0.9, 1.0], [0.1, 0.2, 0.3], [1.0, 0.0, 0.5], [0.0, 0.5, 0.9], [0.0, 0.5, 0.9]]
  early = [[0.9, 0.9, 1.0]] * 5
  found = make_held(late, early)
  assert found.smallest("0", "noise").tolist() == [4, 16, 2, 8, 8]
  summed = summaries.summarise(found, seed=0)["noise"]
  assert (summed["0"].size.value, summed["0"].with_smaller.count) == (7.6, 4)
  assert (summed["1"].is_best, summed["0"].is_best) == (True, False)
  assert summed["0"].difference.value == pytest.approx(5.6)
  assert [share.value for share in summed["0"].kept] == pytest.approx([0.22, 0.42, 0.72])
  header, _, heading, first, second = report.make_table(found, {"noise": summed}).splitlines()
  assert header.split() == "class kept, %, at pixels 2 4 8 size for 90% with one over the best".split()
  assert heading == "in noise"
  assert re.fullmatch(r"order 0 +22 \[\d+, \d+\] .+ 8 \[\d, \d+\] +4 +\+6 \[\+\d, \+\d+\]", first)
  assert second.split()[-5:] == ["2", "[2,", "2]", "5", "-"]
  reading = report.describe_reading(found, {"noise": summed})
  assert reading.startswith(
    "In noise the best order is 'order 1', with 2 [2, 2] pixels for 90 % in the mean; 'order 0'"
  )


def test_the_table_for_spreadsheets_has_a_line_for_each_condition_order_and_image(
  held: tuple[pathlib.Path, dict[str, Any]],
):
  out, answer = held
  with open(out / "holds.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == len(CONDITIONS) * 2 * 4
  first = next(iter(answer["conditions"]["images"]["orders"].values()))
  assert [float(rows[0][f"kept_{size}"]) for size in SIZES] == first["per_image"][0]
  assert {path.name for path in out.iterdir()} >= {"holds.json", "holds.png", "stability.png"}


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (["--attributions", "lime"], f"--attributions must be of {', '.join(ATTRIBUTIONS)}, got lime."),
    (["--conditions", "noise", "noise"], "--conditions must name each once, got noise noise."),
    (["--draws", "0"], "--draws must be positive, got 0."),
    (["--sizes", "4", "2"], "--sizes must be positive and ascend, got [4, 2]."),
    (["--rate", "1.5"], "--rate must be above 0 and at most 1, got 1.5."),
    (["--pool-split", "train"], "--pool-split must come with --pool, got 'train' alone."),
    (["--labels", "a", "b"], "--labels must name each run, got 2 labels for 1 runs; put them in quotes"),
  ],
)
def test_wrong_options_are_refused(options: list[str], message: str, capsys: pytest.CaptureFixture[str]):
  assert main.main(["holds", "r", "--devices", "8", *options]) == 2
  assert capsys.readouterr().err.startswith(f"jax-sis holds: {message}")


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"sizes": (2, 16)}, "--sizes must be below the 16 of the whole image, got 16."),
    ({"pool": None, "conditions": ("images",)}, "--pool must name images for the condition 'images', the only one"),
    ({"num_draws": 22}, "--pool must hold at least as many images as there are draws, 22, without those"),
  ],
)
def test_what_does_not_fit_the_run_is_refused(
  options: dict[str, Any], message: str, tiny_run: pathlib.Path, tmp_path: pathlib.Path
):
  with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
    hold(tmp_path, tiny_run, **options)


def change_spec(run: pathlib.Path, copy: pathlib.Path, change: dict[str, Any]) -> pathlib.Path:
  shutil.copytree(run, copy)
  spec = json.loads((copy / "spec.json").read_text())
  (copy / "spec.json").write_text(json.dumps({**spec, **change}))
  return copy


def test_what_the_search_of_a_run_drew_from_is_said(tiny_run: pathlib.Path, tmp_path: pathlib.Path):
  other = change_spec(tiny_run, tmp_path / "other", {"completion": {"images": {"data": "sample"}}})
  answer = hold(tmp_path / "out", tiny_run, other, attributions=(), conditions=("images",))
  assert answer["notes"][-1] == "The search of other drew from the same data, so that these are not all unseen."


def test_runs_that_cannot_be_judged_together_are_refused(tiny_run: pathlib.Path, tmp_path: pathlib.Path):
  spec = json.loads((tiny_run / "spec.json").read_text())
  # Of a format that has no checksums of its fields.
  fields = {name: field for name, field in spec["fields"].items() if name not in ("rank", results.PIXEL_DIGEST)}
  without = change_spec(tiny_run, tmp_path / "without", {"format": "jax_sis.results/2", "fields": fields})
  with pytest.raises(ValueError, match=r"RUN_DIR must hold orders, but .*without' has none; find keeps them with"):
    hold(tmp_path / "out", without)
  other = change_spec(tiny_run, tmp_path / "other", {"baseline": 1.0})
  with pytest.raises(
    ValueError, match=r"runs of one classifier and one kind of mask, but .*other' has another baseline"
  ):
    hold(tmp_path / "out", tiny_run, other)
  with pytest.raises(ValueError, match="RUN_DIR must name each run once, got "):
    hold(tmp_path / "out", tiny_run, tiny_run)
