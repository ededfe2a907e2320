"""Processes for tests that kill them: each is forked from a server that has imported all that they need and has computed nothing yet.

(A fork of the process that runs the tests may hang: torch's threads in it do not survive the fork.)
"""

import multiprocessing
import os
from multiprocessing.process import BaseProcess

import torch

from wholegrain.verify import pool

FORK = multiprocessing.get_context("forkserver")
pool.PRELOADED.extend(  # its processes come from the same server
    [
        "pytest",
        "pandas",  # which pyarrow imports when it first makes an array
        "torch.utils.tensorboard",
        "wholegrain.workflows.export",
        "wholegrain.evaluation.result_folders",
        "wholegrain.evaluation.benchmarks.run",
        "wholegrain.evaluation.suite",
        "wholegrain.text.trained",
        "wholegrain.towers.interpolate",
        "wholegrain.training.trainer",
    ]
)
FORK.set_forkserver_preload(pool.PRELOADED)


def started(target, *arguments, said=os.devnull, **environ) -> BaseProcess:
    """A process that runs ``target`` with variables of its environment, and writes all that it prints into the file ``said``."""
    process = FORK.Process(target=_apart, args=(target, arguments, said, environ))
    process.start()
    return process


def _apart(target, arguments, said, environ):
    os.environ.update(environ)
    torch.set_num_threads(1)
    with open(said, "wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    target(*arguments)
