"""`python -m jax_sis` is `jax-sis`."""

import sys

from jax_sis.cli.main import main

sys.exit(main())
