"""``wholegrain interpolate``: a model between a model and what was fine-tuned from it."""

from __future__ import annotations

from pathlib import Path

import tyro


def interpolate(
    start: tyro.conf.Positional[str], end: tyro.conf.Positional[str], out: tyro.conf.Positional[Path], *, alpha: float = 0.5
) -> int:
    """Mixes the weights of two models (WiSE-FT): often keeps what fine-tuning gained and gives back what it lost.

    wholegrain interpolate ViT-B-32:openai runs/latest models/between --alpha 0.5

    Args:
        start: the model before fine-tuning, as in "train --model".
        end: the model after it, such as a run.
        out: folder of the new model.
        alpha: 0 is the first model, 1 the second.
    """
    import shlex

    from wholegrain.errors import UserError
    from wholegrain.files import disk_errors, folder_aside
    from wholegrain.towers.interpolate import interpolate as between
    from wholegrain.towers.io import load_model, save_model

    if out.exists():
        raise UserError(f"{out} is there already; choose another folder.")
    mixed = between(load_model(start), load_model(end), alpha)
    with disk_errors(out), folder_aside(out) as part:
        save_model(mixed, part)
    print(f"written: {out}")
    print(f"next: compare it with both ends, by: {shlex.join(['wholegrain', 'evaluate', str(out), '--data', 'DATA'])}")
    return 0
