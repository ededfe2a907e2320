"""A captioner: gates at 0, attention against loops in float64, the resampler's order, loss and search against brute force, decoders refused."""

import itertools
import json
import math
import shutil

import numpy as np
import pytest
import torch
from tiny_decoders import write_decoder

from wholegrain.downstream.captioning.captioner import Captioner, GatedCrossAttention
from wholegrain.downstream.captioning.decoder import Captions, load_decoder
from wholegrain.downstream.captioning.examples import CaptionExample
from wholegrain.downstream.captioning.generate import continuations
from wholegrain.downstream.captioning.resampler import PerceiverResampler
from wholegrain.downstream.captioning.settings import CaptionData, CaptionSettings, Generation, HeadSettings
from wholegrain.downstream.captioning.task import CaptionTask, token_loss
from wholegrain.errors import UserError

SMALL = HeadSettings(latents=3, width=12, layers=2, heads=2, head_width=5, expansion=2, gate_speed=2.0)


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def decoder(request, tmp_path_factory):
    return load_decoder(write_decoder(tmp_path_factory.mktemp(request.param), request.param), 8)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return load_decoder(write_decoder(tmp_path_factory.mktemp("gpt2")), 8)


def captioner(decoder, settings=SMALL, gate=0.0):
    torch.manual_seed(1)
    made = Captioner(7, decoder.width, len(decoder.layers), settings)
    for part in made.cross:
        torch.nn.init.constant_(part.attend_gate, gate)
        torch.nn.init.constant_(part.feed_gate, gate)
    return made.eval()


