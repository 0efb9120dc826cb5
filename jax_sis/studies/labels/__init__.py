"""Which labels of a data set are in doubt, and whether subset sizes and people agree."""
