"""Processes for tests that kill them: each is forked from a server that has imported all that they need and has computed nothing yet.

(A fork of the process that runs the tests may hang: torch's threads in it do not survive the fork.)
"""

import multiprocessing

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(
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
