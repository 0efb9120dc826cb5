"""The method: searches for sufficient input subsets, on JAX, NumPy and jaxtyping alone."""
