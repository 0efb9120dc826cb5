"""Label errors by confident learning, what sizes add, people's labels by id, and what is refused."""

import csv
import json
import pathlib
import re
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from jax_sis import results
from jax_sis.cli import main
from jax_sis.studies.labels import people, program
from jax_sis.studies.labels.confident import NO_CLASS, learn_confidently, plant_errors
from jax_sis.studies.labels.config import LabelsConfig
from jax_sis.studies.labels.sizes import RunSizes
from jax_sis.studies.labels.summaries import Truth, find_agreement, judge_sizes, judge_truth

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")
SETTINGS: dict[str, Any] = {"batch_size": 5, "num_devices": 2, "planted": 0.25}
NUM_IMAGES, NUM_CLASSES = 24, 10


def ask(out: pathlib.Path, checkpoint: str, **options: Any) -> dict[str, Any]:
  with jax.numpy_rank_promotion("allow"):
    return program.labels(LabelsConfig(out=str(out), checkpoint=checkpoint, **{**SETTINGS, **options}))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, tiny_run: pathlib.Path) -> dict[str, Any]:
  """Votes, counts and label arrays of the sample, whose images are numbered from 0."""
  root = tmp_path_factory.mktemp("people")
  given = results.open(tiny_run).read("label")
  votes = [
    {
      "id": number,
      "given_original_label": int(given[number % NUM_IMAGES]),
      "mturk": {"given": 5 - wrong, "both": wrong},
    }
    for number, wrong in ((3, 3), (7, 2), (5000, 5))
  ]
  (root / "votes.json").write_text(json.dumps(votes))
  counts = np.zeros((NUM_IMAGES, NUM_CLASSES), np.int64)
  counts[np.arange(NUM_IMAGES), given] = 6
  counts[np.arange(NUM_IMAGES), (given + 1) % NUM_CLASSES] += np.arange(NUM_IMAGES) % 9
  np.save(root / "counts.npy", counts)
  return {"votes": str(root / "votes.json"), "human": str(root / "counts.npy"), "counts": counts, "given": given}


@pytest.fixture(scope="module")
def run(
  tiny_checkpoint: str, tiny_run: pathlib.Path, sources: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[pathlib.Path, dict[str, Any]]:
  out = tmp_path_factory.mktemp("run") / "out"
  return out, ask(out, tiny_checkpoint, votes=sources["votes"], human=sources["human"], runs=(str(tiny_run),))


def test_votes_people_and_sizes_are_joined_by_id(
  run: tuple[pathlib.Path, dict[str, Any]], sources: dict[str, Any], tiny_run: pathlib.Path
):
  out, answer = run
  with (out / "labels.csv").open(newline="") as file:
    rows = {row["image"]: row for row in csv.DictReader(file)}
  assert len(rows) == answer["num_images"] == NUM_IMAGES
  assert {name: row["wrong by votes"] for name, row in rows.items() if row["wrong by votes"]} == {
    "test_00003": "True",
    "test_00007": "False",
  }
  assert float(rows["test_00008"]["people_disagree"]) == pytest.approx(8 / 14)
  outvoted = [name for name, row in rows.items() if row["wrong by human labels"] == "True"]
  assert outvoted == ["test_00007", "test_00008", "test_00016", "test_00017"]
  store = results.open(tiny_run)
  table = store.table()
  expected = dict(zip(table["id"].tolist(), table["sis_num_kept"].tolist(), strict=True))
  # A status of 0 is a subset.
  kept = dict(zip(table["id"].tolist(), (table["sis_status"] == 0).tolist(), strict=True))
  assert 0 < sum(kept.values()) <= NUM_IMAGES
  for name, row in rows.items():
    assert row["size in tiny_run"] == (str(expected[name]) if kept[name] else "")
  assert [one["num_wrong"] for one in answer["found"]] == [6, 1, 1, 4]
  assert [one["run"] for one in answer["added"]] == ["tiny_run"] * 4
  assert answer["human"]["mean"]["mean"] == pytest.approx(
    np.mean(
      [1 - counts[label] / counts.sum() for counts, label in zip(sources["counts"], sources["given"], strict=True)]
    )
  )
  with Image.open(out / "candidates.png") as picture:
    assert picture.width > 100


def test_a_killed_run_goes_on_and_is_asked_more(
  run: tuple[pathlib.Path, dict[str, Any]],
  tiny_checkpoint: str,
  sources: dict[str, Any],
  tiny_run: pathlib.Path,
  tmp_path: pathlib.Path,
):
  out, answer = run
  lines = (out / program.LINES_FILE).read_bytes().splitlines(keepends=True)
  logits = np.load(out / program.LOGITS_FILE)
  assert [len(json.loads(line)["images"]) for line in lines] == [10, 10, 4]
  logits[0, 0], logits[10:] = 99.0, 0.0
  np.save(tmp_path / program.LOGITS_FILE, logits)
  (tmp_path / "spec.json").write_bytes((out / "spec.json").read_bytes())
  (tmp_path / program.LINES_FILE).write_bytes(lines[0] + lines[1][:30])
  resumed = ask(tmp_path, tiny_checkpoint, human=sources["human"], runs=(str(tiny_run),))
  again = np.load(tmp_path / program.LOGITS_FILE)
  assert again[0, 0] == 99.0
  np.testing.assert_array_equal(again[10:], np.load(out / program.LOGITS_FILE)[10:])
  assert [one["title"] for one in resumed["found"]] == ["planted, 25%", "human labels"]
  assert resumed["found"][1]["num_wrong"] == answer["found"][3]["num_wrong"]


def test_the_confident_joint_is_that_of_a_plain_loop():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 3, 200)
  logits = rng.normal(size=(200, 4)) + 2 * np.eye(4)[np.where(rng.random(200) < 0.2, (labels + 1) % 3, labels)]
  probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  found = learn_confidently(probabilities, labels)
  thresholds = [probabilities[labels == number, number].mean() for number in range(3)]
  counts = np.zeros((3, 3))
  for place, row in enumerate(probabilities):
    above = [number for number in range(3) if row[number] >= thresholds[number]]
    suggested = max(above, key=lambda number, row=row: row[number]) if above else NO_CLASS
    assert found.suggested[place] == suggested
    assert found.is_candidate[place] == bool(above and suggested != labels[place])
    if above:
      counts[labels[place], suggested] += 1
  joint = counts / counts.sum(1, keepdims=True) * np.bincount(labels)[:, None]
  np.testing.assert_allclose(found.joint[:3, :3], joint / joint.sum())
  assert found.joint[3].sum() == found.joint[:, 3].sum() == 0
  assert 0.1 < found.share_wrong < 0.35


