"""Do the captions say what is in the pictures? Wrong fields, copies, texts that are cut off."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from wholegrain.doctor.finding import Finding, examples, level_of
from wholegrain.doctor.sample import DataSample, Item, spread
from wholegrain.progress import Show, each, nowhere
from wholegrain.text.tokenizer import Tokenizer

SUFFIX = r"\.(jpe?g|png|webp|gif|bmp|tiff?|avif|txt|json)"
_AGAIN = "wholegrain prepare SOURCE OUT --overwrite"
_FIELD = f"name the right field and prepare the data again: {_AGAIN} --caption-column NAME"
_TAGS = f"take the mark-up out of the captions and prepare the data again: {_AGAIN}"

Test = Callable[[str], object]
KINDS: tuple[tuple[str, Test, str], ...] = (
    ("URLs", re.compile(r"(https?://|www\.)\S+", re.I).fullmatch, _FIELD),
    ("file names", re.compile(rf"\S*{SUFFIX}|[\w.-]*(/[\w.-]+){{2,}}", re.I).fullmatch, _FIELD),
    ("numbers", re.compile(r"[-+]?[\d.,:/ -]*\d[\d.,:/ -]*").fullmatch, _FIELD),
    ("identifiers", re.compile(r"(?=\S*\d)([0-9a-f-]{8,}|[A-Za-z]{0,12}[_:-]?\d{3,}[\w-]*)", re.I).fullmatch, _FIELD),
    (
        "placeholders",
        re.compile(r"\W{0,9}(nan|none|null|n/?a|unknown|untitled|image|photo|caption|todo)?\W{0,9}", re.I).fullmatch,
        _FIELD,
    ),
    ("HTML", re.compile(r"</?[a-z][^<>]*>|&(#\d+|[a-z]{2,8});", re.I).search, _TAGS),
    (
        "lists in brackets",
        re.compile(r"\s*[\[{].*[\]}]\s*", re.S).fullmatch,
        f"split the lists into several captions and prepare the data again: {_AGAIN}",
    ),
    ("wrongly decoded letters", re.compile(r"Ã[\x80-\xbf]|â€|�").search, f"read the captions as UTF-8 and prepare the data again: {_AGAIN}"),
)
"""What no caption is -> how it is told, and what to do; a text is of the first kind that fits."""
MOST_TOKENISED = 5000
_READ = 400  # letters of a text that are looked at


def wrong_field(sample: DataSample) -> list[Finding]:
    """Captions that are file names, identifiers, URLs, numbers, mark-up, one and the same text, or names of classes; role by role."""
    findings = []
    for role, pairs in sorted(_by_role(sample.all).items()):
        texts = [text for _, text in pairs]
        odd = defaultdict(list)
        for item, text in pairs:
            kind = next((name for name, test, _ in KINDS if test(text[:_READ].strip())), None)
            if kind:
                odd[kind].append((item, text))
        for name, _, remedy in KINDS:
            level = level_of(len(odd[name]) / len(texts), 0.01, 0.5)
            if level != "fine":
                item, _ = odd[name][0]
                said = f"{len(odd[name]):,} of {len(texts):,} captions (role {role}) are {name}: {examples([t for _, t in odd[name]])}"
                numbers = {"share": len(odd[name]) / len(texts)}
                findings.append(Finding("caption field", level, f"{said}; first: {item.where}.", remedy, numbers))
        findings += _same(role, texts)
    return findings or [Finding("caption field", "fine", f"The captions of {len(sample.all):,} images read as captions.")]


def _same(role: str, texts: Sequence[str]) -> list[Finding]:
    """One text over and over, or class names."""
    counts = Counter(texts)
    (top, times), distinct = counts.most_common(1)[0], len(counts)
    numbers = {"captions": len(texts), "distinct": distinct, "of the most frequent": times}
    where = f"captions (role {role})"
    if len(texts) >= 8 and times == len(texts):
        return [Finding("caption field", "stop", f"All {times:,} {where} are {examples([top])}.", _FIELD, numbers)]
    if len(texts) < 50:
        return []
    single = sum(" " not in text.strip() for text in texts) / len(texts)
    if single > 0.8 and distinct < 0.5 * len(texts):
        said = f"The {where} are single words, {distinct:,} different ones in {len(texts):,}: names of classes, such as {examples(list(counts))}."
        do = "name a field of sentences if there is one; with class names alone, write sentences around them"
        return [Finding("caption field", "look", said, do, numbers)]
    if distinct < 0.1 * len(texts):
        said = f"Only {distinct:,} of {len(texts):,} {where} are different; the most frequent, {examples([top])}, comes {times:,} times."
        return [Finding("caption field", "look", said, "check that this is the right field", numbers)]
    return []


def copies(sample: DataSample, batch: int, as_negatives: bool = False) -> list[Finding]:
    """How often a caption meets a copy of itself under another image of its batch, and what the loss makes of that.

    Args:
        sample: of the data.
        batch: images of a batch.
        as_negatives: whether a loss of the recipe takes copies for negatives.
    """
    items, places = [item for item in sample.trained if item.captions], defaultdict(set)
    for item in items:
        for text, role in item.captions:
            if role != "label":
                places[text].add(item.place)
    if len({item.place for item in items}) < 2 or not places:
        return []
    images = len({item.place for item in items})
    weight_T = np.array([len(found) for found in places.values()], dtype=np.float64)
    # with one caption drawn per image of n captions, a copy is drawn with its image once in n
    each = sum(len(item.captions) for item in items) / images
    meets_T = 1 - (1 - (weight_T - 1) / (images - 1) / each).clip(0, 1) ** (batch - 1)
    meeting, repeated = float((weight_T * meets_T).sum() / weight_T.sum()), float(weight_T[weight_T > 1].sum() / weight_T.sum())
    top = max(places, key=lambda text: len(places[text]))
    numbers = {
        "copied": repeated,
        f"meets a copy in a batch of {batch}": meeting,
        "images of the most frequent": len(places[top]),
    }
    if meeting < 0.1:
        said = f"{repeated:.1%} of captions stand under several images; {meeting:.1%} meet a copy in a batch of {batch}."
        return [Finding("copied captions", "fine", said, numbers=numbers)]
    effect = (
        "which the loss takes for false, though they are true"
        if as_negatives
        else "which the loss leaves out of account: they teach nothing about each other"
    )
    said = (
        f"{meeting:.0%} of captions meet a copy of themselves under another image of a batch of {batch}, {effect}; "
        f"the most frequent, {examples([top])}, stands under {len(places[top]):,} of {images:,} images."
    )
    do = "remove the most frequent captions or make them longer" + (', or set duplicates = "ignore"' if as_negatives else "")
    return [Finding("copied captions", "look", said, do, numbers)]


def cut_off(sample: DataSample, tokenizer: Tokenizer, show: Show = nowhere) -> list[Finding]:
    """Captions longer than the model's context, and how many of their tokens are lost."""
    pairs = [(item, text) for item in sample.trained for text, _ in item.captions]
    chosen = [pairs[place] for place in spread(len(pairs), MOST_TOKENISED)]
    if not chosen:
        return []
    cut_N = tokenizer.encode([text for _, text in chosen]).cut_N
    lost, total = 0, sum(len(text.split()) for _, text in chosen)
    for (_, text), cut in each(list(zip(chosen, cut_N.tolist(), strict=True)), "counting tokens", show):
        lost += _words_lost(text, tokenizer) if cut else 0
    share, context = float(cut_N.float().mean()), tokenizer.context_length
    numbers = {"captions": len(chosen), "cut": share, "words lost": lost / max(1, total), "context": context}
    if share < 0.02:
        said = f"{share:.1%} of {len(chosen):,} captions are longer than the model's {context} tokens."
        return [Finding("cut texts", "fine", said, numbers=numbers)]
    first = chosen[int(cut_N.nonzero()[0])][0].where
    said = (
        f"{share:.0%} of {len(chosen):,} captions are longer than the model's {context} tokens and lose their end, "
        f"{lost / total:.0%} of all words; first: {first}."
    )
    do = 'read further (--model "...,context=248"), or draw sentences (data.captions with sentences)'
    return [Finding("cut texts", "look", said, do, numbers)]


def _words_lost(text: str, tokenizer: Tokenizer) -> int:
    """How many words are behind the last one that the context holds, found by halving."""
    words = text.split()
    low, high = 0, len(words)
    while low < high - 1:
        middle = (low + high) // 2
        fits = not bool(tokenizer.encode([" ".join(words[:middle])]).cut_N[0])
        low, high = (middle, high) if fits else (low, middle)
    return len(words) - low


def _by_role(items: Sequence[Item]) -> dict[str, list[tuple[Item, str]]]:
    found: dict[str, list[tuple[Item, str]]] = defaultdict(list)
    for item in items:
        for text, role in item.captions:
            if role != "label":  # a class name by its own account
                found[role].append((item, text))
    return found
