"""``PYTHONPATH=tools python -m results collect NAME FOLDERS`` keeps a competition; ``… results render`` writes the pages from what is kept."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path

import torch
import tyro

from results.pages import render
from results.store import collect, save

DOCS, README = Path("docs/results"), Path("README.md")


def keep(name: tyro.conf.Positional[str], folders: tyro.conf.Positional[tuple[Path, ...]], *, split: str = "test", reference: str = "clip") -> None:
    """Keeps a competition's per-item results in docs/results/data/NAME.

    Args:
        name: of the comparison in the pages, such as set_a.
        folders: of ``wholegrain compete --budgets``; several where seeds ran side by side.
        split: the split that was measured.
        reference: the method that the others are compared with.
    """
    begun = json.loads(next(iter(sorted(folders[0].glob("*/steps-*/run.json")))).read_text(encoding="utf-8"))
    facts: dict[str, object] = {
        "command": begun.get("origin", {}).get("command", ""),
        "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "date": datetime.date.today().isoformat(),
        "commit": subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip(),
        "wholegrain": importlib.metadata.version("wholegrain"),
    }
    print(f"written: {save(collect(folders, split, reference, facts), DOCS / 'data' / name)}")
    print("next: make results")


def write() -> None:
    """Writes docs/results and the README's table from what is kept."""
    for path in render(DOCS, README):
        print(f"written: {path}")


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"collect": keep, "render": write})
