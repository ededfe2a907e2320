"""``wholegrain compare``: paired differences between models, from what evaluate, report, dense or audit measured."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional


def compare(
    models: Positional[tuple[str, ...]],
    /,
    *,
    groups: bool = False,
    everything: bool = False,
    out: Path | None = None,
    seed: int = 0,
) -> None:
    """Compare models on the same items: difference, 95% interval, p value corrected over everything that is compared.

    wholegrain compare runs/before runs/after --out differences.json

    The first one is the reference.

    Args:
        models: runs, names of models that were evaluated here, or folders of results, two or more.
        groups: figures of kinds and roles, too.
        everything: also controls and figures that repeat another one.
        out: a .json file for all numbers.
        seed: of resamples and sign flips.
    """
    from dataclasses import asdict

    from wholegrain.errors import UserError
    from wholegrain.evaluation.result import finite, load_results
    from wholegrain.evaluation.result_folders import results_to_compare
    from wholegrain.evaluation.statistics.comparisons import compare_all, print_comparison
    from wholegrain.files import disk_errors, write_json

    if len(models) < 2:
        raise UserError("compare needs two runs or folders of results, or more; the first is the reference.")
    loaded = [load_results(folder) for folder in results_to_compare(models)]
    names = _names(models)
    rows, problems = compare_all(
        {name: results for name, (results, _) in zip(names, loaded, strict=True)}, groups=groups, everything=everything, seed=seed
    )
    print_comparison(rows, names[0])
    for problem in problems:
        print(f"left out: {problem}")
    if out is not None:
        with disk_errors(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            differences = [{name: finite(value) for name, value in asdict(row).items()} for row in rows]
            write_json(out, {"reference": names[0], "differences": differences, "left_out": problems})
    print(f"written: {out}" if out is not None else "written: nothing; --out FILE.json keeps all numbers")
    facts = loaded[0][1]
    if facts.get("content_hash") and not any((Path(model) / "results.json").is_file() for model in models):
        print(f"next: see where they differ: wholegrain report {' '.join(models)} --data {facts['dataset']} --split {facts['split']}")
    else:
        print("next: the same by kinds and roles with --groups; controls, too, with --everything")


def _names(models: tuple[str, ...]) -> list[str]:
    """What tells the models apart: the last part of their paths that differs, with as much before it as it takes."""
    parts = [Path(model).resolve().parts if Path(model).exists() else (model,) for model in models]
    if len(set(parts)) < len(parts):
        return [f"{model} ({n})" for n, model in enumerate(models, 1)]
    while all(len(p) > 1 for p in parts) and len({p[-1:] for p in parts}) == 1:
        parts = [p[:-1] for p in parts]
    depth = next(d for d in range(1, max(map(len, parts)) + 1) if len({p[-d:] for p in parts}) == len(parts))
    return ["/".join(p[-depth:]) for p in parts]
