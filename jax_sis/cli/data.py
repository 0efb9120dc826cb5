"""The command on data sets: `data prepare`."""

import dataclasses
import pathlib
import shlex
from typing import Annotated, Literal

from jax_sis.cli.parsing import Command
from jax_sis.data.config import OptionalFolder
from jax_sis.runtime.command_line import Option


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareOptions:
  """Which data set `jax-sis data prepare` makes.

  Attributes:
    name: the data set, cifar10 or cifar100.
    source: the original archive (such as cifar-10-binary.tar.gz), or the folder that it unpacks to.
    data_dir: the TFDS folder that gets it (default: TFDS's own).
  """

  name: Annotated[Literal["cifar10", "cifar100"], Option(metavar="NAME", is_positional=True)]
  source: Annotated[str, Option(name="from", metavar="PATH")]
  data_dir: OptionalFolder = None


def run_prepare(options: PrepareOptions) -> None:
  from jax_sis.data import prepare, tfds

  directory = prepare.prepare(options.name, source=options.source, data_dir=options.data_dir)
  # The embedded classifier knows the classes of CIFAR-10 only.
  checkpoint = "" if options.name == "cifar10" else "--checkpoint CLASSIFIER "
  place = f" --data-dir {shlex.quote(options.data_dir)}" if options.data_dir else ""
  if not place and pathlib.Path(options.name).exists():
    # Otherwise the name would mean what is here.
    place = f" --split {tfds.DEFAULT_SPLIT}"
  print(f"It lies in {directory}; use it by jax-sis find {checkpoint}--data {options.name}{place}")


COMMANDS = {
  "data prepare": Command(
    settings=(PrepareOptions,),
    run_fn=run_prepare,
    description="""\
Makes a TFDS data set from the original archive, with the images, labels, names and ids that TFDS itself would give. It
takes well under a minute and 140 MB of disk. An interrupted run leaves no data set; the same command begins anew.
""",
    examples=(
      "data prepare cifar10 --from cifar-10-binary.tar.gz --data-dir DATA",
      "data prepare cifar100 --from downloads/cifar-100-binary/ --data-dir DATA",
    ),
    after_interrupt="nothing was kept, and the same command begins anew",
  )
}
