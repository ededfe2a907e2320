"""``wholegrain report``: one HTML page that compares models, shows what they see, and where they fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tyro.conf import Positional

from wholegrain.errors import UserError


def report(
    runs: Positional[tuple[str, ...]],
    /,
    *,
    data: Path,
    split: str = "test",
    out: Path = Path("report.html"),
    names: tuple[str, ...] = (),
    reference: str = "",
    title: str = "",
    notes: tuple[str, ...] = (),
    suite: str = "all",
    fresh: bool = False,
    seed: int = 0,
    batch: int = 64,
    device: str = "auto",
) -> None:
    """Compare models in one self-contained HTML page; runs that were not evaluated on this split are evaluated first.

    wholegrain report runs/base runs/latest --data data/photos --out report.html

    Args:
        runs: folders of runs or models, or names such as ViT-B-32:openai; before and after are the first and the last.
        data: a prepared data set.
        split: the split to report on.
        out: the HTML file.
        names: what the runs are called, one each; by default the names of their folders.
        reference: the name of the run that the others are compared with; by default the first.
        title: of the page.
        notes: sentences below the summary.
        suite: tasks or suites for runs that are evaluated now; see "wholegrain evaluate --help".
        fresh: evaluate all runs again, whatever is saved.
        seed: of resamples, and of the examples that are shown.
        batch: images per step of an evaluation.
        device: "auto" takes the GPU if there is one.
    """
    if not runs:
        raise UserError(
            "A report needs at least one run or model, such as: wholegrain report runs/base runs/latest --data data/photos"
        )
    if names and len(names) != len(runs):
        raise UserError(f"There are {len(names)} names for {len(runs)} runs; give one each, or leave --names out.")
    from wholegrain.data.dataset import Dataset
    from wholegrain.evaluation.encode import split_keys
    from wholegrain.evaluation.suite import expand
    from wholegrain.report.report import Entry, write_report
    from wholegrain.towers import load_model
    from wholegrain.training.distributed import choose_device

    dataset, tasks = Dataset(data), expand(suite)
    split_keys(dataset, split)
    entries = []
    for spec, name in zip(runs, names or _names(runs), strict=True):
        folder, model = _folder(spec), load_model(spec).to(choose_device(None if device == "auto" else device))
        results, left_out = _results(folder, model, dataset, data, split, tasks, fresh, seed, batch, spec)
        entries.append(Entry(name, folder, model, results, left_out))
    title = title or f"{data.resolve().name}: {', '.join(entry.name for entry in entries)}"
    print(
        write_report(out, entries=entries, dataset=dataset, split=split, title=title, notes=notes, reference=reference, seed=seed)
    )


def _folder(spec: str) -> Path | None:
    """The folder of a run, or of a saved model; ``None`` for a model by name."""
    path = Path(spec)
    return path.resolve() if path.is_dir() else None


def _names(runs: tuple[str, ...]) -> list[str]:
    """Names of the folders; with as much of the path as it takes to tell them apart."""
    paths = [Path(run) if (folder := _folder(run)) is None else folder for run in runs]
    depth = 1
    while depth < 6 and len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in paths]


def _results(
    folder: Path | None, model: Any, dataset: Any, data: Path, split: str, tasks: tuple[str, ...], fresh: bool, seed: int, batch: int,
    spec: str,
) -> tuple[list[Any], dict[str, str]]:  # fmt: skip
    """Saved results of this data and split that are younger than the model, else new ones, which are saved in the run's folder."""
    from wholegrain.evaluation.result import save_results
    from wholegrain.evaluation.suite import evaluate

    found = None if fresh or folder is None else _saved(folder, dataset.content_hash, split, tasks)
    if found is not None:
        return found
    left_out: dict[str, str] = {}
    results = evaluate(model, dataset, split=split, tasks=tasks, seed=seed, batch=batch, left_out=left_out)
    if folder is not None:
        facts = {"dataset": str(data), "content_hash": dataset.content_hash, "model": spec, "split": split, "seed": seed}
        save_results(results, folder / f"results-{split}", facts | {"left_out": left_out, "settings": {}})
    return results, left_out


def _saved(folder: Path, content_hash: str, split: str, tasks: tuple[str, ...]) -> tuple[list[Any], dict[str, str]] | None:
    from wholegrain.evaluation.result import load_results

    weights = next((p for p in (folder / "model" / "model.safetensors", folder / "model.safetensors") if p.exists()), None)
    for place in (folder / f"results-{split}", folder / "results", folder / split):
        path = place / "results.json"
        if not path.exists() or (weights is not None and path.stat().st_mtime < weights.stat().st_mtime):
            continue
        results, meta = load_results(place)
        left_out = meta.get("left_out") or {}
        same = meta.get("content_hash") == content_hash and meta.get("split") == split and not meta.get("settings")
        if same and set(tasks) <= {result.task for result in results} | set(left_out):
            return [result for result in results if result.task in tasks], {k: v for k, v in left_out.items() if k in tasks}
    return None
