"""The documentation's site: ``make docs``."""

from wholegrain import __version__

project, author, release = "Wholegrain", "The Wholegrain team", __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "results/data"]
html_theme, html_title = "furo", "Wholegrain"
html_static_path: list[str] = []
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
autodoc_member_order, autodoc_typehints = "bysource", "description"
autodoc_mock_imports: list[str] = []
default_role = "literal"  # docstrings are written for readers of code, too
napoleon_use_ivar = True
