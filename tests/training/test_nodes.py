"""Real launches: torchrun on one node, on two nodes in network namespaces of their own, and when a process is lost."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from launching import call, torchrun
from quick_processes import started
from tiny_training import make_dataset
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from wholegrain.cli.main import main
from wholegrain.cli.train import TrainArguments, train
from wholegrain.errors import UserError
from wholegrain.towers.io import load_model
from wholegrain.training import trainer

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("nodes")]  # one untouched run, and one server of processes
TWO_NODES = Path(__file__).parents[2] / "benchmarks" / "two_nodes.sh"
TINY = "small:image_size=16,patch=8,image_width=16,image_layers=1,heads=2,text_width=16,text_layers=1,width=8"
TRAIN = ["--model", TINY, "--steps", "12", "--batch", "8", "--quiet", "--device", "cpu", "--workers", "0", "--saving.every", "5"]
TRAIN += ["--optimiser.precision", "fp32"]  # runs that are split otherwise are the same to rounding, and bf16 rounds at the third digit
TIMES = ("images_per_s", "texts_per_s", "data_wait", "peak_share", "memory_mb")


def two_of_which_one_dies(arguments):
    """What ``torchrun --max-restarts 1`` does, but that its processes are forked and need not import everything again."""
    how = {"run_id": "lost", "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "max_restarts": 1, "start_method": "fork"}
    elastic_launch(LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=2, **how), command)(arguments, True)


def command(arguments, one_dies=False):
    """The command in this process; where one dies, the second of two kills itself, once, before its step 8."""
    torch.set_num_threads(1)
    taken = trainer.take_step

    def dying(*args, step, **kwargs):
        if step == 7 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            Path(arguments[arguments.index("--out") + 1]).with_name("killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return taken(*args, step=step, **kwargs)

    if one_dies:
        trainer.take_step = dying
    sys.argv = ["wholegrain", *arguments]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise


def forked(target, arguments):
    """Whether it came to its end without an error."""
    process = started(target, list(map(str, arguments)))
    process.join(150)
    process.kill()
    return process.exitcode == 0


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


def test_two_processes_like_one(data, whole, tmp_path):
    assert forked(command, ["train", "ce_clip", "--data", data, "--out", tmp_path / "run", *TRAIN])
    (one, said), (two, also) = outcome_of(tmp_path / "run"), outcome_of(whole)
    for line, other in zip(said, also, strict=True):
        assert line.get("loss", 0) == pytest.approx(other.get("loss", 0), rel=1e-4)
        assert line.get("evaluation") == pytest.approx(other.get("evaluation"), abs=0.05)
    assert all(torch.allclose(one[name], value, rtol=1e-3, atol=1e-3) for name, value in two.items())


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


def test_a_lost_process_is_restarted_and_the_run_ends_with_the_same_bits(data, whole, tmp_path):
    arguments = ["train", "ce_clip", "--data", data, "--out", tmp_path / "run", *TRAIN]
    assert forked(two_of_which_one_dies, arguments)
    assert (tmp_path / "killed").exists()
    same(outcome_of(tmp_path / "run"), outcome_of(whole))


def test_a_model_that_is_shared_out_and_a_lost_process(data, whole, tmp_path):
    """The same run to rounding; its checkpoints are written by both processes, beside the training."""
    arguments = ["train", "ce_clip", "--data", data, "--out", tmp_path / "run", *TRAIN]
    arguments += ["--optimiser.shard", "true", "--saving.asynchronous", "true"]
    assert forked(two_of_which_one_dies, arguments)
    assert (tmp_path / "killed").exists()
    assert len(list((tmp_path / "run" / "checkpoints" / "step-00000012" / "shards").iterdir())) == 2
    (one, said), (two, also) = outcome_of(tmp_path / "run"), outcome_of(whole)
    assert [line["step"] for line in said] == [line["step"] for line in also]
    for line, other in zip(said, also, strict=True):
        assert line.get("loss", 0) == pytest.approx(other.get("loss", 0), rel=1e-4), f"step {line['step']}"
        assert line.get("evaluation") == other.get("evaluation")
    assert all(torch.allclose(one[name], value, rtol=1e-3, atol=1e-3) for name, value in two.items())
    assert "_orig" not in "".join(one)


def test_where_a_run_may_be_restarted_its_folder_must_be_named(data, monkeypatch):
    for name, value in {"WORLD_SIZE": "1", "TORCHELASTIC_MAX_RESTARTS": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="name its folder with --out"):
        train(TrainArguments("ce_clip", (str(data),)))
