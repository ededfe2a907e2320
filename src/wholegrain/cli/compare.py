"""``wholegrain compare``: paired differences between models, from folders of results."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional


def compare(
    results: Positional[tuple[Path, ...]],
    /,
    *,
    groups: bool = False,
    everything: bool = False,
    out: Path | None = None,
    seed: int = 0,
) -> None:
    """Compare models on the same items: difference, 95% interval, p value corrected over everything that is compared.

    The first folder is the reference.

    Args:
        results: folders that evaluate, audit or dense wrote with --out, two or more.
        groups: figures of kinds and roles, too.
        everything: also controls and figures that repeat another one.
        out: a .json file for all numbers.
        seed: of resamples and sign flips.
    """
    from dataclasses import asdict

    from rich.console import Console

    from wholegrain.errors import UserError
    from wholegrain.evaluation.comparisons import compare_all, comparison_table
    from wholegrain.evaluation.result import load_results
    from wholegrain.files import disk_errors, write_json

    if len(results) < 2:
        raise UserError("compare needs two folders of results, or more; the first is the reference.")
    names = _names(results)
    rows, problems = compare_all(
        {name: load_results(folder)[0] for name, folder in zip(names, results, strict=True)},
        groups=groups,
        everything=everything,
        seed=seed,
    )
    Console().print(comparison_table(rows, names[0]))
    for problem in problems:
        print(f"left out: {problem}")
    if out is not None:
        with disk_errors(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            write_json(out, {"reference": names[0], "differences": [asdict(row) for row in rows], "left_out": problems})


def _names(folders: tuple[Path, ...]) -> list[str]:
    """The folders' own names, with as much of the way to them as tells them apart."""
    parts = [folder.resolve().parts for folder in folders]
    depth = next((d for d in range(1, max(map(len, parts)) + 1) if len({p[-d:] for p in parts}) == len(parts)), 0)
    return ["/".join(p[-depth:]) for p in parts] if depth else [f"{folder} ({n})" for n, folder in enumerate(folders, 1)]
