"""Clusters of subsets: planted ones, the spectrum by plain algebra, effects by hand, gone on with, and refused."""

import csv
import dataclasses
import json
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jax_sis.results.schema import NO_CLASS
from jax_sis.studies.clusters import demo, program, spectral
from jax_sis.studies.clusters.config import ClustersConfig, ShortcutConfig
from jax_sis.studies.clusters.opened import TOGETHER, open_run
from jax_sis.studies.clusters.summaries import compare, rank_clusters

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")
GRID = (16, 16, 1)
SETTINGS: dict[str, Any] = {
  "fraction": 0.25,
  "region": 0.15,
  "is_together": True,
  "num_judged": 7,
  "batch_size": 4,
  "num_devices": 2,
  "seed": 5,
}


def make_masks(*counts: int) -> np.ndarray:
  """For each group so many masks of 20 features in a quarter of the image of its own."""
  rng = np.random.default_rng(0)
  masks = np.zeros((sum(counts), 16, 16, 1), bool)
  group = np.repeat(np.arange(len(counts)), counts)
  for mask, place in zip(masks, group, strict=True):
    row, column = divmod(int(place), 2)
    quarter = np.zeros(64, bool)
    quarter[rng.choice(64, 20, replace=False)] = True
    mask[8 * row : 8 * row + 8, 8 * column : 8 * column + 8, 0] = quarter.reshape(8, 8)
  return masks


@pytest.mark.parametrize("counts", [(30, 25), (20, 15, 40)])
def test_groups_in_places_of_their_own_are_the_clusters_the_largest_first(counts: tuple[int, ...]):
  found = spectral.find_clusters(make_masks(*counts), seed=0)
  by_size = np.argsort(-np.array(counts))
  expected = np.argsort(by_size)[np.repeat(np.arange(len(counts)), counts)]
  np.testing.assert_array_equal(found.labels, expected)
  np.testing.assert_allclose(found.eigenvalues[: len(counts)], 0, atol=1e-9)
  assert found.eigenvalues[len(counts)] > 0.1


def test_the_spectrum_is_that_of_the_dense_laplacian():
  blocks = spectral.sum_blocks(np.random.default_rng(1).random((40, *GRID)) < 0.2)
  nearest = np.argsort(-(blocks @ blocks.T - 9 * np.eye(40)), axis=1)[:, : spectral.NUM_NEIGHBOURS]
  graph = np.zeros((40, 40))
  for one, others in enumerate(nearest):
    graph[one, others] += 0.5
    graph[others, one] += 0.5
  degree = graph.sum(1)
  laplacian = np.eye(40) - graph / np.sqrt(degree[:, None] * degree[None])
  values, vectors = spectral.find_spectrum(spectral.join_neighbours(blocks))
  np.testing.assert_allclose(values, np.linalg.eigvalsh(laplacian)[: spectral.NUM_EIGENVALUES], atol=1e-9)
  np.testing.assert_allclose(laplacian @ vectors, vectors * values, atol=1e-8)
  assert spectral.count_by_gap(np.array([0.0, 0.05, 0.1, 0.5, 0.55])) == 3


def test_the_effect_of_a_region_counts_pairs_that_differ():
  here, there = np.array([True] * 6 + [False] * 4), np.array([False] * 5 + [True] * 2 + [False] * 3)
  effect = compare(here, there, np.arange(10.0), seed=0)
  assert (effect.turned.count, effect.elsewhere.count) == (6, 2)
  assert effect.difference.value == pytest.approx(0.4)
  # Five turn here alone and one there alone: as likely as six coins with at most one tail.
  assert effect.p_value == pytest.approx(7 / 64)


def cluster(out: pathlib.Path, run: pathlib.Path, **options: Any) -> dict[str, Any]:
  with jax.numpy_rank_promotion("allow"):
    return program.clusters(ClustersConfig(run_dir=str(run), out=str(out), **{**SETTINGS, **options}))


@pytest.fixture(scope="module")
def found(tiny_run: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, dict[str, Any]]:
  out = tmp_path_factory.mktemp("clusters") / "out"
  return out, cluster(out, tiny_run)


def test_clusters_of_a_run_are_described_by_its_subsets(
  found: tuple[pathlib.Path, dict[str, Any]], tiny_run: pathlib.Path
):
  out, answer = found
  assert json.loads((out / "clusters.json").read_text()) == answer
  with (out / "clusters.csv").open(newline="") as file:
    rows = list(csv.DictReader(file))
  opened = open_run(ClustersConfig(run_dir=str(tiny_run), out=str(out), **SETTINGS))
  assert len(rows) == len(opened.indices)
  is_right = dict(zip(opened.read_ids(np.arange(len(rows))), opened.predicted == opened.labels, strict=True))
  for number, one in enumerate(answer["classes"][TOGETHER]["clusters"], 1):
    ids = [row["image"] for row in rows if row["cluster"] == str(number)]
    masks = opened.store.masks(ids, fraction=0.25)
    assert one["num_images"] == len(ids)
    np.testing.assert_allclose(one["mean_map"], masks[..., 0].mean(0), atol=1e-4)
    kept = np.sort(masks.mean(0).ravel())
    assert [kept[-3:].sum()] == pytest.approx(masks.reshape(len(ids), -1)[:, one["region"]].mean(0).sum())
    assert one["accuracy"]["count"] == sum(is_right[name] for name in ids)
    assert set(one["nearest"]) <= set(ids)
  with Image.open(out / "clusters.png") as picture:
    assert picture.width > 600


