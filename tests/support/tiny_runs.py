"""Runs of the tiny model: begun, killed, and what is left of them."""

import json

import torch
from tiny_training import make_model, train

from wholegrain.towers.io import load_model

TIMES = ("images_per_s", "texts_per_s", "data_wait", "peak_share", "memory_mb")


def run(dataset, folder, recipe, model=None, **kwargs):
    return train(recipe, dataset, model or make_model(dataset), folder, device="cpu", quiet=True, **kwargs)


def lines(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in found]


def weights(folder):
    return load_model(folder).state_dict()


def same_weights(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


class KilledError(Exception):
    pass


def kill_at(step):
    def on_step(outcome):
        if outcome.step == step:
            raise KilledError

    return on_step