def make_truth(log_odds: np.ndarray, is_wrong: np.ndarray) -> Truth:
  confident = learn_confidently(np.full((len(log_odds), 2), 0.5), np.zeros(len(log_odds), np.int64))
  return Truth(
    title="made", is_known=np.ones(len(log_odds), bool), is_wrong=is_wrong, log_odds=log_odds, confident=confident
  )


def test_sizes_that_tell_errors_add_to_the_label_and_others_add_nothing():
  rng = np.random.default_rng(1)
  is_wrong = rng.random(200) < 0.25
  log_odds = rng.normal(size=200) - is_wrong
  telling = np.exp(4 + rng.normal(size=200) + 2 * is_wrong).astype(int)
  random = np.exp(4 + rng.normal(size=200)).astype(int)
  telling[:10] = random[:10] = 0
  truth = make_truth(log_odds, is_wrong)
  runs = [
    RunSizes(title=title, threshold=0.9, size=size, has_subset=size > 0)
    for title, size in (("telling", telling), ("random", random))
  ]
  first, second = (judge_sizes(truth, one, seed=0) for one in runs)
  assert first.probability.num_images == 190
  assert first.added.is_beyond() == 1
  assert second.added.is_beyond() == 0
  assert first.both.value is not None
  assert first.both.value > max(first.probability.value or 0, first.size.value or 0)
  pairs = -log_odds[is_wrong][:, None] - -log_odds[~is_wrong][None]
  assert judge_truth(truth).auc.value == pytest.approx((pairs > 0).mean())
  own, size = find_agreement(is_wrong + 0.1 * rng.random(200), log_odds, runs[:1], seed=0)
  assert own.beyond is None
  assert own.correlation.is_beyond() == -1
  assert size.beyond is not None
  assert size.beyond.is_beyond() == 1


def test_planted_errors_are_a_share_of_the_labels_and_always_others():
  labels = np.arange(1000) % 7
  changed, is_changed = plant_errors(labels, 7, share=0.02, seed=3)
  assert is_changed.sum() == 20
  assert ((changed != labels) == is_changed).all()
  assert not np.array_equal(is_changed, plant_errors(labels, 7, share=0.02, seed=4)[1])


