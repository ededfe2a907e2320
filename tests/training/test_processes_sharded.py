"""Weights that are shared out over processes: the same steps, and checkpoints that any number of processes reads."""

import dataclasses
import json

import gloo
import pytest
import torch
import torch.distributed as dist
from float64_models import OWN, model_of
from same_training import apart
from tiny_training import make_dataset, make_model, make_recipe
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.tensor import DTensor, Shard

from wholegrain.data.dataset import Dataset
from wholegrain.errors import MachineError, UserError
from wholegrain.objectives.objective import Objective, choose_terms
from wholegrain.training.checkpoints import checkpoint
from wholegrain.training.checkpoints import sharded as sharded_files
from wholegrain.training.checkpoints.saver import Saver
from wholegrain.training.distributed import sharded
from wholegrain.training.distributed.processes import DistributedContext
from wholegrain.training.encoder import Encoder
from wholegrain.training.loading.loader import DrawnSamples, PlanSampler, make_loader, names_of
from wholegrain.training.loading.plan import Plan
from wholegrain.training.memory.recompute import recomputed
from wholegrain.training.run import offers
from wholegrain.training.step import StepOptions, make_optimiser, seed_everything, take_step

RECIPES = ("clip", "siglip", "holistic")
DEEP = {"image_layers": 3, "reader": "transformer", "text_layers": 2}


def gathered(value):
    return value.full_tensor() if isinstance(value, DTensor) else value


def train_here(rank, group, world, data, name, shard, start=0, stop=8, here=None, there=None, micro=0, words=(), beside=False):
    """Losses and norms of steps ``start`` to ``stop``, gradients of the last one, weights at the end."""
    overrides = ("--optimiser.batch", "12", *OWN.get(name, ()), *words)
    dataset, recipe = Dataset(data), make_recipe(name, *overrides)
    model = model_of(dataset, recipe, **DEEP)
    names = names_of(dataset, recipe.data)
    objective = Objective(choose_terms(recipe, names.roles, offers(recipe, dataset, model))[0])
    context, inner = DistributedContext(torch.device("cpu"), rank, world, group if world > 1 else None), Encoder(model)
    shared = shard and world > 1
    if shared:
        whole = sharded.ShardedModel(inner, context)
        assert sum(isinstance(p, DTensor) for p in model.parameters()) > 20
        assert sum(p.to_local().numel() for p in model.parameters() if isinstance(p, DTensor)) < 0.7 * sum(
            p.numel() for p in model.parameters()
        )
    optimiser = make_optimiser(model, recipe.optimiser)
    if here is not None:
        saved, notes = checkpoint.load_newest(here, sharded_files.load_shards(context))
        assert saved.step == start
        assert notes == ()
        checkpoint.unpack(sharded_files.read_shards(saved, here, model, context), model, optimiser, objective)
    encoder = inner if shared else context.wrap(inner)
    samples = DrawnSamples(dataset, model.preprocess, recipe.data, names, 0)
    plan = PlanSampler(Plan(dataset.keys("train"), 12, 0), start, stop, rank, world)
    numbers, gradients = [], []

    def keep(*_):
        found = [torch.zeros_like(gathered(p)) if p.grad is None else gathered(p.grad) for p in model.parameters()]
        gradients.append(torch.cat([gradient.flatten() for gradient in found]))

    optimiser.register_step_pre_hook(keep)
    with recomputed(model, recipe.optimiser.recompute):
        for step, batch in enumerate(make_loader(samples, plan, model.tokenizer, names), start):
            seed_everything(0, step, rank)
            options = StepOptions(1.0, micro_batch=micro, group=group)
            outcome = take_step(encoder, objective, optimiser, batch, step=step, lr=1e-3, options=options)
            numbers.append([outcome.loss, outcome.grad_norm, outcome.scale, *outcome.parts.values()])
    if there is not None:
        saver = Saver(there, 2, context, asynchronous=beside, sharded=shared)
        saver.save(lambda: checkpoint.pack(stop, model, optimiser, objective))
        if beside:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(1.0)  # what is saved is what was
        saver.finish()
    if shared and not beside:
        plain = whole.full_model(model)
        for key, value in model.state_dict().items():
            assert torch.equal(plain.state_dict()[key], gathered(value)), key
    weights = torch.cat([gathered(parameter.detach()).flatten() for parameter in model.parameters()])
    return torch.tensor(numbers, dtype=torch.float64), torch.stack(gradients), weights


def _named(rank, group, world, data, how, more):
    return train_here(rank, group or dist.group.WORLD, world, data, *how, **more)


def in_processes(world, data, *how, **more):
    return gloo.run(world, _named, [(world, data, how, more)] * world, seconds=1500)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"), splits=("train",)).folder


