"""Which of several commands goes on with what is in a folder: the newest one."""

import contextlib
import uuid
from collections.abc import Callable, Iterator

from jax_sis.results.folder import Folder

CLAIM_PREFIX = ".claim-"


@contextlib.contextmanager
def claim(folder: Folder, command: str) -> Iterator[Callable[[], None]]:
  """Says in a file of the folder that this process alone goes on there, and no other that said so before.

  A process that was killed keeps nobody waiting. If this one fails, the one before it may go on.

  Args:
    folder: which.
    command: what is done there; other commands are not disturbed.

  Yields:
    What raises a ValueError as soon as another process has said the same.

  Raises:
    StorageError: the file cannot be written.

  Examples:
    >>> from jax_sis import results
    >>> folder = results.open_folder("memory://claim-example")
    >>> with results.claim(folder, "disjoint") as check_older:
    ...   with results.claim(folder, "disjoint") as check_newer:
    ...     check_newer()
    ...     try:
    ...       check_older()
    ...     except ValueError as error:
    ...       print(str(error).partition(";")[0])
    only the newest 'jax-sis disjoint' goes on in 'memory://claim-example', and another was begun after this one
  """
  name, own = f"{CLAIM_PREFIX}{command}", uuid.uuid4().hex.encode()

  def check() -> None:
    if folder.patient.read(name) != own:
      raise ValueError(
        f"only the newest 'jax-sis {command}' goes on in {folder.location!r}, and another was begun after this one; "
        "that one does what is left. To go on by this one instead, end the other and give this command again."
      )

  afterwards = folder.read(name)
  folder.write(name, own)
  try:
    yield check
    afterwards = None
  finally:
    if folder.read(name) == own:
      if afterwards is None:
        folder.delete(name)
      else:
        folder.write(name, afterwards)
