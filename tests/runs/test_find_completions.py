"""`find --completion`: draws that depend on the image alone, pools that are divided once, and certificates."""

import json
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import pytest
from tiny_runs import GRADIENT, find_tiny

from jax_sis import results
from jax_sis.core.subsets import Status
from jax_sis.results.folder import open_folder
from jax_sis.results.schema import NO_CLASS
from jax_sis.runs import invariants, setup, verify
from jax_sis.runs.completion import CompletionSettings
from jax_sis.runs.config import FindConfig
from jax_sis.runs.pools import hash_ids
from jax_sis.runs.shards import Shard

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")
NUM_POOLED = 16
NUM_OWN = 2
# What the tiny classifier takes for birds; it takes most of the sample for dogs.
BIRDS = [*((0, *rest) for rest in ((64, 192), (128, 128), (128, 192), (192, 128), (255, 128)))]
BIRDS += [(red, green, 128) for red in (64, 128) for green in (128, 192, 255)]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: str) -> str:
  """Plain colours, noise, and two images of the run."""
  job = open_job(tmp_path_factory.mktemp("own"), tiny_checkpoint)
  own = np.stack([job.source[index]["image"] for index in range(NUM_OWN)])
  plain = np.broadcast_to(np.array(BIRDS, np.uint8)[:, None, None], (len(BIRDS), 32, 32, 3))
  num_noise = NUM_POOLED - NUM_OWN - len(BIRDS)
  noise = np.random.default_rng(3).integers(0, 256, (num_noise, 32, 32, 3)).astype(np.uint8)
  path = tmp_path_factory.mktemp("pool") / "pool.npy"
  np.save(path, np.concatenate([plain, noise, own]))
  return str(path)


def open_job(out: pathlib.Path, checkpoint: str, completion: CompletionSettings | None = None) -> setup.Job:
  config = FindConfig(out=str(out), checkpoint=checkpoint, patch=8, batch_size=5, completion=completion)
  return setup.make_job(config, open_folder(config.out))


def begin(out: pathlib.Path, checkpoint: str, completion: CompletionSettings) -> results.Results:
  job = open_job(out, checkpoint, completion)
  return setup.create_or_resume(job, job.config)


def of_images(pool: str, **options: Any) -> CompletionSettings:
  return CompletionSettings(**{"kind": "images", "pool": pool, "num_draws": 4, "num_tested": 40, **options})


def run(out: pathlib.Path, checkpoint: str, completion: CompletionSettings, **options: Any) -> results.Results:
  return find_tiny(out, checkpoint, **{**GRADIENT, "completion": completion, **options})


def read_all(store: results.Results) -> dict[str, np.ndarray]:
  return {name: np.asarray(store.read(name)) for name in store.fields}


@pytest.fixture(scope="module")
def images_run(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: str, pool: str) -> results.Results:
  with jax.numpy_rank_promotion("allow"):
    return run(tmp_path_factory.mktemp("run") / "out", tiny_checkpoint, of_images(pool))


@pytest.mark.slow
def test_a_run_that_goes_on_elsewhere_stores_the_same_bytes(
  images_run: results.Results, tmp_path: pathlib.Path, tiny_checkpoint: str, pool: str
):
  out = tmp_path / "out"
  run(out, tiny_checkpoint, of_images(pool), shard=Shard(1, 2))
  resumed = run(out, tiny_checkpoint, of_images(pool), num_devices=1)
  stored = read_all(images_run)
  for name, values in read_all(resumed).items():
    np.testing.assert_array_equal(values, stored[name], err_msg=name)
  assert stored["rate"].shape == stored["confidence"].shape
  assert 0 < stored["rate"].mean() < 1


@pytest.mark.slow
def test_a_rate_that_no_subset_reaches_is_told_with_the_best_that_one_does(
  tmp_path: pathlib.Path, tiny_checkpoint: str, pool: str
):
  stored = read_all(run(tmp_path / "out", tiny_checkpoint, of_images(pool), target="cat"))
  assert (stored["robust_status"] == Status.NOT_REACHED).all()
  for name in ("robust_num_kept", "robust_rate", "robust_rate_bound", "rate"):
    assert not stored[name].any(), name
  assert (stored["robust_num_judged"] > 0).all()
  table = (tmp_path / "out" / "summary.csv").read_text()
  assert "not certified: 15 pixels keep the class on 0.0% of unseen draws" in table


