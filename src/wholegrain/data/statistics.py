"""What a manifest says of captions: how long they are, how much of them a tokeniser cuts off, and which come twice."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from wholegrain.data.record import Record, caption_id

if TYPE_CHECKING:
    from wholegrain.text.tokenizer import Tokenizer

MEASURED = 20_000
LISTED = 100
_READ = 1_000  # characters of a caption: more than a context of tokens, and byte pairs of one endless word take ever longer


class CaptionStatistics:
    """Takes in records one after the other and keeps a few bytes of each caption.

    Args:
        expected: about how many captions will come; of more than 20,000 every n-th is tokenised.
    """

    def __init__(self, expected: int) -> None:
        self.words: Counter[int] = Counter()
        self.stride = max(1, -(-expected // MEASURED))
        self.sample: list[str] = []
        self.splits: dict[str, int] = {}
        self._hashes = array("Q")
        self._split_of = array("H")
        self._count = 0

    def add(self, record: Record) -> None:
        """Takes in one record."""
        split = self.splits.setdefault(record.split, len(self.splits))
        texts = dict.fromkeys(caption.text for caption in record.captions)  # one text in two roles is no duplicate
        for caption in record.captions:
            self.words[len(caption.text.split())] += 1
            if self._count % self.stride == 0:
                self.sample.append(caption.text)
            self._count += 1
        self._hashes.extend(int(caption_id(text), 16) for text in texts)
        self._split_of.extend([split] * len(texts))

    def duplicates(self) -> tuple[dict[int, dict[str, int]], dict[str, int]]:
        """The most frequent repeated captions (hash -> split -> images), and how many texts repeat inside and across splits."""
        hashes, splits = np.array(self._hashes), np.array(self._split_of)
        order = np.lexsort((splits, hashes))
        hashes, splits = hashes[order], splits[order]
        values, starts, counts = np.unique(hashes, return_index=True, return_counts=True)
        counted = {"inside_splits": 0, "across_splits": 0}
        found: list[tuple[int, int, Counter[int]]] = []
        for i in np.flatnonzero(counts > 1).tolist():
            per_split = Counter(splits[starts[i] : starts[i] + counts[i]].tolist())
            counted["inside_splits"] += any(n > 1 for n in per_split.values())
            counted["across_splits"] += len(per_split) > 1
            found.append((-int(counts[i]), int(values[i]), per_split))
        names = {number: name for name, number in self.splits.items()}
        across = sorted(item for item in found if len(item[2]) > 1)[:LISTED]
        chosen = {number: per_split for _, number, per_split in sorted(found, key=lambda f: f[:2])[:LISTED] + across}
        return {number: {names[s]: n for s, n in sorted(c.items())} for number, c in chosen.items()}, counted

    def lengths(self, tokenizer: Tokenizer) -> dict[str, object]:
        """Histogram of words, and what CLIP's tokeniser makes of a sample."""
        lengths: list[int] = []
        cut = 0
        for start in range(0, len(self.sample), 4096):
            tokens = tokenizer.encode([text[:_READ] for text in self.sample[start : start + 4096]])
            lengths += tokens.length_N.tolist()
            cut += int(tokens.cut_N.sum())
        share = cut / len(lengths) if lengths else 0.0
        tokens = {"tokenizer": "CLIP byte pairs", "context": tokenizer.context_length, "measured": len(lengths)}
        if lengths:
            quantiles = {f"p{q}": int(np.percentile(lengths, q)) for q in (50, 95)}
            tokens |= {"mean": round(float(np.mean(lengths)), 2), **quantiles, "max": max(lengths)}
        words = {str(n): count for n, count in sorted(self.words.items())}
        return {"words": words, "tokens": {**tokens, "cut": cut, "cut_share": round(share, 6)}}


def clip_tokenizer() -> Tokenizer:
    """CLIP's byte pairs, context 77. Importing open_clip takes seconds, so it is done here, when it is needed."""
    from wholegrain.text.tokenizer import ClipTokenizer

    return ClipTokenizer()


def name_duplicates(chosen: dict[int, dict[str, int]], texts: Iterable[str]) -> list[dict[str, object]]:
    """Gives the chosen hashes their texts: a list of ``{"text", "images": {split: count}}``, the most frequent first."""
    named: dict[int, str] = defaultdict(str)
    for text in texts:
        if len(named) == len(chosen):
            break
        number = int(caption_id(text), 16)
        if number in chosen:
            named[number] = text
    ranked = sorted(chosen.items(), key=lambda item: (-sum(item[1].values()), named[item[0]]))
    return [{"text": named[number], "images": images} for number, images in ranked]
