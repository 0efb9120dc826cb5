"""Do the subsets hold on other backgrounds than the one that they were found on? Certified on draws, or a warning."""

from xml.etree.ElementTree import Element

from jax_sis.display import page
from jax_sis.report.inputs import Inputs
from jax_sis.report.words import name_unit, tell_count
from jax_sis.runs.backgrounds import BACKGROUNDS_FILE, NOTE
from jax_sis.runs.table import count_totals, describe_robust

# Twelve CIFAR-10 test images by the published ResNet-20, subsets at 0.9.
WEAKNESS = (
  "These subsets suffice on one colour as background, and hardly anywhere else: the smallest ones of a ResNet-20 kept "
  "their class on 10% of other images of CIFAR-10 as background, which is chance."
)


def make_section(inputs: Inputs) -> Element:
  heading, name = "On other backgrounds", "backgrounds"
  if "completion" not in inputs.spec:
    remedy = page.paragraph("This searches for subsets that keep their class on most other images, and certifies them:")
    command = page.command("jax-sis find --completion images --pool DATA ...")
    return page.section(heading, answer=WEAKNESS, blocks=[remedy, command], name=name)
  totals = count_totals(inputs.store, num_features=inputs.analysis.num_features)
  png = inputs.store.folder.read(BACKGROUNDS_FILE)
  blocks = [page.figure(page.Picture(png=png, alt=NOTE), NOTE)] if png is not None else []
  return page.section(heading, answer=describe_robust(totals), blocks=[*describe_pool(inputs), *blocks], name=name)


def describe_pool(inputs: Inputs) -> list[Element]:
  """What masked pixels showed."""
  asked = inputs.spec["completion"]
  text = f"Masked {name_unit(inputs)} showed {asked['kind']}, {asked['num_draws']} draws a step."
  if images := asked.get("images"):
    text += (
      f" The pool ({images['data']}) has {tell_count(images['searched']['num_images'], 'image')} for the search and "
      f"{images['tested']['num_images']:,} for the certificates, which share none; {images['num_own']:,} of the images "
      "searched are in it, and never their own background."
    )
  return [page.paragraph(text, kind="soft")]
