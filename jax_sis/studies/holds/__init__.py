"""Which order of pixels holds: what keeps the class on backgrounds that no search has seen."""
