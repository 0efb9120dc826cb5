"""How a command ends on signals: real processes, real signals, and the main thread in all kinds of work."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from jax_sis.cli import main
from jax_sis.runtime import interrupts

# A shell that runs the tests in the background leaves Ctrl-C ignored, and children inherit that.
HEAD = """
import hashlib, signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from jax_sis.cli import main as cli
from jax_sis.runtime import interrupts
"""
TAIL = """
cli.RUNNERS["find"] = work
sys.exit(cli.main(["find"]))
"""
GOES_ON = "the same command goes on where it stopped."
AT_WORK = """
def work(options):
  print("not flushed yet")
  print("working", file=sys.stderr, flush=True)
  while True:
    sum(range(1000))
"""
# Minutes in compiled code, without the lock of the interpreter and deaf to signals.
IN_COMPILED_CODE = """
def work(options):
  print("not flushed yet")
  print("working", file=sys.stderr, flush=True)
  hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""
COMPILING = """
def work(options):
  import jax, jax.numpy as jnp
  def slow(x):
    for _ in range(1600):
      x = jnp.sin(x @ x) + jax.lax.sort(x)
    return x
  lowered = jax.jit(slow).lower(jnp.ones((8, 8)))
  print("not flushed yet")
  print("working", file=sys.stderr, flush=True)
  lowered.compile()
  print("compiled", file=sys.stderr)
"""


def start(code: str, **options: Any) -> "subprocess.Popen[str]":
  """Starts a command whose work is `code`, and waits until it says that it works."""
  command = [sys.executable, "-c", HEAD + code + TAIL]
  process = subprocess.Popen(command, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options})
  assert process.stderr is not None
  assert process.stderr.readline() == "working\n"
  return process


def finish(process: "subprocess.Popen[str]") -> tuple[float, str, str]:
  """Waits for its end: seconds until then, standard output, the rest of standard error."""
  started = time.perf_counter()
  output, errors = process.communicate(timeout=50)
  return time.perf_counter() - started, output, errors


@pytest.mark.parametrize(
  ("signum", "exit_code", "message"),
  [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "interrupted by SIGTERM")],
)
def test_a_signal_ends_the_work_at_once(signum: int, exit_code: int, message: str):
  process = start(AT_WORK)
  process.send_signal(signum)
  seconds, output, errors = finish(process)
  assert process.returncode == exit_code
  assert errors == f"\njax-sis find: {message}; {GOES_ON}\n"
  assert output == "not flushed yet\n"
  assert seconds < 2


@pytest.mark.slow
def test_a_signal_ends_long_compiled_work_after_the_grace():
  process = start(IN_COMPILED_CODE)
  time.sleep(0.2)
  process.send_signal(signal.SIGTERM)
  seconds, output, errors = finish(process)
  assert process.returncode == 143
  assert errors == f"\njax-sis find: interrupted by SIGTERM; {GOES_ON}\n"
  assert output == "not flushed yet\n"
  assert interrupts.GRACE_SECONDS - 0.5 < seconds < interrupts.GRACE_SECONDS + 2


@pytest.mark.slow
def test_a_signal_ends_a_compilation_by_the_end_of_the_grace():
  process = start(COMPILING)
  time.sleep(2)
  process.send_signal(signal.SIGTERM)
  seconds, output, errors = finish(process)
  assert process.returncode == 143
  assert errors == f"\njax-sis find: interrupted by SIGTERM; {GOES_ON}\n"
  assert output == "not flushed yet\n"
  assert seconds < interrupts.GRACE_SECONDS + 2


def test_the_message_does_not_wait_for_the_end_of_the_grace():
  process = start(IN_COMPILED_CODE)
  time.sleep(0.2)
  process.send_signal(signal.SIGINT)
  sent = time.perf_counter()
  assert process.stderr is not None
  assert [process.stderr.readline() for _ in range(2)] == ["\n", f"jax-sis find: interrupted; {GOES_ON}\n"]
  assert time.perf_counter() - sent < interrupts.GRACE_SECONDS - 2
  assert process.poll() is None
  process.kill()
  finish(process)


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_leaves_at_once_with_the_code_of_the_first(second: int):
  process = start(IN_COMPILED_CODE)
  time.sleep(0.2)
  process.send_signal(signal.SIGINT)
  time.sleep(0.2)
  process.send_signal(second)
  seconds, _, errors = finish(process)
  assert process.returncode == 130
  assert errors == f"\njax-sis find: interrupted; {GOES_ON}\n"
  assert seconds < 1


def test_two_signals_in_a_row_lose_no_message():
  process = start(AT_WORK)
  process.send_signal(signal.SIGTERM)
  process.send_signal(signal.SIGTERM)
  seconds, _, errors = finish(process)
  assert process.returncode == 143
  assert errors == f"\njax-sis find: interrupted by SIGTERM; {GOES_ON}\n"
  assert seconds < 2


def test_a_command_that_keeps_nothing_says_so():
  command_line = '["data", "prepare", "cifar10", "--from", "x"]'
  process = start(AT_WORK + f'cli.RUNNERS["data prepare"] = work\nsys.exit(cli.main({command_line}))\n')
  process.send_signal(signal.SIGTERM)
  _, _, errors = finish(process)
  message = "interrupted by SIGTERM; nothing was kept, and the same command begins anew."
  assert errors == f"\njax-sis data prepare: {message}\n"


def test_an_ignored_ctrl_c_stays_ignored_and_sigterm_does_not():
  code = """
signal.signal(signal.SIGINT, signal.SIG_IGN)
def work(options):
  print("working", file=sys.stderr, flush=True)
  for _ in range(100):
    time.sleep(0.01)
  print("still there", file=sys.stderr, flush=True)
  time.sleep(60)
"""
  process = start(code)
  process.send_signal(signal.SIGINT)
  assert process.stderr is not None
  assert process.stderr.readline() == "still there\n"
  process.send_signal(signal.SIGTERM)
  finish(process)
  assert process.returncode == 143


