"""Processes for tests that kill them: each is forked from a server that has imported all that they need and has computed nothing yet.

(A fork of the process that runs the tests may hang: torch's threads in it do not survive the fork.)
"""

import multiprocessing

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
