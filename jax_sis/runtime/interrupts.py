"""Ends a command soon after SIGINT or SIGTERM, and says what to do next, whatever its main thread is doing."""

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
# From the first signal to the end of the process, even if the main thread is stuck in compiled code.
GRACE_SECONDS = 5.0
# If the main thread has not finished by then, the message is written while it goes on.
SILENCE_SECONDS = 1.0
# A terminal or pipe that takes no output must not keep the process alive.
OUTPUT_SECONDS = 0.5
# What the main thread writes to the watcher's socket, beside the signals that Python writes there.
LEAVE, CLOSE = 254, 255


@contextlib.contextmanager
def leave_on_signals(command: str, what_now: str) -> Iterator[None]:
  """Runs the work of a command. The first SIGINT or SIGTERM interrupts it; a second one ends the process at once.

  The first signal raises KeyboardInterrupt in the main thread. Once that has left the work, or after GRACE_SECONDS, the
  process says what happened and exits with the code 130 (SIGINT) or 143 (SIGTERM). A signal that was ignored stays
  ignored, as shells arrange for background jobs. Outside the main thread, which alone can handle signals, the work
  simply runs.

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
  except KeyboardInterrupt:
    listener.leave()
  finally:
    listener.close()
    _listeners.remove(listener)


@contextlib.contextmanager
def on_interrupt(callback: Callable[[], None]) -> Iterator[None]:
  """Runs work, and calls `callback` once, in the main thread, if the work is interrupted.

  The call comes before anything outside the block is closed, and has the rest of GRACE_SECONDS. An exception that it
  raises is printed and goes no further.
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
  """Whether a signal caused this error; libraries may have turned KeyboardInterrupt into an error of their own."""
  return isinstance(error, KeyboardInterrupt) or any(listener.signum is not None for listener in _listeners)


class Listener:
  """Handles the signals of a command, and ends the process.

  Python runs signal handlers between two instructions of its main thread, so not while that thread is in compiled code,
  such as waiting for a device. But it also writes each signal to a socket at once, where the watcher, a thread, reads.

  Attributes:
    signum: the first signal, None until it has come.
  """

  def __init__(self, command: str, what_now: str):
    self._command = command
    self._what_now = what_now
    self.signum: int | None = None
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    self._previous_handlers = {number: old for number, old in handlers.items() if old not in (signal.SIG_IGN, None)}
    self._previous_hook = sys.unraisablehook
    self._previous_wakeup = -1
    self._reader, self._writer = socket.socketpair()
    self._writer.setblocking(False)
    self._watcher = threading.Thread(target=self._watch, name="signals", daemon=True)

  def open(self) -> None:
    self._watcher.start()
    self._previous_wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
    sys.unraisablehook = self._leave_or_report
    for number in self._previous_handlers:
      signal.signal(number, self._handle)

  def close(self) -> None:
    """Restores what `open` changed, or ends the process if a signal has come, even one that a library dropped."""
    with contextlib.suppress(KeyboardInterrupt):
      for number, handler in self._previous_handlers.items():
        signal.signal(number, handler)
    if self.signum is not None:
      self.leave()
    sys.unraisablehook = self._previous_hook
    signal.set_wakeup_fd(self._previous_wakeup)
    self._writer.send(bytes([CLOSE]))
    self._watcher.join()
    self._reader.close()
    self._writer.close()

  def leave(self) -> None:
    """Runs the callbacks that are left, then lets the watcher write the message and end the process.

    The process does not end the usual way: devices may still be computing, and Python crashes if it shuts down then.
    """
    self.signum = self.signum or signal.SIGINT
    for callback in reversed(_callbacks):
      run_callback(callback)
    self._writer.send(bytes([LEAVE]))
    self._watcher.join()

  def _handle(self, signum: int, frame: FrameType | None) -> None:
    del frame
    # The watcher handles the second signal.
    if self.signum is None:
      self.signum = signum
      raise KeyboardInterrupt

  def _leave_or_report(self, unraisable: "sys.UnraisableHookArgs") -> None:
    """Leaves even if Python would print and drop KeyboardInterrupt, as it does in garbage-collector callbacks.

    JAX has such a callback.
    """
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
      self.leave()
    self._previous_hook(unraisable)

  def _watch(self) -> None:
    """Waits for a signal, then until the main thread leaves, the next signal or the end of the grace."""
    first = self._receive(None)
    if first == CLOSE:
      return
    end = time.monotonic() + GRACE_SECONDS
    last = first if first == LEAVE else self._receive(time.monotonic() + SILENCE_SECONDS)
    signum = self.signum or first
    by = "" if signum == signal.SIGINT else f" by {signal.Signals(signum).name}"
    run_within(OUTPUT_SECONDS, write_error, f"\njax-sis {self._command}: interrupted{by}; {self._what_now}.\n")
    if not last:
      last = self._receive(end)
    if last not in SIGNALS:
      run_within(OUTPUT_SECONDS, sys.stdout.flush)
    os._exit(128 + signum)

  def _receive(self, end: float | None) -> int:
    """The next signal of ours, LEAVE or CLOSE; 0 if none has come by this time."""
    while True:
      self._reader.settimeout(None if end is None else max(end - time.monotonic(), 1e-3))
      try:
        number = self._reader.recv(1)[0]
      except TimeoutError:
        return 0
      # Signals that others handle come here too.
      if number in (*self._previous_handlers, LEAVE, CLOSE):
        return number


def run_callback(callback: Callable[[], None]) -> None:
  """Calls it, and prints an exception, which must not hide that the work was interrupted."""
  try:
    callback()
  except Exception as error:
    print(f"{type(error).__name__} after the interrupt: {error}", file=sys.stderr)


def run_within(seconds: float, function: Callable[..., object], *arguments: object) -> None:
  """Calls a function in a thread, and waits for it at most this long."""
  thread = threading.Thread(target=function, args=arguments, daemon=True)
  thread.start()
  thread.join(seconds)


def write_error(text: str) -> None:
  """Writes to standard error, but not through sys.stderr: the main thread may have stopped while it held its lock."""
  with contextlib.suppress(OSError):
    os.write(2, text.encode())


_listeners: list[Listener] = []
_callbacks: list[Callable[[], None]] = []
