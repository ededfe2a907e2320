"""A folder with tiny ``scenes`` and a tiny ``model``, and a command as it is typed there."""

import pytest
import torch

from wholegrain.cli import main as cli
from wholegrain.data.scenes.build import SceneCounts, build_scenes
from wholegrain.data.scenes.world import World
from wholegrain.text.trained import train_tokenizer
from wholegrain.towers.io import save_model
from wholegrain.towers.sources.small import SmallConfig, small_model


def make_place(folder, train, test, image_layers=1):
    """The folder, with so many scenes to train and to measure on."""
    data = build_scenes(folder / "scenes", World(), SceneCounts(train, 0, test, 0, 0), workers=1)
    texts = [caption.text for record in data.records("train") for caption in record.captions]
    torch.manual_seed(0)
    sizes = {"image_size": 32, "patch": 8, "image_width": 16, "image_layers": image_layers, "heads": 2, "text_width": 16, "text_layers": 1}
    save_model(small_model(SmallConfig(**sizes, context=16, width=12), train_tokenizer(texts, 200, 16)), folder / "model")
    return folder


def typed(capsys, *words):
    """Exit code, and what was printed on standard output and standard error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main(list(map(str, words)))
    return (end.value.code or 0, *capsys.readouterr())
