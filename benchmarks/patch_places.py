"""Grounding with patches taken to lie elsewhere: what half a patch does to the best patch, by read-out.

    python -m benchmarks.patch_places base runs/latest --data data/scenes --split val --shifts 0 3.5

A shift is in pixels of the model's input, up and left. The stem of the preset ``small`` sees 3.5 pixels up and left of the middle of its cells of 8.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields

from wholegrain.data.dataset import Dataset
from wholegrain.data.preprocess import Preprocess
from wholegrain.evaluation.suite import EvaluationOptions, evaluate
from wholegrain.towers.io import load_model

FIGURES = ("hit_own", "iou_own", "token/hit_own", "token/iou_own")


@dataclass(frozen=True)
class Moved(Preprocess):
    """A model's preprocessing whose patches are taken to lie ``pixels`` of its input further up and left."""

    pixels: float = 0.0

    def visible_box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1: what the patches are taken to cover of a stored picture."""
        x0, y0, x1, y1 = super().visible_box(width, height)
        across, down = ((high - low) / self.size * self.pixels for low, high in ((x0, x1), (y0, y1)))
        return x0 - across, y0 - down, x1 - across, y1 - down


def main() -> None:
    """Measures each model at each shift and prints a table, in per cent with intervals over pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--shifts", type=float, nargs="+", default=[0.0, 3.5])
    args = parser.parse_args()
    dataset = Dataset(args.data)
    print(f"{'model':40}{'shift':>6}  " + "".join(f"{name:>24}" for name in FIGURES), flush=True)
    for name in args.models:
        model = load_model(name).eval()
        as_drawn = model.preprocess
        for shift in args.shifts:
            model.preprocess = Moved(**{part.name: getattr(as_drawn, part.name) for part in fields(as_drawn)}, pixels=shift)
            (result,) = evaluate(model, dataset, EvaluationOptions(progress=False), split=args.split, tasks=("grounding",))
            found = {figure.name: f"{100 * figure.value:.1f} ({100 * figure.low:.1f} to {100 * figure.high:.1f})" for figure in result.figures}
            print(f"{name[-39:]:40}{shift:6g}  " + "".join(f"{found.get(figure, '-'):>24}" for figure in FIGURES), flush=True)


if __name__ == "__main__":
    main()
