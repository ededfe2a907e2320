"""What must change nothing: the order of the batch, padding, what is missing, known copies."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from wholegrain.app.verify.cases import OF_TOKENS, Batch, make_batch, padded_with, permuted, without_texts
from wholegrain.app.verify.seen import Seen
from wholegrain.app.verify.subject import NotApplicable, Subject


def image_order(subject: Subject, seen: Seen) -> None:
    """The images of the batch in another order."""
    _order(subject, seen, images=True)


def text_order(subject: Subject, seen: Seen) -> None:
    """The texts of the batch in another order."""
    _order(subject, seen, images=False)


def _order(subject: Subject, seen: Seen, images: bool) -> None:
    for seed in (6, 7):
        batch, draw = make_batch(seed), torch.Generator().manual_seed(seed)
        image, text = (torch.arange(len(x)) for x in (batch.pairing.image_id_B, batch.pairing.owner_N))
        if images:
            image = torch.randperm(len(image), generator=draw)
        else:
            text = torch.randperm(len(text), generator=draw)
        plain, moved = subject.evaluate(batch), subject.evaluate(permuted(batch, image, text))
        seen.compare("value", moved.value, plain.value)
        for name, grad in plain.grads.items():
            order = {"images": image, "texts": text}.get(batch.rows_of(name) if grad.ndim else "nothing")
            seen.compare(f"gradient of {name}", moved.grads[name], grad if order is None else grad[order])


def padding(subject: Subject, seen: Seen) -> None:
    """What stands at padded tokens, and how many there are."""
    if not subject.needs & {"tokens", "cross"}:
        raise NotApplicable("it reads no tokens")
    batch = make_batch(7)
    plain, mask = subject.evaluate(batch), batch.text.mask_NL
    assert mask is not None
    length = mask.shape[1]
    for said, filling in (("0", 0.0), ("1e6", 1e6), ("nan", torch.nan), ("inf", torch.inf)):
        other = subject.evaluate(padded_with(batch, filling))
        seen.compare(f"value with {said} in 3 more padded tokens", other.value, plain.value)
        for name, grad in plain.grads.items():
            got = other.grads[name]
            if name in OF_TOKENS:
                more = torch.cat([~mask, torch.ones(len(mask), 3, dtype=torch.bool)], 1)
                seen.compare(f"gradient at padded tokens ({said})", got[more], torch.zeros_like(got[more]))
                got, grad = got[:, :length][mask], grad[mask]
            seen.compare(f"gradient of {name} with {said} in padded tokens", got, grad)


def missing(subject: Subject, seen: Seen) -> None:
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
        _finite(subject, seen, said, batch)


def _finite(subject: Subject, seen: Seen, said: str, batch: Batch) -> None:
    result = subject.evaluate(batch)
    seen.finite(f"value with {said}", result.value)
    for name, grad in result.grads.items():
        seen.finite(f"gradient of {name} with {said}", grad)
    for name, x in (result.state or {}).items():
        seen.finite(f"state {name} with {said}", x)


def duplicates(subject: Subject, seen: Seen) -> None:
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
    documented = getattr(subject.loss, "duplicates", "ignore")
    compared = False
    for image, caption, said in ((0, 3, "text"), (3, 0, "text"), (1, 2, "image"), (2, 1, "image")):
        usual = _interplay(subject, plain, image, int(true[caption]))
        copied = _interplay(subject, copies, image, int(true[caption]))
        if usual.abs() < 1e-9:
            continue
        compared = True
        where = f"how much image {image} and caption {caption}, true by a copied {said}, are compared"
        if documented == "negative":
            seen.compare(where + " (as any two)", copied, usual)
        elif documented == "positive":
            seen.require(copied.abs().item() > 1e-9, where + ": not at all, though documented as positive")
        else:
            seen.compare(where + " (documented: ignored)", copied, torch.zeros_like(copied))
    if not compared:
        raise NotApplicable("it compares no image with another image's caption")


def _interplay(subject: Subject, batch: Batch, image: int, text: int) -> Tensor:
    def value(new_image: bool, new_text: bool) -> Tensor:
        draw = torch.Generator().manual_seed(1)
        changed = {}
        for name, x in batch.parts().items():
            if batch.rows_of(name) == "nothing":
                continue
            row, wanted = (image, new_image) if batch.rows_of(name) == "images" else (text, new_text)
            other = torch.randn(x.shape[1:], generator=draw, dtype=torch.float64)  # drawn in every case, so that it is the same
            changed[name] = torch.where((torch.arange(len(x)) == row).view(-1, *[1] * (x.ndim - 1)), other, x) if wanted else x
        return subject.evaluate(batch.with_leaves(changed)).value

    return value(True, True) - value(True, False) - value(False, True) + value(False, False)


def input_length(subject: Subject, seen: Seen) -> None:
    """Not judged: whether the loss sees the length of its inputs."""
    batch = make_batch(9)
    plain = subject.evaluate(batch).value
    seen_by = []
    for said, names in (
        ("images", ("pooled_BD", "branches_BHD", "patches_BPD", "values_BGSE")),
        ("texts", ("pooled_ND", "tokens_NLD")),
    ):
        longer = batch.with_leaves({name: 3 * x for name, x in batch.leaves().items() if name in names})
        seen_by += [said] if not torch.allclose(subject.evaluate(longer).value, plain, rtol=1e-9, atol=1e-9) else []
    seen.notes.append(
        f"it sees the length of its {' and '.join(seen_by)}" if seen_by else "it normalises: length does not matter"
    )
