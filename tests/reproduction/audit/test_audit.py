"""The audit: its list, what taking a component away does, its page, its stages, and a known shortcut found first."""

import dataclasses
import json
import pathlib
import types
from typing import Any

import jax
import numpy as np
import pytest

from jax_sis.reproduction.audit import fix, program, reading, report, stages
from jax_sis.reproduction.audit.config import SIZES, AuditConfig, Size
from jax_sis.runtime.records import to_json
from jax_sis.statistics.estimates import difference_of, mean_of, share_of_count
from jax_sis.studies.clusters.config import ShortcutConfig
from jax_sis.studies.clusters.demo import write_images
from jax_sis.studies.clusters.summaries import ClassClusters, Cluster, Effect
from jax_sis.studies.components.features import Looked

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")
TINY = Size(
  num_ranked=24,
  num_draws=2,
  num_searched=20,
  per_step=512,
  num_judged=4,
  num_controlled=4,
  num_components=1,
  num_sought=1,
  num_sought_on=2,
  smallest=False,
)
QUESTIONS = ("what it does alone", "how many images hang on it", "what taking it away does", "how sure that is")


def make_effect(count: int, p_value: float) -> Effect:
  """That of a region that turns so many of 100 images, and none elsewhere."""
  turned, elsewhere = np.arange(100) < count, np.zeros(100, bool)
  return Effect(
    turned=share_of_count(count, 100),
    elsewhere=share_of_count(0, 100),
    difference=difference_of(turned, elsewhere),
    log_odds=difference_of(turned, elsewhere),
    p_value=p_value,
  )


