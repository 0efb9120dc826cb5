"""What the subsets of a class have in common, and what that does alone."""
