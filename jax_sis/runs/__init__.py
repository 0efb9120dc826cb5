"""`find` and all that looks after its runs."""
