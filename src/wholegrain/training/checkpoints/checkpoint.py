"""Checkpoints: safetensors and JSON, written aside and renamed, verified on reading; nothing is ever unpickled.

``checkpoints/step-00000500/`` holds ``state.safetensors`` (what is trained, buffers, the teacher's copy of them, optimiser moments,
the objective's carried state, torch's random state) and ``state.json`` (number of the format, step, Python's and numpy's random states,
SHA-256 of every file, and a digest of itself). Frozen parts of the model lie in the run's ``model/`` and are not repeated. Of a sharded run every process wrote
a part of the tensors (:mod:`wholegrain.training.distributed.sharded`).

A checkpoint of an older format is brought up to date on reading, one number after the other (:data:`MIGRATIONS`).
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeAlias, TypedDict

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wholegrain.errors import MachineError, UserError
from wholegrain.files import UnreadableError, digest, disk_errors, folder_aside, read_json, sha256
from wholegrain.objectives.objective import Objective
from wholegrain.structure import JsonTable, structure
from wholegrain.training.teacher import Teacher

FORMAT = 2
BROKEN = (OSError, ValueError, KeyError, SafetensorError, UnreadableError)
"""What reading a broken checkpoint raises."""
_PREFIX, STATE, TENSORS = "step-", "state.json", "state.safetensors"

Facts: TypeAlias = JsonTable
"""Plain values of ``state.json``; which there are is a matter of the format's number."""


class _Head(TypedDict):
    format: int
    step: int


@dataclass(frozen=True)
class Checkpoint:
    """What was saved.

    Attributes:
        step: how many steps had been taken.
        tensors: see :func:`pack`.
        facts: plain values.
        sharded: of a sharded checkpoint, what is not read yet: tensors without contents, on the meta device.
    """

    step: int
    tensors: dict[str, Tensor]
    facts: Facts
    sharded: dict[str, Tensor] = field(default_factory=dict)


def pack(
    step: int,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    objective: Objective | None,
    teacher: Teacher | None = None,
    **facts: object,
) -> Checkpoint:
    """Everything that the next step depends on, and further plain ``facts``; no ``objective`` where its loss carries nothing from step to step."""
    tensors = {f"model/{name}": value for name, value in _saved_tensors(model).items()}
    for name, parameter in model.named_parameters():
        for key, value in optimiser.state.get(parameter, {}).items():
            tensors[f"optimiser/{name}/{key}"] = torch.as_tensor(value)
    if objective is not None:
        tensors |= {f"objective/{name}": value for name, value in objective.state_dict().items()}
    if teacher is not None:
        tensors |= {f"teacher/{name}": value for name, value in teacher.state_dict().items()}
    tensors["random/torch"] = torch.get_rng_state()
    if torch.cuda.is_available() and next(model.parameters()).is_cuda:
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    kind, words, position, has_gauss, gauss = np.random.get_state(legacy=True)
    numpy_state = [str(kind), np.asarray(words).tolist(), int(position), int(has_gauss), float(gauss)]
    version, state, following = random.getstate()
    return Checkpoint(step, tensors, {**facts, "numpy": numpy_state, "python": [version, list(state), following]})


