"""Adapters out: read back and added to their base they are the trained model, recovered or not, in both kinds of transformers' models."""

import json

import pytest
import torch
from read_models import of_open_clip, of_transformers
from safetensors.torch import load_file

from wholegrain.errors import UserError
from wholegrain.towers import load_model, save_model
from wholegrain.towers.export.adapters import Adapters, adapted_names, fit, recovered
from wholegrain.towers.export.comparison import distance
from wholegrain.towers.export.export import export_model
from wholegrain.towers.lora import adapters as inserted
from wholegrain.towers.lora import add_lora

transformers = pytest.importorskip("transformers")
RANK, ALPHA = 3, 6.0


def trained(make, tmp_path, towers=("image", "text"), parts=("attention", "mlp")):
    """A model before and after training with adapters, head and temperature included."""
    start, model = make(tmp_path), make(tmp_path)
    random = torch.Generator().manual_seed(1)
    for side in towers:
        add_lora({"image": model.image_tower, "text": model.text_tower}[side], RANK, ALPHA, parts, 0)
    with torch.no_grad():
        for adapter in inserted(model):
            adapter.up_OR.copy_(0.3 * torch.randn(adapter.up_OR.shape, generator=random))
        for parameter in (*model.head.parameters(), model.log_scale):
            parameter.add_(0.1)
    save_model(model, tmp_path / "merged")
    return start, load_model(tmp_path / "merged"), adapted_names(start, towers, parts)


def matrices(model, names):
    state = model.state_dict()
    return {name: state[name] for name in names}


def siglip(tmp_path):
    return of_transformers(tmp_path, "siglip")


CASES = {
    "open_clip": (of_open_clip, {}),
    "text alone": (of_open_clip, {"towers": ("text",)}),
    "attention alone": (of_transformers, {"parts": ("attention",)}),
    "siglip": (siglip, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_base_and_adapters_are_the_trained_model(name, tmp_path):
    make, options = CASES[name]
    start, model, names = trained(make, tmp_path, **options)
    bases = matrices(start, names)
    adapters = Adapters(RANK, ALPHA, bases, recovered(RANK, ALPHA, bases, matrices(model, names)))
    assert max(export_model(model, tmp_path / "out", "peft", adapters=adapters).values()) <= 1e-5
    export_model(model, tmp_path / "whole", "transformers")
    export_model(start, tmp_path / "before", "transformers")
    base, whole, before = (load_file(tmp_path / folder / "model.safetensors") for folder in ("out/base", "whole", "before"))
    factors = load_file(tmp_path / "out/adapter_model.safetensors")
    adapted = set()
    for key, up in factors.items():
        if key.endswith(".lora_B.weight"):
            module = key.removeprefix("base_model.model.").removesuffix(".lora_B.weight")
            down = factors[key.replace("lora_B", "lora_A")]
            adapted.add(f"{module}.weight")
            assert torch.equal(base[f"{module}.weight"], before[f"{module}.weight"])
            assert distance(base[f"{module}.weight"] + ALPHA / RANK * up @ down, whole[f"{module}.weight"]) < 1e-6
    assert len(factors) == 2 * len(adapted)
    assert all(torch.equal(base[key], whole[key]) for key in whole if key not in adapted)
    assert not torch.equal(base["logit_scale"], before["logit_scale"])
    inner = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"}
    inner |= {"mlp.fc1", "mlp.fc2"} if "parts" not in options else set()
    sides = ["text_model"] if "towers" in options else ["text_model", "vision_model"]
    assert adapted == {f"{side}.encoder.layers.{i}.{name}.weight" for side in sides for i in range(2) for name in inner}
    layer = "base_model.model.text_model.encoder.layers.1.self_attn"
    assert torch.equal(factors[f"{layer}.q_proj.lora_A.weight"], factors[f"{layer}.v_proj.lora_A.weight"])


def test_the_configuration_is_that_of_peft(tmp_path):
    start, model, names = trained(of_open_clip, tmp_path)
    bases = matrices(start, names)
    adapters = Adapters(RANK, ALPHA, bases, recovered(RANK, ALPHA, bases, matrices(model, names)))
    export_model(model, tmp_path / "out", "peft", adapters=adapters)
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"], config["bias"]) == ("LORA", 3, 6, "none")
    assert (config["lora_dropout"], config["use_rslora"], config["fan_in_fan_out"]) == (0.0, False, False)
    assert len(config["target_modules"]) == 6 * (2 + 2)
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "base"}
    assert {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"} <= {p.name for p in (tmp_path / "out/base").iterdir()}


def test_what_was_not_added_by_adapters_is_refused():
    random = torch.Generator().manual_seed(0)
    base = {"w": torch.randn(12, 9, generator=random)}
    up, down, third = torch.randn(12, 2, generator=random), torch.randn(2, 9, generator=random), torch.randn(12, 1, generator=random)
    wrong = {"w": base["w"] + up @ down + 1e-4 * third}
    with pytest.raises(UserError, match=r"added to w has a higher rank than model\.lora\.rank, which is 2"):
        recovered(2, 2.0, base, wrong)
    assert not fit({"w": (down, up)}, 2.0, base, wrong)
    assert not fit({}, 2.0, base, wrong)
    right = {"w": base["w"] + up @ down}
    assert fit({"w": (down, up)}, 2.0, base, right)
    assert fit(recovered(2, 2.0, base, right), 2.0, base, right)


@pytest.mark.parametrize("rank", [1, 9, 40])
def test_nothing_and_more_than_a_matrix_can_have(rank):
    base = {"w": torch.randn(12, 9, generator=torch.Generator().manual_seed(0))}
    down, up = recovered(rank, 4.0, base, base)["w"]
    assert (down.shape, up.shape) == ((rank, 9), (12, rank))
    assert (up @ down).abs().max() == 0
    other = {"w": base["w"] + torch.ones(12, 9)}
    assert fit(recovered(rank, 4.0, base, other), 4.0, base, other)


def test_the_same_adapters_are_the_same_bytes_and_no_one_elses_random_numbers(tmp_path):
    start, model, names = trained(of_open_clip, tmp_path)
    before, after = matrices(start, names), matrices(model, names)
    torch.manual_seed(7)
    one = recovered(RANK, ALPHA, before, after)
    state = torch.get_rng_state()
    other = recovered(RANK, ALPHA, before, after)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for name in names for a, b in zip(one[name], other[name], strict=True))


def test_a_model_without_its_run_has_no_adapters(tmp_path):
    with pytest.raises(UserError, match=r"export a run that was trained with model\.lora"):
        export_model(of_open_clip(tmp_path), tmp_path / "out", "peft")
    assert not (tmp_path / "out").exists()
