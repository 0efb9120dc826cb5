"""`jax-sis` in a process that heeds Ctrl-C, which a shell that runs the tests in the background leaves ignored."""

import sys

# What follows is the command and its options, as for `jax-sis`.
LISTENING = [
  sys.executable,
  "-c",
  "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
  "from jax_sis.cli.main import main; sys.exit(main(sys.argv[1:]))",
]
