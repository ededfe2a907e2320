"""Sparing blocks: open_clip's own results and gradients, on no more tokens than are needed; compiled, the same."""

import copy
import shutil

import pytest
import torch
from open_clip_towers import TEXT, clip_and_config
from tiny_training import make_dataset, make_recipe, train

from wholegrain.data.preprocess import Preprocess
from wholegrain.text.trained import train_tokenizer
from wholegrain.towers.blocks import Packed, ResidualBlock
from wholegrain.towers.model import Model
from wholegrain.towers.sources.open_clip import build_open_clip_text, split_open_clip
from wholegrain.training.step import seed_everything

END = TEXT["vocab_size"] - 1
TEXTS = [[1, 5, 6, 7, END], [1, 5, 6, END], [1, 8, END], [1, 5, 6, 7, END], [1, 8, 9, 9, 9, 9, END], [2, END]]
PATCHES, TOKENS = frozenset({"patches"}), frozenset({"tokens"})


def rows(texts=TEXTS, width=0):
    length_N = torch.tensor([len(text) for text in texts])
    width = width or int(length_N.max())
    return torch.tensor([text + [0] * (width - len(text)) for text in texts]), length_N


def beginnings(texts):
    return {tuple(text[: end + 1]) for text in texts for end in range(len(text))}


def gradients(output, module):
    """Of a weighted sum, so that no two numbers of the output are alike."""
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
    module.zero_grad()
    (output * weights).sum().backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def towers(**config):
    """open_clip's model in float64, and ours made of a copy of it."""
    clip, settings = clip_and_config(**config)
    with torch.no_grad():
        for parameter in clip.parameters():  # initial zeros and ones would hide a part that is left out
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())) * 0.1)
    image, text, head = split_open_clip(copy.deepcopy(clip), settings, 0)
    return clip.double(), image.double(), text.double(), head.double()


def test_texts_and_their_gradients_are_open_clips():
    clip, _, text, head = towers()
    rows_NL, length_N = rows(width=77)
    theirs = clip.encode_text(rows_NL)
    ours = head.text(text(rows_NL[:, :7], length_N).pooled_NV)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    expected, found = gradients(theirs, clip.text), gradients(ours, text)
    assert len(found) > 20
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name.removeprefix("net.")], rtol=1e-9, atol=1e-11)


def test_tokens_do_not_depend_on_the_other_texts():
    _, _, text, _ = towers()
    rows_NL, length_N = rows()
    together = text(rows_NL, length_N, TOKENS)
    for place, one in enumerate(TEXTS):
        alone = text(*rows([one]), TOKENS)
        torch.testing.assert_close(together.tokens_NLV[place, : len(one)], alone.tokens_NLV[0])
        torch.testing.assert_close(together.pooled_NV[place], alone.pooled_NV[0])
        assert not together.tokens_NLV[place, len(one) :].any()


@pytest.mark.parametrize("vision", [{}, {"pool_type": "avg"}, {"ls_init_value": 0.1}], ids=["token", "avg", "layer-scale"])
def test_images_and_their_gradients_are_open_clips(vision):
    clip, image, _, head = towers(vision=vision)
    pixels = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    theirs, ours = clip.encode_image(pixels), head.image(image(pixels).pooled_BV)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    expected, found = gradients(theirs, clip.visual), gradients(ours, image)
    assert len(found) > 20
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name.removeprefix("net.")], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(image(pixels, PATCHES).pooled_BV, image(pixels).pooled_BV, rtol=1e-12, atol=1e-12)


def counted(tower, *inputs):
    """How many tokens each block's MLP sees."""
    seen = []
    blocks = [block for block in tower.modules() if isinstance(block, ResidualBlock)]
    hooks = [block.mlp.register_forward_hook(lambda _, x, y: seen.append(y[..., 0].numel())) for block in blocks]
    tower(*inputs)
    for hook in hooks:
        hook.remove()
    return seen