def test_label_arrays_are_counted_by_person_and_joined_by_order_or_id(tmp_path: pathlib.Path):
  ids = ["t_2", "t_10", "t_1"]
  arrays: dict[str, Any] = {"first": np.array([0, 1, 2]), "second": np.array([0, 1, 1]), "clean": np.array([3, 3, 3])}
  np.savez(tmp_path / "in_order.npz", **arrays)
  in_order = people.read_human(str(tmp_path / "in_order.npz"), ("first", "second"), ids, ["t_10", "t_2"], 4)
  assert in_order.tolist() == [[0, 1, 1, 0], [0, 2, 0, 0]]
  np.savez(tmp_path / "by_id.npz", id=np.array(ids), **arrays)
  by_id = people.read_human(str(tmp_path / "by_id.npz"), (), [*ids, "t_11"], ["t_1"], 4)
  assert by_id.tolist() == [[0, 1, 1, 1]]


def test_people_of_other_images_or_classes_are_refused(tmp_path: pathlib.Path):
  ids = ["t_0", "t_1"]
  np.save(tmp_path / "counts.npy", np.ones((2, 4)))
  np.save(tmp_path / "none.npy", np.eye(2, 3))
  np.save(tmp_path / "none.npy", np.array([[1, 0, 0], [0, 0, 0]]))
  np.save(tmp_path / "pickled.npy", np.array({"a": 1}), allow_pickle=True)
  np.savez(tmp_path / "ids.npz", id=np.array(["t_0", "x"]), a=np.array([0, 1]))
  np.savez(tmp_path / "labels.npz", a=np.array([0, 3]))

  def read(name: str, *names: str, num_classes: int = 3, count: int = 2) -> object:
    all_ids = [f"t_{number}" for number in range(count)]
    return people.read_human(str(tmp_path / name), names, all_ids, ids, num_classes)

  for call, message in {
    lambda: read(
      "counts.npy"
    ): "--human must hold counts [N, 3] by image and class of the classifier, got float64[2, 4]",
    lambda: read("counts.npy", num_classes=4, count=3): "--human must have a row for each of the 3 images of --data",
    lambda: read("none.npy"): "--human must hold counts of people, at least one an image and none negative",
    lambda: read("pickled.npy"): "A dictionary in an .npy is a pickle, which may run code",
    lambda: read("counts.npy", "a"): "--people is for a dictionary of label arrays, but --human is an array",
    lambda: read("ids.npz"): "lacks 1 of 2, such as t_1.",
    lambda: read("labels.npz"): "whole numbers from 0 to 2, the classifier's classes, but 'a' of",
    lambda: read("labels.npz", "b"): "--people must be arrays of --human, a, got b.",
    lambda: read("absent.pt"): "--human must be a dictionary of label arrays, but",
  }.items():
    with pytest.raises(ValueError, match=re.escape(message)):
      call()


def test_votes_on_other_labels_are_refused(sources: dict[str, Any]):
  ids = [f"test_{number:05}" for number in range(NUM_IMAGES)]
  other = (sources["given"] + 1) % NUM_CLASSES
  with pytest.raises(
    ValueError, match=r"2 are in the data and 2 of these have another label, such as test_00003, test"
  ):
    people.read_votes(sources["votes"], ids, other)
  with pytest.raises(ValueError, match="--votes names images by number, but the ids of --data"):
    people.read_votes(sources["votes"], ["a/1.png", "b/1.png"], other)


def test_a_run_of_another_classifier_is_refused(tiny_run: pathlib.Path, tmp_path: pathlib.Path, tiny_checkpoint: str):
  other = tmp_path / "other"
  other.mkdir()
  for path in tiny_run.iterdir():
    (other / path.name).symlink_to(path)
  spec = json.loads((tiny_run / "spec.json").read_text())
  (other / "spec.json").unlink()
  (other / "spec.json").write_text(json.dumps({**spec, "model": {**spec["model"], "sha256": "0" * 64}}))
  with pytest.raises(
    ValueError, match=r"--runs must be of the classifier that is asked, tiny \(\w{8}\), but '.*other'"
  ):
    ask(tmp_path / "out", tiny_checkpoint, runs=(str(other),))
  with pytest.raises(ValueError, match=r"--runs must hold sizes of the subsets that are asked for .*kind 'robust'"):
    ask(tmp_path / "out", tiny_checkpoint, runs=(str(tiny_run),), kind="robust", at=0.5)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (["--planted", "0.5"], "--planted must be at least 0 and below 0.5, got 0.5."),
    (["--people", "a"], "--people must come with --human, got a alone."),
    (["--runs", "a", "a"], "--runs must name each run once, got a a."),
    (["--kind", "best"], "--kind must be one of"),
    (["--at", "2"], "--at must"),
  ],
)
def test_wrong_options_are_refused(options: list[str], message: str, capsys: pytest.CaptureFixture[str]):
  assert main.main(["labels", "--devices", "8", *options]) == 2
  assert capsys.readouterr().err.startswith(f"jax-sis labels: {message}")
