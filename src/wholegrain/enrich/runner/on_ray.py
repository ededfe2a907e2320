"""Units shared out over a Ray cluster, by Ray Data: the same function, on other machines.

Actors hold the stage, so a model is loaded once in each; Ray starts a lost actor again and gives its unit to another. Every machine must
see the data under the same path.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from wholegrain.data.dataset import Dataset
from wholegrain.enrich.runner.stage import Failure, Stage
from wholegrain.enrich.runner.units import Outcome, Unit, run_unit
from wholegrain.errors import MachineError, UserError
from wholegrain.structure import JsonTable


def connect(address: str, workers: int = 0) -> None:
    """Joins a cluster, or starts one on this machine for ``local``; does nothing where one is joined already.

    Raises:
        UserError: Ray is not installed, or there is no cluster at the address.
    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what matters is raised
    try:
        import ray
    except ImportError:
        raise UserError('--ray needs Ray; install it with: pip install "wholegrain[ray]"') from None
    if ray.is_initialized():
        return
    _look_for(address)
    quiet: dict[str, object] = {"log_to_driver": False, "logging_level": "error"}
    try:
        if address == "local":
            ray.init("local", num_cpus=workers or None, include_dashboard=False, **quiet)
        else:
            ray.init(address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"--ray {address}: no cluster answers there ({str(error).splitlines()[0]}); look at the address."
        ) from None


def _look_for(address: str) -> None:
    """Whether anybody listens at an address: Ray itself would try for minutes, and end the process in the end."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=30).close()
    except OSError as error:
        raise UserError(f"--ray {address}: no cluster answers there ({error.strerror or error}); look at the address.") from None


def run_on_ray(
    stage: Stage, dataset: Dataset, units: Sequence[Unit], workers: int = 0, gpus: float | None = None
) -> Iterator[Outcome]:
    """The outcomes of all units, in any order; :func:`connect` comes first.

    Args:
        stage: fitted; not one that makes calls.
        dataset, units: what is to be done.
        workers: actors; 0 is one for each core, or GPU, of the cluster.
        gpus: of each actor (may be a share of one); ``None`` is one for a stage with a model, if the cluster has any.
    """
    import ray
    import ray.data
    from ray.exceptions import RayError

    everything = ray.cluster_resources()
    if gpus is None:
        gpus = 1 if stage.place == "device" and everything.get("GPU") else 0
    fit = everything.get("GPU", 0) / gpus if gpus else everything.get("CPU", 1)
    if fit < 1:
        raise UserError(f"The cluster has {everything.get('GPU', 0):g} GPUs, and each worker wants {gpus:g}; change --gpus.")
    actors = min(workers or int(fit), len(units))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    held = [ray.put((stage, dataset))]
    items = [{"number": unit.number, "keys": " ".join(unit.keys)} for unit in units]
    done = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _Worker,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=2),
        num_cpus=1,
        num_gpus=gpus or None,
        fn_constructor_args=(held,),
    )
    try:
        for row in done.iter_rows():
            yield _outcome(row)
    except RayError as error:
        raise MachineError(f"Ray gave up ({str(error).splitlines()[0]}); the same command goes on from here.") from error


class _Worker:
    """An actor."""

    def __init__(self, held: Sequence[object]) -> None:
        import ray

        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self.stage, self.dataset = ray.get(held[0])

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[object]]:
        unit = Unit(int(batch["number"][0]), tuple(str(batch["keys"][0]).split(" ")))
        try:
            outcome = run_unit(self.stage, self.dataset, unit)
        except (UserError, MachineError) as error:  # with its sentence alone, which Ray would bury in a traceback
            return _row(unit.number, b"", [], f"{type(error).__name__}:{error}")
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, outcome.table.schema) as stream:
            stream.write_table(outcome.table)
        return _row(unit.number, sink.getvalue().to_pybytes(), outcome.failures, "")


def _row(number: int, table: bytes, failures: Sequence[Failure], error: str) -> dict[str, list[object]]:
    failed = "\0".join(text for failure in failures for text in (failure.key, failure.reason))
    return {"number": [number], "table": [table], "failed": [failed], "error": [error]}


def _outcome(row: JsonTable) -> Outcome:
    kind, _, sentence = row["error"].partition(":")
    if kind:
        raise (MachineError if kind == "MachineError" else UserError)(sentence)
    table = pa.ipc.open_stream(row["table"]).read_all()
    failures = row["failed"].split("\0") if row["failed"] else []
    return Outcome(int(row["number"]), table, tuple(map(Failure, failures[::2], failures[1::2])))