def test_no_token_is_computed_twice_or_for_nobody():
    _, image, text, _ = towers()
    distinct = len(beginnings(TEXTS))
    assert distinct < sum(map(len, TEXTS))
    assert counted(text, *rows()) == [distinct, len(TEXTS)]
    assert counted(text, *rows(), TOKENS) == [distinct, distinct]
    pixels = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    assert counted(image, pixels) == [3 * 17, 3]
    assert counted(image, pixels, PATCHES) == [3 * 17, 3 * 17]


@pytest.mark.parametrize("seed", range(5))
def test_packed_places_stand_for_distinct_beginnings(seed):
    draw = torch.Generator().manual_seed(seed)
    texts = [torch.randint(0, 3, (int(n),), generator=draw).tolist() for n in torch.randint(1, 6, (40,), generator=draw)]
    rows_NL, length_N = rows(texts)
    packed = Packed.of(rows_NL, length_N)
    said = {}
    for place, text in enumerate(texts):
        for end in range(len(text)):
            said.setdefault(int(packed.node_NL[place, end]), set()).add(tuple(text[: end + 1]))
    assert all(len(same) == 1 for same in said.values())
    assert len(said) == len(packed.cell_T) == len(beginnings(texts))
    assert [int(packed.node_NL.flatten()[cell]) for cell in packed.cell_T] == list(range(len(packed.cell_T)))
    assert packed.end_N.tolist() == [int(packed.node_NL[n, len(text) - 1]) for n, text in enumerate(texts)]


def test_a_padded_tower_keeps_open_clips_blocks():
    _, _, text, _ = towers()
    padded = build_open_clip_text(text.config(), text.pad_id, true_length=False).double()
    padded.load_state_dict(text.state_dict())
    assert not any(isinstance(module, ResidualBlock) for module in padded.modules())
    torch.testing.assert_close(padded(*rows()).pooled_NV, text(*rows()).pooled_NV, rtol=1e-12, atol=1e-12)


def tiny_clip(dataset):
    """A model of open_clip's kind for the tiny data."""
    texts = [caption.text for record in dataset.records("train") for caption in record.captions]
    tokenizer = train_tokenizer(texts, 100, 12)
    text = {**TEXT, "context_length": 12, "vocab_size": tokenizer.vocab_size, "pool_type": "eos", "eos_id": 3}
    seed_everything(0)
    clip, config = clip_and_config(vision={"image_size": 16}, text=text)
    image, reader, head = split_open_clip(clip, config, 0)
    return Model(image, reader, head, Preprocess(size=16), tokenizer)


@pytest.mark.slow
def test_compiled_training_is_the_same_and_resumes_bit_for_bit(tmp_path):
    dataset, losses = make_dataset(tmp_path / "data"), {}

    def run(name, compile, resume=False):
        torch._dynamo.reset()  # as in a fresh process
        settings = ("--optimiser.steps", "6", "--saving.every", "3", "--optimiser.compile", str(compile).lower())
        model = tiny_clip(dataset)

        def note(outcome):
            losses[name, outcome.step] = outcome.loss

        recipe = make_recipe("negclip", *settings)
        train(recipe, dataset, model, tmp_path / name, on_step=note, quiet=True, device="cpu", resume=resume)
        return model.state_dict()

    plain, whole = run("plain", False), run("whole", True)
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    *_, newest = sorted((tmp_path / "resumed" / "checkpoints").iterdir())
    shutil.rmtree(newest)
    resumed = run("resumed", True, resume=True)
    assert plain.keys() == whole.keys()
    for step in range(6):
        assert losses["whole", step] == pytest.approx(losses["plain", step], rel=1e-4)
    assert [losses["resumed", step] for step in (3, 4, 5)] == [losses["whole", step] for step in (3, 4, 5)]
    assert ("resumed", 2) not in losses
    for name, weights in whole.items():
        assert torch.equal(weights, resumed[name]), name