def unpack(
    saved: Checkpoint,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    objective: Objective | None,
    teacher: Teacher | None = None,
) -> None:
    """Puts everything back.

    Raises:
        UserError: the checkpoint is of another model or recipe.
    """
    own = _saved_tensors(model)
    saved_model = {key.removeprefix("model/"): value for key, value in saved.tensors.items() if key.startswith("model/")}
    odd = sorted(own.keys() ^ saved_model.keys()) or sorted(key for key in own if own[key].shape != saved_model[key].shape)
    if odd:
        raise UserError(f'The checkpoint does not fit the model at "{odd[0]}"; resume with the run\'s own model and recipe.')
    with torch.no_grad():
        for key, value in own.items():
            value.copy_(saved_model[key])
    _unpack_optimiser(saved.tensors, model, optimiser)
    if objective is not None:
        objective.load_state_dict({k.removeprefix("objective/"): v for k, v in saved.tensors.items() if k.startswith("objective/")})
    if teacher is not None:
        teacher.load_state_dict({k.removeprefix("teacher/"): v for k, v in saved.tensors.items() if k.startswith("teacher/")})
    torch.set_rng_state(saved.tensors["random/torch"])
    if "random/cuda" in saved.tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(saved.tensors["random/cuda"])
    kind, words, position, has_gauss, gauss = saved.facts["numpy"]
    np.random.set_state((kind, np.array(words, dtype=np.uint32), position, has_gauss, gauss))
    version, state, following = saved.facts["python"]
    random.setstate((version, tuple(state), following))


