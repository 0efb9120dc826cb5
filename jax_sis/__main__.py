"""`python -m jax_sis` is `jax-sis`."""

import sys

from jax_sis.cli import main

sys.exit(main())
