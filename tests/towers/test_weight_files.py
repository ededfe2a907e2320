"""A file of weights behind the name of an architecture, OpenAI's own among them; nothing in it is run."""

import pickle
import zipfile

import open_clip
import pytest
import torch
from open_clip.model import CLIP
from safetensors.torch import save_file
from tiny_models import pixels, randomised

from wholegrain.errors import UserError
from wholegrain.towers import load_model
from wholegrain.towers.sources.torchscript import is_torchscript, read_torchscript

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


class Openai(torch.nn.Module):
    """The layout of OpenAI's archives: half precision, three numbers beside the weights, a mask that is no weight."""

    def __init__(self, clip):
        super().__init__()
        self.visual, self.transformer, self.ln_final = clip.visual, clip.transformer, clip.ln_final
        self.token_embedding, self.positional_embedding = clip.token_embedding, clip.positional_embedding
        self.text_projection, self.logit_scale = clip.text_projection, clip.logit_scale
        for name, number in (("input_resolution", 32), ("context_length", 77), ("vocab_size", 49408)):
            self.register_buffer(name, torch.tensor(number))
        self.register_buffer("attn_mask", torch.zeros(77, 77))

    def forward(self, x):
        return x + self.logit_scale


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny", TINY)
    clip = randomised(CLIP(**TINY, quick_gelu=True), std=0.2)
    with torch.no_grad():
        for parameter in clip.parameters():
            parameter.copy_(parameter.half().float())
    return clip


def assert_is(model, clip):
    images = pixels()
    tokens = model.tokenizer.encode(["a cat", "two cats on a mat"])
    with torch.no_grad():
        image = clip.encode_image(model.preprocess.normalise(images))
        text = clip.encode_text(open_clip.get_tokenizer("ViT-B-32")(["a cat", "two cats on a mat"]))
        torch.testing.assert_close(model.encode_images(images).pooled_BD, image, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.encode_texts(tokens.tokens_NL, tokens.length_N).pooled_ND, text, rtol=1e-4, atol=1e-5)


def test_openais_archive_gets_its_own_activation(tiny, tmp_path):
    path = tmp_path / "ViT.pt"
    torch.jit.save(torch.jit.trace(Openai(tiny).half(), torch.ones(1).half()), str(path))
    tiny.float()
    assert is_torchscript(path)
    assert_is(load_model(f"Tiny:{path}"), tiny)
    other = load_model(f"Tiny:{path},context=248")
    assert other.tokenizer.context_length == 248


def test_the_same_weights_as_a_plain_file(tiny, tmp_path):
    state = {key: value.contiguous() for key, value in Openai(tiny).state_dict().items()}
    save_file(state, tmp_path / "openai.safetensors")
    assert_is(load_model(f"Tiny:{tmp_path / 'openai.safetensors'}"), tiny)
    torch.save({"state_dict": {f"module.{k}": v for k, v in tiny.state_dict().items()}, "epoch": 3}, tmp_path / "epoch_3.pt")
    plain = load_model(f"Tiny:{tmp_path / 'epoch_3.pt'}")  # nothing says quick GELU: the name decides
    with pytest.raises(AssertionError):
        assert_is(plain, tiny)
    same = CLIP(**TINY)
    same.load_state_dict(tiny.state_dict())
    assert_is(plain, same.eval())


def test_the_activation_of_a_tag(tiny, tmp_path, monkeypatch):
    save_file({k: v.contiguous() for k, v in tiny.state_dict().items()}, tmp_path / "w.safetensors")
    tag = {"url": (tmp_path / "w.safetensors").as_uri(), "quick_gelu": True, "mean": (0.1,) * 3}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "Tiny", {"own": tag})
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda cfg, cache_dir=None: str(tmp_path / "w.safetensors"))
    model = load_model("Tiny:own")
    assert model.preprocess.mean == (0.1,) * 3
    assert_is(model, tiny)


def test_weights_of_another_size_are_named(tiny, tmp_path):
    state = tiny.state_dict()
    state["ln_final.weight"] = torch.ones(99)
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="ln_final"):
        load_model(f"Tiny:{tmp_path / 'w.safetensors'}")


def test_nothing_in_an_archive_is_run(tiny, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("m/constants.pkl", b"")
        archive.writestr("m/data.pkl", pickle.dumps(Trap(), protocol=2))
    with pytest.raises(UserError, match="cannot be read"):
        read_torchscript(tmp_path / "w.pt")
    with pytest.raises(UserError, match="cannot be read"):
        load_model(f"Tiny:{tmp_path / 'w.pt'}")
    assert not (tmp_path / "sprung").exists()
