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
    import json
    import os
    from dataclasses import asdict

    from wholegrain.app.results import results_to_compare
    from wholegrain.data.shards import disk_errors
    from wholegrain.errors import UserError
    from wholegrain.evaluation.comparisons import compare_all, print_comparison
    from wholegrain.evaluation.result import load_results

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
        text = json.dumps({"reference": names[0], "differences": [asdict(row) for row in rows], "left_out": problems}, indent=1)
        part = out.with_name(f".{out.name}.{os.getpid()}")
        with disk_errors(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(text + "\n", encoding="utf-8")
            os.replace(part, out)
    print(f"written: {out}" if out is not None else "written: nothing; --out FILE.json keeps all numbers")
    shown = " ".join(model for model in models if not (Path(model) / "results.json").is_file())
    print(f"next: see where they differ: wholegrain report {shown or 'RUN RUN'} --data {loaded[0][1].get('dataset') or 'DATA'}")


def _names(models: tuple[str, ...]) -> list[str]:
    """What tells the models apart: the last part of their paths that differs, with as much before it as it takes."""
    parts = [Path(model).resolve().parts if Path(model).exists() else (model,) for model in models]
    if len(set(parts)) < len(parts):
        return [f"{model} ({n})" for n, model in enumerate(models, 1)]
    while all(len(p) > 1 for p in parts) and len({p[-1:] for p in parts}) == 1:
        parts = [p[:-1] for p in parts]
    depth = next(d for d in range(1, max(map(len, parts)) + 1) if len({p[-d:] for p in parts}) == len(parts))
    return ["/".join(p[-depth:]) for p in parts]
