"""Training in several processes is training in one."""

import os

import gloo
import torch
from tiny_training import make_dataset, make_model, make_recipe

from wholegrain.data.dataset import Dataset
from wholegrain.towers.io import load_model
from wholegrain.training.loop import train


def train_here(rank, group, world, data, out):
    """A run as torchrun would start it; returns the losses that this process saw."""
    losses = []
    os.environ["WORLD_SIZE"] = str(world)
    try:
        dataset = Dataset(data)
        recipe = make_recipe(
            "ce_clip", "--optimiser.eps", "1e-3", "--data.captions", '[{roles=["web"]}]', "--optimiser.steps", "6"
        )
        train(
            recipe, dataset, make_model(dataset), out, device="cpu", quiet=True, on_step=lambda o: losses.append(o.loss) and None
        )
    finally:
        del os.environ["WORLD_SIZE"]
    return losses


def test_two_processes_train_like_one(tmp_path):
    dataset = make_dataset(tmp_path / "data", splits=("train",))
    train_here(0, None, 1, dataset.folder, tmp_path / "one")
    alone = train_here(0, None, 1, dataset.folder, tmp_path / "again")
    both = gloo.run(2, train_here, [(2, dataset.folder, tmp_path / "two")] * 2)
    assert both[0] == both[1]
    torch.testing.assert_close(torch.tensor(both[0]), torch.tensor(alone), rtol=1e-4, atol=1e-5)
    one, two = load_model(tmp_path / "one").state_dict(), load_model(tmp_path / "two").state_dict()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4, msg=name)
