"""What must change nothing: the order of the batch, padding, what is missing, known copies."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from wholegrain.verify.cases import OF_TOKENS, Batch, make_batch, padded_with, permuted, without_texts
from wholegrain.verify.differences import Differences
from wholegrain.verify.subject import LossUnderTest, NotApplicable


def image_order(subject: LossUnderTest, differences: Differences) -> None:
    """The images of the batch in another order."""
    _order(subject, differences, images=True)


def text_order(subject: LossUnderTest, differences: Differences) -> None:
    """The texts of the batch in another order."""
    _order(subject, differences, images=False)


def _order(subject: LossUnderTest, differences: Differences, images: bool) -> None:
    for seed in (6, 7):
        batch, draw = make_batch(seed), torch.Generator().manual_seed(seed)
        image, text = (torch.arange(len(x)) for x in (batch.pairing.image_id_B, batch.pairing.owner_N))
        if images:
            image = torch.randperm(len(image), generator=draw)
        else:
            text = torch.randperm(len(text), generator=draw)
        differences.case = f"{len(image)} images and {len(text)} texts, the {'images' if images else 'texts'} in another order"
        plain, moved = subject.evaluate(batch), subject.evaluate(permuted(batch, image, text))
        differences.compare("value", moved.value, plain.value)
        for name, grad in plain.grads.items():
            order = {"images": image, "texts": text}.get(batch.rows_of(name) if grad.ndim else "nothing")
            differences.compare(f"gradient of {name}", moved.grads[name], grad if order is None else grad[order])


def padding(subject: LossUnderTest, differences: Differences) -> None:
    """What stands at padded tokens, and how many there are."""
    if not subject.needs & {"tokens", "cross"}:
        raise NotApplicable("it reads no tokens")
    batch = make_batch(7)
    plain, mask = subject.evaluate(batch), batch.text.mask_NL
    assert mask is not None
    length = mask.shape[1]
    for said, filling in (("0", 0.0), ("1e6", 1e6), ("nan", torch.nan), ("inf", torch.inf)):
        differences.case = f"{said} in the padded tokens, and 3 more of them"
        other = subject.evaluate(padded_with(batch, filling))
        differences.compare("value", other.value, plain.value)
        for name, grad in plain.grads.items():
            got = other.grads[name]
            if name in OF_TOKENS:
                more = torch.cat([~mask, torch.ones(len(mask), 3, dtype=torch.bool)], 1)
                differences.compare(f"gradient of {name} at padded tokens", got[more], torch.zeros_like(got[more]))
                got, grad = got[:, :length][mask], grad[mask]
            differences.compare(f"gradient of {name}", got, grad)


def missing(subject: LossUnderTest, differences: Differences) -> None:
    """Captions, foils and kinds that are not there."""
    usual = make_batch(3)
    ids = usual.pairing.text_id_N
    foil_is_caption = torch.where(usual.pairing.true_N, ids, ids[usual.pairing.negative_of_N])
    one_kind = replace(usual.pairing, kind_N=usual.pairing.kind_N.clamp_max(0))
    cases = {
        "an image without captions": make_batch(6, captions=(1, 0, 3, 1)),
        "no image has a caption": without_texts(usual),
        "no foils": make_batch(2, captions=(2, 1, 2), negatives=0),
        "foils of one kind alone": replace(usual, pairing=one_kind),
        "every foil is word for word its caption": replace(usual, pairing=replace(usual.pairing, text_id_N=foil_is_caption)),
    }
    if subject.needs & {"tokens", "cross"}:
        mask = usual.text.mask_NL
        assert mask is not None
        cases["captions without tokens"] = replace(usual, text=replace(usual.text, mask_NL=torch.zeros_like(mask)))
    for said, batch in cases.items():
        _finite(subject, differences, said, batch)


def _finite(subject: LossUnderTest, differences: Differences, said: str, batch: Batch) -> None:
    differences.case = said
    result = subject.evaluate(batch)
    differences.finite("value", result.value)
    for name, grad in result.grads.items():
        differences.finite(f"gradient of {name}", grad)
    for name, x in (result.state or {}).items():
        differences.finite(f"state {name}", x)


def duplicates(subject: LossUnderTest, differences: Differences) -> None:
    """Whether known true pairs that are not a pair of the batch are compared, and as what is documented.

    Two things are compared by a loss if it cannot be split into a part for the one and a part for the other: with v', t' other
    features, L(v', t') - L(v', t) - L(v, t') + L(v, t) is not 0.
    """
    batch = make_batch(20, captions=(1, 1, 1, 1), negatives=1, duplicates=False)
    pairing = replace(batch.pairing, role_N=batch.pairing.role_N * 0)
    true = pairing.true_N.nonzero().squeeze(1)
    text_id, image_id = pairing.text_id_N.clone(), pairing.image_id_B.clone()
    text_id[true[3]], image_id[2] = text_id[true[0]], image_id[1]
    plain = replace(batch, pairing=pairing)
    copies = replace(batch, pairing=replace(pairing, text_id_N=text_id, image_id_B=image_id))
    documented = subject.duplicates
    compared = False
    for image, caption, said in ((0, 3, "text"), (3, 0, "text"), (1, 2, "image"), (2, 1, "image")):
        usual = _interplay(subject, plain, image, int(true[caption]))
        copied = _interplay(subject, copies, image, int(true[caption]))
        if usual.abs() < 1e-9:
            continue
        compared = True
        where = f"how much image {image} and caption {caption}, true by a copied {said}, are compared"
        if documented == "negative":
            differences.compare(where + " (as any two)", copied, usual)
        elif documented == "positive":
            differences.require(copied.abs().item() > 1e-9, where + ": not at all, though documented as positive")
        else:
            differences.compare(where + " (documented: ignored)", copied, torch.zeros_like(copied))
    if "negatives" in subject.needs and _reads_foil_in_true_words(subject):
        differences.notes.append("a negative in the words of its caption counts like any other")
    if not compared:
        raise NotApplicable("; ".join(["it compares no image with another image's caption", *differences.notes]))


def _reads_foil_in_true_words(subject: LossUnderTest) -> bool:
    """Whether it matters what a negative is that says word for word what its caption says."""
    batch = make_batch(25, captions=(2,), duplicates=False)  # one image: under another one the negative may be false
    foil = int((~batch.pairing.true_N).nonzero()[0])
    ids = batch.pairing.text_id_N.clone()
    ids[foil] = ids[batch.pairing.negative_of_N[foil]]
    copied = replace(batch, pairing=replace(batch.pairing, text_id_N=ids))
    draw = torch.Generator().manual_seed(2)
    names = [name for name in batch.parts() if batch.rows_of(name) == "texts"]
    changed = {name: batch.parts()[name].clone() for name in names}
    for x in changed.values():
        x[foil] = torch.randn(x.shape[1:], generator=draw, dtype=torch.float64)
    there, here = (subject.value(x) for x in (copied.with_leaves(changed), copied))
    return (there - here).abs().item() > 1e-9


def ids(subject: LossUnderTest, differences: Differences) -> None:
    """Other ids for the same equalities: an id says what is equal, nothing else."""
    batch = make_batch(24)  # ids of 63 bits that differ in one bit
    small = {name: torch.unique(getattr(batch.pairing, name), return_inverse=True)[1] for name in ("text_id_N", "image_id_B")}
    plain = subject.evaluate(replace(batch, pairing=replace(batch.pairing, **small)))
    for said, change in (("that differ in the last bit, or above the 32nd", {}), ("drawn at random", _drawn_ids(small))):
        found = subject.evaluate(replace(batch, pairing=replace(batch.pairing, **change)))
        differences.case = f"ids of 63 bits {said}, instead of 0, 1, 2, …"
        differences.compare("value", found.value, plain.value)
        for name, grad in plain.grads.items():
            differences.compare(f"gradient of {name}", found.grads[name], grad)


def _drawn_ids(small: dict[str, Tensor]) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(24)
    return {name: torch.randint(2**63 - 1, (int(x.max()) + 1,), generator=draw)[x] for name, x in small.items()}


def large_scores(subject: LossUnderTest, differences: Differences) -> None:
    """Every caption is the opposite of its image, so what it costs must go on growing with the scale."""
    batch = make_batch(27, duplicates=False)
    sign = torch.where(torch.arange(len(batch.pairing.image_id_B)) % 2 == 0, 1.0, -1.0).double()
    of_text = torch.where(batch.pairing.true_N, -1.0, 1.0).double() * sign[batch.pairing.owner_N]
    facing = {
        name: (sign if batch.rows_of(name) == "images" else of_text).view(-1, *[1] * (x.ndim - 1)).expand(x.shape)
        for name, x in batch.leaves().items()
        if batch.rows_of(name) != "nothing"
    }
    opposed = batch.with_leaves(facing)

    def growth(scale: float) -> float:
        there, back = (subject.value(opposed, scale=s).item() for s in (scale + 0.5, scale))
        return there - back

    early = growth(4.0)
    if early < 1e-3 or growth(8.0) < early / 2:  # a loss that is bounded, or whose scores are not these, has begun to level off
        raise NotApplicable("it does not grow with the scale where every caption is the opposite of its image")
    for scale in (12.0, 24.0, 90.0):
        differences.require(
            growth(scale) > early / 1000,
            f"where every caption is the opposite of its image the loss no longer grows between scale {scale:g} and {scale + 0.5:g}, "
            f"though it grew by {early:.3g} between 4 and 4.5",
        )


def _interplay(subject: LossUnderTest, batch: Batch, image: int, text: int) -> Tensor:
    def value(new_image: bool, new_text: bool) -> Tensor:
        draw = torch.Generator().manual_seed(1)
        changed = {}
        for name, x in batch.parts().items():
            if batch.rows_of(name) == "nothing":
                continue
            row, wanted = (image, new_image) if batch.rows_of(name) == "images" else (text, new_text)
            other = torch.randn(x.shape[1:], generator=draw, dtype=torch.float64)  # drawn in every case, so that it is the same
            changed[name] = torch.where((torch.arange(len(x)) == row).view(-1, *[1] * (x.ndim - 1)), other, x) if wanted else x
        return subject.value(batch.with_leaves(changed))

    return value(True, True) - value(True, False) - value(False, True) + value(False, False)


def input_length(subject: LossUnderTest, differences: Differences) -> None:
    """Not judged: whether the loss sees the length of its inputs."""
    batch = make_batch(9)
    plain = subject.value(batch)
    seen_by = []
    for said, names in (
        ("images", ("pooled_BD", "branches_BHD", "patches_BPD", "values_BGSE")),
        ("texts", ("pooled_ND", "tokens_NLD")),
    ):
        longer = batch.with_leaves({name: 3 * x for name, x in batch.leaves().items() if name in names})
        seen_by += [said] if not torch.allclose(subject.value(longer), plain, rtol=1e-9, atol=1e-9) else []
    differences.notes.append(
        f"it sees the length of its {' and '.join(seen_by)}" if seen_by else "it normalises: length does not matter"
    )
