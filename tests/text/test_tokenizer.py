"""Tokenisers: rows, lengths, cuts, word spans, saving."""

import json
import random
import time
from itertools import pairwise

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Engine
from tokenizers import models, pre_tokenizers

from wholegrain.errors import UserError
from wholegrain.text.tokenizer import ClipTokenizer, FileTokenizer, load_tokenizer
from wholegrain.text.trained import train_tokenizer

CAPTIONS = ["a red cup on the table", "two black cats", "A man's hat, and 25 birds!", "the table and the cup"]
CLIP = ClipTokenizer()
WORDS = train_tokenizer(CAPTIONS, 100, 16)
PAIRS = train_tokenizer([f"{chr(97 + i % 26)}{chr(97 + i // 26)}word{i} walks" for i in range(400)], 320, 24)
TEXT = st.text(st.sampled_from("abcXYZ é,.!'-0189 \t雪😀_"), max_size=40)


def test_clip_rows_are_those_of_open_clip_but_trimmed():
    texts = [*CAPTIONS, "", "word " * 200, "&amp; naïve café"]
    reference = open_clip.get_tokenizer("ViT-B-32")(texts)
    tokens = CLIP.encode(texts)
    assert torch.equal(tokens.tokens_NL, reference)  # one text fills the context
    assert tokens.cut_N.tolist() == [False] * 5 + [True, False]
    short = CLIP.encode(CAPTIONS)
    assert short.tokens_NL.shape[1] == int(short.length_N.max()) < 20
    assert torch.equal(short.tokens_NL, reference[: len(CAPTIONS), : short.tokens_NL.shape[1]])
    assert torch.equal(CLIP.encode(texts).tokens_NL, reference)  # again, from the cache


@pytest.mark.parametrize("tokenizer", [CLIP, WORDS, PAIRS], ids=["clip", "words", "pairs"])
def test_padding_and_length_agree(tokenizer):
    tokens = tokenizer.encode(CAPTIONS)
    alone = [tokenizer.encode([text]).tokens_NL[0] for text in CAPTIONS]
    for row, length, single in zip(tokens.tokens_NL, tokens.length_N.tolist(), alone, strict=True):
        assert torch.equal(row[:length], single)
        assert (row[length:] == tokenizer.pad_id).all()
    assert tokenizer.encode([]).tokens_NL.shape[0] == 0


@pytest.mark.parametrize("tokenizer", [CLIP, WORDS, PAIRS], ids=["clip", "words", "pairs"])
@given(text=TEXT)
@settings(max_examples=60, deadline=None)
def test_word_spans_tile_the_text_and_the_row(tokenizer, text):
    spans = tokenizer.word_spans(text)
    row = tokenizer.encode([text]).tokens_NL[0].tolist()
    assert all(0 <= a < b <= len(text) and 0 < s < e < len(row) for a, b, s, e in spans)
    for (_, b, _, e), (a, _, s, _) in pairwise(spans):
        assert b <= a
        assert e <= s
    if not tokenizer.encode([text]).cut_N[0] and "�" not in text:
        inside = [text[i] for i in range(len(text)) if not any(a <= i < b for a, b, _, _ in spans)]
        assert "".join(inside).strip() == ""
        assert [p for _, _, s, e in spans for p in range(s, e)] == list(range(1, len(row) - 1))


@pytest.mark.parametrize("tokenizer", [CLIP, WORDS], ids=["clip", "words"])
def test_a_words_tokens_are_those_of_the_word_alone(tokenizer):
    text = "The  Table and\ta RED cup"
    row = tokenizer.encode([text]).tokens_NL[0]
    spans = tokenizer.word_spans(text)
    assert [text[a:b] for a, b, _, _ in spans] == text.split()
    for a, b, s, e in spans:
        assert torch.equal(row[s:e], tokenizer.encode([text[a:b]]).tokens_NL[0, 1:-1])


def test_clip_spans_skip_what_cleaning_rewrote():
    text = "red &amp; blue cups"
    spans = CLIP.word_spans(text)
    row = CLIP.encode([text]).tokens_NL[0]
    for a, b, s, e in spans:
        if text[a:b].isalpha():
            assert torch.equal(row[s:e], CLIP.encode([text[a:b]]).tokens_NL[0, 1:-1])
    words = {text[a:b] for a, b, _, _ in spans}
    assert {"red", "blue", "cups"} <= words
    assert "amp" not in words


@pytest.mark.parametrize("tokenizer", [CLIP, WORDS], ids=["clip", "words"])
def test_spans_end_where_a_long_text_is_cut(tokenizer):
    text = "table " * 100
    spans = tokenizer.word_spans(text)
    assert spans[-1][3] == tokenizer.context_length - 1
    assert tokenizer.encode([text]).tokens_NL.shape[1] == tokenizer.context_length


def test_trained_word_level_ids_follow_frequency_and_unknown_words_are_marked():
    tokenizer = train_tokenizer(["b a a", "a c"], 10, 8)
    assert tokenizer.encode(["A b zebra"]).tokens_NL.tolist() == [[2, 4, 5, 1, 3]]
    assert tokenizer.vocab_size == 7


