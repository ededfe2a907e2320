"""A tokeniser of one's own captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tokenizers import AddedToken, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Engine

from wholegrain.errors import UserError
from wholegrain.text.tokenizer import FileTokenizer


def train_tokenizer(texts: Iterable[str], vocab_size: int = 4096, context_length: int = 32) -> FileTokenizer:
    """A tokeniser of one's own captions: lower case, punctuation split off, start and end tokens, the same for the same texts.

    If all words fit into ``vocab_size``, one word is one token (a word never seen is ``[UNK]``); otherwise byte-level byte pairs,
    which have no unknown word.

    Args:
        texts: captions; their order does not matter.
        vocab_size: most tokens, the four special ones (``[PAD] [UNK] [START] [END]``, ids 0-3) included.
        context_length: longest row, start and end tokens included.

    Example:
        >>> tokenizer = train_tokenizer(["a red cup", "a blue cup."], vocab_size=100, context_length=8)
        >>> tokenizer.vocab_size, tokenizer.encode(["A red, blue cup"]).tokens_NL.tolist()
        (9, [[2, 4, 8, 1, 7, 5, 3]])
    """
    special = ["[PAD]", "[UNK]", "[START]", "[END]"]
    words = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")])
    probe = _base_engine(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"), words)
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(word for word, _ in words.pre_tokenize_str(probe.normalizer.normalize_str(text)))
    if not counts:
        raise UserError("there is no word to train a tokeniser on; give it captions that are not empty")
    if len(counts) + len(special) <= vocab_size:
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        engine = _base_engine(models.WordLevel({w: i for i, w in enumerate(special + ranked)}, unk_token="[UNK]"), words)
        engine.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    else:
        engine = _train_byte_pairs(counts, words, special, vocab_size)
    return FileTokenizer(engine, context_length, start="[START]", end="[END]", pad_id=0)


def _train_byte_pairs(counts: Counter[str], words: pre_tokenizers.PreTokenizer, special: list[str], vocab_size: int) -> Engine:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size < len(alphabet) + len(special):
        raise UserError(
            f"a vocabulary of {vocab_size} is too small for {len(counts):,} different words and for byte pairs; "
            f"use at least {len(alphabet) + len(special)}"
        )
    split = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    engine = _base_engine(models.BPE(), split)
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    # each word as often as it occurs, in a fixed order, at most a thousand times: merges rank by count
    ceiling = max(counts.values())
    shrink = max(1, ceiling // 1000)
    ordered = sorted(counts)
    engine.train_from_iterator((" ".join([word] * max(1, counts[word] // shrink)) for word in ordered), trainer)
    return engine


def _base_engine(model: models.Model, split: pre_tokenizers.PreTokenizer) -> Engine:
    engine = Engine(model)
    engine.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    engine.pre_tokenizer = split
    return engine