@pytest.mark.slow
def test_another_batch_has_the_same_draws(
  images_run: results.Results, tmp_path: pathlib.Path, tiny_checkpoint: str, pool: str
):
  stored = read_all(images_run)
  other = read_all(run(tmp_path / "out", tiny_checkpoint, of_images(pool), batch_size=3))
  np.testing.assert_allclose(other["confidence"], stored["confidence"], atol=1e-4)
  np.testing.assert_array_equal(other["rank"], stored["rank"])


@pytest.mark.slow
def test_a_robust_subset_is_what_the_order_and_the_draws_give_and_verify_finds_another(
  images_run: results.Results, tmp_path: pathlib.Path
):
  stored, spec = read_all(images_run), images_run.spec
  num_kept, is_ok = stored["robust_num_kept"], stored["robust_status"] == Status.OK
  assert is_ok.any()
  np.testing.assert_array_equal(stored["robust_mask"], stored["rank"] < num_kept[:, None])
  np.testing.assert_array_equal(stored["robust_rate_bound"], np.where(is_ok, np.float32(0.9), 0))
  assert (stored["robust_rate"][is_ok] > 0.7).all()
  assert images_run.masks(images_run.read_text("id"), kind="robust").reshape(len(is_ok), -1).sum(1).tolist() == (
    num_kept.tolist()
  )
  assert invariants.check_rows(stored, spec, target=NO_CLASS, num_classes=10) == []
  place = int(is_ok.argmax())
  for name in ("robust_mask", "robust_rate_bound", "robust_num_judged", "robust_is_sufficient"):
    changed = {**stored, name: stored[name].copy()}
    values = stored[name][place]
    changed[name][place] = ~values if values.dtype == bool else values + 1
    broken = [violation.field for violation in invariants.check_rows(changed, spec, target=NO_CLASS, num_classes=10)]
    assert name in broken
  out = shutil.copytree(images_run.folder.location, tmp_path / "out")
  assert verify.verify(str(out), num_sampled=1, num_devices=1)
  start, stop = images_run.unit_range(place // images_run.unit_size)
  rows = {name: values[start:stop].copy() for name, values in stored.items()}
  rows["robust_mask"][place - start, :2] ^= True
  results.open(out).write_unit(place // images_run.unit_size, rows)
  assert not verify.verify(str(out), num_sampled=0)


def test_a_run_says_what_its_pool_is_and_refuses_another(tmp_path: pathlib.Path, tiny_checkpoint: str, pool: str):
  out = tmp_path / "out"
  said = begin(out, tiny_checkpoint, of_images(pool)).spec["completion"]
  assert {name: said[name] for name in ("kind", "num_draws", "rate", "level", "num_tested", "seed")} == {
    **{"kind": "images", "num_draws": 4, "rate": 0.9, "level": 0.95, "num_tested": 40, "seed": 0}
  }
  assert said["images"]["num_own"] == NUM_OWN
  assert [said["images"][part]["num_images"] for part in ("searched", "tested")] == [NUM_POOLED // 2] * 2
  other = np.load(pool)
  other[0] = 7
  np.save(tmp_path / "other.npy", other)
  with pytest.raises(ValueError, match=r"holds another run .*completion images"):
    begin(out, tiny_checkpoint, of_images(str(tmp_path / "other.npy")))
  with pytest.raises(ValueError, match="completion seed 0 there, 1 here"):
    begin(out, tiny_checkpoint, of_images(pool, seed=1))


def test_a_pool_is_divided_by_the_seed_and_holds_each_picture_once(
  tmp_path: pathlib.Path, tiny_checkpoint: str, pool: str
):
  twice = np.load(pool).repeat(2, axis=0)
  np.save(tmp_path / "twice.npy", twice)

  def divide(seed: int, **options: Any) -> tuple[set[bytes], set[bytes]]:
    completion = of_images(str(tmp_path / "twice.npy"), seed=seed, **options)
    pools = open_job(tmp_path / "out", tiny_checkpoint, completion).pools
    assert pools is not None
    searched, tested = ({image.tobytes() for image in part} for part in (pools.searched, pools.tested))
    return searched, tested

  searched, tested = divide(0)
  assert not searched & tested
  assert len(searched) == len(tested) == NUM_POOLED // 2
  assert divide(0) == (searched, tested)
  assert divide(1)[0] != searched
  assert len(divide(0, num_pooled=12)[0]) < NUM_POOLED // 2


def test_keys_depend_on_the_id_alone():
  words = hash_ids(["a", "b", "ä/1.png"])
  assert words.tolist() == hash_ids(np.array(["a", "b", "ä/1.png"])).tolist()
  assert words[0].tolist() == [966719552, 792880731]
  assert len({tuple(row) for row in words.tolist()}) == 3


def test_without_a_completion_a_run_is_what_it_was(tmp_path: pathlib.Path, tiny_checkpoint: str):
  job = open_job(tmp_path / "out", tiny_checkpoint)
  assert "completion" not in setup.make_spec(job)
  assert "completion" not in json.loads(json.dumps(setup.settings_to_json(job.config)))
  assert not {"rate", "robust_mask", "robust_status"} & set(job.search.fields())
  batch = next(job.read(range(1)))
  images, requested = job.launch_arrays(batch)
  assert "random" not in str(jax.make_jaxpr(job.search)(job.params, job.normalise(images), requested))
  config = FindConfig(out="out", completion=CompletionSettings(kind="noise", num_draws=2))
  assert setup.settings_from_json(json.loads(json.dumps(setup.settings_to_json(config)))) == config


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"kind": "images"}, "must come with --pool.*noise or blur"),
    ({"kind": "noise", "pool": "sample"}, "--pool is for --completion images and mixture"),
    ({"num_draws": 8}, "--draws must come with --completion"),
    ({"kind": "noise", "num_draws": 0}, "--draws must be"),
    ({"kind": "noise", "num_draws": 4, "num_tried": 5}, "--draws-tried must be 1 to --draws, 4"),
    ({"kind": "noise", "rate": 1.0}, "--rate, --level and --certify-draws must make a claim.*rate"),
    ({"kind": "noise", "level": 0.0}, "must make a claim.*level"),
    ({"kind": "noise", "num_tested": 20}, "num_draws must be at least 29 for a rate of 0.9"),
    ({"kind": "noise", "seed": -1}, "--seed must lie in"),
  ],
)
def test_wrong_settings_are_refused(options: dict[str, Any], message: str):
  with pytest.raises(ValueError, match=message):
    CompletionSettings(**options)


