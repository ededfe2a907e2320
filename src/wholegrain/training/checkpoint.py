"""Checkpoints: safetensors and JSON, written aside and renamed, verified on reading; nothing is ever unpickled.

``checkpoints/step-00000500/`` holds ``state.safetensors`` (what is trained, buffers, the teacher's copy of them, optimiser moments,
the objective's carried state, torch's random state) and ``state.json`` (number of the format, step, Python's and numpy's random states,
SHA-256 of every file). Frozen parts of the model lie in the run's ``model/`` and are not repeated. Of a sharded run every process wrote
a part of the tensors (:mod:`wholegrain.training.sharded`).

A checkpoint of an older format is brought up to date on reading, one number after the other (:data:`MIGRATIONS`).
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
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
from wholegrain.files import folder_aside, sha256
from wholegrain.objectives.objective import Objective
from wholegrain.training.teacher import Teacher

FORMAT = 2
_PREFIX, STATE, TENSORS = "step-", "state.json", "state.safetensors"


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
    try:
        with aside(final) as part:
            contiguous = {key: value.detach().cpu().contiguous() for key, value in sorted(saved.tensors.items())}
            save_file(contiguous, part / TENSORS)
            write_facts(part, saved.step, {TENSORS: sha256(part / TENSORS)}, saved.facts)
    except OSError as problem:
        raise unwritable(final, problem) from problem
    keep_newest(folder, keep)
    return final


def unwritable(final: Path, problem: BaseException) -> MachineError:
    """The sentence of a full disk."""
    return MachineError(f"{final} could not be written ({problem}); make room on the disk and resume.")


def write_facts(part: Path, step: int, files: Mapping[str, str], facts: Mapping[str, Any]) -> None:
    """``state.json``, last of all; ``files`` are names and SHA-256."""
    (part / STATE).write_text(json.dumps({"format": FORMAT, "step": step, "files": dict(files), **facts}))


def keep_newest(folder: Path, keep: int) -> None:
    """Removes all checkpoints but the newest."""
    for old in folders(folder)[keep:]:
        shutil.rmtree(old)


def load_newest(folder: Path, load_one: Callable[[Path], Checkpoint] | None = None) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """The newest intact checkpoint, brought up to date, and a sentence about each newer one that is broken.

    ``load_one`` stands for :func:`load`.

    Raises:
        UserError: it was written by a newer version.
    """
    notes = []
    for place in folders(folder):
        try:
            return (load_one or load)(place), tuple(notes)
        except (OSError, ValueError, KeyError, SafetensorError) as problem:
            notes.append(f"The checkpoint {place} is broken ({problem}) and is passed over.")
    return None, tuple(notes)


def load(place: Path) -> Checkpoint:
    """One checkpoint, verified and brought up to date; of a sharded one, what is whole.

    Raises:
        OSError, ValueError, KeyError, SafetensorError: it is broken.
        UserError: it was written by a newer version.
    """
    facts = read_facts(place)
    tensors = load_file(place / TENSORS)
    for number in range(facts["format"], FORMAT):
        facts, tensors = MIGRATIONS[number](facts, tensors)
    return Checkpoint(facts["step"], tensors, facts)


def read_facts(place: Path, mine: slice = slice(None)) -> dict[str, Any]:
    """``state.json``, with the files' checksums verified; ``mine`` is which of them, where processes share that work. As :func:`load`."""
    facts = json.loads((place / STATE).read_text())
    if facts["format"] > FORMAT:
        raise UserError(
            f"{place} has format {facts['format']} and this version of Wholegrain reads formats up to {FORMAT}; "
            f"resume with the version that wrote it, or a newer one."
        )
    files = facts["files"] if facts["format"] > 1 else {TENSORS: facts["sha256"]}
    for name, digest in sorted(files.items())[mine]:
        if sha256(place / name) != digest:
            raise ValueError(f"the checksum of {name} does not match")
    return facts


# ---- formats ----------------------------------------------------------------------------------------------------------------

Contents = tuple[dict[str, Any], dict[str, Tensor]]


def _from_1(facts: dict[str, Any], tensors: dict[str, Tensor]) -> Contents:
    """Format 2 has checksums of several files, where 1 had one."""
    files = {TENSORS: facts["sha256"]}
    return {name: value for name, value in facts.items() if name != "sha256"} | {"format": 2, "files": files}, tensors


MIGRATIONS: dict[int, Callable[[dict[str, Any], dict[str, Tensor]], Contents]] = {1: _from_1}
"""Number of a format -> what makes the next one of a checkpoint's facts and tensors."""


# ---- folders ----------------------------------------------------------------------------------------------------------------


@contextmanager
def aside(final: Path) -> Iterator[Path]:
    """:func:`wholegrain.files.folder_aside` for tensors. ``load_model`` looks under ``.NAME.old``, too."""
    try:
        with folder_aside(final) as part:
            yield part
    except SafetensorError as problem:  # the library wraps the operating system's errors
        raise unwritable(final, problem) from None


def folders(folder: Path) -> list[Path]:
    """Finished checkpoints, newest first."""
    return sorted((p for p in folder.glob(f"{_PREFIX}*") if p.is_dir()), reverse=True)
