"""Commands in processes of their own, under torchrun or not."""

import os
import subprocess
import sys
from pathlib import Path


def call(*command, seconds=150, **more):
    alone = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    paths = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(list(map(str, command)), env=alone | paths | more, capture_output=True, text=True, timeout=seconds)


def torchrun(*arguments, processes=2):
    return call(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes, *arguments)
