"""Real launches: torchrun on one node, on two nodes in network namespaces of their own, and when a process is lost."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_training import make_dataset

from wholegrain.towers.io import load_model

HERE = Path(__file__).parent
TWO_NODES = HERE.parent / "benchmarks" / "two_nodes.sh"
TINY = "small:image_size=16,patch=8,image_width=16,image_layers=1,heads=2,text_width=16,text_layers=1,width=8"
TRAIN = ["--model", TINY, "--steps", "12", "--batch", "8", "--quiet", "--device", "cpu", "--workers", "0", "--saving.every", "5"]
TRAIN += ["--optimiser.precision", "fp32"]  # runs that are split otherwise are the same to rounding, and bf16 rounds at the third digit
TIMES = ("images_per_s", "texts_per_s", "data_wait", "peak_share", "memory_mb")


def call(*command, seconds=150, **more):
    alone = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    paths = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(list(map(str, command)), env=alone | paths | more, capture_output=True, text=True, timeout=seconds)


def torchrun(*arguments, processes=2):
    return call(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes, *arguments)


def outcome_of(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return load_model(run).state_dict(), [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def same(one, other):
    assert one[0].keys() == other[0].keys()
    assert all(torch.equal(value, other[0][name]) for name, value in one[0].items())
    assert one[1] == other[1]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"), count=16).folder


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """Two processes of one node, untouched."""
    run = tmp_path_factory.mktemp("whole") / "run"
    done = torchrun("-m", "wholegrain", "train", "ce_clip", "--data", data, "--out", run, *TRAIN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(run / "model"), "one process alone says where the model is"
    return run


@pytest.mark.slow
def test_two_processes_like_one(data, whole, tmp_path):
    done = call(sys.executable, "-m", "wholegrain", "train", "ce_clip", "--data", data, "--out", tmp_path / "run", *TRAIN)
    assert done.returncode == 0, done.stderr
    (one, said), (two, also) = outcome_of(tmp_path / "run"), outcome_of(whole)
    for line, other in zip(said, also, strict=True):
        assert line.get("loss", 0) == pytest.approx(other.get("loss", 0), rel=1e-4)
        assert line.get("evaluation") == pytest.approx(other.get("evaluation"), abs=0.05)
    assert all(torch.allclose(one[name], value, rtol=1e-3, atol=1e-3) for name, value in two.items())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")
def test_two_nodes_like_one_node(data, whole, tmp_path):
    """A process on each of two nodes: bit for bit what two processes on one node do."""
    if any(shutil.which(tool) is None for tool in ("unshare", "nsenter", "ip")):
        pytest.skip("unshare, nsenter and ip are needed")
    trial = "ip link add cable0 type veth peer name cable1 && unshare --net true"
    allowed = call("unshare", "--user", "--map-root-user", "--net", "--", "sh", "-c", trial, seconds=30)
    if allowed.returncode:
        pytest.skip(f"this machine allows no network namespaces ({allowed.stderr.strip()[:80]})")
    done = call(TWO_NODES, 1, "ce_clip", "--data", data, "--out", tmp_path / "run", *TRAIN)
    assert done.returncode == 0, done.stderr
    same(outcome_of(tmp_path / "run"), outcome_of(whole))


@pytest.mark.slow
def test_a_lost_process_is_restarted_and_the_run_ends_with_the_same_bits(data, whole, tmp_path):
    arguments = ["train", "ce_clip", "--data", data, "--out", tmp_path / "run", *TRAIN]
    done = torchrun("--max-restarts", 1, HERE / "kill_one.py", *arguments)
    assert done.returncode == 0, done.stderr
    assert "exitcode: -9" in done.stderr, "one was killed"
    same(outcome_of(tmp_path / "run"), outcome_of(whole))


@pytest.mark.slow
def test_a_model_that_is_shared_out_and_a_lost_process(data, whole, tmp_path):
    """The same run to rounding; its checkpoints are written by both processes, beside the training."""
    arguments = ["train", "ce_clip", "--data", data, "--out", tmp_path / "run", *TRAIN]
    arguments += ["--optimiser.shard", "true", "--saving.asynchronous", "true"]
    done = torchrun("--max-restarts", 1, HERE / "kill_one.py", *arguments)
    assert done.returncode == 0, done.stderr
    assert "exitcode: -9" in done.stderr, "one was killed"
    assert len(list((tmp_path / "run" / "checkpoints" / "step-00000012" / "shards").iterdir())) == 2
    (one, said), (two, also) = outcome_of(tmp_path / "run"), outcome_of(whole)
    assert [line["step"] for line in said] == [line["step"] for line in also]
    for line, other in zip(said, also, strict=True):
        assert line.get("loss", 0) == pytest.approx(other.get("loss", 0), rel=1e-4), f"step {line['step']}"
        assert line.get("evaluation") == other.get("evaluation")
    assert all(torch.allclose(one[name], value, rtol=1e-3, atol=1e-3) for name, value in two.items())
    assert "_orig" not in "".join(one)


@pytest.mark.slow
def test_where_a_run_may_be_restarted_its_folder_must_be_named(data):
    done = torchrun("--max-restarts", 1, "-m", "wholegrain", "train", "ce_clip", "--data", data, *TRAIN, processes=1)
    assert done.returncode != 0
    assert "name its folder with --out" in done.stderr