@pytest.mark.parametrize("after", ["pass", "raise ValueError('the library failed') from error"])
def test_an_interrupt_that_a_library_catches_ends_the_run_all_the_same(after: str):
  code = f"""
def work(options):
  with interrupts.on_interrupt(lambda: print("put away")):
    try:
      print("working", file=sys.stderr, flush=True)
      time.sleep(60)
    except BaseException as error:
      {after}
"""
  process = start(code)
  process.send_signal(signal.SIGTERM)
  _, output, errors = finish(process)
  assert process.returncode == 143
  assert errors == f"\njax-sis find: interrupted by SIGTERM; {GOES_ON}\n"
  assert output == ("" if after == "pass" else "put away\n")


PUTS_AWAY = """
def put_away(what):
  print(what, threading.current_thread() is threading.main_thread(), flush=True)
def fail():
  raise OSError("no room")
def work(options):
  with interrupts.on_interrupt(lambda: put_away("too early")):
    pass
  with (
    interrupts.on_interrupt(lambda: put_away("outer")),
    interrupts.on_interrupt(fail),
    interrupts.on_interrupt(lambda: put_away("inner")),
  ):
    print("working", file=sys.stderr, flush=True)
    WAIT
"""


def test_what_is_to_be_done_on_an_interrupt_is_done_from_the_inside_out():
  process = start(PUTS_AWAY.replace("WAIT", "time.sleep(60)"))
  process.send_signal(signal.SIGTERM)
  _, output, errors = finish(process)
  assert process.returncode == 143
  assert output == "inner True\nouter True\n"
  assert errors == f"OSError after the interrupt: no room\n\njax-sis find: interrupted by SIGTERM; {GOES_ON}\n"


def test_it_is_done_also_where_python_drops_the_interrupt():
  wait = 'import gc; gc.callbacks.append(lambda phase, _: phase == "start" and time.sleep(60)); gc.collect()'
  process = start(PUTS_AWAY.replace("WAIT", wait))
  time.sleep(0.2)
  process.send_signal(signal.SIGTERM)
  seconds, output, _ = finish(process)
  assert process.returncode == 143
  assert output == "inner True\nouter True\n"
  assert seconds < 2


@pytest.mark.slow
def test_what_hangs_on_an_interrupt_is_left_at_the_end_of_the_grace():
  code = """
interrupts.GRACE_SECONDS = 1.5
def work(options):
  with interrupts.on_interrupt(threading.Event().wait):
    print("working", file=sys.stderr, flush=True)
    time.sleep(60)
"""
  process = start(code)
  process.send_signal(signal.SIGINT)
  seconds, _, errors = finish(process)
  assert process.returncode == 130
  assert errors == f"\njax-sis find: interrupted; {GOES_ON}\n"
  assert 1 < seconds < 3


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_that_nobody_reads_does_not_keep_the_process(stream: str):
  code = f"""
def work(options):
  print("working", file=sys.stderr, flush=True)
  while True:
    print("x" * 1000, file=sys.{stream})
"""
  process = start(code)
  time.sleep(0.5)
  process.send_signal(signal.SIGTERM)
  assert process.wait(timeout=interrupts.GRACE_SECONDS + 3) == 143
  finish(process)


@pytest.fixture
def own_handlers() -> Iterator[tuple[Any, Any]]:
  """Handlers, as a program has them that calls ours."""

  def handle(signum: int, frame: Any) -> None:
    pass

  previous = [signal.signal(number, handle) for number in interrupts.SIGNALS]
  yield handle, handle
  for number, handler in zip(interrupts.SIGNALS, previous, strict=True):
    signal.signal(number, handler)


@pytest.mark.parametrize("error", [None, ValueError("wrong"), SystemExit(3), RuntimeError("broken")])
def test_handlers_are_given_back(own_handlers: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, error: Any):
  seen = []

  def work(options: Any) -> None:
    seen.extend(signal.getsignal(number) for number in interrupts.SIGNALS)
    if error is not None:
      raise error

  monkeypatch.setitem(main.RUNNERS, "find", work)
  hook, num_threads = sys.unraisablehook, threading.active_count()
  if error is None or isinstance(error, ValueError):
    assert main.main(["find"]) == (0 if error is None else 2)
  else:
    with pytest.raises(type(error)):
      main.main(["find"])
  assert not set(seen) & set(own_handlers)
  assert tuple(signal.getsignal(number) for number in interrupts.SIGNALS) == own_handlers
  assert sys.unraisablehook is hook
  assert signal.set_wakeup_fd(-1) == -1
  assert threading.active_count() == num_threads


def test_in_another_thread_no_signal_is_taken(own_handlers: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch):
  seen = []
  monkeypatch.setitem(
    main.RUNNERS, "find", lambda _: seen.extend(signal.getsignal(number) for number in interrupts.SIGNALS)
  )
  thread = threading.Thread(target=main.main, args=(["find"],))
  thread.start()
  thread.join()
  assert tuple(seen) == own_handlers


def test_without_a_command_ctrl_c_stays_a_python_exception():
  done = []
  with pytest.raises(KeyboardInterrupt), interrupts.on_interrupt(lambda: done.append(True)):
    raise KeyboardInterrupt
  assert done == [True]
  with pytest.raises(ValueError, match="wrong"), interrupts.on_interrupt(lambda: done.append(False)):
    raise ValueError("wrong")
  assert done == [True]