def pictures(count=3, patches=4, seed=0):
    return torch.randn(count, patches, 7, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_gates_at_zero_leave_the_decoder_as_it_is(decoder):
    tokens = torch.tensor([[0, 2, 6, 3], [0, 5, 6, 2], [0, 3, 3, 3]])
    alone = decoder.logits(tokens)
    closed, opened = captioner(decoder), captioner(decoder, gate=1.0)
    assert closed.gates == [0.0] * 4
    with closed.shown(decoder, pictures()):
        assert torch.equal(decoder.logits(tokens), alone)
    with opened.shown(decoder, pictures()):
        looking = decoder.logits(tokens)
    with opened.shown(decoder, pictures(seed=1)):
        elsewhere = decoder.logits(tokens)
    assert (looking - alone).abs().amax((1, 2)).min() > 0.01
    assert (looking - elsewhere).abs().amax((1, 2)).min() > 0.01
    assert torch.equal(decoder.logits(tokens), alone)  # the hooks are gone


def test_what_is_learned_and_what_is_not(decoder):
    made = captioner(decoder, gate=0.5)
    with made.shown(decoder, pictures()):
        decoder.logits(torch.tensor([[0, 2]] * 3)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in made.parameters())
    assert all(parameter.grad is None for parameter in decoder.model.parameters())


@torch.no_grad()
def test_the_decoder_stays_causal_and_rows_stay_apart(decoder):
    made, tokens = captioner(decoder, gate=1.0), torch.tensor([[0, 2, 6, 3], [0, 5, 6, 2]])
    other = tokens.clone()
    other[:, 3] = 4
    with made.shown(decoder, pictures(2)):
        found, later = decoder.logits(tokens), decoder.logits(other)
    assert torch.allclose(found[:, :3], later[:, :3], atol=1e-6)
    with made.shown(decoder, pictures(2)[1:]):
        assert torch.allclose(decoder.logits(tokens[1:]), found[1:], atol=1e-5)


def test_every(gpt2):
    assert captioner(gpt2, HeadSettings(every=2)).places == (0,)
    assert captioner(gpt2).places == (0, 1)


@torch.no_grad()
def test_gated_cross_attention_against_loops():
    torch.manual_seed(0)
    cross = GatedCrossAttention(6, SMALL).double()
    cross.attend_gate.fill_(0.7)
    cross.feed_gate.fill_(-0.4)
    y, seen = torch.randn(2, 3, 6).double(), torch.randn(2, 4, 12).double()
    found = cross(y, cross.attend.keys_values(seen))

    def normed(row):
        return (row - row.mean()) / np.sqrt(row.var() + 1e-5)

    weights = {name: value.numpy() for name, value in cross.named_parameters()}
    for b, place in itertools.product(range(2), range(3)):
        row, inner = y[b, place].numpy(), SMALL.heads * SMALL.head_width
        query = weights["attend.query.weight"] @ normed(row)
        both = [weights["attend.key_value.weight"] @ one for one in seen[b].numpy()]
        taken = np.zeros(inner)
        for head in range(SMALL.heads):
            part = slice(head * SMALL.head_width, (head + 1) * SMALL.head_width)
            scores = np.array([query[part] @ one[:inner][part] / math.sqrt(SMALL.head_width) for one in both])
            share = np.exp(scores) / np.exp(scores).sum()
            taken[part] = sum(share[k] * both[k][inner:][part] for k in range(4))
        row = row + math.tanh(2 * 0.7) * (weights["attend.out.weight"] @ taken)
        wide = np.maximum(weights["feed.1.weight"] @ normed(row), 0) ** 2
        row = row + math.tanh(2 * -0.4) * (weights["feed.3.weight"] @ wide)
        assert np.allclose(found[b, place].numpy(), row, atol=1e-10)


@torch.no_grad()
def test_the_resampler_takes_any_number_of_patches_in_any_order():
    torch.manual_seed(0)
    made = PerceiverResampler(7, SMALL).double()
    seen = pictures(2, 9).double()
    found = made(seen)
    assert found.shape == (2, 3, 12)
    assert made(pictures(2, 1).double()).shape == (2, 3, 12)
    assert torch.allclose(made(seen[:, torch.randperm(9)]), found, atol=1e-12)
    assert torch.allclose(made(seen[1:]), found[1:], atol=1e-12)
    changed = seen.clone()
    changed[0, 8] += 1
    assert (made(changed) - found).abs().amax((1, 2)).tolist() == pytest.approx([(made(changed) - found)[0].abs().max().item(), 0])
    assert (made(changed)[0] - found[0]).abs().max() > 1e-3


def test_captions_as_rows(gpt2):
    rows = gpt2.captions(["red beside blue", "red"], 8)
    assert rows.tokens_NL.tolist() == [[0, 2, 6, 4, 0], [0, 2, 0, 1, 1]]
    assert rows.length_N.tolist() == [5, 3]
    assert gpt2.captions(["red beside blue"], 2).tokens_NL.tolist() == [[0, 2, 6]]  # cut: no end mark
    assert gpt2.texts(rows.tokens_NL) == ["red beside blue", "red"]


def test_loss_against_loops_and_whatever_the_padding():
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 5)
    captions = Captions(torch.tensor([[0, 2, 3, 4, 0], [0, 2, 0, 1, 1]]), torch.tensor([5, 3]))
    total, count = token_loss(logits, captions)
    expected = -sum(
        float(logits[b, place].double().log_softmax(-1)[captions.tokens_NL[b, place + 1]])
        for b, length in enumerate((5, 3))
        for place in range(length - 1)
    )
    assert count == 6
    assert float(total) == pytest.approx(expected, rel=1e-6)
    logits[1, 2:] = 100 * torch.randn(2, 5)
    assert float(token_loss(logits, captions)[0]) == pytest.approx(expected, rel=1e-6)


def test_targets_are_drawn_from_a_picture_s_own_captions(gpt2):
    task = CaptionTask(CaptionSettings(data=CaptionData(max_tokens=8)), gpt2)
    examples = [CaptionExample("a", ("red", "green")), CaptionExample("b", ("blue",))] * 20
    found = gpt2.texts(task.targets(examples, [np.random.default_rng(n) for n in range(40)]).captions.tokens_NL)
    assert set(found[::2]) == {"red", "green"}
    assert set(found[1::2]) == {"blue"}


def every_caption(vocabulary, most):
    """All rows of at most ``most`` tokens that end with the end mark (0), or are as long as can be."""
    for length in range(1, most + 1):
        for body in itertools.product(range(1, vocabulary), repeat=length - 1):
            yield (*body, 0)
    yield from itertools.product(range(1, vocabulary), repeat=most)


