"""Models out: what a format can hold comes back the same, and what it cannot is refused by name."""

import json
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from house_models import small, with_timm
from open_clip.model import CustomTextCLIP
from PIL import Image
from read_models import of_open_clip, of_transformers
from tiny_models import TEXTS, TOKENIZER, pixels, randomised, save_transformers, transformers_clip
from torch.nn.functional import cosine_similarity

from wholegrain.data.preprocess import Preprocess
from wholegrain.errors import MachineError, UserError
from wholegrain.text.tokenizer import ClipTokenizer
from wholegrain.towers import HeadConfig, convert_head, load_model
from wholegrain.towers.export import export as towers_export
from wholegrain.towers.export.approximation import _of_branches, approximated
from wholegrain.towers.export.comparison import distance
from wholegrain.towers.export.export import export_model
from wholegrain.towers.heads.base import PlainHead, Widths
from wholegrain.towers.model import Model
from wholegrain.towers.sources.hf_text import HfTextTower
from wholegrain.towers.sources.open_clip import split_open_clip
from wholegrain.towers.sources.timm import timm_tower

transformers = pytest.importorskip("transformers")
CLIP_TEXTS = ["a cat", "two black cats on a mat, asleep", "Dogs!"]


def with_training_parts(tmp_path):
    model = of_open_clip(tmp_path)
    convert_head(model, HeadConfig("mgca", prototypes=5))
    return randomised(model, std=0.2)


def of_a_timm_network(tmp_path):
    """A house tower of timm beside open_clip's reader."""
    base = of_open_clip(tmp_path)
    torch.manual_seed(0)
    image = timm_tower("test_efficientnet", 64)
    head = PlainHead(Widths(image.width, base.text_tower.width, 16))
    return Model(image, base.text_tower, head, Preprocess(64, "squash"), base.tokenizer)


HELD = {
    "open_clip": (of_open_clip, ("open_clip", "transformers")),
    "longer": (lambda t: of_open_clip(t, "{},context=120"), ("open_clip", "transformers")),
    "larger": (lambda t: of_open_clip(t, "{},image_size=48"), ("open_clip", "transformers")),
    "padded": (lambda t: of_open_clip(t, no_causal_mask=True, pool_type="last"), ("open_clip",)),
    "clip": (of_transformers, ("open_clip", "transformers")),
    "siglip": (lambda t: of_transformers(t, "siglip"), ("transformers",)),
    "training parts": (with_training_parts, ("open_clip", "transformers")),
    "timm": (of_a_timm_network, ("open_clip",)),
}


@pytest.mark.parametrize(("name", "to"), [(name, to) for name, (_, formats) in HELD.items() for to in formats])
def test_there_and_back(name, to, tmp_path):
    model = HELD[name][0](tmp_path).eval()
    distances = export_model(model, tmp_path / "out", to)
    assert {"image features", "text features", "logit scale"} <= set(distances)
    assert max(distances.values()) <= 1e-5
    again = load_model(tmp_path / "out")
    assert (again.preprocess, again.text_tower.true_length) == (model.preprocess, model.text_tower.true_length)
    texts = TEXTS if name in ("clip", "siglip") else CLIP_TEXTS
    tokens, own = again.tokenizer.encode(texts), model.tokenizer.encode(texts)
    assert torch.equal(tokens.length_N, own.length_N)
    images = pixels(model.preprocess.size)
    with torch.no_grad():
        for given, wanted in zip(
            again(images, tokens.tokens_NL, tokens.length_N)[:2], model(images, own.tokens_NL, own.length_N)[:2], strict=True
        ):
            far = [
                distance(a, b)
                for a, b in zip(vars(given).values(), vars(wanted).values(), strict=True)
                if isinstance(b, torch.Tensor)
            ]
            assert max(far) <= 1e-5


def test_open_clip_reads_the_folder_with_its_own_tokeniser_and_transform(tmp_path):
    for name, make in (("clip", of_transformers), ("open", of_open_clip)):
        model = make(tmp_path)
        export_model(model, tmp_path / name / "out", "open_clip")
        theirs, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / name / 'out'}")
        tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path / name / 'out'}")
        texts = TEXTS if name == "clip" else CLIP_TEXTS
        picture = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
        own = model.tokenizer.encode(texts)
        with torch.no_grad():
            seen = model.encode_images(torch.from_numpy(model.preprocess.image(picture))[None]).pooled_BD
            assert distance(theirs.eval().encode_image(transform(Image.fromarray(picture))[None]), seen) < 1e-5
            assert (
                distance(theirs.encode_text(tokenizer(texts)), model.encode_texts(own.tokens_NL, own.length_N).pooled_ND) < 1e-5
            )


