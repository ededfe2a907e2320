"""Very small causal decoders of transformers as folders: GPT-2's and Llama's form, random weights, a word-level tokeniser."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = ["red", "green", "blue", "white", "beside"]


def tokenizer(words=WORDS):
    vocabulary = {word: n for n, word in enumerate(["<end>", "<pad>", *words])}
    engine = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    engine.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=engine, bos_token="<end>", eos_token="<end>", pad_token="<pad>")


def config(kind, size, context=12, layers=2):
    if kind == "llama":
        return LlamaConfig(
            vocab_size=size, hidden_size=16, intermediate_size=24, num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=1,
            max_position_embeddings=context, bos_token_id=0, eos_token_id=0, pad_token_id=1,
        )  # fmt: skip
    return GPT2Config(
        vocab_size=size, n_positions=context, n_embd=16, n_layer=layers, n_head=2, bos_token_id=0, eos_token_id=0, pad_token_id=1,
        initializer_range=0.5,
    )  # fmt: skip


def write_decoder(folder, kind="gpt2", words=WORDS, seed=0, **sizes):
    torch.manual_seed(seed)
    own = tokenizer(words)
    model = {"gpt2": GPT2LMHeadModel, "llama": LlamaForCausalLM}[kind](config(kind, len(own), **sizes))
    model.save_pretrained(folder)
    own.save_pretrained(folder)
    return folder
