"""The site: `python -m sphinx -W --keep-going docs site` builds it, without a network."""

import pathlib
import sys
from typing import Any

DOCS = pathlib.Path(__file__).parent
# The checkout's own package, whatever is installed.
sys.path.insert(0, str(DOCS.parent))

from jax_sis.version import __version__  # noqa: E402

project = "jax_sis"
author = copyright = "The jax_sis developers"
version = release = __version__
language = "en"

extensions = [
  "sphinx.ext.autodoc",
  "sphinx.ext.napoleon",
  "myst_nb",
  "sphinx_copybutton",
]
exclude_patterns = ["_build"]

html_theme = "sphinx_book_theme"
html_title = "jax_sis"
html_theme_options = {"show_navbar_depth": 1, "home_page_in_toc": True}
html_show_sphinx = False
html_copy_source = False

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "dollarmath"]
# Prompts and outputs are not copied.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
# What notebooks write stays out of the checkout.
nb_execution_in_temp = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
maximum_signature_line_length = 100
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# Warnings are errors; a link to a name that the site does not describe is none.
nitpicky = False
# Names and shapes in docstrings stand in single backticks.
default_role = "code"
html_static_path = ["_static"]
html_css_files = ["site.css"]


def shorten(app: Any, what: str, name: str, value: Any, options: Any, signature: str, returned: str) -> Any:
  """Signatures with the names by which arrays are known."""
  return tuple(text and text.replace("jaxlib._jax.Array", "Array") for text in (signature, returned))


def setup(app: Any) -> None:
  app.connect("autodoc-process-signature", shorten)
