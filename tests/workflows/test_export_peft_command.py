"""``wholegrain export RUN OUT --to peft``: the adapters of a run, from its checkpoint or without one, and what is refused."""

import shutil

import pytest
import yaml
from house_models import open_clip_folder
from safetensors.torch import load_file
from tiny_training import make_dataset

from wholegrain.cli.main import main
from wholegrain.towers import HeadConfig, convert_head, load_model, save_model
from wholegrain.towers.export.comparison import distance

pytest.importorskip("transformers")
LORA = ("--model.lora.rank", 2, "--model.lora.alpha", 3)
UP, DOWN = "lora_B.weight", "lora_A.weight"


def wholegrain(*args):
    with pytest.raises(SystemExit) as end:
        main(list(map(str, args)))
    return end.value.code


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a run that has adapters and one that has none."""
    folder = tmp_path_factory.mktemp("runs")
    make_dataset(folder / "photos")
    open_clip_folder(folder / "base")
    quick = ("--steps", 2, "--batch", 8, "--workers", 0, "--quiet", "--optimiser.precision", "fp32", "--optimiser.lr", "0.03")
    for name, options in (("lora", (*LORA, "--optimiser.warmup_steps", 0)), ("full", ())):
        made = wholegrain("train", "clip", "--data", folder / "photos", "--model", folder / "base", "--out", folder / name, *quick, *options)
        assert made == 0
    return folder


@pytest.fixture
def lora(runs, tmp_path):
    """A run of one's own to change."""
    return shutil.copytree(runs / "lora", tmp_path / "run")


def products(folder):
    factors = load_file(folder / "adapter_model.safetensors")
    return {key.removesuffix(UP): 1.5 * up @ factors[key.replace(UP, DOWN)] for key, up in factors.items() if key.endswith(UP)}


@pytest.mark.slow
def test_adapters_of_a_checkpoint_and_recovered_ones_add_the_same(lora, tmp_path, capsys):
    kept = load_file(next((lora / "checkpoints").glob("step-*")) / "state.safetensors")
    capsys.readouterr()
    assert wholegrain("export", lora, tmp_path / "kept", "--to", "peft") == 0
    said = capsys.readouterr().out
    assert "adapters: as trained, from checkpoint step-00000002" in said
    assert "read back with transformers (adapters added)" in said
    down = kept["model/text_tower.net.transformer.resblocks.1.attn.parametrizations.in_proj_weight.0.down_RI"]
    factors = load_file(tmp_path / "kept/adapter_model.safetensors")
    for part in "qkv":
        assert (factors[f"base_model.model.text_model.encoder.layers.1.self_attn.{part}_proj.{DOWN}"] == down).all()

    shutil.rmtree(lora / "checkpoints")
    assert wholegrain("export", lora, tmp_path / "found", "--to", "peft") == 0
    assert "adapters: recovered from what they added" in capsys.readouterr().out
    assert wholegrain("export", lora, tmp_path / "whole", "--to", "transformers") == 0
    one, other, whole = products(tmp_path / "kept"), products(tmp_path / "found"), load_file(tmp_path / "whole/model.safetensors")
    base = load_file(tmp_path / "found/base/model.safetensors")
    assert one.keys() == other.keys()
    assert len(one) == 2 * 2 * 6
    assert max(float(product.abs().max()) for product in one.values()) > 1e-3
    for key in one:
        name = f"{key.removeprefix('base_model.model.')}weight"
        assert distance(base[name] + one[key], whole[name]) < 1e-6
        assert distance(base[name] + other[key], whole[name]) < 1e-6


@pytest.mark.slow
def test_the_card_says_how_peft_loads_it(runs, tmp_path):
    assert wholegrain("export", runs / "lora", tmp_path / "out", "--to", "peft") == 0
    text = (tmp_path / "out/README.md").read_text()
    assert yaml.safe_load(text.split("---\n")[1])["library_name"] == "peft"
    assert f'CLIPModel.from_pretrained("{tmp_path / "out"}", subfolder="base"), "{tmp_path / "out"}")' in text
    assert "**Adapters.** As trained, from checkpoint step-00000002." in text


def test_without_a_run_or_adapters_or_a_start(runs, lora, tmp_path, capsys):
    shutil.rmtree(lora / "start")
    for model, words in ((runs / "base", "is no run"), (runs / "full", "was trained without model.lora"), (lora, "start is gone")):
        assert wholegrain("export", model, tmp_path / "out", "--to", "peft") == 2
        assert words in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_model_that_is_not_what_adapters_made_of_the_start(lora, tmp_path, capsys):
    model = load_model(lora)
    model.text_tower.net.transformer.resblocks[0].mlp.c_fc.weight.data += 0.01 * model.text_tower.net.transformer.resblocks[1].mlp.c_fc.weight.data
    save_model(model, lora / "model")
    assert wholegrain("export", lora, tmp_path / "out", "--to", "peft") == 2
    assert "text_tower.net.transformer.resblocks.0.mlp.c_fc.weight has a higher rank than model.lora.rank, which is 2" in " ".join(
        capsys.readouterr().err.split()
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_what_transformers_cannot_hold(lora, tmp_path, capsys):
    save_model(convert_head(load_model(lora), HeadConfig("filip")), lora / "model")
    assert wholegrain("export", lora, tmp_path / "out", "--to", "peft") == 2
    assert "transformers has no place for the joint score of its filip head" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
    assert wholegrain("export", lora, tmp_path / "out", "--to", "peft", "--approximate") == 0
    assert "exported is an approximation: its cosine" in capsys.readouterr().out
