"""A recipe, a step, and the loop over them."""
