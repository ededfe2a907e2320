"""``cosmos`` once more: views and texts, crossed and not, pair by pair."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from wholegrain.features import ImageFeatures
from wholegrain.losses.cosmos import CosmosLoss
from wholegrain.verify.cases import lone_pair
from wholegrain.verify.closed_form import IMAGES, ClosedForm, all_alike
from wholegrain.verify.reference import Samples, cross_entropy, dot, mean, required, softmax, unit, weighted

VARIANTS = {
    "cosmos": CosmosLoss(),
    "cosmos-whole": CosmosLoss(whole=("overview", "web"), duplicates="negative"),
    "cosmos-whole-ignore": CosmosLoss(whole=("style",), contrast=0.5, distillation=2.0),
}
View = dict[int, tuple[Tensor, int | None]]  # image -> its vector, and the text that this is or has attended to
Slot = dict[int, int]  # image -> its text in this place


def known_breaks(loss: CosmosLoss) -> dict[str, str]:
    found = {"text_order": "texts have their meaning by their place in an image's list"}
    if loss.duplicates == "ignore":
        found["duplicates"] = "vectors that have seen both sides are fellow rivals of a third, whatever is known of the two"
    return found


def reference(loss: CosmosLoss, x: Samples) -> Tensor:
    """The formula of ``losses/cosmos.py`` in float64, sample by sample."""
    image, text = x.image, x.text
    whole, rest = _slots(loss, x, True), _slots(loss, x, False)
    texts, views, first = whole + rest, [image, *image.views], whole[0] if whole else {}
    teachers = [(view, view.teacher) for view in views if view.teacher is not None]
    global_views: list[View] = [{i: (view.pooled_BD[i], None) for i in x.images} for view, _ in teachers]
    of_texts: list[View] = [{i: (text.pooled_ND[n], n) for i, n in slot.items()} for slot in texts]
    teacher_views: list[View] = [{i: (teacher.pooled_BD[i], None) for i in x.images} for _, teacher in teachers]
    read = required(text.teacher).pooled_ND
    teacher_texts: list[View] = [{i: (read[n], n) for i, n in slot.items()} for slot in whole]
    crossed_images: list[View] = [{i: (_crossed_image(x, view, i, n), n) for i, n in first.items()} for view in views]
    crossed_texts: list[View] = [{i: (_crossed_text(x, n), n) for i, n in slot.items()} for slot in texts]

    def contrast(rows: list[View], columns: list[View], scale: Tensor) -> Tensor:
        return mean([e for a in rows for b in columns for e in _symmetric(x, a, b, scale, loss.duplicates)], x.scale)

    own = image.learned["cross_log_scale_1"][0].exp().clamp(max=100.0)
    crossed, taught = (crossed_images, crossed_texts), (teacher_views, teacher_texts)
    distilled = mean([contrast(rows, columns, own) for rows in crossed for columns in taught])
    return loss.contrast * contrast(global_views, of_texts, x.scale) + loss.distillation * distilled


def _slots(loss: CosmosLoss, x: Samples, whole: bool) -> list[Slot]:
    """The first of each image's texts that are whole (or are not), the second, and so on."""
    chosen = {n for n in x.true if (not loss.whole or x.role[n] in loss.whole) == whole}
    of = {i: [n for n in x.captions_of(i) if n in chosen] for i in x.images}
    return [{i: own[k] for i, own in of.items() if len(own) > k} for k in range(max(map(len, of.values()), default=0))]


def _attended(x: Samples, side: str, query: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    """One vector's attention over the parts of the other side: G heads, then the output map."""
    heads = [weighted(softmax(dot(q, key[g]) for key in keys), [value[g] for value in values]) for g, q in enumerate(query)]
    return x.image.learned[f"cross_{side}_DA"] @ torch.cat(heads) + x.image.learned[f"cross_{side}_D"]


def _crossed_image(x: Samples, view: ImageFeatures, i: int, n: int) -> Tensor:
    real = [place for place, there in enumerate(required(x.text.mask_NL)[n].tolist()) if there]
    keys, values = ([required(part)[n, place] for place in real] for part in (x.text.keys_NLGE, x.text.values_NLGE))
    return view.pooled_BD[i] + _attended(x, "image", required(view.query_BGE)[i], keys, values)


def _crossed_text(x: Samples, n: int) -> Tensor:
    keys, values = (required(part)[x.owner[n]].unbind(1) for part in (x.image.keys_BGSE, x.image.values_BGSE))
    return x.text.pooled_ND[n] + _attended(x, "text", required(x.text.query_NGE)[n], keys, values)


def _symmetric(x: Samples, rows: View, columns: View, scale: Tensor, duplicates: str) -> list[Tensor]:
    """The losses of all pairs of one view of rows and one of columns."""

    def rivals(i: int, j: int) -> bool:
        if i == j or duplicates == "negative":
            return i != j
        of_row, of_column = rows[i][1], columns[j][1]
        return not (of_column is not None and x.known(i, of_column)) and not (of_row is not None and x.known(j, of_row))

    of_rows, of_columns = ({i: unit(vector) for i, (vector, _) in view.items()} for view in (rows, columns))
    score = {(i, j): scale * dot(a, b) for i, a in of_rows.items() for j, b in of_columns.items()}
    each: list[Tensor] = []
    for i in rows.keys() & columns.keys():
        across = [score[i, j] for j in columns if rivals(i, j)]
        down = [score[j, i] for j in rows if rivals(j, i)]
        each.append((cross_entropy(score[i, i], across) + cross_entropy(score[i, i], down)) / 2)
    return each


def closed_forms(loss: CosmosLoss) -> Iterator[ClosedForm]:
    """Problems whose answer is known on paper."""
    weights = loss.contrast + (loss.distillation if not loss.whole or "web" in loss.whole else loss.distillation / 4)
    description = "4 images, 4 captions, all alike: ln 4 from the contrast, ln 4 from the teacher"
    yield ClosedForm(description, all_alike(), weights * math.log(IMAGES))
    two = all_alike(0, captions=2)
    yield ClosedForm("4 images of two captions each, all alike: the same", two, weights * math.log(IMAGES))
    yield ClosedForm("one image and its caption: 0", lone_pair(all_alike()), 0.0)
