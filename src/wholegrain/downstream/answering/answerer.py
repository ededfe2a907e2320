"""The head of question answering: LLaVA's projector and a causal language model, both transformers' own.

LLaVA: Liu et al. 2023, "Visual Instruction Tuning" (one linear projector); LLaVA-1.5: Liu et al. 2023, "Improved Baselines with Visual Instruction Tuning"
(two layers with GELU, which is what transformers' ``LlavaMultiModalProjector`` is).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from wholegrain.downstream.answering.settings import Decoder, VisualTokens
from wholegrain.downstream.answering.visual_tokens import visual_tokens
from wholegrain.downstream.answering.words import NEEDS, Words
from wholegrain.errors import UserError
from wholegrain.files import shown
from wholegrain.towers.base import RawImage
from wholegrain.towers.sources.hf_library import quiet, transformers_for

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration

IGNORED = -100


class Answerer(nn.Module):
    """Visual tokens and a question in, an answer out.

    Args:
        llava: whose projector and language model are used; its vision tower stays empty, since tokens come from ours.
        words: the decoder's tokeniser.
        chosen: which tokens of the picture it sees.
    """

    def __init__(self, llava: LlavaForConditionalGeneration, words: Words, chosen: VisualTokens) -> None:
        super().__init__()
        self.llava, self.words, self.chosen = llava, words, chosen

    def sees(self, image: RawImage) -> Tensor:
        """The visual tokens ``[B, S, V]``, before the projector."""
        return visual_tokens(image, self.chosen)

    def embedded(self, visual_BSV: Tensor, text_BL: Tensor) -> Tensor:
        """``[B, K + S + L, D]``: what stands before the picture, the projected picture, the text behind it."""
        embed = self.llava.get_input_embeddings()
        before_K = torch.tensor(self.words.before, dtype=torch.long, device=text_BL.device)
        projector: Any = self.llava.model.multi_modal_projector
        picture_BSD = projector(visual_BSV.to(next(projector.parameters()).dtype))
        return torch.cat([embed(before_K).expand(len(text_BL), -1, -1), picture_BSD.to(embed.weight.dtype), embed(text_BL)], 1)

    def loss(self, visual_BSV: Tensor, text_BL: Tensor, wanted_BL: Tensor) -> Tensor:
        """The summed cross-entropy of the answers' tokens. ``wanted_BL``: the token that is to follow each place, or -100."""
        inputs_BTD = self.embedded(visual_BSV, text_BL)
        first = inputs_BTD.shape[1] - text_BL.shape[1]
        hidden_BTD = self.llava.model.language_model(inputs_embeds=inputs_BTD).last_hidden_state  # padding stands behind what is asked of
        chosen_BL = wanted_BL != IGNORED
        logits = self.llava.lm_head(hidden_BTD[:, first:][chosen_BL])
        return nn.functional.cross_entropy(logits.float(), wanted_BL[chosen_BL], reduction="sum")

    @torch.no_grad()
    def answers(self, visual_BSV: Tensor, questions: Sequence[str], longest: int) -> list[str]:
        """The greedy answers of B questions."""
        rows = [self.words.question(question) for question in questions]
        length = max(map(len, rows))
        pad = self.words.padding
        device = visual_BSV.device
        text_BL = torch.tensor([[pad] * (length - len(row)) + row for row in rows], dtype=torch.long, device=device)
        inputs_BTD = self.embedded(visual_BSV, text_BL)
        first = inputs_BTD.shape[1] - length
        real_BT = torch.ones(inputs_BTD.shape[:2], dtype=torch.long, device=device)
        for number, row in enumerate(rows):  # padding stands between picture and question
            real_BT[number, first : first + length - len(row)] = 0
        made = cast(Any, self.llava).generate(
            inputs_embeds=inputs_BTD, attention_mask=real_BT, max_new_tokens=longest, do_sample=False, pad_token_id=pad, eos_token_id=self.words.end
        )  # fmt: skip
        return self.words.texts(made.tolist())


