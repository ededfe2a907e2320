"""Checkpoints: safetensors and JSON, written aside and renamed, verified on reading; nothing is ever unpickled.

``checkpoints/step-00000500/`` holds ``state.safetensors`` (what is trained, buffers, the teacher's copy of them, optimiser moments,
the objective's carried state, torch's random state) and ``state.json`` (step, Python's and numpy's random states, SHA-256 of the tensors). Frozen parts
of the model lie in the run's ``model/`` and are not repeated.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wholegrain.errors import MachineError, UserError
from wholegrain.objectives.objective import Objective
from wholegrain.training.teacher import Teacher

FORMAT = 1
_PREFIX = "step-"


@dataclass(frozen=True)
class Checkpoint:
    """What was saved.

    Attributes:
        step: how many steps had been taken.
        tensors: see :func:`pack`.
        facts: plain values.
    """

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def pack(
    step: int,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    objective: Objective,
    teacher: Teacher | None = None,
    **facts: Any,
) -> Checkpoint:
    """Everything that the next step depends on, and further plain ``facts``."""
    tensors = {f"model/{name}": value for name, value in _changing(model).items()}
    for name, parameter in model.named_parameters():
        for key, value in optimiser.state.get(parameter, {}).items():
            tensors[f"optimiser/{name}/{key}"] = torch.as_tensor(value)
    tensors |= {f"objective/{name}": value for name, value in objective.state_dict().items()}
    if teacher is not None:
        tensors |= {f"teacher/{name}": value for name, value in teacher.state_dict().items()}
    tensors["random/torch"] = torch.get_rng_state()
    if torch.cuda.is_available() and next(model.parameters()).is_cuda:
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    kind, words, place, has_gauss, gauss = np.random.get_state(legacy=True)
    numpy_state = [str(kind), np.asarray(words).tolist(), int(place), int(has_gauss), float(gauss)]
    version, state, following = random.getstate()
    return Checkpoint(step, tensors, {**facts, "numpy": numpy_state, "python": [version, list(state), following]})


def unpack(
    saved: Checkpoint,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    objective: Objective,
    teacher: Teacher | None = None,
) -> None:
    """Puts everything back.

    Raises:
        UserError: the checkpoint is of another model or recipe.
    """
    own = _changing(model)
    given = {key.removeprefix("model/"): value for key, value in saved.tensors.items() if key.startswith("model/")}
    odd = sorted(own.keys() ^ given.keys()) or sorted(key for key in own if own[key].shape != given[key].shape)
    if odd:
        raise UserError(f'The checkpoint does not fit the model at "{odd[0]}"; resume with the run\'s own model and recipe.')
    with torch.no_grad():
        for key, value in own.items():
            value.copy_(given[key])
    _unpack_optimiser(saved.tensors, model, optimiser)
    objective.load_state_dict({k.removeprefix("objective/"): v for k, v in saved.tensors.items() if k.startswith("objective/")})
    if teacher is not None:
        teacher.load_state_dict({k.removeprefix("teacher/"): v for k, v in saved.tensors.items() if k.startswith("teacher/")})
    torch.set_rng_state(saved.tensors["random/torch"])
    if "random/cuda" in saved.tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(saved.tensors["random/cuda"])
    kind, words, place, has_gauss, gauss = saved.facts["numpy"]
    np.random.set_state((kind, np.array(words, dtype=np.uint32), place, has_gauss, gauss))
    version, state, following = saved.facts["python"]
    random.setstate((version, tuple(state), following))


def _unpack_optimiser(tensors: Mapping[str, Tensor], model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    named = dict(model.named_parameters())
    for key, value in tensors.items():
        if key.startswith("optimiser/"):
            name, _, part = key.removeprefix("optimiser/").rpartition("/")
            optimiser.state[named[name]][part] = value.to(named[name].device).clone()


def _changing(model: nn.Module) -> dict[str, Tensor]:
    """Trained parameters and buffers, by name."""
    kept = {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}
    parameters = dict(model.named_parameters())
    return kept | {
        name: value for name, value in model.state_dict().items() if name not in parameters and isinstance(value, Tensor)
    }


# ---- files ------------------------------------------------------------------------------------------------------------------


def save(saved: Checkpoint, folder: Path, keep: int) -> Path:
    """Writes ``folder/step-N/`` and removes all but the newest ``keep``.

    Raises:
        MachineError: the disk is full; older checkpoints stay.
    """
    final = folder / f"{_PREFIX}{saved.step:08d}"
    with aside(final) as part:
        contiguous = {key: value.detach().cpu().contiguous() for key, value in saved.tensors.items()}
        save_file(contiguous, part / "state.safetensors")
        digest = _sha256(part / "state.safetensors")
        facts = {"format": FORMAT, "step": saved.step, "sha256": digest, **saved.facts}
        (part / "state.json").write_text(json.dumps(facts))
    for old in _folders(folder)[keep:]:
        shutil.rmtree(old)
    return final


def load_newest(folder: Path) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """The newest intact checkpoint, and a sentence about each newer one that is broken."""
    notes = []
    for place in _folders(folder):
        try:
            facts = json.loads((place / "state.json").read_text())
            if facts["format"] != FORMAT or _sha256(place / "state.safetensors") != facts["sha256"]:
                raise ValueError("its checksum does not match")
            return Checkpoint(facts["step"], load_file(place / "state.safetensors"), facts), tuple(notes)
        except (OSError, ValueError, KeyError, SafetensorError) as problem:
            notes.append(f"The checkpoint {place} is broken ({problem}) and is passed over.")
    return None, tuple(notes)


@contextmanager
def aside(final: Path) -> Iterator[Path]:
    """A folder to fill beside ``final`` that takes its place, whole, when the block ends well, and vanishes when it does not.

    A kill between the two renames leaves what was there before under the name ``.NAME.old``, where ``load_model`` looks, too.
    """
    part, old = final.with_name(f".{final.name}.part"), final.with_name(f".{final.name}.old")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        yield part
        for file in part.rglob("*"):
            if file.is_file():
                _sync(file)
        if final.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(final, old)
        os.replace(part, final)
        _sync(final.parent)
        shutil.rmtree(old, ignore_errors=True)
    except SafetensorError as problem:  # the library wraps the operating system's errors
        raise MachineError(f"{final} could not be written ({problem}); make room on the disk and resume.") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _folders(folder: Path) -> list[Path]:
    """Finished checkpoints, newest first."""
    return sorted((p for p in folder.glob(f"{_PREFIX}*") if p.is_dir()), reverse=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
