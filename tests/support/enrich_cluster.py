"""A Ray cluster of two workers on this machine, of which one is killed in the midst of the work: ``python enrich_cluster.py DATA``."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from enrich_work import run


def kill_when(folder, parts, node):
    """Kills all processes of a node as soon as so many parts are there."""
    while len(list(folder.rglob("enrich/**/*.parquet"))) < parts:
        time.sleep(0.01)
    raylet = node.all_processes["raylet"][0].process.pid
    print("killed", len(list(folder.rglob("enrich/**/*.parquet"))), flush=True)
    os.kill(raylet, signal.SIGKILL)  # its workers end with it


if __name__ == "__main__":
    import ray
    from ray.cluster_utils import Cluster

    folder = Path(sys.argv[1])
    small = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    workers = [cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20) for _ in range(2)]
    ray.init(cluster.address, log_to_driver=False, logging_level="error")
    threading.Thread(target=kill_when, args=(folder, 3, workers[0]), daemon=True).start()
    made = run(folder, size=2, ray=cluster.address, seconds=0.3)
    alive = sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())
    print("alive", alive, "rows", made[0].rows, flush=True)
    ray.shutdown()
    cluster.shutdown()