def make_answerer(decoder: Decoder, chosen: VisualTokens, words: Words, width: int) -> Answerer:
    """A new projector before a new little Llama, or before the model of a folder.

    Args:
        width: V of the visual tokens.

    Raises:
        UserError: transformers is missing, or the folder's model cannot be read.
    """
    transformers = transformers_for(NEEDS)
    from wholegrain.downstream.answering.llava_tower import WholegrainTowerConfig

    given = language_model(Path(decoder.folder)) if decoder.folder else None
    text = _llama(decoder, words) if given is None else given[0].config
    config = transformers.LlavaConfig(
        vision_config=WholegrainTowerConfig(hidden_size=width, parts=list(chosen.parts), layer=chosen.layer),
        text_config=text,
        image_token_index=words.image,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
    )
    config.text_config.tie_word_embeddings = False
    with quiet(transformers):
        llava = transformers.LlavaForConditionalGeneration(config)
        if given is not None:
            llava.model.language_model, output = given
            llava.lm_head.weight = nn.Parameter(output.weight.detach().float().clone())  # a tied one is untied
            llava.resize_token_embeddings(max(len(words.tokenizer), len(output.weight)))
    llava = llava.float()
    llava.requires_grad_(given is None or decoder.tune)
    llava.model.multi_modal_projector.requires_grad_(True)
    return Answerer(llava, words, chosen)


def _llama(decoder: Decoder, words: Words) -> Any:
    transformers = transformers_for(NEEDS)
    return transformers.LlamaConfig(
        vocab_size=len(words.tokenizer),
        hidden_size=decoder.width,
        intermediate_size=4 * decoder.width,
        num_hidden_layers=decoder.layers,
        num_attention_heads=decoder.heads,
        max_position_embeddings=8192,
        bos_token_id=words.tokenizer.bos_token_id,
        eos_token_id=words.end,
        pad_token_id=words.padding,
        tie_word_embeddings=False,
    )


def language_model(folder: Path) -> tuple[Any, Any]:
    """The causal language model of a folder (of a LLaVA its own): the network without output layer, and that layer.

    Raises:
        UserError: there is no such model.
    """
    transformers = transformers_for(NEEDS)
    if not (folder / "config.json").is_file():
        raise UserError(f"{shown(folder)} is no folder of a model of Hugging Face (it has no config.json); give one, or leave out --decoder.")
    try:
        with quiet(transformers):
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            of_llava = config.model_type == "llava"
            kind = transformers.LlavaForConditionalGeneration if of_llava else transformers.AutoModelForCausalLM
            how = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True, **({} if of_llava else {"trust_remote_code": False})}
            made, report = kind.from_pretrained(folder, **how)
    except Exception as error:  # transformers raises many things
        problem = (str(error).splitlines() or [""])[0][:160]
        raise UserError(
            f"No causal language model can be read from {shown(folder)} ({type(error).__name__}: {problem}); give the folder of one."
        ) from None
    network, output = (made.model.language_model, made.lm_head) if of_llava else (made.base_model, made.get_output_embeddings())
    _check(folder, network.eval(), output, sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]])))
    return network, output


@torch.no_grad()
def _check(folder: Path, network: Any, output: Any, lacking: Sequence[str]) -> None:
    """Refuses what would answer at random: missing weights, an output layer with more than a matrix, a model that sees what follows."""
    if lacking:
        raise UserError(f"{shown(folder)} lacks weights of its model, such as {lacking[0]}; get the complete model.")
    if getattr(output, "bias", None) is not None:
        raise UserError(f"The output layer of {shown(folder)} has a bias, which that of a LLaVA has not; give a model like Llama.")
    first, other = network(input_ids=torch.tensor([[0, 1, 2], [0, 1, 3]])).last_hidden_state
    if not torch.allclose(first[:2], other[:2], atol=1e-4):
        raise UserError(f"The model in {shown(folder)} is not causal: what follows changes what it says before; give one like Llama.")
