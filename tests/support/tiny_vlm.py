"""A vision-language model of a few thousand weights, made on the spot: it writes words by chance, other ones for other pictures."""

import string

import torch

WORDS = [
    *["red", "green", "blue", "white", "dark", "bright", "round", "small", "large", "old", "new", "wooden"],
    *string.ascii_lowercase,
]
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}assistant {% endif %}"
)


def make_vlm(folder, seed=0):
    """Saves model, tokeniser, image preprocessing and chat template, as a release would have them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    special = ["<pad>", "<unk>", "<s>", "</s>", "<image>"]
    plain = Tokenizer(models.WordLevel({word: n for n, word in enumerate(special + WORDS)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip
    size, patch = 16, 8
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"height": size, "width": size}, crop_size={"height": size, "width": size}),
        tokenizer=tokenizer, patch_size=patch, vision_feature_select_strategy="default", chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=size, patch_size=patch
    )
    text = LlamaConfig(
        vocab_size=len(special + WORDS), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=2, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=4))
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.6) if weight.ndim > 1 else None
        model.lm_head.weight[:5] = 0  # no special token is likely
    # A third of the words end an answer, so that most answers end by themselves.
    model.generation_config.eos_token_id = [3, *range(5, 5 + len(WORDS), 3)]
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
