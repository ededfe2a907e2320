"""A tokeniser in the files that transformers and open_clip read: ``tokenizer.json`` and ``tokenizer_config.json``."""

from __future__ import annotations

import json
from pathlib import Path

from wholegrain.errors import UserError
from wholegrain.text.tokenizer import ClipTokenizer, FileTokenizer, Tokenizer

START, END = "<|startoftext|>", "<|endoftext|>"


def write_tokenizer(tokenizer: Tokenizer, folder: Path, *, masked: bool = True, as_given: bool = False) -> None:
    """Writes the files; ``AutoTokenizer.from_pretrained(folder)`` then gives the same rows, padded and cut as it is told.

    Args:
        masked: whether the model takes an attention mask; SigLIP reads its padding and takes none.
        as_given: the file that the tokeniser was made from, without the cleaning and special tokens that were set around it here.

    Differs from CLIP's own tokeniser: ``ftfy``'s repair of broken text is not done by transformers.
    """
    names = ["input_ids", "attention_mask"] if masked else ["input_ids"]
    record: dict[str, object] = {"model_max_length": tokenizer.context_length, "model_input_names": names}
    if isinstance(tokenizer, ClipTokenizer):
        _write_clip(tokenizer, folder, record)
        return
    if not isinstance(tokenizer, FileTokenizer):
        raise UserError(f"a {type(tokenizer).__name__} cannot be written for other libraries; export to wholegrain")
    engine = tokenizer.given_engine() if as_given else tokenizer.whole_engine()
    engine.no_padding()
    engine.save(str(folder / "tokenizer.json"))
    record |= {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": engine.id_to_token(tokenizer.pad_id)}
    (folder / "tokenizer_config.json").write_text(json.dumps(record, indent=2), encoding="utf-8")


def _write_clip(tokenizer: ClipTokenizer, folder: Path, record: dict[str, object]) -> None:
    if tokenizer.clean != "lower":
        raise UserError(
            f"CLIP's tokeniser with the cleaning {tokenizer.clean!r} has no form in transformers; export to open_clip or onnx"
        )
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers import Tokenizer as Engine

    own = tokenizer._engine
    merges = [(one, other) for (one, other), _ in sorted(own.bpe_ranks.items(), key=lambda item: item[1])]
    # open_clip writes <start_of_text>; the places are the same
    names: dict[str, str] = {"<start_of_text>": START, "<end_of_text>": END}
    vocabulary: dict[str, int] = {str(names.get(token, token)): place for token, place in own.encoder.items()}
    engine = Engine(models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix="</w>", unk_token=END))
    engine.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split = pre_tokenizers.Split(Regex(own.pat.pattern), behavior="removed", invert=True)
    engine.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    engine.decoder = decoders.ByteLevel()
    ids = [(name, vocabulary[name]) for name in (START, END)]
    engine.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=ids)
    engine.add_special_tokens([START, END])
    engine.save(str(folder / "tokenizer.json"))
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    record |= {"tokenizer_class": "CLIPTokenizer", "bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(record, indent=2), encoding="utf-8")