def test_searches_without_an_order_and_a_baseline_are_refused():
  completion = CompletionSettings(kind="noise")
  with pytest.raises(ValueError, match="--completion must come with --search"):
    FindConfig(completion=completion, search=None)
  with pytest.raises(ValueError, match="--baseline must not come with --completion"):
    FindConfig(completion=completion, baseline=0.5)


@pytest.mark.parametrize(
  ("shape", "value", "message"),
  [
    ((16, 16, 16, 3), None, r"must hold 8-bit pixels \[N, 32, 32, 3\].*\[16, 16, 16, 3\]"),
    ((6, 32, 32, 3), None, "--pool must hold 8 different images, 4 for the search .* but 6 are left"),
    ((16, 32, 32, 3), 9, "but 1 are left of 16"),
  ],
)
def test_pools_that_nothing_can_be_drawn_from_are_refused(
  tmp_path: pathlib.Path, tiny_checkpoint: str, shape: tuple[int, ...], value: int | None, message: str
):
  pixels = np.random.default_rng(0).integers(0, 256, shape) if value is None else np.full(shape, value)
  np.save(tmp_path / "pool.npy", pixels.astype(np.uint8))
  with pytest.raises(ValueError, match=message):
    open_job(tmp_path / "out", tiny_checkpoint, of_images(str(tmp_path / "pool.npy")))


def test_a_pool_that_is_not_there_is_named(tmp_path: pathlib.Path, tiny_checkpoint: str):
  with pytest.raises(ValueError, match="--pool must name images as --data does"):
    open_job(tmp_path / "out", tiny_checkpoint, of_images(str(tmp_path / "none")))
