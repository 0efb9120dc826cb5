"""How a command ends on SIGINT and SIGTERM: soon, with a word on what to do, wherever its main thread is."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# From the first signal to the end of the process, also where the main thread stays in compiled code.
GRACE_SECONDS = 5.0
# So long the main thread may take to say that it was interrupted; after that it is said for it.
SILENCE_SECONDS = 1.0
# A terminal or pipe that takes no output must not keep the process alive.
OUTPUT_SECONDS = 0.5


class Interrupted(KeyboardInterrupt):
  """What the first SIGINT or SIGTERM raises in the main thread.

  Attributes:
    signum: the signal.
  """

  def __init__(self, signum: int):
    super().__init__(signal.Signals(signum).name)
    self.signum = signum


@contextlib.contextmanager
def leave_on_signals(command: str, what_now: str) -> Iterator[None]:
  """Runs the work of a command, which the first SIGINT or SIGTERM interrupts and a second one ends at once.

  The first raises Interrupted, which the work lets pass. The process then says what happened and leaves with the exit
  code 130 (SIGINT) or 143 (SIGTERM); after GRACE_SECONDS also where nothing could be raised, the main thread being in
  compiled code. A signal that was ignored stays so, as a shell asks for its background jobs. Only the main thread can
  listen; in another one the work runs as it is.

  Args:
    command: its name, for the message.
    what_now: what was kept and what the user can do, for the message.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  listener = Listener(command, what_now)
  _listeners.append(listener)
  try:
    listener.open()
    yield
    listener.close()
  except BaseException as error:
    if is_interrupt(error):
      listener.leave()
    listener.close()
    raise
  finally:
    _listeners.remove(listener)


@contextlib.contextmanager
def on_interrupt(callback: Callable[[], None]) -> Iterator[None]:
  """Runs work, and calls `callback` if it is interrupted, in the main thread and once.

  It is called where Interrupted leaves the block, before what is outside the block is closed. It has the rest of
  GRACE_SECONDS, and what it raises is reported and goes no further.
  """
  _callbacks.append(callback)
  try:
    yield
  except BaseException as error:
    if is_interrupt(error):
      run_callback(callback)
    raise
  finally:
    _callbacks.remove(callback)


def is_interrupt(error: BaseException) -> bool:
  """Whether it came of a signal: libraries may turn what passes them into an error of their own."""
  return isinstance(error, KeyboardInterrupt) or any(listener.is_interrupted for listener in _listeners)


class Listener:
  """Takes the signals of a command, and ends the process.

  Python runs signal handlers in its main thread, between two instructions of its own, and so not while that thread is
  in compiled code, as when it waits for a device. Python therefore also writes each signal to a socket, as it comes,
  and a thread reads from there.

  Args:
    command: its name, for the message.
    what_now: what was kept and what the user can do, for the message.
  """

  def __init__(self, command: str, what_now: str):
    self._command = command
    self._what_now = what_now
    self._signum: int | None = None
    self._is_closing = False
    self._is_announced = False
    self._announcing = threading.Lock()
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    self._previous_handlers = {number: old for number, old in handlers.items() if old not in (signal.SIG_IGN, None)}
    self._previous_hook = sys.unraisablehook
    self._previous_wakeup = -1
    self._reader, self._writer = socket.socketpair()
    self._writer.setblocking(False)
    self._watcher = threading.Thread(target=self._watch, name="signals", daemon=True)

  @property
  def is_interrupted(self) -> bool:
    """Whether a signal has come."""
    return self._signum is not None

  def open(self) -> None:
    """Begins to listen."""
    self._watcher.start()
    self._previous_wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
    sys.unraisablehook = self._leave_or_report
    for number in self._previous_handlers:
      signal.signal(number, self._handle)

  def close(self) -> None:
    """Gives back what `open` took. A signal that comes while it does so still ends the process."""
    self._is_closing = True
    for number, handler in self._previous_handlers.items():
      signal.signal(number, handler)
    sys.unraisablehook = self._previous_hook
    signal.set_wakeup_fd(self._previous_wakeup)
    self._writer.close()
    self._watcher.join()
    self._reader.close()
    if self.is_interrupted:
      self.leave()

  def leave(self) -> None:
    """Says that the command was interrupted, does what is left to do before the end, and ends the process.

    Devices may still be computing, and Python crashes if it is taken down under them.
    """
    self._signum = self._signum or signal.SIGINT
    self._announce(self._signum)
    for callback in reversed(_callbacks):
      run_callback(callback)
    run_within(OUTPUT_SECONDS, sys.stdout.flush)
    os._exit(128 + self._signum)

  def _handle(self, signum: int, frame: FrameType | None) -> None:
    del frame
    # The watcher sees to the second signal: here it could come in the middle of the message about the first.
    if self._signum is None:
      self._signum = signum
      if not self._is_closing:
        raise Interrupted(signum)

  def _leave_or_report(self, unraisable: "sys.UnraisableHookArgs") -> None:
    """Ends the process also where Python would report and drop KeyboardInterrupt.

    It does so with all that is raised in a callback of the garbage collector, of which JAX has one.
    """
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
      self.leave()
    self._previous_hook(unraisable)

  def _watch(self) -> None:
    """Waits for a signal, then for another or the end of the grace, and ends the process."""
    signals: list[int] = []
    end = None
    while len(signals) < 2 and (end is None or time.monotonic() < end):
      try:
        content = self._reader.recv(64)
      except TimeoutError:
        self._announce(signals[0])
        continue
      if not content:
        return
      # A byte a signal; those of other handlers come here too.
      signals += [number for number in content if number in self._previous_handlers]
      if signals and end is None:
        end = time.monotonic() + GRACE_SECONDS
        self._reader.settimeout(min(SILENCE_SECONDS, GRACE_SECONDS))
    self._announce(signals[0])
    if len(signals) < 2:
      run_within(OUTPUT_SECONDS, sys.stdout.flush)
    os._exit(128 + signals[0])

  def _announce(self, signum: int) -> None:
    run_within(OUTPUT_SECONDS, lambda: self._write_message(signum))

  def _write_message(self, signum: int) -> None:
    by = "" if signum == signal.SIGINT else f" by {signal.Signals(signum).name}"
    with self._announcing:
      if not self._is_announced:
        # Not through sys.stderr: the main thread may have been stopped in it, with its lock.
        with contextlib.suppress(OSError):
          os.write(2, f"\njax-sis {self._command}: interrupted{by}; {self._what_now}.\n".encode())
        self._is_announced = True


def run_callback(callback: Callable[[], None]) -> None:
  """Calls it; what it raises must not hide that the work was interrupted."""
  try:
    callback()
  except Exception as error:
    print(f"{type(error).__name__} after the interrupt: {error}", file=sys.stderr)


def run_within(seconds: float, function: Callable[[], object]) -> None:
  """Calls it in a thread of its own, and does not wait for it any longer than this."""
  thread = threading.Thread(target=function, daemon=True)
  thread.start()
  thread.join(seconds)


_listeners: list[Listener] = []
_callbacks: list[Callable[[], None]] = []
