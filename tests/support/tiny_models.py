"""Tiny models of other libraries, with random weights large enough that every part shows in the result."""

import torch

from wholegrain.text.trained import train_tokenizer

TOKENIZER = train_tokenizer(["a red cup left of a blue hat"], 50, 12)
TEXTS = ["a red cup", "a blue hat left of a cup", "hat"]
TEXT = {"vocab_size": TOKENIZER.vocab_size, "hidden_size": 16, "intermediate_size": 42, "num_hidden_layers": 2}
TEXT |= {"num_attention_heads": 2, "max_position_embeddings": 12, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
VISION = {
    "hidden_size": 24,
    "intermediate_size": 50,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 32,
    "patch_size": 8,
}


def pixels(size=32, count=3):
    """uint8 ``[B, 3, S, S]``."""
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def randomised(module, seed=0, std=0.25):
    """The module with every weight drawn anew: initial zeros would hide a part that is left out."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random) * std)
    return module.eval()


def transformers_clip(**config):
    """A ``CLIPModel``; ``text_config`` and ``vision_config`` are changes."""
    from transformers import CLIPConfig, CLIPModel

    text, vision = config.pop("text_config", {}), config.pop("vision_config", {})
    return randomised(
        CLIPModel(
            CLIPConfig(text_config={**TEXT, **text}, vision_config={**VISION, **vision}, **{"projection_dim": 20, **config})
        )
    )


def transformers_siglip(**config):
    """A ``SiglipModel`` with a scale above 100, as SigLIP's is."""
    from transformers import SiglipConfig, SiglipModel

    text, vision = config.pop("text_config", {}), config.pop("vision_config", {})
    model = SiglipModel(
        SiglipConfig(text_config={**TEXT, "hidden_size": 24, **text}, vision_config={**VISION, **vision}, **config)
    )
    randomised(model).logit_scale.data.fill_(4.77)
    return model


def save_transformers(model, folder, tokenizer=TOKENIZER):
    """Writes a folder as transformers writes it: model, tokeniser, preprocessor."""
    from transformers import CLIPImageProcessor, PreTrainedTokenizerFast, SiglipImageProcessor

    size = model.config.vision_config.image_size
    square = {"height": size, "width": size}
    clip = model.config.model_type == "clip"
    processor = CLIPImageProcessor(size={"shortest_edge": size}, crop_size=square) if clip else SiglipImageProcessor(size=square)
    names = ["input_ids", "attention_mask"] if clip else ["input_ids"]
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.whole_engine(),
        pad_token="[PAD]",
        model_max_length=tokenizer.context_length,
        model_input_names=names,
    )
    for part in (model, made, processor):
        part.save_pretrained(folder)
    return folder
