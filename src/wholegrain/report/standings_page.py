"""The standings of a competition as one HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from wholegrain.report.page import page_environment, write_page
from wholegrain.report.standings import Standings, percent

WIDE = 6
"""Columns that fit side by side; further ones follow in tables below."""


def write_standings_page(standings: Standings, path: Path, *, left_out: Mapping[str, str] | None = None, data: str = "") -> Path:
    """Writes the table with every interval, difference and seed; gives its path."""
    columns = list(standings.columns)
    groups = [("Figures" if n == 0 else "More figures", columns[n : n + WIDE]) for n in range(0, len(columns), WIDE)]
    page = page_environment().get_template("standings.html.j2").render(
        standings=standings, groups=groups, left_out=left_out or {}, data=data,
        percent=percent, points=lambda gap: f"{100 * gap:+.1f}".replace("-", "−"),
    )  # fmt: skip
    return write_page(path, page)
