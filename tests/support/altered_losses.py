"""The losses of the package with one slip each: a line replaced by one that a hurried hand might have written.

``source(name)`` is a file of its own that ``verify`` can read: the loss's module with one line changed (for slips in what CLIP and
SigLIP share, that module with it). Every slip is found with ``--like``; ``BREAKS`` says which promise of every loss some of them
break, so that they are found without it, too. The others make another formula, which is wrong only under the name of the first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import wholegrain.losses

FOLDER = Path(wholegrain.losses.__path__[0])


@dataclass(frozen=True)
class Slip:
    """``loss`` with ``old``, which occurs once, replaced by ``new``; ``settings`` as on the command line; ``within`` is put before it."""

    loss: str
    old: str
    new: str
    settings: str = ""
    within: tuple[str, ...] = ()


def _of(loss: str, within: tuple[str, ...] = (), **slips: tuple[str, str] | tuple[str, str, str]) -> dict[str, Slip]:
    return {f"{loss}_{name}": Slip(loss, *slip, within=within) for name, slip in slips.items()}


def _pooled(pairing: str = "pairing", scale: str = "scale", image: str = "image.pooled_BD", text: str = "text.pooled_ND") -> str:
    return "".join(f"            {x},\n" for x in (image, text, pairing, scale))


def _ids(change: str, which: str = "text_id_N") -> tuple[str, str]:
    return _pooled(), _pooled(f"__import__('dataclasses').replace(pairing, {which}=pairing.{which}{change})")


def _cut(at: int, product: str) -> tuple[str, str]:
    return product, f"({product}).clamp(-{at}, {at})"


_HINGE, _STATE = "(false_M - true_M + margin_K[kind_M]).relu()", 'margin_K = state["margin_K"].to(score_N)'
_CLAMP, _NEXT = "gap_K.clamp(0, self.upper)", "torch.where(number_K > 0, gap_K.clamp(0, self.upper), margin_K)"
_OWN_COS = "(unit(image.pooled_BD)[pairing.owner_N] * unit(text.pooled_ND)).sum(1)"
_EARLY = "self._next_margin(margin_K, score_N[pairing.true_N].detach(), true_M.detach(), false_M.detach(), kind_M, group)"
_LOGIT = f"at_least_float32(scale) * {_OWN_COS}"
_HALF_COS = "(unit(image.pooled_BD)[pairing.owner_N].bfloat16() * unit(text.pooled_ND).bfloat16()).to(scale.dtype).sum(1)"
_SIGMOID = "everyone.vectors_CD, scale, bias)"
_WORDS = "scale * (grouped @ unit(tokens.tokens_CLD).mT)"
_FILIP, _LLIP = "pair_softmax_of(scale * to_text, scale * to_image,", "score_BC = at_least_float32(scale) * score_BC"
_OTHERS = "-(logsigmoid(-logit_BC) * ~out_BC).sum()"
_SHARES, _TEXTS = "return LossOutput((to_text + to_image) / 2, parts)", "pairs = everyone.pairing.true_N.sum().clamp_min(1)"
_TARGETS = "row_P, column_P = pairing.owner_N[pair_P], pair_P + everyone.texts_before"
_FAVOURITE, _BY_ROLE = "favourite_N = cosine_NH.argmax(1)", 'roles=["background","overview","style","web"]'
_SHORT = "tokens = clean_tokens(text, \"FilipLoss\")[chosen]\n"

SLIPS: dict[str, Slip] = {
    **_of(
        "cmr",
        no_margin=(_HINGE, "(false_M - true_M).relu()"),
        margin_turned=(_HINGE, "(false_M - true_M - margin_K[kind_M]).relu()"),
        margin_of_another_kind=(_HINGE, "(false_M - true_M + margin_K.flip(0)[kind_M]).relu()"),
        captions_detached=(_HINGE, "(false_M - true_M.detach() + margin_K[kind_M]).relu()"),
        no_upper_bound=(_CLAMP, "gap_K.clamp_min(0)"),
        no_upper_bound_of_max=(_CLAMP, "gap_K.clamp_min(0)", "margin=max"),
        no_lower_bound=(_CLAMP, "gap_K.clamp_max(self.upper)"),
        bound_in_percent=(_CLAMP, "gap_K.clamp(0, self.upper * 100)"),
        never_moves=(_NEXT, "margin_K"),
        only_grows=(_NEXT, f"torch.maximum(margin_K, {_NEXT})"),
        absent_kind_forgets=(_NEXT, _NEXT.replace("margin_K)", "0 * margin_K)")),
        not_carried=('{"margin_K": next_K}', '{"margin_K": 0 * next_K}'),
        no_answer=('{"margin_K": next_K}', "None"),
        not_read=(_STATE, "pass"),
        scaled_again=(_STATE, f"{_STATE} * 7.0"),
        a_step_early=("parts = {f\"margin", f"hinge_M = {_HINGE.replace('margin_K', 'next_K')}\n        parts = {{f\"margin"),
        local_margins=("        means = sum_over(means, group)\n", ""),
        sum=("hinge_M.sum() / cells.clamp_min(1)", "hinge_M.sum()"),
        scale_7=(f"scale * {_OWN_COS}", f"7.0 * {_OWN_COS}"),
        cut_10=_cut(10, f"scale * {_OWN_COS}"),
        next_owner=("[pairing.owner_N] * unit", "[(pairing.owner_N + 1) % len(image.pooled_BD)] * unit"),
        caption_a_foil=("foil[pairing.text_id_N[foil] != pairing.text_id_N[caption[foil]]]", "foil"),
        ids_float32=("foil = foil[pairing.text_id_N", "foil = foil[pairing.text_id_N.float()"),
    ),
    **_of(
        "clip",
        scale_7=(_pooled(), _pooled(scale="0 * scale + 7.0")),
        scale_100=(_pooled(), _pooled(scale="0 * scale + 100.0")),
        scale_capped=(_pooled(), _pooled(scale="scale.clamp(max=50.0)")),
        scale_from_5=(_pooled(), _pooled(scale="scale.clamp(min=5.0)")),
        scale_squared=(_pooled(), _pooled(scale="scale * scale")),
        right_at_7=(_pooled(), _pooled(scale="scale * scale / 7.0")),
        temperature=(_pooled(), _pooled(scale="49.0 / scale")),
        scale_detached=(_pooled(), _pooled(scale="scale.detach()")),
        images_detached=(_pooled(), _pooled(image="image.pooled_BD.detach()")),
        half=(_pooled(), _pooled(image="image.pooled_BD.half().to(image.pooled_BD.dtype)")),
        float32=(_pooled(), _pooled(text="text.pooled_ND.float().to(text.pooled_ND.dtype)")),
        ids_int32=_ids(".int().long()"),
        ids_low_bits=_ids(" & 0xFFFFFFFF"),
        ids_float32=_ids(".float().long()"),
        ids_float64=_ids(".double().long()"),
        ids_modulo=_ids(" % 2**31"),
        image_ids_int32=_ids(".int().long()", "image_id_B"),
        image_ids_float32=_ids(".float().long()", "image_id_B"),
        copies_of_images=_ids(".argsort().argsort()", "image_id_B"),
        copies=("duplicates=self.duplicates", "duplicates='negative'"),
        foils=("smoothing=self.label_smoothing", "smoothing=self.label_smoothing, negatives='all'"),
        not_smoothed=("smoothing=self.label_smoothing", "smoothing=0.0", "label_smoothing=0.1"),
    ),
    **_of(
        "clip",
        ("core.contrastive",),
        one_side=(_SHARES, "return LossOutput(to_text, parts)"),
        sum_of_sides=(_SHARES, "return LossOutput(to_text + to_image, parts)"),
        local_mean=(_TEXTS, "pairs = pairing.true_N.sum().clamp_min(1)"),
        mean_over_images=(_TEXTS, "pairs = len(everyone.pairing.image_id_B)"),
        local_images=("    by_text = over_processes(by_text, everyone.group)\n", ""),
        first_processes_texts=(_TARGETS, "row_P, column_P = pairing.owner_N[pair_P], pair_P"),
        neighbours_text=(_TARGETS, "row_P, column_P = pairing.owner_N[pair_P], (pair_P + 1) % len(pairing.owner_N) + everyone.texts_before"),
        not_normalised=("unit(image_BD), unit(text_ND), at_least", "unit(image_BD), at_least_float32(text_ND), at_least"),
    ),
    **_of("siglip", ("core.contrastive",), mean_over_cells=("share, of_positive = total / images", "share, of_positive = total / images / columns")),
    **_of(
        "siglip",
        scale_7=(_SIGMOID, "everyone.vectors_CD, 0 * scale + 7.0, bias)"),
        no_bias=(_SIGMOID, "everyone.vectors_CD, scale, 0 * bias)"),
        bias_fixed=(_SIGMOID, "everyone.vectors_CD, scale, 0 * bias - 1.5)"),
        bias_turned=(_SIGMOID, "everyone.vectors_CD, scale, -bias)"),
        bias_detached=(_SIGMOID, "everyone.vectors_CD, scale, bias.detach())"),
        bias_scaled=(_SIGMOID, "everyone.vectors_CD, scale, scale * bias / 7.0)"),
    ),
    **_of(
        "negclip",
        own_only=('"own" if self.own_only else "all"', '"own"'),
        everybody_s=('"own" if self.own_only else "all"', '"all"', "own_only=true"),
        no_foils=('"own" if self.own_only else "all"', '"none"'),
    ),
    **_of(
        "own_negatives",
        scale_7=(_LOGIT, f"7.0 * {_OWN_COS}"),
        cut_10=_cut(10, _LOGIT),
        cut_20=_cut(20, _LOGIT),
        half=(_LOGIT, f"at_least_float32(scale) * {_HALF_COS}"),
        zero_for_missing=("torch.where(has_N, lse_N, torch", "torch.where(has_N, torch.logaddexp(lse_N, 0 * lse_N), torch"),
        foil_before=("caption_M = pairing.negative_of_N[foil_M]", "caption_M = (foil_M - 1).clamp_min(0)"),
        sum=("each_N[has_N].sum() / captions", "each_N[has_N].sum()"),
    ),
    **_of(
        "imc",
        foils_of_others=("(text_ND[foil_M] * text_ND[caption_M]).sum(1), caption_M,", "(text_ND[foil_M.roll(1)] * text_ND[caption_M]).sum(1), caption_M,"),
        no_positive=("return -logsigmoid(scale * true - lse), has_N.sum()", "return lse - scale * true, has_N.sum()"),
        sibling_is_self=("torch.where(place == last, first, place + 1)", "place", "positive=sibling"),
    ),
    **_of(
        "sparc",
        scale_7=(_WORDS, _WORDS.replace("scale", "7.0")),
        cut_20=_cut(20, _WORDS),
        one_direction=("self._mean((to_token + to_group) / 2 -", "self._mean(to_token -"),
        softmax_over_tokens=("else 1 / self.temperature)).softmax(-1)", "else 1 / self.temperature)).softmax(-2)", "weights=softmax"),
        threshold_twice=("weight < (1 / patches if", "weight < (2 / patches if"),
        weights_detached=("return weight.detach() if self.detach_weights else weight", "return weight.detach()"),
        mean_over_tokens=('if self.reduction == "token":', 'if self.reduction != "token":'),
        padding_counts=("padded, floor = ~tokens.mask_CL, torch", "padded, floor = ~tokens.mask_CL & False, torch"),
    ),
    **_of(
        "flair",
        scale_7_for_others=("logit_BC = scale * pool", "logit_BC = 7.0 * pool"),
        copies=(_OTHERS, "-logsigmoid(-logit_BC).sum()"),
        denominator=("columns = (images + texts / images.clamp_min(1) - 1).clamp_min(1)", "columns = images.clamp_min(1)"),
        no_foils=('if self.negatives == "own":', "if False:", "negatives=own"),
    ),
    **_of(
        "llip",
        cut_20=_cut(20, _LLIP.partition(" = ")[2]),
        cut_10=(*_cut(10, _LLIP.partition(" = ")[2]), "kind=softmax negatives=all"),
    ),
    **_of(
        "filip",
        cut_10=(_FILIP, "pair_softmax_of((scale * to_text).clamp(-10, 10), (scale * to_image).clamp(-10, 10),"),
        turned=(_FILIP, "pair_softmax_of(scale * to_image, scale * to_text,"),
        padding_counts=(_SHORT, f"{_SHORT}        tokens = Tokens(tokens.tokens_CLD, tokens.mask_CL | True)\n"),
    ),
    **_of(
        "text_conditioned",
        cut_10=("            return scale * cosine + shift\n", "            return (scale * cosine + shift).clamp(-10, 10)\n"),
        not_normalised=("along * square.clamp_min(TINY**2).rsqrt()", "along"),
    ),
    **_of(
        "whole_and_grain",
        own_by_the_whole=("own_P = own_P + weight * phrases.mean_of_own(", "own_P = own_P + 0 * weight * phrases.mean_of_own("),
        weight_for_true_pairs_alone=("return scale * (whole + weight * phrases.mean(", "return scale * (whole + phrases.mean("),
        temperature_detached=("phrases.vectors_QD, temperature)\n        image_BD", "phrases.vectors_QD, temperature.detach())\n        image_BD"),
        own_phrases_of_this_process=("cosine_BQ, pairs.owner_N, everyone.texts_before)", "cosine_BQ, pairs.owner_N, 0)"),
    ),
    **_of(
        "dreamlip",
        ids_float32=("out = pairs.text_id_N[rows, None] ==", "out = pairs.text_id_N[rows, None].float() =="),
        itself_a_rival=("out = pairs.text_id_N[rows, None] ==", "out = 0 * pairs.text_id_N[rows, None] - 1 =="),
    ),
    **_of(
        "many_to_many",
        any_position=("self.position_R[rows, None] != self.position_C[columns]", "self.position_R[rows, None] < 0", _BY_ROLE),
        worst_branch=(_FAVOURITE, _FAVOURITE.replace("argmax", "argmin"), "assignment=argmax"),
        first_branch=(_FAVOURITE, f"{_FAVOURITE} * 0", "assignment=argmax"),
    ),
    **_of(
        "gloria",
        scale_7=("at_least_float32(scale) / self.word_scale", "7.0 / self.word_scale", "pair_scale=0.0"),
        wrong_axis=("* (self.attention_scale or width**-0.5)).softmax(3)", "* (self.attention_scale or width**-0.5)).softmax(2)"),
    ),
    **_of(
        "mgca_prototypes",
        gradient_through_targets=("@torch.no_grad()\n", ""),
        unbalanced=("        weight = weight / filled_K\n", ""),
        one_round=("for _ in range(rounds):", "for _ in range(1):"),
    ),
    **_of("fsc_local", start_token=("if not self.start_token:", "if self.start_token:"), sparse=("None if self.sparsify else 0.0", "None")),
    **_of("mgca", one_direction=("torch.where(mask_NS, (forth + back) / 2 -", "torch.where(mask_NS, forth -")),
    **_of("multi_positive", sums=('if self.positives == "sum":', 'if self.positives == "each":')),
    **_of(
        "paraphrases",
        ids_int32=("kept = pairing.text_id_N[one] != pairing.text_id_N[other]", "kept = pairing.text_id_N.int()[one] != pairing.text_id_N.int()[other]"),
        itself=("return one[kept], other[kept]", "return one, other"),
    ),
    **_of(
        "primary_components",
        last_ones=("kept_DK = vector_DD[:, len(value_D) - ctx.kept :]", "kept_DK = vector_DD[:, : ctx.kept]", "components=2"),
        not_centred=("centred_BD = exact_BD - mean_D", "centred_BD = exact_BD", "components=2"),
        mean_left_out=("(mean_D + centred_BD @ projector_DD)", "(centred_BD @ projector_DD)", "components=2"),
        components_detached=("_Projector.apply(scatter_DD, components)", "_Projector.apply(scatter_DD.detach(), components)", "components=2"),
        components_of_this_process=("add_over(centred_BD.T @ centred_BD, group)", "centred_BD.T @ centred_BD", "components=2"),
        normalised_again=("    return (mean_D +", "    return unit(mean_D +", "components=2"),
    ),
    **_of(
        "tripletclip",
        sides_in_one=("for side in (0, 1)]", "for side in (0, 0)]"),
        one_mean=("sum_over(true_P.new_tensor(float(len(true_P))), group)", "sum_over(pairing.true_N.sum(), group)"),
        local_mean=("sum_over(true_P.new_tensor(float(len(true_P))), group)", "true_P.new_tensor(float(len(true_P)))"),
        local_images=("over_processes(Rest(found.by_column), everyone.group)", "Rest(found.by_column)"),
        all_images=('if self.rivals == "all":', "if True:"),
        copies=("everyone, self.duplicates, image_R", 'everyone, "negative", image_R'),
        by_place=("(image_BD, pairing.side_B == side,", "(image_BD, torch.arange(len(image_BD)) % 2 == side,"),
    ),
    **_of(
        "c2lip",
        by_images=("total = mentions_Q.sum().clamp_min(1)", "total = sum_over(mentions_Q.new_tensor(float(len(logit_BQ))), group)"),
        copies=('KnownTrue(pairs, everyone, "ignore")', 'KnownTrue(pairs, everyone, "negative")'),
        own_twice=("against_BQ = mentions_Q - said_BQ", "against_BQ = mentions_Q", "duplicates=negative"),
        local_mentions=("sum_over(said_BQ.sum(0), group)", "said_BQ.sum(0)"),
        raw_patches=("phrase_cosines(unit(image.patches_BPD)", "phrase_cosines(image.patches_BPD", "image=attention"),
        no_bias=("vectors_QD) + bias", "vectors_QD) + 0 * bias"),
    ),
    **_of("tgc", student_for_teacher=("unit(text.teacher.pooled_ND).to(text_ND.dtype)", "text_ND")),
    **_of("distillation", one_side=('if self.sides in ("both", side)]', 'if side == "image"]')),
    **_of("diversity", itself=("other = ~torch.eye(", "other = True | ~torch.eye(")),
    **_of(
        "itm",
        turned=("torch.where(yes_M, -z_M, z_M)", "torch.where(yes_M, z_M, -z_M)"),
        same_draw_always=("torch.stack([draw[0], draw[1] + 1])", "torch.stack([draw[0], draw[1]])"),
    ),
    **_of("cosmos", models_scale=('add(f"{name}_image", rows, teachers, own_scale)', 'add(f"{name}_image", rows, teachers, scale)')),
    **_of(
        "clipself",
        raw_patches=("patch_BPD = unit(image.patches_BPD)", "patch_BPD = image.patches_BPD"),
        counts_all=("shown_share(box_BK4) >= self.inside", "shown_share(box_BK4) >= 0"),
    ),
}  # fmt: skip


_BROKEN = {
    "state": "cmr_no_margin cmr_no_answer cmr_not_read cmr_a_step_early cmr_local_margins",
    "scale": "cmr_captions_detached clip_scale_detached siglip_bias_detached",
    "gradients": (
        "clip_images_detached clip_half clip_float32 own_negatives_half sparc_weights_detached whole_and_grain_temperature_detached "
        "primary_components_components_detached"
    ),
    "large_scores": "cmr_cut_10 clip_scale_capped own_negatives_cut_10 own_negatives_cut_20 llip_cut_20 llip_cut_10 filip_cut_10",
    "ids": (
        "clip_ids_float32 clip_ids_float64 clip_ids_int32 clip_ids_low_bits clip_ids_modulo clip_image_ids_float32 "
        "clip_image_ids_int32 cmr_ids_float32 dreamlip_ids_float32 paraphrases_ids_int32"
    ),
    "duplicates": "cmr_next_owner c2lip_copies tripletclip_copies clip_copies_of_images clip_copies clip_neighbours_text flair_copies",
    "text_order": "imc_foils_of_others",
    "padding": "sparc_softmax_over_tokens sparc_padding_counts filip_padding_counts gloria_wrong_axis",
    "processes": "clip_local_mean clip_local_images clip_first_processes_texts whole_and_grain_own_phrases_of_this_process "
    "primary_components_components_of_this_process tripletclip_local_mean tripletclip_local_images c2lip_local_mentions",
    "missing": "siglip_mean_over_cells",
}
BREAKS = {name: check for check, names in _BROKEN.items() for name in names.split()}


def source(name: str) -> str:
    """The text of the file with the slip."""
    slip = SLIPS[name]
    here = (*slip.within, slip.loss)
    text = "from __future__ import annotations\n" + "\n".join(_body(module, here) for module in here)
    if text.count(slip.old) != 1:
        raise ValueError(f"{name}: what is replaced occurs {text.count(slip.old)} times in {', '.join(here)}")
    return text.replace(slip.old, slip.new)


def _body(module: str, here: tuple[str, ...]) -> str:
    text = (FOLDER / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8").replace("from __future__ import annotations\n", "")
    for other in here:
        text = re.sub(rf"^from wholegrain\.losses\.{re.escape(other)} import [^\n]*\n", "", text, flags=re.MULTILINE)
    return text
