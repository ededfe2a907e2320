"""Models of the recipes in float64, and what the recipes need on the tiny data set."""

import torch
from tiny_training import make_model

from wholegrain.training.run import adapt_model

OWN = {
    "cosmos": ("--data.views", "[{count=1, crop_scale=[0.4, 1.0]}, {count=2, crop_scale=[0.05, 0.4]}]", "--teacher.views", "2"),
    "text_conditioned": (
        *("--data.captions", '[{roles=["web"]}, {roles=["style"]}]'),
        *("--terms.text_conditioned.roles", '["style"]', "--terms.clip.roles", '["web"]'),
    ),
    "whole_and_grain": ("--data.captions", '[{roles=["web"]}, {roles=["detail"]}]'),
    "llip": ("--model.head_settings.mixtures", "4"),
    "holistic_mlp": ("--model.head_settings.branch_blocks", "1"),
    "mgca": ("--model.head_settings.prototypes", "9"),
}


def model_of(dataset, recipe, **sizes):
    """The recipe's model in float64, away from where it begins, so that nothing is zero by chance."""
    model = make_model(dataset, **sizes)
    adapt_model(model, recipe)
    model.double().train()
    model.image_tower.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(), *inputs[1:]))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim:
                parameter += 0.1 * torch.randn_like(parameter)
    return model
