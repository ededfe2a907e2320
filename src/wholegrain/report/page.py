"""Pages: the templates of this room with what all of them use, and files that are whole or not there."""

from __future__ import annotations

import importlib.metadata
import shlex
import sys
from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from wholegrain.evaluation.show import show
from wholegrain.files import disk_errors, write_text
from wholegrain.report.figures import interval_bar
from wholegrain.report.words import plain


def write_page(path: Path, page: str) -> Path:
    """Writes a page, aside first, so that it is whole or not there; gives its path."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, page)
    return path


def page_environment() -> Environment:
    """Templates of this room, with the filters that they use, and what wrote the page: ``version`` and ``command``."""
    loader = PackageLoader("wholegrain.report", package_path=".")
    environment = Environment(loader=loader, autoescape=select_autoescape(default=True), trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "plain": plain,
        "bar": lambda figure: Markup(interval_bar(figure)),  # numbers alone
        "safe_svg": Markup,  # charts escape their own text
        "show": lambda figure: "–" if figure is None else show(figure.value, figure.unit),
    }
    environment.globals |= {
        "version": importlib.metadata.version("wholegrain"),
        "command": shlex.join(["wholegrain", *sys.argv[1:]]),
    }
    return environment
