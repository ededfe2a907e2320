"""Charts of the published pages, drawn by matplotlib as SVG without a date, so that the same results give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from results.measure import NAMES, Comparison, Measure

COLOURS = {
    "clip_one_caption": "#9a9a9a", "clip": "#000000", "negclip": "#a6761d", "ce_clip": "#d95f02", "sparc": "#1b9e77", "holistic": "#7570b3",
    "wholegrain": "#e7298a", "start": "#bbbbbb",
}  # fmt: skip


def draw_curves(path: Path, comparison: Comparison, measures: Sequence[Measure], methods: Sequence[str], columns: int = 3) -> Path:
    """A panel a measure: per cent over pairs seen (logarithmic), a line and a 95% band a method, chance dotted; gives the path."""
    rows = -(-len(measures) // columns)
    with mpl.rc_context({"svg.hashsalt": "wholegrain", "svg.fonttype": "path", "font.size": 9}):
        figure = Figure(figsize=(3.6 * columns, 2.7 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, measure in zip(axes, measures, strict=False):
            _panel(axis, comparison, measure, methods)
        for axis in axes[len(measures) :]:
            axis.set_visible(False)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 7), frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None}, facecolor="white")
    return path


def _panel(axis: Axes, comparison: Comparison, measure: Measure, methods: Sequence[str]) -> None:
    pairs = 128 * np.array(comparison.budgets)
    for method in methods:
        means = [comparison.mean(method, budget, measure) for budget in comparison.budgets]
        if any(mean is None for mean in means):
            continue
        values = 100 * np.array([(mean.value, mean.low, mean.high) for mean in means if mean is not None])
        axis.plot(pairs, values[:, 0], color=COLOURS[method], label=NAMES[method], linewidth=1.6, marker="o", markersize=3)
        axis.fill_between(pairs, values[:, 1], values[:, 2], color=COLOURS[method], alpha=0.12, linewidth=0)
    chance = comparison.chance(methods[0], comparison.budgets[-1], measure)
    if chance is not None and chance > 0.01:
        axis.axhline(100 * chance, color="#888888", linestyle=":", linewidth=1)
    axis.set_xscale("log")
    axis.set_xticks(pairs, [f"{p / 1000:.0f}k" for p in pairs])
    axis.minorticks_off()
    axis.set_title(measure.title, loc="left", fontsize=9)
    axis.set_xlabel("pictures seen")
    axis.grid(axis="y", color="#eeeeee")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def draw_gaps(path: Path, comparison: Comparison, measures: Sequence[Measure], methods: Sequence[str], reference: str, columns: int = 3) -> Path:
    """A panel a measure: each method's difference from the reference at the largest budget, in points, with its 95% interval; gives the path."""
    rows = -(-len(measures) // columns)
    with mpl.rc_context({"svg.hashsalt": "wholegrain", "svg.fonttype": "path", "font.size": 9}):
        figure = Figure(figsize=(3.6 * columns, (0.7 + 0.22 * len(methods)) * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        for axis, measure in zip(axes, measures, strict=False):
            _gaps(axis, comparison, measure, methods, reference)
        for axis in axes[len(measures) :]:
            axis.set_visible(False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None}, facecolor="white")
    return path


def _gaps(axis: Axes, comparison: Comparison, measure: Measure, methods: Sequence[str], reference: str) -> None:
    for place, method in enumerate(methods):
        gap = comparison.mean(method, comparison.budgets[-1], measure, reference)
        if gap is not None:
            value, low, high = 100 * np.array([gap.value, gap.low, gap.high])
            axis.plot([low, high], [place, place], color=COLOURS.get(method, "#555555"), linewidth=1.6)
            axis.plot([value], [place], color=COLOURS.get(method, "#555555"), marker="o", markersize=4)
    axis.axvline(0, color="#888888", linestyle=":", linewidth=1)
    axis.set_yticks(range(len(methods)), [NAMES[method] for method in methods])
    axis.set_ylim(len(methods) - 0.5, -0.5)
    axis.set_title(measure.title, loc="left", fontsize=9)
    axis.set_xlabel(f"points from {NAMES[reference]}")
    axis.grid(axis="x", color="#eeeeee")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
