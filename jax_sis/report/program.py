"""`jax-sis report`: the report of a run, written."""

import dataclasses
from collections.abc import Sequence
from xml.etree.ElementTree import Element

from jax_sis import results
from jax_sis.display import page
from jax_sis.report import backgrounds, controls, findings, gallery, lattice, opening, origin, sizes, soundness
from jax_sis.report.config import ReportConfig
from jax_sis.report.inputs import Inputs, read_inputs
from jax_sis.report.words import name_data, tell_count
from jax_sis.runtime.progress import Progress

REPORT_FILE = "report.html"
# Of an analysis that is computed here.
SEED = 0


def report(config: ReportConfig) -> str:
  """Writes the report of a run, and prints what it says first.

  Returns:
    Where the file is.

  Raises:
    ValueError: there is no run, nothing of it is finished, or what --analysis or --soundness names is not of it.
    StorageError: the run cannot be read, or the file not be written.
  """
  store = results.open(config.run_dir)
  folder, name = split_path(config, store.folder)
  results.check_writable(folder, "RUN_DIR" if config.out is None else "--out")
  found = None if config.soundness is None else soundness.read_soundness(store, config.soundness)
  num_images = 0 if config.analysis is not None else len(store.done_images())
  with Progress("analysis", total=num_images, unit="image") as progress:
    inputs = read_inputs(store, analysis_dir=config.analysis, seed=SEED, advance_fn=progress.advance)
  folder.write(name, make_report(inputs, config, found))
  for answer in inputs.kinds:
    print(sizes.describe_headline(inputs, answer))
  if inputs.controls is None:
    print(f"Leak controls: none ({inputs.no_controls}); run {controls.make_command(inputs)}")
  place = folder.join(name)
  print(f"Written to {place}", flush=True)
  return place


def split_path(config: ReportConfig, run: results.Folder) -> tuple[results.Folder, str]:
  if config.out is None:
    return run, REPORT_FILE
  parent, separator, name = config.out.rpartition("/")
  return results.open_folder(parent or (separator or ".")), name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
  """The images that a page shows.

  Attributes:
    extremes: those of the gallery, for each kind of subset.
    example: that of the opening; None where no image has a subset.
    images: their pixels.
  """

  extremes: list[gallery.Extremes]
  example: opening.Example | None
  images: gallery.Images


def read_shown(inputs: Inputs, *, num_images: int, **places: str | None) -> Shown:
  """Chooses and reads what is shown; `num_images` is of the gallery, for the others see `gallery.read_images`."""
  example, extremes = opening.choose_example(inputs), gallery.choose_shown(inputs, num_images=num_images)
  indices = {index for one in extremes for index in one.rows} | ({example.index} if example else set())
  images = gallery.Images(pixels={}, missing="")
  if indices:
    images = gallery.read_images(inputs.store, sorted(indices), **places)
  return Shown(extremes=extremes, example=example, images=images)


def make_report(inputs: Inputs, config: ReportConfig, found: soundness.Soundness | None) -> bytes:
  model, data = inputs.spec["model"]["name"], name_data(inputs)
  shown = read_shown(
    inputs,
    num_images=config.gallery,
    checkpoint=config.checkpoint,
    model_function=config.model_function,
    data_dir=config.data_dir,
  )
  blocks = [
    *describe_unfinished(inputs),
    page.paragraph(
      f"All numbers are of {tell_count(inputs.analysis.num_finished, 'image')} of {data}; shares and means stand with "
      "their 95% intervals in brackets.",
      kind="soft",
    ),
    *make_sections(inputs, shown, [] if found is None else soundness.make_blocks(found)),
    origin.make_section(inputs, command=config.command),
  ]
  title = config.title or f"Sufficient input subsets: {model} on {data}"
  return page.document(title, blocks, opening=opening.make_opening(inputs, shown.example, shown.images))


def make_sections(inputs: Inputs, shown: Shown, beside_sizes: Sequence[Element] = ()) -> list[Element]:
  """What the run shows, but for the opening; `beside_sizes` is said of other studies beside the sizes."""
  return [
    sizes.make_section(inputs, beside_sizes),
    *lattice.make_sections(inputs),
    backgrounds.make_section(inputs),
    findings.make_positions(inputs),
    controls.make_section(inputs),
    findings.make_correctness(inputs),
    findings.make_removal(inputs),
    gallery.make_section(inputs, shown.extremes, shown.images),
  ]


def describe_unfinished(inputs: Inputs) -> list[Element]:
  analysis = inputs.analysis
  if analysis.num_finished == analysis.num_images:
    return []
  done = f"{tell_count(analysis.num_finished)} of {tell_count(analysis.num_images, 'image')} are done"
  text = f"{done}, and all here is of these."
  return [page.paragraph(page.strong("The run is not finished: "), text, kind="note")]
