"""How all pictures look, and self-contained HTML pages."""