def test_transformers_reads_pictures_and_texts_as_we_do(tmp_path):
    model = of_open_clip(tmp_path)
    export_model(model, tmp_path / "out", "transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    own = ClipTokenizer().encode([*CLIP_TEXTS, "it's 3 o'clock   in Zürich…"])
    theirs = tokenizer([*CLIP_TEXTS, "it's 3 o'clock   in Zürich…"], padding=True, return_tensors="pt")
    for row, mask, ours, length in zip(theirs.input_ids, theirs.attention_mask, own.tokens_NL, own.length_N, strict=True):
        assert row[mask.bool()].tolist() == ours[:length].tolist()
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")
    seen = processor(images=Image.fromarray(picture), return_tensors="pt").pixel_values
    ours = model.preprocess.normalise(torch.from_numpy(model.preprocess.image(picture))[None])
    torch.testing.assert_close(seen, ours, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_siglip_as_open_clip_configures_it_goes_to_both(tmp_path):
    vision = {"image_size": 224, "timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map", "timm_proj": "none"}
    text = {"context_length": 16, "vocab_size": 50, "width": 768, "heads": 12, "layers": 1, "no_causal_mask": True}
    text |= {"proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}}
    config = {"embed_dim": 768, "vision_cfg": vision, "text_cfg": text}
    torch.manual_seed(0)
    clip = CustomTextCLIP(**json.loads(json.dumps(config)), init_logit_bias=-9.0).eval()
    image, read, head = split_open_clip(clip, config, 0)
    tokenizer = of_transformers(tmp_path).tokenizer.with_context(16)
    model = Model(image, read, head, Preprocess(224, "squash"), tokenizer, log_scale=4.7, bias=-9.0).eval()
    for to in ("open_clip", "transformers"):
        distances = export_model(model, tmp_path / to, to)
        assert set(distances) == {"image features", "text features", "logit scale", "logit bias"}
    assert json.loads((tmp_path / "open_clip/open_clip_config.json").read_text())["model_cfg"]["init_logit_bias"] == -9.0
    assert json.loads((tmp_path / "transformers/config.json").read_text())["vision_config"]["hidden_act"] == "gelu"


def with_bias(tmp_path):
    model = of_open_clip(tmp_path)
    model.add_bias()
    return model


def a_pair(tmp_path):
    """A network of timm beside an encoder of Hugging Face, as ``pair.toml`` makes it."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    config = transformers.BertConfig(vocab_size=TOKENIZER.vocab_size, max_position_embeddings=20, **sizes)
    text = HfTextTower(transformers.BertModel(config, add_pooling_layer=False), "mean", 12)
    image = timm_tower("test_efficientnet", 64)
    return Model(image, text, PlainHead(Widths(image.width, text.width, 8)), Preprocess(64, "squash"), TOKENIZER).eval()


OUT_OF_PAIRS = r"this (text tower|one) \(bert of Hugging Face\); export --to onnx, or --to wholegrain"
REFUSED = [
    (a_pair, "open_clip", OUT_OF_PAIRS),
    (a_pair, "transformers", OUT_OF_PAIRS),
    (lambda t: convert_head(of_open_clip(t), HeadConfig("branches", branches=2)), "open_clip", "its 2 branches"),
    (lambda t: convert_head(of_open_clip(t), HeadConfig("branches", branches=2, source="mlp")), "transformers", "its 2 branches"),
    (lambda t: convert_head(of_open_clip(t), "sparc"), "open_clip", "SPARC adapters"),
    (lambda t: convert_head(of_open_clip(t), HeadConfig("fusion", layers=1)), "transformers", "fusion head"),
    (lambda t: convert_head(of_open_clip(t), "filip"), "open_clip", "joint score of its filip head"),
    (lambda t: convert_head(of_open_clip(t), "grain"), "transformers", "joint score of its grain head"),
    (lambda t: convert_head(of_open_clip(t), "grain"), "onnx", "noun phrases"),
    (lambda t: convert_head(of_open_clip(t), HeadConfig("llip", mixtures=2)), "open_clip", "mixture tokens"),
    (with_bias, "transformers", "a bias"),
    (lambda t: of_open_clip(t, no_causal_mask=True, pool_type="last"), "transformers", "without a causal mask"),
    (lambda t: small(), "open_clip", "text tower"),
    (lambda t: small(), "transformers", "text tower"),
    (lambda t: with_timm("test_vit"), "open_clip", "text tower"),
    (of_a_timm_network, "transformers", "TimmImageTower"),
    (lambda t: of_transformers(t, "siglip"), "open_clip", "vit_base_patch16_siglip"),
    (of_open_clip, "gguf", "no format"),
]


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_what_a_format_cannot_hold_is_named(case, tmp_path):
    make, to, words = REFUSED[case]
    with pytest.raises(UserError, match=words):
        export_model(make(tmp_path), tmp_path / "out", to)
    assert not (tmp_path / "out").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_our_own_format_holds_everything(tmp_path):
    model = convert_head(of_open_clip(tmp_path), HeadConfig("branches", branches=3))
    assert max(export_model(model, tmp_path / "out", "wholegrain").values()) == 0
    assert load_model(tmp_path / "out").head.kind == "branches"


def test_a_model_that_comes_back_different_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(towers_export, "open_clip_distances", lambda model, folder: {"text features": 3e-5})
    with pytest.raises(MachineError, match="other text features"):
        export_model(of_open_clip(tmp_path), tmp_path / "out", "open_clip")
    monkeypatch.setattr(towers_export, "open_clip_distances", lambda model, folder: {"text features": float("nan")})
    with pytest.raises(MachineError, match="other text features"):
        export_model(of_open_clip(tmp_path), tmp_path / "out", "open_clip")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()
    with pytest.raises(UserError, match="there already"):
        export_model(of_open_clip(tmp_path), tmp_path / "out", "open_clip")


def branched(tmp_path, **settings):
    """Branches that were moved apart, as training does."""
    model = convert_head(of_open_clip(tmp_path), HeadConfig("branches", **{"branches": 3, "noise": 0.5, **settings}))
    return model


def test_one_branch_of_streams_is_exact_as_a_plain_clip(tmp_path):
    model = branched(tmp_path, source="mlp")
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight_HVF"):
                parameter.add_(torch.randn(parameter.shape, generator=random) * 0.1)
    images = pixels()
    nearest = approximated(model, images)
    with torch.no_grad():
        exact, plain = model.encode_images(images), nearest.model.encode_images(images).pooled_BD
    branch = int(nearest.description.split()[1]) - 1
    assert distance(plain, exact.branches_BHD[:, branch]) < 1e-5
    assert nearest.model.head.kind == "plain"
    assert 0 < nearest.agreement < 1
    assert max(export_model(nearest.model, tmp_path / "out", "transformers").values()) <= 1e-5


def test_branches_that_are_still_one_are_exact_as_a_plain_clip(tmp_path):
    base, images = of_open_clip(tmp_path), pixels()
    nearest = approximated(branched(tmp_path, noise=0.0), images)
    with torch.no_grad():
        assert distance(nearest.model.encode_images(images).pooled_BD, base.encode_images(images).pooled_BD) < 1e-5
    assert nearest.agreement > 1 - 1e-5
    far = approximated(branched(tmp_path), images)
    assert far.agreement < nearest.agreement
    export_model(far.model, tmp_path / "out", "open_clip")


def test_the_token_chosen_is_the_nearest(tmp_path):
    model, images = branched(tmp_path), pixels()
    with torch.no_grad():
        model.image_tower.branches.tokens_HV[1:].mul_(-3)  # branches 2 and 3 agree, the first does not
        model.image_tower.branches.tokens_HV[2] = model.image_tower.branches.tokens_HV[1]
    nearest = approximated(model, images)
    assert "branch 1" not in nearest.description
    made = _of_branches(model, 3)
    with torch.no_grad():
        own = model.encode_images(images).pooled_BD
        near = {name: cosine_similarity(own, make().eval().encode_images(images).pooled_BD).mean() for name, make in made.items()}
    assert len(near) == 4
    assert max(near, key=near.get) == nearest.description


@pytest.mark.parametrize(("kind", "settings"), [("filip", {}), ("grain", {}), ("fusion", {"layers": 1})])
def test_a_joint_score_left_out_leaves_the_vectors(kind, settings, tmp_path):
    model = convert_head(of_open_clip(tmp_path), HeadConfig(kind, **settings))
    nearest = approximated(model, pixels())
    assert nearest.agreement == pytest.approx(1, abs=1e-5)
    assert kind in nearest.description
    with pytest.raises(UserError, match="another model"):
        approximated(convert_head(of_open_clip(tmp_path), "sparc"), pixels())


def test_towers_with_other_activations_cannot_be_one_model_of_open_clip(tmp_path):
    mixed = transformers_clip(vision_config={"hidden_act": "gelu"})
    model = load_model(save_transformers(mixed, tmp_path / "m"))
    with pytest.raises(UserError, match="quick GELU"):
        export_model(model, tmp_path / "out", "open_clip")
    export_model(model, tmp_path / "out", "transformers")
    assert replace(model.preprocess) == load_model(tmp_path / "out").preprocess


@pytest.mark.parametrize("to", ["open_clip", "wholegrain", "transformers"])
def test_the_same_model_is_exported_as_the_same_bytes(to, tmp_path):
    model = of_transformers(tmp_path) if to == "transformers" else of_open_clip(tmp_path)
    folders = []
    for name in ("a", "b"):
        export_model(model, tmp_path / name, to)
        folders.append({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()})
    assert folders[0] == folders[1]
