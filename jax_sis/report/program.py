"""`jax-sis report`: the report of a run, written."""

from xml.etree.ElementTree import Element

from jax_sis import results
from jax_sis.display import page
from jax_sis.report import controls, findings, gallery, origin, sizes
from jax_sis.report.config import ReportConfig
from jax_sis.report.inputs import Inputs, read_inputs
from jax_sis.report.words import name_data, name_target, name_unit, tell_count
from jax_sis.runtime.progress import Progress

REPORT_FILE = "report.html"
# Of an analysis that is computed here.
SEED = 0


def report(config: ReportConfig) -> str:
  """Writes the report of a run, and prints what it says first.

  Returns:
    Where the file is.

  Raises:
    ValueError: there is no run, nothing of it is finished, or the analysis is not of this run as it is now.
    StorageError: the run cannot be read, or the file not be written.
  """
  store = results.open(config.run_dir)
  folder, name = split_path(config, store.folder)
  results.check_writable(folder, "RUN_DIR" if config.out is None else "--out")
  num_images = 0 if config.analysis is not None else len(store.done_images())
  with Progress("analysis", total=num_images, unit="image") as progress:
    inputs = read_inputs(store, analysis_dir=config.analysis, seed=SEED, advance_fn=progress.advance)
  folder.write(name, make_report(inputs, config))
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


def make_report(inputs: Inputs, config: ReportConfig) -> bytes:
  spec, analysis = inputs.spec, inputs.analysis
  model, data = spec["model"]["name"], name_data(inputs)
  lead = (
    f"Which few {name_unit(inputs)} alone make {model} at least {spec['threshold']:g} confident in "
    f"{name_target(inputs)}? The answer of jax-sis for {tell_count(analysis.num_finished, 'image')} of "
    f"{data}. Shares and means stand with their 95% intervals in brackets."
  )
  blocks = [
    *describe_unfinished(inputs),
    *make_sections(
      inputs,
      num_images=config.gallery,
      checkpoint=config.checkpoint,
      model_function=config.model_function,
      data_dir=config.data_dir,
    ),
    origin.make_section(inputs, command=config.command),
  ]
  return page.document(config.title or f"Sufficient input subsets: {model} on {data}", blocks, lead=lead)


def make_sections(inputs: Inputs, *, num_images: int, **places: str | None) -> list[Element]:
  """What the run shows; the arguments are those of the gallery, see `gallery.read_images`."""
  return [
    sizes.make_section(inputs),
    findings.make_positions(inputs),
    controls.make_section(inputs),
    findings.make_correctness(inputs),
    findings.make_removal(inputs),
    gallery.make_section(inputs, num_images=num_images, **places),
  ]


def describe_unfinished(inputs: Inputs) -> list[Element]:
  analysis = inputs.analysis
  if analysis.num_finished == analysis.num_images:
    return []
  done = f"{tell_count(analysis.num_finished)} of {tell_count(analysis.num_images, 'image')} are done"
  text = f"{done}, and all here is of these."
  return [page.paragraph(page.strong("The run is not finished: "), text, kind="note")]
