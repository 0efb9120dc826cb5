"""One page on whether a classifier can be trusted: `jax-sis audit`."""
