"""An unknown name gets the nearest known one, wherever it stands."""

import re

import pytest
from tiny_training import make_dataset, make_model

from wholegrain.cli import main as cli
from wholegrain.data.dataset import Dataset
from wholegrain.suggest import closest, nearest
from wholegrain.towers import save_model

MODEL = "small:image_size=16,patch=8,image_width=16,image_layers=1,heads=2,text_width=16,text_layers=1,width=8"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"), count=16, splits=("train", "test")).folder


@pytest.fixture(scope="module")
def base(data, tmp_path_factory):
    """A saved model."""
    folder = tmp_path_factory.mktemp("base")
    save_model(make_model(Dataset(data)), folder)
    return folder


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        ("trian", "train"),
        ("methodes", "methods"),
        ("train CE-CLIP --data DATA", "ce_clip"),
        ("train Wholegrian --data DATA", "wholegrain"),
        ("train clip --data DATA --optimizer.lr 1", "optimiser"),
        ("train clip --data DATA --optimiser.warm-up-steps 1", "warmup_steps"),
        ("train clip --data DATA --model.head Branch", "branches"),
        ("train clip --data DATA --terms.clop.weight 1", "clip"),
        ("train clip --data DATA --model ViT-B-23", "ViT-B-32"),
        ("train clip --data DATA --model ViT-B-32:open-ai", "openai"),
        ("train clip --data DATA --model small:image-size=8", "image_size"),
        ("train clip --data DATA --model MODEL --data.captions [{roles=['wab']}]", "web"),
        ("train negclip --data DATA --model MODEL --data.negatives.kinds ['Swaps']", "swap"),
        ("train clip --data DATA --tracker wanb", "wandb"),
        ("evaluate base --data DATA --suite retreival", "retrieval"),
        ("evaluate base --data DATA --suite Hard-Positives", "hard_positives"),
        ("evaluate base --benchmark sugarcrape=x", "sugarcrepe"),
        ("evaluate base --benchmark flickr8k=x --corrupt frog", "fog"),
        ("evaluate base --benchmark flickr8k=x --average elevator_20", "elevater_20"),
        ("evaluate base --data DATA --split tset", "test"),
        ("evaluate base --data DATA --suite retrieval --roles wab", "web"),
        ("dense base DATA --tasks segmentatoin", "segmentation"),
        ("enrich DATA --negatives objekt", "object"),
        ("enrich DATA --negatives --method negklip", "negclip"),
        ("enrich DATA --negatives swap-phrases --method negclip", "swap_phrase"),
        ("enrich DATA --negatives --splits trian", "train"),
        ("verify CLIP", "clip"),
        ("verify clip --checks gradient", "gradients"),
        ("verify clip --settings duplicate=ignore", "duplicates"),
        ("report base --data DATA --split tset", "test"),
        ("audit base DATA --split tset", "test"),
    ],
)
def test_the_nearest_known_name_is_named(data, base, capsys, tmp_path, monkeypatch, arguments, near):
    monkeypatch.chdir(tmp_path)
    named = {"DATA": str(data), "MODEL": MODEL, "base": str(base)}
    words = [named.get(word, word) for word in arguments.split()]
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2
    assert re.search(rf'did you mean [^?]*\b{re.escape(near)}\b[^?]*[?.]', said), said


def test_nothing_near_gives_all_names():
    assert closest("zebra", ["lr", "batch"]) == "valid are batch, lr."
    assert closest("zebra", []) == "valid are none."
    assert nearest("--batch_size", ["--seed", "--batch"]) == ["--batch"]
    assert nearest("Ce Clip", ["ce-clip", "CE_CLIP"]) == ["ce-clip"]
    assert nearest("", ["a"]) == []