def test_masking_and_pasting_are_those_of_a_plain_loop(tiny_run: pathlib.Path, tmp_path: pathlib.Path):
  config = ClustersConfig(run_dir=str(tiny_run), out=str(tmp_path), **SETTINGS)
  opened = open_run(config)
  asker = program.make_asker(config, opened)
  # Not those that are predicted, of which there is one.
  inputs, targets = opened.read_images(np.arange(8)), np.arange(8)
  region = np.zeros(16, bool)
  region[[5, 6, 9]] = True
  others = np.roll(inputs, 1, axis=0)
  moved = asker.move(region, 8)
  assert (moved.sum(1) == 3).all() and not (moved == region).all(1).any()

  def ask(kept: np.ndarray, images: Any, behind: Any) -> tuple[np.ndarray, np.ndarray]:
    pixels = kept.reshape(-1, 4, 4, 1).repeat(8, 1).repeat(8, 2)
    shown = jnp.asarray(np.where(pixels, images, behind), jnp.float32)
    logits = np.asarray(opened.job.predict_fn(opened.job.params, shown), np.float64)
    is_target = np.arange(10) == targets[:, None]
    return logits.argmax(1) == targets, logits[is_target] - np.log(np.exp(logits).sum(1, where=~is_target))

  for effect, sign, kept, behind in (
    (asker.paste(region, inputs, others, targets), 1, (np.tile(region, (8, 1)), moved), others),
    (asker.mask(region, inputs, targets), -1, (np.tile(~region, (8, 1)), ~moved), np.float32(0)),
  ):
    (here, odds_here), (there, odds_there) = (ask(one, inputs, behind) for one in kept)
    turned = (here, there) if sign > 0 else (~here, ~there)
    assert [effect.turned.count, effect.elsewhere.count] == [one.sum() for one in turned]
    assert effect.log_odds.value == pytest.approx(sign * (odds_here - odds_there).mean(), abs=1e-3)
    assert effect.log_odds.value != pytest.approx(0, abs=1e-2)


def test_a_run_goes_on_without_a_word_and_refuses_another(
  found: tuple[pathlib.Path, dict[str, Any]], tiny_run: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  out, answer = found
  lines = (out / program.LINES_FILE).read_text()
  config = ClustersConfig(run_dir=str(tiny_run), out=str(out), **SETTINGS)
  classes = program.study(config)
  assert capsys.readouterr().out == ""
  assert (out / program.LINES_FILE).read_text() == lines
  assert [len(one.clusters) for one in classes] == [len(answer["classes"][TOGETHER]["clusters"])]
  assert [one.name for one in rank_clusters(classes)] == [one["class"] for one in answer["ranking"]]
  with pytest.raises(ValueError, match=re.escape("region 0.15 there, 0.2 here")):
    program.study(dataclasses.replace(config, region=0.2))


def test_more_images_are_sampled_and_labels_are_not_needed(tiny_run: pathlib.Path, tmp_path: pathlib.Path):
  config = ClustersConfig(run_dir=str(tiny_run), out=str(tmp_path), **{**SETTINGS, "max_images": 20})
  opened = open_run(config)
  opened = dataclasses.replace(opened, labels=np.full_like(opened.labels, NO_CLASS))
  asker = program.make_asker(config, opened)
  (places,) = opened.groups.values()
  first, again = (program.find_class(config, opened, asker, TOGETHER, places) for _ in range(2))
  assert first == again
  assert (first.num_images, len(first.ids)) == (24, 20)
  assert {one.accuracy.value for one in first.clusters} == {None}
  few = program.find_class(config, opened, asker, "cat", places[:9])
  assert few.reason == "fewer than 20 subsets"


def test_images_are_pasted_into_others_once_each(tiny_run: pathlib.Path, tmp_path: pathlib.Path):
  opened = open_run(ClustersConfig(run_dir=str(tiny_run), out=str(tmp_path), **SETTINGS))
  predicted = np.arange(24) % 3
  opened = dataclasses.replace(opened, predicted=predicted, targets=predicted)
  pairs = np.array(program.pair_images(opened, np.flatnonzero(predicted == 1), np.random.default_rng(0)))
  assert len(pairs) == 8 and len(np.unique(pairs)) == 16
  assert (predicted[pairs[:, 0]] == 1).all() and (predicted[pairs[:, 1]] != 1).all()


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"kind": "robust"}, "--kind robust must be subsets that .* holds; it holds .*mask_fraction_0.25"),
    ({"is_together": False, "classes": ("unicorn",)}, "--classes must name classes of the classifier.* got 'unicorn'."),
    ({"classes": ("cat",)}, "--together must come without --classes, got cat."),
    ({"region": 1.5}, "--region must lie between 0 and 1, got 1.5."),
  ],
)
def test_what_does_not_fit_is_refused(
  options: dict[str, Any], message: str, tiny_run: pathlib.Path, tmp_path: pathlib.Path
):
  with pytest.raises(ValueError, match=message):
    open_run(ClustersConfig(run_dir=str(tiny_run), out=str(tmp_path), **{**SETTINGS, **options}))


@pytest.mark.slow
def test_the_tag_is_found_on_real_images(shared_dir: pathlib.Path, tmp_path: pathlib.Path):
  out = tmp_path / "demo"
  found = demo.shortcut(ShortcutConfig(data_dir=str(shared_dir / "data/tfds"), out=str(out), num_devices=2))
  assert found.num_clusters == 2 and found.is_first
  assert found.precision > 0.85 and found.recall > 0.95 and found.pasted > 0.9
