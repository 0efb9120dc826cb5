"""The picture at the top of the README: photographs, and the pixels of each that suffice.

    jax-sis find --checkpoint imagenet --per-step 100 --out photos
    python benchmarks/photograph.py photos --out docs/photograph.png

A line for each photograph of the run that `--show` names: the photograph, its sufficient input subset on the greyed
photograph, and the subset alone. In a palette of 256 colours, which makes the file a third as large.
"""

import argparse
import io
import pathlib
from collections.abc import Sequence

from matplotlib.figure import Figure
from PIL import Image

from jax_sis import results
from jax_sis.display import pixels
from jax_sis.display.photographs import GAP, TEXT_GAP, measure_text, start_axis, write
from jax_sis.display.style import finish, styled
from jax_sis.runs import setup

HEADINGS = ("the photograph", "pixels that suffice", "and nothing else")
# In points: to be read on a telephone, where the picture is half as wide.
SIZE = 15


def main() -> None:
  """Draws the picture."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("run", help="the folder of the run")
  parser.add_argument("--show", nargs="+", default=["bison", "espresso", "chameleon"], help="parts of the names")
  parser.add_argument("--out", required=True, type=pathlib.Path, help="the picture")
  options = parser.parse_args()
  picture = Image.open(io.BytesIO(finish(draw(results.open(options.run), options.show)))).convert("RGB")
  picture.quantize(256, method=Image.Quantize.MEDIANCUT).save(options.out, optimize=True)


@styled
def draw(store: results.Results, show: Sequence[str]) -> Figure:
  """A line for each image of the run whose name holds one of these words, which it names."""
  job = setup.make_job_again(store, num_devices=1, is_computing=False)
  ids = store.read_text("id", store.done_images())
  chosen = [next(number for number, name in enumerate(ids) if word in name) for word in show]
  height, width, _ = job.classifier.input_shape
  top = GAP + measure_text("one", SIZE) + TEXT_GAP
  line_height = height + TEXT_GAP + measure_text("two\nlines", SIZE) + GAP
  lefts = [GAP + number * (width + GAP) for number in range(len(HEADINGS))]
  axis = start_axis(lefts[-1] + width + GAP, top + line_height * len(chosen))
  for left, heading in zip(lefts, HEADINGS, strict=True):
    write(axis, left, top - TEXT_GAP, heading, size=SIZE, va="bottom", fontweight="bold")
  for place, number in enumerate(chosen):
    at = top + place * line_height
    index = store.done_images()[number : number + 1]
    image = job.source[int(index[0])]["image"]
    kept = store.masks([ids[number]], threshold=store.spec["threshold"])[0]
    pictures = (pixels.to_rgb(image), pixels.paint_on_grey(image, kept), pixels.paint_alone(image, kept))
    for left, picture in zip(lefts, pictures, strict=True):
      axis.imshow(picture, extent=(left, left + width, at + height, at), aspect="auto", interpolation="nearest")
    whole, alone = (float(store.read(name, index)[0]) for name in ("full_confidence", "sis_certified_confidence"))
    name = job.class_names[int(store.read("target", index)[0])]
    write(axis, lefts[0], at + height + TEXT_GAP, f"“{name}”,\n{whole:.0%} sure", size=SIZE)
    told = f"On these {kept.mean():.1%} of the pixels alone,\nstill {alone:.0%} sure of “{name}”."
    write(axis, lefts[1], at + height + TEXT_GAP, told, size=SIZE)
  return axis.figure  # pyright: ignore


if __name__ == "__main__":
  main()