@torch.no_grad()
@pytest.mark.parametrize("penalty", [1.0, 0.0])
def test_wide_beams_find_the_best_of_all(gpt2, penalty):
    made, most = captioner(gpt2, gate=1.0), 3
    rows = list(every_caption(7, most))
    with made.shown(gpt2, pictures(2)):
        wide = continuations(gpt2, 2, Generation(beams=60, length_penalty=penalty), most)
        greedy = continuations(gpt2, 2, Generation(beams=1), most)
    for b in range(2):
        with made.shown(gpt2, pictures(2)[b : b + 1]):
            scored = [(value / len(row) ** penalty, row) for value, row in zip(log_probabilities(gpt2, rows), rows, strict=True)]
            said = []
            while len(said) < most and (not said or said[-1]):
                said.append(int(gpt2.logits(torch.tensor([[0, *said]]))[0, -1].argmax()))
        best = max(scored)[1]
        assert tuple(wide[b].tolist()[: len(best)]) == best
        assert greedy[b].tolist()[: len(said)] == said


def log_probabilities(decoder, rows):
    """All rows at once: with one picture they all look at the same."""
    padded = torch.tensor([[0, *row, *[1] * (3 - len(row))] for row in rows])
    found = decoder.logits(padded).double().log_softmax(-1).tolist()
    return [sum(places[n][token] for n, token in enumerate(row)) for places, row in zip(found, rows, strict=True)]


@torch.no_grad()
def test_search_is_the_same_alone_and_in_a_batch(decoder):
    made = captioner(decoder, gate=1.0)
    with made.shown(decoder, pictures(4)):
        together = continuations(decoder, 4, Generation(), 6)
        assert torch.equal(continuations(decoder, 4, Generation(), 6), together)
    for b in range(4):
        with made.shown(decoder, pictures(4)[b : b + 1]):
            alone = continuations(decoder, 1, Generation(), 6)[0].tolist()
        assert decoder.texts(torch.tensor([alone])) == decoder.texts(together[b : b + 1])


def damaged(folder, name, what):
    path = folder / name
    if what == "missing":
        path.unlink()
    elif what == "cut":
        path.write_bytes(path.read_bytes()[:200])
    else:
        path.write_text(json.dumps({**json.loads(path.read_text()), **what}))


@pytest.mark.parametrize(
    ("name", "what", "said"),
    [
        ("config.json", "missing", "no config.json"),
        ("config.json", "cut", "cannot be read as a causal language model"),
        ("config.json", {"n_layer": 3}, "lacks weights"),
        ("config.json", {"model_type": "no such model"}, "cannot be read"),
        ("model.safetensors", "missing", "cannot be read"),
        ("model.safetensors", "cut", "cannot be read"),
        ("tokenizer_config.json", {"eos_token": None, "bos_token": None}, "no end mark"),
    ],
)
def test_a_bad_decoder_is_refused_in_a_sentence(gpt2, tmp_path, name, what, said):
    folder = tmp_path / "decoder"
    shutil.copytree(gpt2.model.config.name_or_path, folder)
    damaged(folder, name, what)
    with pytest.raises(UserError, match=said) as refused:
        load_decoder(folder, 8)
    assert "\n" not in str(refused.value)


def test_what_is_no_causal_decoder_is_refused(tmp_path):
    from tiny_decoders import tokenizer
    from transformers import BertConfig, BertForMaskedLM

    own = tokenizer()
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 12}
    BertForMaskedLM(BertConfig(vocab_size=len(own), **sizes)).save_pretrained(tmp_path / "bert")
    own.save_pretrained(tmp_path / "bert")
    with pytest.raises(UserError, match="is not causal"):
        load_decoder(tmp_path / "bert", 8)
    short = write_decoder(tmp_path / "short", context=5)
    with pytest.raises(UserError, match=r"lower data.max_tokens to 4 \(now 8\)"):
        load_decoder(short, 8)
    shutil.rmtree(tmp_path / "bert")
    other = write_decoder(tmp_path / "other")
    tokenizer([*"abcdefghijkl"]).save_pretrained(other)
    with pytest.raises(UserError, match="do not belong together"):
        load_decoder(other, 8)