def _unpack_optimiser(tensors: Mapping[str, Tensor], model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    named = dict(model.named_parameters())
    for key, value in tensors.items():
        if key.startswith("optimiser/"):
            name, _, part = key.removeprefix("optimiser/").rpartition("/")
            optimiser.state[named[name]][part] = value.to(named[name].device).clone()


def _saved_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Trained parameters and buffers, by name."""
    kept = {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}
    parameters = dict(model.named_parameters())
    return kept | {
        name: value for name, value in model.state_dict().items() if name not in parameters and isinstance(value, Tensor)
    }


# ---- what does not fit -------------------------------------------------------------------------------------------------------


@dataclass
class _Best:
    metric: str
    value: float
    step: int


@dataclass
class _Facts:
    """All that ``state.json`` may hold."""

    format: int
    step: int
    files: dict[str, str]
    best: _Best
    numpy: tuple[str, list[int], int, int, float]
    python: tuple[int, list[int], float | None]
    skipped: int = 0
    evaluation_due: bool = False
    scaler: dict[str, float] = field(default_factory=dict)
    processes: int = 1


def check_fit(
    saved: Checkpoint,
    model: nn.Module,
    objective: Objective,
    teacher: Teacher | None,
    kinds: Sequence[str],
) -> None:
    """Refuses a checkpoint that cannot be what such a run saved, before anything is changed by it.

    Raises:
        ValueError: says what is wrong; the middle of a sentence.
    """
    facts = structure(saved.facts, _Facts)
    if facts.best.value != facts.best.value or facts.skipped < 0:
        raise ValueError(f"{STATE} has a best value or a count that is no number")
    _check_random(saved)
    wanted = {f"model/{name}": value for name, value in _saved_tensors(model).items()}
    wanted |= {f"teacher/{name}": value for name, value in (teacher.state_dict() if teacher is not None else {}).items()}
    allowed = wanted | {f"objective/{name}": value for name, value in objective.fresh_state(kinds).items()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and any(key.startswith(f"optimiser/{name}/") for key in saved.tensors | saved.sharded):
            moments = {f"optimiser/{name}/{moment}": parameter for moment in ("exp_avg", "exp_avg_sq")}
            wanted |= moments | {f"optimiser/{name}/step": torch.zeros(())}
    allowed |= wanted
    found = {name: value for name, value in (saved.tensors | saved.sharded).items() if not name.startswith("random/")}
    odd = sorted(name for name in found if name not in allowed or not _same_kind(found[name], allowed[name]))
    odd += sorted(wanted.keys() - found.keys())
    if odd:
        raise ValueError(f'{TENSORS} does not fit the run at "{odd[0]}"')


def _same_kind(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype


def _check_random(saved: Checkpoint) -> None:
    """Tries the random states on generators that nobody uses."""
    try:
        kind, words, position, has_gauss, gauss = saved.facts["numpy"]
        if not 0 <= position <= len(words):  # numpy would read beyond them
            raise ValueError("a place that is not there")
        np.random.RandomState().set_state((kind, np.array(words, dtype=np.uint32), position, has_gauss, gauss))
        version, state, following = saved.facts["python"]
        random.Random().setstate((version, tuple(state), following))
        torch.Generator().set_state(saved.tensors["random/torch"])
        if "random/cuda" in saved.tensors and torch.cuda.is_available():
            torch.Generator("cuda").set_state(saved.tensors["random/cuda"])
    except Exception as problem:  # each library has its own
        raise ValueError(f"its random states are none ({problem})") from None


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


def write_facts(part: Path, step: int, files: Mapping[str, str], facts: Mapping[str, object]) -> None:
    """``state.json``, last of all; ``files`` are names and SHA-256."""
    state = {"format": FORMAT, "step": step, "files": dict(files), **facts}
    (part / STATE).write_text(json.dumps(state | {"digest": digest(state)}))


def keep_newest(folder: Path, keep: int) -> None:
    """Removes all checkpoints but the newest."""
    with disk_errors(folder):
        for old in folders(folder)[keep:]:
            shutil.rmtree(old)


def load_newest(folder: Path, load_one: Callable[[Path], Checkpoint] | None = None) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """The newest intact checkpoint, brought up to date, and a sentence about each newer one that is broken.

    ``load_one`` stands for :func:`load`, and may refuse more by the same errors.

    Raises:
        UserError: it was written by a newer version.
    """
    notes = []
    for path in folders(folder):
        try:
            return (load_one or load)(path), tuple(notes)
        except BROKEN as problem:
            reason = problem.problem if isinstance(problem, UnreadableError) else problem
            notes.append(f"The checkpoint {path} is broken ({reason}) and is passed over.")
    return None, tuple(notes)


def load(path: Path) -> Checkpoint:
    """One checkpoint, verified and brought up to date; of a sharded one, what is whole.

    Raises:
        One of :data:`BROKEN`: it is broken.
        UserError: it was written by a newer version.
    """
    facts = read_facts(path)
    tensors = load_file(path / TENSORS)
    for number in range(facts["format"], FORMAT):
        facts, tensors = MIGRATIONS[number](facts, tensors)
    return Checkpoint(facts["step"], tensors, facts)


def read_facts(path: Path, own: slice = slice(None)) -> Facts:
    """``state.json``, with the files' checksums verified; ``own`` is which of them, where processes share that work. As :func:`load`."""
    facts: Facts = dict(read_json(path / STATE, _Head, "resume from another checkpoint"))
    if facts["format"] > FORMAT:
        raise UserError(
            f"{path} has format {facts['format']} and this version of Wholegrain reads formats up to {FORMAT}; "
            f"resume with the version that wrote it, or a newer one."
        )
    if "digest" in facts and facts.pop("digest") != digest(facts):
        raise ValueError(f"the checksum of {STATE} does not match")
    if facts["format"] < 1 or path.name != f"{_PREFIX}{facts['step']:08d}":
        raise ValueError(f"{STATE} says format {facts['format']}, step {facts['step']}")
    files = structure(facts.get("files"), dict[str, str]) if facts["format"] > 1 else {TENSORS: facts["sha256"]}
    if TENSORS not in files:
        raise ValueError(f"{STATE} does not name {TENSORS}")
    for name, expected in sorted(files.items())[own]:
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts or not (path / name).is_file():
            raise ValueError(f"{name!r} is no file of it")
        if sha256(path / name) != expected:
            raise ValueError(f"the checksum of {name} does not match")
    return facts


# ---- formats ----------------------------------------------------------------------------------------------------------------

Contents = tuple[Facts, dict[str, Tensor]]


def _from_1(facts: Facts, tensors: dict[str, Tensor]) -> Contents:
    """Format 2 has checksums of several files, where 1 had one."""
    files = {TENSORS: facts["sha256"]}
    return {name: value for name, value in facts.items() if name != "sha256"} | {"format": 2, "files": files}, tensors


MIGRATIONS: dict[int, Callable[[Facts, dict[str, Tensor]], Contents]] = {1: _from_1}
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
