"""What `export` writes, of a real run with an unreadable image among its own, read back by other programs."""

import csv
import pathlib
import re
import shutil
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pyarrow import parquet
from tiny_runs import find_tiny

import jax_sis
from jax_sis import results
from jax_sis.classifiers import frozen
from jax_sis.cli import main
from jax_sis.core.subsets import Status
from jax_sis.data.normalisation import Normalisation
from jax_sis.data.sources import SAMPLE_DIR
from jax_sis.results import folder
from jax_sis.results.schema import NOT_SEARCHED
from jax_sis.runs import export
from jax_sis.runs.authors_layout import select_image, to_authors_arrays

BACKSELECT_NAMES = {"original_confidences", "target_class_idx", "confidences_over_backselect", "mask_order"}
SIS_NAMES = {"ordering_over_entire_backselect", "values_over_entire_backselect", "mask"}
BROKEN = "cat/broken.png"
FEATURES = 16


@pytest.fixture(scope="module")
def run(tiny_checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> results.Results:
  """Both searches over the labelled sample and an unreadable image."""
  folder = tmp_path_factory.mktemp("photos") / "sample"
  shutil.copytree(SAMPLE_DIR, folder, ignore=lambda _, names: [name for name in names if name.endswith(".md")])
  content = next(folder.glob("cat/*.png")).read_bytes()
  (folder / BROKEN).write_bytes(content[:300])
  return find_tiny(tmp_path_factory.mktemp("run") / "out", tiny_checkpoint, data=str(folder))


@pytest.fixture(scope="module")
def half_run(tiny_half_run: pathlib.Path) -> results.Results:
  return results.open(tiny_half_run)


def read_csv(path: pathlib.Path) -> dict[str, list[str]]:
  with path.open(newline="") as file:
    rows = list(csv.DictReader(file))
  return {name: [row[name] for row in rows] for name in rows[0]}


def read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
  with np.load(path) as archive:
    return dict(archive)


def location(store: results.Results) -> str:
  return store.folder.location


def test_the_csv_has_a_row_an_image_with_all_that_the_table_has(run: results.Results, tmp_path: pathlib.Path):
  assert export.export(location(run), to=str(tmp_path / "t.csv")) == f"25 images written to {tmp_path / 't.csv'}."
  columns = read_csv(tmp_path / "t.csv")
  table = run.table()
  assert set(columns) == {*table, "label_name", "target_name", "predicted_name"}
  assert columns["id"] == run.read_text("id")
  broken = columns["id"].index(BROKEN)
  assert columns["label_name"][broken] == "cat"
  assert columns["error"][broken] == "image file is truncated"
  filled = {"id", "error", "label", "label_name", "sis_status", "smallest_status"}
  assert {name for name, texts in columns.items() if texts[broken]} == filled
  assert columns["smallest_status"][broken] == "not_searched"
  with open(pathlib.Path(location(run)) / "summary.csv") as file:
    summary = list(csv.DictReader(file))
  for i, row in enumerate(summary):
    assert columns["sis_status"][i] == row["sis_status"]
    if i != broken:
      assert columns["target_name"][i] == row["target_class"]
      assert columns["predicted_name"][i] == row["predicted_class"]
      assert columns["label_name"][i] == row["true_class"] == columns["id"][i].split("/")[0]
      assert int(columns["smallest_num_kept"][i]) == table["smallest_num_kept"][i]
      assert np.float32(columns["full_confidence"][i]) == table["full_confidence"][i]
      assert columns["sis_is_sufficient"][i] == str(table["sis_is_sufficient"][i])
      has_subset = columns["sis_status"][i] == "ok"
      assert bool(columns["sis_certified_confidence"][i]) == has_subset


def test_parquet_has_the_table_with_its_types(run: results.Results, tmp_path: pathlib.Path):
  for name in ("t.csv", "t.parquet"):
    export.export(location(run), to=str(tmp_path / name), masks=["smallest_mask"])
  table = parquet.read_table(tmp_path / "t.parquet")
  text = read_csv(tmp_path / "t.csv")
  assert table.column_names == list(text)
  for name, values in table.to_pydict().items():
    texts = ["" if value is None else str(value) for value in values]
    if name == "smallest_mask":
      texts = [" ".join(map(str, value)) for value in values]
    if str(table.schema.field(name).type) == "float":
      texts = [str(float(np.float32(value))) if value else value for value in text[name]]
      assert [value is None for value in values] == [not value for value in texts], name
      assert [str(value) for value in values if value is not None] == [value for value in texts if value], name
    else:
      assert texts == text[name], name
  types = {name: str(table.schema.field(name).type) for name in table.column_names}
  assert types["id"] == types["sis_status"] == types["label_name"] == "string"
  assert types["label"] == types["smallest_num_kept"] == "int32"
  assert types["sis_is_sufficient"] == "bool"
  assert types["full_confidence"] == "float"


def test_masks_are_those_of_the_run(run: results.Results, tmp_path: pathlib.Path):
  questions: dict[str, dict[str, Any]] = {
    "smallest_mask": {"kind": "smallest"},
    "mask_threshold_0.9": {"threshold": 0.9},
    "mask_threshold_0.5": {"threshold": 0.5},
    "mask_threshold_0.7": {"threshold": 0.7},
    "mask_fraction_0.25": {"fraction": 0.25},
    "mask_fraction_0.5": {"fraction": 0.5},
  }
  export.export(location(run), to=str(tmp_path / "t.csv"), masks=list(questions))
  columns = read_csv(tmp_path / "t.csv")
  for name, question in questions.items():
    expected = run.masks(**question).reshape(25, FEATURES)
    assert expected.any()
    found = np.zeros_like(expected)
    for row, text in zip(found, columns[name], strict=True):
      row[[int(number) for number in text.split()]] = True
    np.testing.assert_array_equal(found, expected, err_msg=name)


def find_sis(ordering: np.ndarray, values: np.ndarray, threshold: float) -> list[tuple[int, ...]]:
  """The subset that these lists say: from the end, until what is left without the next one is enough."""
  kept: list[tuple[int, ...]] = []
  for place, value in zip(reversed(ordering.tolist()), reversed(values.tolist()), strict=True):
    if value >= threshold:
      break
    kept.append(tuple(place))
  return kept


def test_the_authors_arrays_tell_the_search_again(run: results.Results, tmp_path: pathlib.Path):
  path = tmp_path / "a.npz"
  message = export.export(location(run), to=str(path))
  assert message == f"24 images written to {path}; 1 left out, not searched or not finite."
  arrays = read_npz(path)
  assert set(arrays) == BACKSELECT_NAMES | SIS_NAMES | {"index", "id"}
  assert arrays["id"].tolist() == [text for text in run.read_text("id") if text != BROKEN]
  rank, confidence = run.read("rank", arrays["index"]), run.read("confidence", arrays["index"])
  masks = run.masks()[arrays["index"]]
  for i in range(24):
    is_kept = np.ones((1, 4, 4), bool)
    for step in range(FEATURES):
      num_kept = FEATURES - step
      assert arrays["confidences_over_backselect"][i, step] == confidence[i, num_kept]
      removed = int(np.flatnonzero(rank[i] == num_kept - 1)[0])
      place = (0, removed // 4, removed % 4)
      assert arrays["mask_order"][i][place] == step
      assert tuple(arrays["ordering_over_entire_backselect"][i, step]) == place
      is_kept[place] = False
      assert arrays["values_over_entire_backselect"][i, step] == confidence[i, is_kept.sum()]
    assert arrays["original_confidences"][i] == confidence[i, FEATURES]
    np.testing.assert_array_equal(arrays["mask"][i], np.moveaxis(masks[i], -1, 0))
    if confidence[i, -1] >= 0.9:
      sis = find_sis(arrays["ordering_over_entire_backselect"][i], arrays["values_over_entire_backselect"][i], 0.9)
      assert set(sis) == {tuple(place) for place in np.argwhere(arrays["mask"][i]).tolist()}
  np.testing.assert_array_equal(arrays["target_class_idx"], run.read("target", arrays["index"]))
  dtypes = {name: str(values.dtype) for name, values in arrays.items()}
  assert dtypes["mask_order"] == "int32"
  assert dtypes["confidences_over_backselect"] == "float32"
  assert dtypes["ordering_over_entire_backselect"] == dtypes["target_class_idx"] == "int64"
  assert dtypes["values_over_entire_backselect"] == "float64"


@pytest.mark.parametrize("name", ["{id}.npz", "sis/set_{index}.npz"])
def test_a_file_an_image_is_what_the_authors_programs_read(run: results.Results, tmp_path: pathlib.Path, name: str):
  export.export(location(run), to=str(tmp_path / name))
  export.export(location(run), to=str(tmp_path / "all.npz"))
  arrays = read_npz(tmp_path / "all.npz")
  for i, (index, text) in enumerate(zip(arrays["index"], arrays["id"], strict=True)):
    of_image = read_npz(tmp_path / name.format(id=text, index=index))
    assert set(of_image) == BACKSELECT_NAMES | SIS_NAMES | {"sis"}
    for field, values in of_image.items():
      if field != "sis":
        np.testing.assert_array_equal(values, arrays[field][i])
    num_kept = of_image["mask"].sum()
    assert [tuple(place) for place in of_image["sis"]] == [
      tuple(place) for place in of_image["ordering_over_entire_backselect"][::-1][:num_kept]
    ]
    assert of_image["sis"].shape == (num_kept, 3)
  assert len(list(tmp_path.rglob("*.npz"))) == 24 + 1


def test_the_output_does_not_depend_on_how_much_is_in_memory(
  run: results.Results, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
  names = ("t.csv", "a.npz")
  for part in ("whole", "few"):
    for name in names:
      masks = ["mask_threshold_0.7"] if name == "t.csv" else []
      export.export(location(run), to=str(tmp_path / part / name), masks=masks)
    monkeypatch.setattr(export, "FEATURES_AT_ONCE", 2 * FEATURES)
    monkeypatch.setattr(export, "ROWS_AT_ONCE", 2)
  assert (tmp_path / "whole/t.csv").read_bytes() == (tmp_path / "few/t.csv").read_bytes()
  whole, few = (read_npz(tmp_path / part / "a.npz") for part in ("whole", "few"))
  for name, values in whole.items():
    np.testing.assert_array_equal(few[name], values)
    assert few[name].dtype == values.dtype


def test_an_unfinished_run_is_refused_unless_asked_for(
  half_run: results.Results, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  command = ["export", location(half_run), "--to", str(tmp_path / "t.csv")]
  capsys.readouterr()
  assert main.main(command) == 2
  assert capsys.readouterr().err == (
    f"jax-sis export: {location(half_run)!r} must be a finished run, but 12 of its 24 images are missing; finish it by "
    "the same command of find, or use --partial.\n"
  )
  assert list(tmp_path.iterdir()) == []
  assert main.main([*command, "--partial"]) == 0
  assert capsys.readouterr().out == f"12 images written to {tmp_path / 't.csv'}; 12 are missing.\n"
  assert read_csv(tmp_path / "t.csv")["id"] == half_run.read_text("id", half_run.done_images())


def test_several_features_a_step_share_their_step(half_run: results.Results, tmp_path: pathlib.Path):
  export.export(location(half_run), to=str(tmp_path / "a.npz"), is_partial=True)
  arrays = read_npz(tmp_path / "a.npz")
  assert set(arrays) == BACKSELECT_NAMES | {"index", "id"}
  rank = half_run.read("rank", arrays["index"]).astype(int)
  # 3 of 16 a step, and the last step the one that is left.
  np.testing.assert_array_equal(arrays["mask_order"].reshape(12, 16), (15 - rank) // 3)
  for order in arrays["mask_order"]:
    assert np.bincount(order.ravel()).tolist() == [3, 3, 3, 3, 3, 1]
  assert arrays["confidences_over_backselect"].shape == (12, 6)
  np.testing.assert_array_equal(
    arrays["confidences_over_backselect"], half_run.read("confidence", arrays["index"])[:, :0:-1]
  )


def test_parquet_without_pyarrow_names_the_extra(
  run: results.Results, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
  monkeypatch.setitem(sys.modules, "pyarrow", None)
  with pytest.raises(ValueError, match=re.escape("needs pyarrow; install jax_sis[parquet], or write a .csv.")):
    export.export(location(run), to=str(tmp_path / "t.parquet"))


@pytest.mark.parametrize(
  ("to", "masks", "message"),
  [
    ("t.txt", [], "--to must be a file on disk that ends in .csv, .parquet, .npz, .png, got "),
    (
      "a.npz",
      ["mask_fraction_0.1", "mask_fraction_0.2"],
      "--masks must name one kind of subset for one .npz file, got mask_fraction_0.1 mask_fraction_0.2 for '",
    ),
    ("{id}.npz", ["mask_fraction_0.1"], "--masks must name one kind of subset for one .npz file, got mask_fraction"),
    ("a.npz", ["smallest_mask"], "--masks must be among mask_threshold_P, mask_fraction_S of this run, got 'small"),
    (
      "t.csv",
      ["mask_threshold_2"],
      "--masks must end in a threshold or a fraction, got 'mask_threshold_2': ",
    ),
    (
      "t.csv",
      ["mask_fraction_0"],
      "--masks must end in a threshold or a fraction, got 'mask_fraction_0': ",
    ),
    (
      "t.csv",
      ["mask_fraction_x"],
      "--masks must end in a threshold or a fraction, got 'mask_fraction_x': ",
    ),
    ("t.csv", ["rank"], "--masks must be among mask_threshold_P, mask_fraction_S of this run, got 'rank'."),
    ("t.csv", ["smallest_mask"], "--masks must be among mask_threshold_P, mask_fraction_S of this run, got 'small"),
  ],
)
def test_what_cannot_be_exported_is_refused(
  half_run: results.Results, tmp_path: pathlib.Path, to: str, masks: list[str], message: str
):
  with pytest.raises(ValueError, match=re.escape(message)):
    export.export(location(half_run), to=str(tmp_path / to), masks=masks, is_partial=True)
  assert list(tmp_path.iterdir()) == []


def make_store(directory: pathlib.Path, ids: list[str], statuses: list[int]) -> results.Results:
  """A finished run of one unit with orders of four features."""
  fields = {
    "id": results.TEXT,
    "target": results.Field(shape=(), dtype="int32"),
    "rank": results.Field(shape=(4,), dtype="uint16"),
    "confidence": results.Field(shape=(5,), dtype="float32"),
    "sis_num_kept": results.Field(shape=(), dtype="int32"),
    "sis_status": results.Field(shape=(), dtype="int8"),
  }
  num_images = len(ids)
  spec = {"grid": [2, 2, 1], "sizes": [0, 1, 2, 3, 4], "threshold": 0.9, "class_names": ["a"]}
  store = results.create_or_resume(directory, spec=spec, num_images=num_images, unit_size=num_images, fields=fields)
  store.write_unit(
    0,
    {
      "id": results.encode_text(ids),
      "target": np.zeros(num_images),
      "rank": np.tile([3, 0, 1, 2], (num_images, 1)),
      "confidence": np.tile([0.1, 0.2, 0.95, 0.3, 0.92], (num_images, 1)),
      "sis_num_kept": np.full(num_images, 2),
      "sis_status": np.array(statuses),
    },
  )
  return store


def test_orders_that_mean_nothing_are_left_out(tmp_path: pathlib.Path):
  statuses = [Status.OK, Status.NON_FINITE, NOT_SEARCHED, Status.BELOW_THRESHOLD]
  store = make_store(tmp_path / "run", ["a", "b", "c", "d"], statuses)
  message = export.export(location(store), to=str(tmp_path / "a.npz"))
  assert message.endswith("a.npz; 2 left out, not searched or not finite.")
  arrays = read_npz(tmp_path / "a.npz")
  assert arrays["id"].tolist() == ["a", "d"]
  assert arrays["index"].tolist() == [0, 3]
  assert arrays["mask"].reshape(2, 4).tolist() == [[False, True, True, False], [False] * 4]


@pytest.mark.parametrize("ids", [["a", "a"], ["a", "../b"], ["a", "/b"]])
def test_ids_that_give_no_file_of_their_own_are_refused(tmp_path: pathlib.Path, ids: list[str]):
  store = make_store(tmp_path / "run", ids, [0, 0])
  message = f"--to must give each image a file of its own, but {ids[1]!r} does not; use {{index}}."
  with pytest.raises(ValueError, match=re.escape(message)):
    export.export(location(store), to=str(tmp_path / "out" / "{id}.npz"))
  assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.npz"]
  export.export(location(store), to=str(tmp_path / "numbers" / "{index}.npz"))
  assert sorted(path.name for path in (tmp_path / "numbers").iterdir()) == ["0.npz", "1.npz"]


def test_a_run_without_orders_has_no_npz(tmp_path: pathlib.Path):
  fields = {"id": results.TEXT, "sis_status": results.Field(shape=(), dtype="int8")}
  store = results.create_or_resume(tmp_path / "run", spec={"grid": [2, 2, 1]}, num_images=1, unit_size=1, fields=fields)
  store.write_unit(0, {"id": results.encode_text(["a"]), "sis_status": np.zeros(1)})
  with pytest.raises(ValueError, match=re.escape("must hold the order of all features for .npz; run find with a")):
    export.export(location(store), to=str(tmp_path / "a.npz"))


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "a.npz", "{index}.npz"])
def test_what_the_disk_refuses_is_one_line_and_leaves_nothing(
  run: results.Results, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], name: str
):
  # Root may write into any folder, but nobody into a file.
  (tmp_path / "file").write_text("")
  to = str(tmp_path / "file" / name)
  assert main.main(["export", location(run), "--to", to]) == 2
  errors = capsys.readouterr().err.splitlines()
  assert errors[-1].startswith(f"jax-sis export: --to must be a file that can be written, but {to!r} cannot: ")
  assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_damaged_run_leaves_the_file_that_was_there(run: results.Results, tmp_path: pathlib.Path):
  shutil.copytree(location(run), tmp_path / "run")
  chunk = next(path for path in (tmp_path / "run/results.zarr/rank/c/3").rglob("*") if path.is_file())
  chunk.write_bytes(chunk.read_bytes()[:-1])
  for name in ("a.npz", "t.csv"):
    (tmp_path / name).write_text("old")
    with pytest.raises(folder.StorageError, match="could not be read"):
      export.export(str(tmp_path / "run"), to=str(tmp_path / name), masks=["mask_threshold_0.7"] * (name == "t.csv"))
    assert (tmp_path / name).read_text() == "old"
  assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "run", "t.csv"]


@pytest.mark.slow
@pytest.mark.usefixtures("without_type_checks", "allow_rank_promotion")
def test_the_arrays_are_those_of_the_authors_own_run(
  shared_dir: pathlib.Path, published_module: Any, cifar_test: tuple[np.ndarray, np.ndarray]
):
  golden = np.load(shared_dir / "data/golden/gradient_k16.npz")
  normalisation = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
  with jax.enable_x64(True):
    module = jax.tree.map(lambda array: jnp.asarray(array, jnp.float64), published_module)
    predict_fn, params = frozen.freeze(module)
    order = jax_sis.backselect(
      lambda params, inputs: predict_fn(params, inputs) * float(golden["logit_scale"]),
      params,
      normalisation.apply(cifar_test[0][golden["test_index"]], np.float64),
      search=jax_sis.Gradient(per_step=16),
      score="probability",
    )
  rank, confidence, target = (np.asarray(values) for values in (order.rank, order.confidence, order.target))
  none_kept = np.zeros(len(rank), np.int64)
  arrays = to_authors_arrays(rank, confidence, target, none_kept, sizes=order.sizes, grid=order.grid)
  np.testing.assert_array_equal(arrays["mask_order"][:, 0], golden["removed_at_step"])
  np.testing.assert_array_equal(arrays["target_class_idx"], golden["target"])
  np.testing.assert_allclose(arrays["confidences_over_backselect"], golden["confidence_before_step"], rtol=1e-6)
  np.testing.assert_allclose(arrays["original_confidences"], golden["full_confidence"], rtol=1e-6)
  assert set(select_image(arrays, 3)) == BACKSELECT_NAMES
