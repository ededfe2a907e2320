"""Who started a process: torchrun's and SLURM's variables; and what several processes must have alike."""

import dataclasses
import os
import time

import pytest
import torch
from quick_processes import started
from tiny_training import make_dataset, make_model, make_recipe

from wholegrain.errors import MachineError, UserError
from wholegrain.training.checkpoints.agreement import facts_to_agree_on
from wholegrain.training.checkpoints.run_folder import OtherRunError
from wholegrain.training.distributed import processes as distributed
from wholegrain.training.distributed.launch import Launch, first_host, launch
from wholegrain.training.distributed.processes import DistributedContext, choose_device

TASK = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "90017"}


def test_torchrun_comes_before_slurm():
    given = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "h", "MASTER_PORT": "29500"}
    assert launch(TASK | given) == Launch(1, 2, 1, "h", 29500, "torchrun")
    more = given | {"TORCHELASTIC_RESTART_COUNT": "2", "TORCHELASTIC_MAX_RESTARTS": "3"}
    assert (launch(more).restart, launch(more).may_restart) == (2, True)


def test_slurm():
    found = launch(TASK | {"SLURM_NODELIST": "gpu-a[003-006,9],gpu-b1"})
    assert found == Launch(3, 4, 1, "gpu-a003", 20017, "srun")
    own = {"SLURM_NODELIST": "a1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234"}
    assert (launch(TASK | own).address, launch(TASK | own).port) == ("10.0.0.1", 1234)
    step = {"SLURM_JOB_NODELIST": "a[1-4]", "SLURM_STEP_NODELIST": "a[3-4]", "SLURM_STEP_NUM_TASKS": "2"}
    assert (launch(TASK | step).address, launch(TASK | step).world_size) == ("a3", 2)
    assert launch(TASK | {"SLURM_RESTART_COUNT": "1"}).may_restart


@pytest.mark.parametrize("given", [{}, TASK | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, {"SLURM_NTASKS": "4"}])
def test_alone(given):
    assert launch(given).world_size == 1


def test_nonsense_is_named():
    with pytest.raises(UserError, match="SLURM_NTASKS is 'many'"):
        launch(TASK | {"SLURM_NTASKS": "many"})
    with pytest.raises(UserError, match="MASTER_ADDR"):
        launch({"WORLD_SIZE": "2", "RANK": "0"})
    with pytest.raises(UserError, match="nodes"):
        first_host("")


def test_devices(monkeypatch):
    assert choose_device("cpu", 3, 8) == torch.device("cpu")
    with pytest.raises(UserError, match="no device 'gpu'"):
        choose_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no CUDA device"):
        choose_device("cuda:0")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device(None).type == choose_device("auto").type == "mps"
    assert choose_device(None, 0, 2).type == "cpu"
    with pytest.raises(UserError, match="one process alone"):
        choose_device("mps", 0, 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    assert choose_device(None, 1, 2) == torch.device("cuda", 1)
    with pytest.raises(UserError, match=r"Process 2 of this machine has no CUDA device.*start 2 processes"):
        choose_device(None, 2, 4)


def test_what_must_be_alike(tmp_path):
    dataset = make_dataset(tmp_path / "data", count=8)
    recipe = make_recipe("ce_clip")

    def facts(chosen=recipe, seed=0, total=10):
        return facts_to_agree_on(chosen, dataset.content_hash, make_model(dataset, seed), total, None, False)

    def odd(other):
        return [name for name, value in facts().items() if other[name] != value]

    assert odd(facts()) == []
    faster = dataclasses.replace(recipe, optimiser=dataclasses.replace(recipe.optimiser, lr=2e-3))
    assert odd(facts(faster)) == ['recipe\'s key "optimiser.lr"']
    assert odd(facts(seed=1)) == ["weights of the model (hash)"]
    assert odd(facts(total=11)) == ["number of steps"]


class Three(DistributedContext):
    """One of three processes, of which the others told something before."""

    def all_gather(self, value):
        return [value, *OTHERS]


def test_disagreement_names_what_and_who():
    global OTHERS
    OTHERS = [{"a": "1", "b": "2"}, {"a": "1", "b": "3"}]
    context = Three(torch.device("cpu"), 0, 3)
    context.agree({"a": "1"})
    with pytest.raises(UserError, match=r"do not agree on the b: 3 in process 2, 2 in process 0 and the others"):
        context.agree({"a": "1", "b": "2"})


def ends(target, port, folder, seconds=250):
    """Exit codes and what was said of two processes as srun would start them."""
    job = {"SLURM_NTASKS": "2", "SLURM_JOB_ID": str(port - 20000), "SLURM_NODELIST": "127.0.0.1"}
    said = [folder / str(rank) for rank in range(2)]
    processes = [started(target, said=said[rank], SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank), **job) for rank in range(2)]
    for process in processes:
        process.join(seconds)
        process.kill()
    return [process.exitcode for process in processes], [path.read_text() for path in said]


def behaves():
    """In each of two processes: what DistributedContext promises."""
    with distributed.init_distributed("cpu", timeout=20) as context:
        assert context.all_gather(context.rank) == [0, 1]
        assert context.on_all_processes(lambda: context.rank) == context.rank
        for kind, raised in ((UserError, UserError), (OtherRunError, UserError), (MachineError, MachineError)):

            def fail(kind=kind):
                if context.rank == 1:
                    raise kind("it is wrong")

            with pytest.raises(raised, match=r"^Process 1: it is wrong$"):
                context.on_all_processes(fail)

        def long():
            time.sleep(3)
            return 7

        context.store.set_timeout(distributed.timedelta(seconds=1))  # a wait without a limit is no wait in the store
        assert context.on_main_process(long) == (7 if context.is_main_process else None)
        with pytest.raises(UserError, match="Process 0: no"):
            context.on_main_process(lambda: (_ for _ in ()).throw(UserError("no")))
        with pytest.raises(UserError, match="do not agree on the data"):
            context.agree({"data": str(context.rank)})


def loses():
    """The second process dies without a word while the first waits for it."""
    with distributed.init_distributed("cpu", timeout=20) as context:
        context.barrier()
        if context.rank == 1:
            os._exit(9)
        context.barrier()


def waits_for_ever():
    """The first process dies while the second waits for it without a limit."""
    with distributed.init_distributed("cpu", timeout=20) as context:
        context.barrier()
        context.on_main_process(lambda: os._exit(9))


@pytest.mark.slow
def test_processes_that_srun_started(free_port, tmp_path):
    codes, said = ends(behaves, free_port, tmp_path)
    assert codes == [0, 0], said


@pytest.mark.slow
@pytest.mark.parametrize(("target", "dead"), [(loses, 1), (waits_for_ever, 0)])
def test_a_lost_process_is_said_in_one_sentence(free_port, tmp_path, target, dead):
    codes, said = ends(target, free_port, tmp_path)
    assert codes[dead] == 9
    assert codes[1 - dead] == 1
    assert f"MachineError: Process {1 - dead} of 2 lost another one" in said[1 - dead].strip().splitlines()[-1]


@pytest.mark.slow
def test_processes_that_never_meet(free_port, monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_JOB_ID", str(free_port - 20000))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with (
        pytest.raises(MachineError, match=r"Process 1 of 2 did not meet the others at 127.0.0.1:\d+ \(in a batch script, start"),
        distributed.init_distributed("cpu", timeout=2),
    ):
        pass


@pytest.fixture
def free_port():
    """A free one among those that a job's id can give."""
    import random
    import socket

    while True:
        port = random.randrange(20000, 30000)
        with socket.socket() as trial:
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
