"""Who started this process, and as which of how many: ``torchrun``, SLURM's ``srun``, or nobody."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from wholegrain.errors import UserError

_PORTS = range(20000, 30000)  # a job's port is drawn from these by its id, as all its processes must name the same


@dataclass(frozen=True)
class Launch:
    """This process among those that were started together.

    Attributes:
        rank, world_size: its number and how many there are.
        local_rank: its number on its own machine.
        address, port: where they meet; empty and 0 for one alone.
        launcher: ``torchrun``, ``srun`` or empty.
        restart: how often all of them were started anew after one was lost (``torchrun --max-restarts``, a requeued SLURM job).
        may_restart: whether the launcher would do that, or has done so.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    address: str = ""
    port: int = 0
    launcher: str = ""
    restart: int = 0
    may_restart: bool = False


def launch(environ: Mapping[str, str] | None = None) -> Launch:
    """Reads who started this process from its environment; ``torchrun``'s variables come before SLURM's.

    Raises:
        UserError: the variables are there and make no sense.

    Example:
        >>> launch({})
        Launch(rank=0, world_size=1, local_rank=0, address='', port=0, launcher='', restart=0, may_restart=False)
        >>> task = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "4711"}
        >>> found = launch(task | {"SLURM_JOB_NODELIST": "node[003-006,9]"})
        >>> found.rank, found.world_size, found.local_rank, found.address, found.port
        (5, 8, 1, 'node003', 24711)
    """
    environ = os.environ if environ is None else environ
    if "WORLD_SIZE" in environ:
        return _torchrun(environ)
    tasks = _number(environ, "SLURM_STEP_NUM_TASKS", _number(environ, "SLURM_NTASKS", 1))
    if "SLURM_PROCID" in environ and tasks > 1:
        return _slurm(environ, tasks)
    restart = _number(environ, "SLURM_RESTART_COUNT", 0)
    return Launch(restart=restart, may_restart=restart > 0)


def _torchrun(environ: Mapping[str, str]) -> Launch:
    world_size = _number(environ, "WORLD_SIZE", 1)
    restart, most = _number(environ, "TORCHELASTIC_RESTART_COUNT", 0), _number(environ, "TORCHELASTIC_MAX_RESTARTS", 0)
    ranks = _number(environ, "RANK", 0), world_size, _number(environ, "LOCAL_RANK", 0)
    if world_size > 1 and not (environ.get("MASTER_ADDR") and environ.get("MASTER_PORT")):
        raise UserError(
            f"WORLD_SIZE is {world_size} and MASTER_ADDR or MASTER_PORT is missing; start with torchrun, or unset WORLD_SIZE."
        )
    return Launch(*ranks, environ.get("MASTER_ADDR", ""), _number(environ, "MASTER_PORT", 0), "torchrun", restart, most > 0)


def _slurm(environ: Mapping[str, str], tasks: int) -> Launch:
    names = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
    nodes = next((environ[name] for name in names if environ.get(name)), "127.0.0.1")
    job = _number(environ, "SLURM_JOB_ID", _number(environ, "SLURM_JOBID", 0))
    port = _number(environ, "MASTER_PORT", _PORTS[job % len(_PORTS)])
    restart = _number(environ, "SLURM_RESTART_COUNT", 0)
    ranks = _number(environ, "SLURM_PROCID", 0), tasks, _number(environ, "SLURM_LOCALID", 0)
    return Launch(*ranks, environ.get("MASTER_ADDR") or first_host(nodes), port, "srun", restart, restart > 0)


def first_host(nodes: str) -> str:
    """The first host of a SLURM list.

    Example:
        >>> [first_host(nodes) for nodes in ("node[003-006,9],other", "a7", "rack[1-2]n[04,7]", "login,node1")]
        ['node003', 'a7', 'rack1n04', 'login']
    """
    outside = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes.strip())
    if outside is None:
        raise UserError(f"The SLURM list of nodes {nodes!r} cannot be read; set MASTER_ADDR to the first node's name.")
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", outside.group())


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    try:
        return int(environ.get(name) or default)
    except ValueError:
        raise UserError(f"The variable {name} is {environ[name]!r} and must be a whole number; unset it or correct it.") from None