def close(some, other, within=1e-9):
    for one, two in zip(some, other, strict=True):
        assert apart(one, two) < within


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_shared_out_like_copied_and_like_alone(data, name):
    (alone,) = in_processes(1, data, name, True)
    copied, shared = (in_processes(2, data, name, shard)[0] for shard in (False, True))
    close(shared, copied)
    close(shared, alone)
    assert alone[1].abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "micro"),
    [
        (("--optimiser.layer_decay", "0.7"), 0),
        (("--optimiser.recompute", "true"), 0),
        (("--model.tune_image", "last:1", "--model.tune_text", "none"), 0),
        ((), 2),
    ],
)
def test_with_layer_decay_recomputation_frozen_parts_and_micro_batches(data, words, micro):
    more = {"words": words, "micro": micro, "stop": 4}
    (alone,) = in_processes(1, data, "ce_clip", True, **more)
    close(in_processes(2, data, "ce_clip", True, **more)[0], alone)


@pytest.mark.slow
@pytest.mark.parametrize("beside", [False, True])
def test_going_on_with_another_number_of_processes(data, tmp_path, beside):
    gloo.stop()
    (alone,) = in_processes(1, data, "ce_clip", True)
    before, weights = None, None
    for start, world in ((0, 2), (2, 1 if beside else 4), (4, 1), (6, 2)):  # a pool cannot make further groups of other sizes
        after = tmp_path / str(start)
        more = {"here": before, "there": after, "beside": beside}
        numbers, gradients, weights = in_processes(world, data, "ce_clip", True, start, start + 2, **more)[0]
        assert apart(numbers, alone[0][start : start + 2]) < 1e-9
        assert apart(gradients, alone[1][start : start + 2]) < 1e-9
        files = {path.suffix for path in after.rglob("*") if path.is_file()}
        assert files == {".json", ".safetensors"}, "nothing is pickled"
        facts = json.loads((after / f"step-{start + 2:08d}" / "state.json").read_text())
        assert len([name for name in facts["files"] if name.startswith("shards/")]) == (world if world > 1 else 0)
        before = after
    assert apart(weights - (1.0 if beside else 0.0), alone[2]) < 1e-9


@pytest.mark.slow
def test_going_on_with_as_many_is_bit_for_bit(data, tmp_path):
    whole = in_processes(2, data, "ce_clip", True, 0, 6)[0]
    in_processes(2, data, "ce_clip", True, 0, 3, there=tmp_path)
    rest = in_processes(2, data, "ce_clip", True, 3, 6, here=tmp_path)[0]
    assert torch.equal(rest[0], whole[0][3:])
    assert torch.equal(rest[2], whole[2])


def damaged(rank, group, folder):
    """Of two checkpoints the newer is broken in one file that only one process verifies; then the disk is full in one process."""
    context = DistributedContext(torch.device("cpu"), rank, 2, group)
    mesh = sharded_files.DeviceMesh.from_group(group, "cpu")
    whole = torch.arange(6.0)
    for step in (1, 2):
        part = sharded_files.distribute_tensor(whole * step, mesh, [Shard(0)])
        sharded_files.save_shards(checkpoint.Checkpoint(step, {"model/x": part, "objective/y": torch.ones(1)}, {}), folder, 2, context)
    if context.is_main_process:
        victim = max((folder / "step-00000002" / "shards").iterdir())
        victim.write_bytes(victim.read_bytes()[:-1] + b"\x07")
    context.barrier()
    found, notes = checkpoint.load_newest(folder, sharded_files.load_shards(context))
    assert found.step == 1
    assert "checksum of shards/" in notes[0]
    if rank == 1:
        FileSystemWriter._write_data = full
    problem = None
    try:
        sharded_files.save_shards(checkpoint.Checkpoint(3, {"model/x": part}, {}), folder, 2, context)
    except MachineError as error:
        problem = str(error)
    context.barrier()  # the first one tidies up
    return problem, sorted(path.name for path in folder.iterdir())


def full(*_):
    raise OSError(28, "No space left on device")


@pytest.mark.slow
def test_broken_parts_and_a_full_disk_in_one_process(tmp_path):
    try:
        for problem, left in gloo.run(2, damaged, [(tmp_path,)] * 2):
            assert "step-00000003 could not be written" in problem
            assert left == ["step-00000001", "step-00000002"]
    finally:
        gloo.stop()  # its processes were tampered with


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--teacher.kind", "ema"), "teacher.kind"),
        (("--optimiser.compile", "true"), "optimiser.compile"),
        (("--optimiser.precision", "fp16"), "fp16"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(data, words, named):
    recipe = make_recipe("clip", "--optimiser.shard", "true", *words)
    with pytest.raises(UserError, match=rf"optimiser.shard does not go together with .*{named}"):
        sharded.refuse_shard(recipe, make_model(Dataset(data)))
    sharded.refuse_shard(
        dataclasses.replace(recipe, teacher=make_recipe().teacher, optimiser=make_recipe().optimiser), make_model(Dataset(data))
    )