def test_training_is_deterministic_and_ignores_order(tmp_path):
    texts = [f"{chr(97 + i % 26)}{chr(97 + i // 26)}word{i} walks" for i in range(400)]
    train_tokenizer(texts[::-1], 320, 24).save(tmp_path / "b")
    PAIRS.save(tmp_path / "a")
    assert (tmp_path / "a/tokenizer.json").read_text() == (tmp_path / "b/tokenizer.json").read_text()
    assert PAIRS.vocab_size <= 320


def test_byte_pairs_know_every_text_and_merge_frequent_words():
    row = PAIRS.encode(["walks 雪"]).tokens_NL[0].tolist()
    assert 1 not in row
    assert len(PAIRS.word_spans("walks")) == 1
    start, end = PAIRS.word_spans("walks")[0][2:]
    assert end - start == 1


def test_too_small_a_vocabulary_and_no_words_are_refused():
    with pytest.raises(UserError, match="too small"):
        train_tokenizer([f"w{i}" for i in range(300)], 100, 8)
    with pytest.raises(UserError, match="no word"):
        train_tokenizer(["", " "], 100, 8)
    with pytest.raises(UserError, match="no room"):
        train_tokenizer(["a"], 100, 1)


@pytest.mark.parametrize("tokenizer", [ClipTokenizer(20, "canonicalize"), WORDS, PAIRS], ids=["clip", "words", "pairs"])
def test_save_and_load(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    texts = [*CAPTIONS, "many " * 50]
    for name in ("tokens_NL", "length_N", "cut_N"):
        assert torch.equal(getattr(again.encode(texts), name), getattr(tokenizer.encode(texts), name))
    assert again.word_spans(CAPTIONS[2]) == tokenizer.word_spans(CAPTIONS[2])
    assert (again.vocab_size, again.pad_id, again.context_length) == (
        tokenizer.vocab_size,
        tokenizer.pad_id,
        tokenizer.context_length,
    )


def _engine() -> Engine:
    vocabulary = {"<pad>": 0, "<unk>": 1, "</s>": 2, "red": 3, "cup": 4, "a": 5, "Red": 6, "cup!": 7}
    engine = Engine(models.WordLevel(vocabulary, unk_token="<unk>"))
    engine.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return engine


def test_a_files_own_padding_and_truncation_give_way_and_cleaning_keeps_places():
    engine = _engine()
    engine.enable_padding(pad_id=2, length=50)
    engine.enable_truncation(3)
    plain = FileTokenizer(engine, 10, end="</s>")
    assert plain.encode(["a Red cup!"]).tokens_NL.tolist() == [[5, 6, 7, 2]]
    assert plain.pad_id == 2
    clean = FileTokenizer(_engine(), 10, clean="canonicalize", end="</s>")
    text = " a  Red, cup!"
    assert clean.encode([text]).tokens_NL.tolist() == [[5, 3, 4, 2]]
    assert [text[a:b].strip(",!") for a, b, _, _ in clean.word_spans(text)] == ["a", "Red", "cup"]


def test_a_hugging_face_folder_states_its_padding_and_context(tmp_path):
    _engine().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "</s>", "model_max_length": 9}))
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.pad_id, tokenizer.context_length) == (2, 9)


def test_faults_name_the_file(tmp_path):
    with pytest.raises(UserError, match=r"tokenizer\.json is missing"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer\.json is not"):
        load_tokenizer(tmp_path)
    (tmp_path / "wholegrain_tokenizer.json").write_text('{"kind": "owl"}')
    with pytest.raises(UserError, match="owl"):
        load_tokenizer(tmp_path)
    with pytest.raises(UserError, match="no token '<s>'"):
        FileTokenizer(_engine(), 8, start="<s>")


@pytest.mark.parametrize("clean", ["lower", "whitespace", "canonicalize"])
def test_plain_text_is_encoded_word_by_word_as_open_clip_does(clean):
    tokenizer, draw = ClipTokenizer(clean=clean), random.Random(0)
    words = ["It's", "a", "DOG's", "'tis", "don't", "I'LL", "3.5", "x-ray", "''s", "!'s", "?!...", "(left)", "zqxjk", "2026", '"', "a~b", "'"]
    words += ["".join(map(chr, range(32, 127))), "<start_of_text>", "&amp;", "caf\u00e9", "tab\there", "\x1b[31m"]
    for _ in range(500):
        text = draw.choice(["", " ", "  "]).join(draw.choices(words, k=draw.randrange(6)))
        assert list(tokenizer._ids(text)) == tokenizer._engine.encode(text), text


def test_long_words_are_encoded_as_open_clip_does_and_in_no_time():
    tokenizer, theirs, draw = ClipTokenizer(), open_clip.SimpleTokenizer(), random.Random(0)
    letters = ["abcdefghijklmnopqrstuvwxyz", "aeh", "x", "!?.", "\u00e9\u00fc\u96ea", "\u0628\u062a"]
    for alphabet in letters:
        for length in (1, 2, 33, 300, 800):
            text = "".join(draw.choices(alphabet, k=length))
            assert list(tokenizer._ids(text)) == theirs.encode(text), text
    began = time.process_time()
    tokens = tokenizer.encode(["".join(draw.choices(alphabet, k=100_000)) for alphabet in letters])
    assert time.process_time() - began < 5
    assert tokens.cut_N.all()
    assert tokens.tokens_NL.shape == (len(letters), 77)
