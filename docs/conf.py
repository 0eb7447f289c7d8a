"""The documentation's settings: `sphinx-build -W docs site`."""

import torchdigits

project, author, release = "torchdigits", "the torchdigits authors", torchdigits.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "torchdigits"
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_inherit_docstrings = False  # Lightning's refer to Lightning's pages
napoleon_use_ivar = True
