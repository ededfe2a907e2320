"""``PYTHONPATH=tools python -m results collect NAME FOLDERS`` keeps a competition; ``… results render`` writes the pages from what is kept."""

from __future__ import annotations

import datetime
import json
import platform
import shlex
import subprocess
from pathlib import Path

import tyro

from results.costs import step_seconds
from results.pages import render
from results.photographs import CONTROLS, METHODS, Photographs
from results.rescore import rescored
from results.store import Stored, added, collect, load, save
from wholegrain.data.dataset import Dataset

DOCS, README, SHIPPED = Path("docs/results"), Path("README.md"), Path("src/wholegrain/assets/published.json")


def keep(name: tyro.conf.Positional[str], folders: tyro.conf.Positional[tuple[Path, ...]], *, split: str = "test", reference: str = "clip") -> None:
    """Keeps a competition's per-item results in docs/results/data/NAME, beside the runs that are kept there already.

    Args:
        name: of the comparison in the pages, such as set_a.
        folders: of ``wholegrain compete --budgets``; several where seeds ran side by side.
        split: the split that was measured.
        reference: the method that the others are compared with.
    """
    print(f"written: {_keep(collect(folders, split, reference, _facts(folders)), name)}")
    print("next: make results")


def rescore(
    name: tyro.conf.Positional[str], folders: tyro.conf.Positional[tuple[Path, ...]], *, data: Path, split: str = "test", reference: str = "clip"
) -> None:
    """Measures the largest budget's runs by the other score, too (the grain, or the whole alone), and keeps both in docs/results/data/NAME.

    Args:
        name, folders, split, reference: as of collect.
        data: the competition's data set.
    """
    stored = rescored(collect(folders, split, reference, _facts(folders)), folders, data, split)
    print(f"written: {_keep(stored, name)}")
    print("next: make results")


def _keep(stored: Stored, name: str) -> Path:
    folder = DOCS / "data" / name
    return save(added(load(folder), stored) if (folder / "competition.json").exists() else stored, folder)


def photographs(
    out: tyro.conf.Positional[Path], *, data: Path, seeds: tuple[int, ...] = (0, 1, 2), methods: tuple[str, ...] = tuple(METHODS | CONTROLS)
) -> None:
    """Prepares, enriches, trains and tests on photographs; the same line goes on where it was interrupted.

    Args:
        out: the folder of everything that is made.
        data: research photographs, captions and weights: flickr8k, coco, sugarcrepe, weights.
        seeds: of training, one after the other.
        methods: of those that there are.
    """
    Photographs(out, data).run(seeds, methods)
    print(f"written: {out}")
    print(f"next: python -m results collect photographs {out}")


def costs(data: tyro.conf.Positional[Path], *, methods: tuple[str, ...], steps: int = 6, turns: int = 3) -> None:
    """Measures what a step of each method costs, turn by turn in this process, and keeps it in docs/results/data/costs.json.

    Args:
        data: the competition's data set.
        methods: recipes below scenes/.
        steps: of each turn, beside two that warm up.
        turns: the least counts.
    """
    path = DOCS / "data" / "costs.json"
    made = {"seconds": step_seconds(Dataset(data), methods, steps, turns), "steps": steps, "turns": turns, "machine": _processor(), **_now()}
    path.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print(f"written: {path}")
    print("next: make results")


def _now() -> dict[str, str]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    return {"date": datetime.date.today().isoformat(), "commit": commit}


def _facts(folders: tuple[Path, ...]) -> list[dict[str, object]]:
    """How a competition came about: one entry for each command that was given."""
    begun = [json.loads(path.read_text(encoding="utf-8")) for folder in folders for path in sorted(folder.glob("*/steps-*/run.json"))]
    of_command = {
        _as_given(run["command"]): {"machine": _processor(), "versions": run["versions"], "data": run["data_hash"], **_now()} for run in begun
    }
    return [{"command": command, **facts} for command, facts in of_command.items()]


def _as_given(command: str) -> str:
    """Without the folders of the machine."""
    program, *words = [Path(word).name if word.startswith("/") else word for word in shlex.split(command)]
    return shlex.join([*({"results": ["python", "-m", "results"]}.get(program) or ["wholegrain"]), *words])


def _processor() -> str:
    """The name of this machine's processor, where Linux tells it."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text(encoding="utf-8").splitlines() if table.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def write() -> None:
    """Writes docs/results, the README's table and the figures that ship with the package from what is kept."""
    for path in render(DOCS, README, SHIPPED):
        print(f"written: {path}")


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"collect": keep, "rescore": rescore, "costs": costs, "photographs": photographs, "render": write})
