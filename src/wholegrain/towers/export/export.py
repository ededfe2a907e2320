"""Models out: one function for every format; what a format cannot hold is refused, naming the part, and nothing half-written stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from wholegrain.errors import MachineError, UserError
from wholegrain.files import disk_errors, folder_aside
from wholegrain.suggest import closest
from wholegrain.towers.export.adapters import Adapters
from wholegrain.towers.export.comparison import Sample, distance, features, require_close
from wholegrain.towers.export.onnx import onnx_distances, write_onnx
from wholegrain.towers.export.open_clip import open_clip_distances, write_open_clip
from wholegrain.towers.export.optimum import optimum_distances, write_optimum
from wholegrain.towers.export.peft import peft_distances, write_peft
from wholegrain.towers.export.transformers import transformers_distances, write_transformers
from wholegrain.towers.io import load_model, save_model
from wholegrain.towers.model import Model

FORMATS = ("open_clip", "transformers", "onnx", "optimum", "peft", "wholegrain")


def export_model(
    model: Model,
    folder: str | Path,
    to: str,
    *,
    hub_name: str = "",
    adapters: Adapters | None = None,
    finish: Callable[[Path, dict[str, float]], None] | None = None,
) -> dict[str, float]:
    """Writes a model for others, reads it back with *their* library, and compares.

    Args:
        model: on any device; it is exported in float32.
        folder: must not be there yet.
        to: one of :data:`FORMATS`.
        hub_name: ``org/name`` if the folder will be put there.
        adapters: for ``peft``: what training added to the model's matrices.
        finish: is called with the folder before it gets its name, and with what is returned, to add files.

    Returns:
        What was compared, and the largest difference as a share of the largest number; each at most 1e-5.

    Raises:
        UserError: an unknown format, a folder that is there, a part that the format has no place for, no adapters for ``peft``.
        MachineError: a full disk, or a model that comes back different.

    Example:
        >>> export_model(None, "out", "gguf")
        Traceback (most recent call last):
        wholegrain.errors.UserError: there is no format 'gguf'; valid are onnx, open_clip, optimum, peft, transformers, wholegrain.
    """
    folder = Path(folder)
    if to not in FORMATS:
        raise UserError(f"there is no format {to!r}; {closest(to, FORMATS)}")
    if to == "peft" and adapters is None:
        raise UserError("peft's format holds adapters, and a model by itself has none; export a run that was trained with model.lora")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already; choose another folder")
    model = model.float().cpu().eval()
    try:
        with disk_errors(folder), folder_aside(folder) as part:
            distances = _written(model, part, to, hub_name, adapters)
            require_close(distances, f"the {to} folder")
            if finish is not None:
                finish(part, distances)
    except OSError as error:
        raise MachineError(f"the model could not be written to {folder} ({error}); make room or choose another folder") from error
    return distances


def _written(model: Model, folder: Path, to: str, hub_name: str, adapters: Adapters | None) -> dict[str, float]:
    if to == "open_clip":
        write_open_clip(model, folder, hub_name)
        return open_clip_distances(model, folder)
    if to == "transformers":
        write_transformers(model, folder)
        return transformers_distances(model, folder)
    if to == "onnx":
        write_onnx(model, folder)
        return onnx_distances(model, folder)
    if to == "optimum":
        write_optimum(model, folder)
        return optimum_distances(model, folder)
    if to == "peft" and adapters is not None:
        write_peft(model, adapters, folder)
        return peft_distances(model, folder)
    save_model(model, folder)
    sample = Sample.of(model)
    pairs = zip(("image features", "text features"), features(load_model(folder), sample), features(model, sample), strict=True)
    return {part: distance(again, own) for part, again, own in pairs}
