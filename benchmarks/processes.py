"""The same training in one, two and four processes: the largest differences of losses, gradients and weights.

Twenty steps of AdamW in float64 with clipped gradients, a very small model; differences are relative to the largest value.

    OMP_NUM_THREADS=1 python benchmarks/processes.py
"""

import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / "support")]


def main():
    import same_training as same
    from tiny_training import make_dataset

    with tempfile.TemporaryDirectory() as folder:
        data = make_dataset(Path(folder) / "data", splits=("train",)).folder
        print(
            "| recipe | processes | samples | loss, parts, norm | gradients | weights after 20 steps |\n|---|---|---|---|---|---|"
        )
        for name in same.RECIPES:
            (alone,) = same.in_processes(1, data, name)
            for world in (2, 4):
                found = same.in_processes(world, data, name)
                samples = "the same" if same.joined(found, "keys") == alone.keys else "others"
                apart = " | ".join(f"{value:.0e}" for value in same.differences(found, alone))
                print(f"| {name} | {world} | {samples} | {apart} |", flush=True)


if __name__ == "__main__":
    main()