def make_cluster(count: int, p_value: float) -> Cluster:
  return Cluster(
    num_images=30,
    share=0.5,
    accuracy=share_of_count(20, 30),
    size=difference_of(np.ones(9), np.zeros(9)),
    mean_map=((0.0, 1.0), (0.0, 0.0)),
    region=(1,),
    nearest=("a",),
    masked=make_effect(count // 2, p_value),
    pasted=make_effect(count, p_value),
  )


def make_components(**turned: list[float]) -> dict[str, Any]:
  """A component of each class, of which two pixels of each image make this share of unseen images the class."""
  shown = [{"id": "a", "place": 0, "label": "dog", "confidence": 0.5}]
  image = {**shown[0], "features": [0, 1], "confidence": {"alone": 0.5}}
  raised, views = to_json(share_of_count(1, 10)), ("alone", "white", "moved", "nothing")
  component = {"number": 1, "share": 0.9, "raised": raised, "own": shown, "others": shown}
  evidence = {
    "smallest": 2,
    "largest": 3,
    "num_asked": 9,
    "is_class": {view: to_json(share_of_count(4, 8)) for view in views},
  }
  return {
    "classes": [{"components": [{**component, "of_class": name}]} for name in turned],
    "evidence": {
      f"{name} #1": {
        **evidence,
        "unseen_is_class": to_json(mean_of(np.array(shares))),
        "images": [{**image, "unseen_is_class": share} for share in shares],
      }
      for name, shares in turned.items()
    },
    "search": {"grid": [40, 1, 1]},
  }


@pytest.fixture
def found() -> reading.Found:
  """Of two classes: a place that turns 60 of 100, one that turns none, and a component that turns nine tenths."""
  clusters = [
    ClassClusters(name="horse", num_images=60, clusters=(make_cluster(60, 1e-9), make_cluster(0, 1.0))),
    ClassClusters(name="dog", num_images=3, reason="fewer than 10 subsets"),
  ]
  components = make_components(dog=[0.95] * 6)
  subject = {"class_names": ["horse", "dog"], "components_of": "train", "data": "test"}
  counts = {f"num_images_{name}": {"horse": 60, "dog": 3} for name in ("judged", "components")}
  return reading.Found(
    subject={**subject, **counts},
    data=None,
    precision={},
    classes=clusters,
    controls=None,
    components=components,
    taken=[],
    suspects=reading.rank_suspects(clusters, components, [], {"dog": 0.5}),
  )


def test_what_surely_turns_most_images_comes_first(found: reading.Found):
  assert [(one.name, one.strength) for one in found.suspects] == [
    ("dog: component 1", "strong"),
    ("horse: place 1", "strong"),
    ("horse: place 2", "within chance"),
  ]
  # Without an interval nothing is sure, and many pixels say little.
  both = make_components(cat=[1.0] * 4, dog=[0.2, 0.3] * 3, deer=[1.0] * 6)
  for image in both["evidence"]["deer #1"]["images"]:
    image["features"] = list(range(3))
  ranked = reading.rank_suspects([], both, [], dict.fromkeys(("cat", "dog", "deer"), 0.0))
  assert [(one.of_class, one.strength) for one in ranked] == [("dog", "strong"), ("deer", "weak"), ("cat", "weak")]


def test_what_taking_a_component_away_does_by_hand():
  logits = np.array([[2.0, 1.0], [2.0, 1.0], [3.0, 1.0], [0.0, 1.0]])
  fixed = logits - np.array([[1.5, 0.0]])
  labels = np.array([0, 1, 0, 1])
  seen = Looked(place=np.arange(4), id=np.array(list("abcd")), label=labels, features=logits, logits=logits)
  taken = fix.summarise(seen, fixed, "horse", 0, 1, seed=0)
  assert (taken.hang.count, taken.hang.num_images) == (2, 3)
  assert taken.were_wrong.count == 1
  assert (taken.own.value, taken.false_calls.value, taken.accuracy.value) == (-0.5, -0.5, 0.0)


def test_a_change_has_the_interval_of_a_bootstrap_over_images():
  after, before = (np.random.default_rng(seed).random(400) < 0.8 for seed in (0, 1))
  found, expected = fix.change_of(after, before, seed=0), difference_of(after, before)
  assert found.value == pytest.approx(expected.value)
  assert found.numbers == pytest.approx(expected.numbers, abs=0.004)


def test_the_page_answers_every_question_of_each_suspect(found: reading.Found):
  image = {"image": np.zeros((2, 2, 3), np.uint8), "label": 1}
  source = type("Source", (), {"ids": lambda _: ["a"], "__getitem__": lambda *_: image})()
  classifier = types.SimpleNamespace(model_name="net", input_shape=(2, 2, 3))
  images: Any = types.SimpleNamespace(
    classifier=classifier, source=source, data_name="photos", grid=(2, 2, 1), name_class=lambda number: "dog"
  )
  provenance = {"command": "jax-sis audit", "versions": {"jax": "1"}, "commit": "c", "num_cores": 2}
  content = {"size": "smoke", "seconds": 3.0, "provenance": provenance, "stages": []}
  refused = dataclasses.replace(found, components={**found.components, "refusal": "its logits are not linear"})
  text = report.make_report(content, refused, images).decode()
  assert all(text.count(f"<dt>{question}</dt>") == len(found.suspects) for question in QUESTIONS)
  assert "Look first at dog: component 1: alone it turns 90.0 % [51.0, 100.0] of images of other classes" in text
  assert "Of its 30 images that is 7 to 12." in text
  assert "its logits are not linear" in text
  assert "What its subsets share is not known: fewer than 10 subsets." in text
  assert "take --preset full to decide" in text


def test_the_plan_says_what_each_stage_takes(
  tiny_checkpoint: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  config = AuditConfig(checkpoint=tiny_checkpoint, data="sample", num_devices=2, out=str(tmp_path / "out"))
  program.show_plan(config)
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].startswith("[1/7] subject: the classifier and the images, read once. To do, about 0 s.")
  assert lines[-1].startswith("0 of 7 stages are done; the rest takes about")
  assert not (tmp_path / "out").exists()
  planned = stages.make_stages(config)
  names = [stage.name for stage in planned]
  assert all(set(stage.inputs) <= set(names[:place]) for place, stage in enumerate(planned))
  moved = dataclasses.replace(config, out="elsewhere", num_devices=1)
  assert [stage.settings(None) for stage in planned] == [stage.settings(None) for stage in stages.make_stages(moved)]


def test_a_class_with_fewer_images_than_components_leaves_them_out_and_says_why(
  tiny_checkpoint: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  config = AuditConfig(checkpoint=tiny_checkpoint, data="sample", num_devices=2, out=str(tmp_path))
  planned = {stage.name: stage for stage in stages.make_stages(config)}
  inputs = {stages.SUBJECT: tmp_path, stages.COMPONENTS: tmp_path}
  for name in (stages.SUBJECT, stages.COMPONENTS, stages.FIX):
    planned[name].run(tmp_path, inputs, None)
  answer = json.loads((tmp_path / stages.COMPONENTS_FILE).read_bytes())
  assert "no class has more than 4 images, and 8 components" in answer["refusal"]
  assert "No components: no class has more than 4" in capsys.readouterr().out
  assert json.loads((tmp_path / fix.FILE).read_bytes())["components"] == []


def test_bad_settings_are_refused():
  with pytest.raises(ValueError, match=r"--preset must be"):
    AuditConfig(data="sample", size="large")  # pyright: ignore[reportArgumentType]
  with pytest.raises(ValueError, match=r"--seed must lie in"):
    AuditConfig(data="sample", seed=-1)


@pytest.mark.slow
def test_it_goes_on_where_it_stopped_and_writes_the_same_page(
  tiny_checkpoint: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
  monkeypatch.setitem(SIZES, "smoke", TINY)
  config = AuditConfig(checkpoint=tiny_checkpoint, data="sample", size="smoke", num_devices=2, out=str(tmp_path))
  program.audit(config)
  first = {name: (tmp_path / name).read_bytes() for name in (program.ANSWER_FILE, program.REPORT_FILE)}
  for path in tmp_path.glob("stages/controls/*/stage.json"):
    path.unlink()
  capsys.readouterr()
  program.audit(config)
  printed = capsys.readouterr().out
  assert printed.count("Done already") == 6
  answers = [json.loads(content) for content in (first[program.ANSWER_FILE], (tmp_path / "audit.json").read_bytes())]
  assert answers[0]["ranking"] == answers[1]["ranking"]
  assert answers[0]["classes"] == answers[1]["classes"]


@pytest.mark.slow
def test_a_wired_shortcut_is_ranked_first(tmp_path: pathlib.Path, shared_dir: pathlib.Path):
  data_dir = str(shared_dir / "data" / "tfds")
  write_images(ShortcutConfig(data_dir=data_dir, num_images=60, num_others=10), tmp_path / "images")
  config = AuditConfig(
    model_function="jax_sis.evaluation.planted:embedded_with_tag",
    data=str(tmp_path / "images"),
    size="smoke",
    out=str(tmp_path / "out"),
    num_devices=2,
  )
  with jax.numpy_rank_promotion("allow"):
    program.audit(config)
  answer = json.loads((tmp_path / "out" / program.ANSWER_FILE).read_bytes())
  first = answer["ranking"][0]
  assert (first["class"], first["strength"]) == ("horse", "strong")
  kinds = {one["kind"] for one in answer["ranking"] if one["class"] == "horse" and one["strength"] == "strong"}
  assert kinds == {"place", "component"}
  assert sum(one["strength"] == "strong" and one["class"] != "horse" for one in answer["ranking"][:2]) == 0
