"""Sphinx: `make docs` writes the pages to build/docs. Their code is run by tests/test_docs.py."""

import daskreg

project = "daskreg"
author = "the daskreg developers"
version = release = daskreg.__version__
extensions = ["myst_nb"]
nb_execution_mode = "off"
myst_heading_anchors = 3
html_theme = "alabaster"
html_theme_options = {"description": "Align and warp image volumes larger than memory", "fixed_sidebar": True}
exclude_patterns = ["_build", "pictures.py"]
