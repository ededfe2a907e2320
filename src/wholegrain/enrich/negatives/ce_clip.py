"""CE-CLIP's negatives: a masked language model fills in another noun, adjective or verb; two nouns change places.

Zhang, Awal and Agrawal, CVPR 2024, section 3.1, and the generator that they released. Two variants:

* ``released``: as the released generator does. A word is taken by its letters, so "man" may be cut out of "woman", and an exchange of two
  nouns exchanges all places where their letters stand; the candidate at a fixed rank (the fourth) is taken whatever it is, be it the word
  that stood there or a synonym; a caption without an adjective, noun or verb becomes a bare mask, and whatever fills it is kept. The
  exchange needs three nouns; captions with fewer have none (the release wrote ``###`` and masked it).
* ``corrected``: tokens, not letters; the best candidates from that rank on that are another word of the same part of speech, that nobody says
  of the picture and that may not mean the same; articles follow; no bare masks; the exchange needs two nouns that differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from wholegrain.data.dataset import Dataset
from wholegrain.data.record import Caption, Negative, Record
from wholegrain.enrich.negatives.word_rules import sources
from wholegrain.enrich.runner.stage import Failure, Picture, Rows, Stage
from wholegrain.errors import UserError
from wholegrain.suggest import closest
from wholegrain.text.words.morphology import verb_of
from wholegrain.text.words.source import Source, stream
from wholegrain.text.words.tagging import BuiltinTagger, Tagger
from wholegrain.text.words.text import Edit, apply, edited

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

KINDS = ("relation", "attribute", "object", "action")
_POS = {"attribute": "ADJ", "object": "NOUN", "action": "VERB"}
VERSION = 1
_TOP = 32  # candidates that the corrected variant looks at


@dataclass(frozen=True)
class Gap:
    """A caption with one word taken out.

    Attributes:
        caption: the caption.
        kind: what the word was.
        before, old, after: the text left of the gap, the word, the text right of it.
        source: the caption as rules see it; ``None`` in the released variant.
    """

    caption: Caption
    key: str
    kind: str
    before: str
    old: str
    after: str
    source: Source | None = None


@dataclass
class CeClipStage(Stage):
    """CE-CLIP's negatives by a masked language model, at most one of each kind for a caption.

    Args:
        model: a folder or a Hugging Face name; the paper has ``distilroberta-base``.
        variant: ``released`` or ``corrected``.
        rank: which candidate, from 1; the release takes the 4th.
        kinds: of :data:`KINDS`.
        seed: draws the words that are taken out.
        tagger: coarse parts of speech; the paper has spaCy's ``en_core_web_sm``.
        batch: texts at a time.
        device: such as ``cpu`` or ``cuda:0``; ``auto`` takes the GPU if there is one.
    """

    model: str
    variant: Literal["released", "corrected"] = "corrected"
    rank: int = 4
    kinds: Sequence[str] = KINDS
    seed: int = 0
    tagger: Tagger = field(default_factory=BuiltinTagger)
    batch: int = 128
    device: str = "auto"

    name = "ce_clip"
    table = "negatives"
    place = "device"

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or self.variant not in ("released", "corrected"):
            wrong, known = (unknown[0], KINDS) if unknown else (self.variant, ("released", "corrected"))
            raise UserError(f"CE-CLIP's negatives know no {wrong!r}; {closest(wrong, known)}")
        self._loaded: tuple[PreTrainedTokenizerBase, PreTrainedModel, torch.device] | None = None
        self._identity = _digest(self.model)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_loaded": None}

    @property
    def identity(self) -> dict[str, object]:
        """All that the rows depend on besides the data."""
        return {
            "method": "ce_clip", "version": VERSION, "variant": self.variant, "model": self._identity, "rank": self.rank,
            "kinds": list(self.kinds), "seed": self.seed, "tagger": self.tagger.identity,
        }  # fmt: skip

    @property
    def source(self) -> str:
        """What is written into every row."""
        name = Path(self.model).name or self.model
        return f"ce_clip {VERSION} {self.variant}, {name}, rank {self.rank}, {self.tagger.identity}, seed {self.seed}"

    def fit(self, dataset: Dataset, keys: Sequence[str]) -> None:
        """Nothing of the collection is needed."""

    def rows(self, records: Sequence[Record], pixels: Sequence[Picture]) -> list[Rows | Failure]:
        """The negatives of each record; the gaps of all records go through the model together, texts of like length in a batch."""
        gaps: list[Gap] = []
        made: dict[str, list[Negative]] = {record.key: [] for record in records}
        for record in records:
            for caption, source in sources(record, self.tagger, None):
                gaps += self._gaps(record.key, caption, source)
                if "relation" in self.kinds and (row := self._exchanged(record.key, caption, source)) is not None:
                    made[record.key].append(row)
        for gap, candidates in zip(gaps, self._candidates(gaps), strict=True):
            row = self._filled(gap, candidates)
            if row is not None:
                made[gap.key].append(row)
        order = {kind: n for n, kind in enumerate(KINDS)}
        ordered = [sorted(made[record.key], key=lambda row: (row.caption, order[row.kind])) for record in records]
        return [list({(row.caption, row.kind, row.text.lower()): row for row in rows}.values()) for rows in ordered]

    def _gaps(self, key: str, caption: Caption, source: Source) -> Iterator[Gap]:
        for kind, pos in _POS.items():
            if kind not in self.kinds:
                continue
            words = [word for word in source.words if word.pos == pos]
            draw = stream(self.seed, key, caption.id, kind)
            text = caption.text
            if not words:
                if self.variant == "released":
                    yield Gap(caption, key, kind, "", text, "")  # a bare mask
                continue
            word = words[draw.randrange(len(words))]
            start = text.index(word.text) if self.variant == "released" else word.start
            end = start + len(word.text)
            yield Gap(
                caption, key, kind, text[:start], text[start:end], text[end:], source if self.variant == "corrected" else None
            )

    def _exchanged(self, key: str, caption: Caption, source: Source) -> Negative | None:
        nouns = [n for n, word in enumerate(source.words) if word.pos == "NOUN"]
        if self.variant == "released":
            if len(nouns) < 3:
                return None
            first, second = (source.words[n].text for n in nouns[:2])
            text = caption.text.replace(first, "\0").replace(second, first).replace("\0", second)
            edit = (0, len(caption.text), caption.text, text)
            return Negative(key, caption.id, "relation", text, (edit,), self.source)
        for n in nouns[1:]:
            if source.words[n].lemma != source.words[nouns[0]].lemma:
                one = edited("relation", caption.text, source.swap((nouns[0], nouns[0]), (n, n)))
                false = one.text.lower() not in source.picture.texts
                return Negative(key, caption.id, "relation", one.text, one.edits, self.source) if false else None
        return None

    def _filled(self, gap: Gap, candidates: Sequence[str]) -> Negative | None:
        if gap.source is None:
            if len(candidates) < self.rank:
                return None
            new = candidates[self.rank - 1]
            edits: list[Edit] = [(len(gap.before), len(gap.before) + len(gap.old), gap.old, new)]
            return Negative(gap.key, gap.caption.id, gap.kind, apply(gap.caption.text, edits), tuple(edits), self.source)
        for word in self._acceptable(gap, candidates)[:1]:
            one = edited(gap.kind, gap.caption.text, [(len(gap.before), len(gap.before) + len(gap.old), word)])
            if one.text.lower() not in gap.source.picture.texts:
                return Negative(gap.key, gap.caption.id, gap.kind, one.text, one.edits, self.source)
        return None

    def _acceptable(self, gap: Gap, candidates: Sequence[str]) -> list[str]:
        source, found = gap.source, []
        assert source is not None
        for place, word in enumerate(candidates, 1):
            low = word.lower()
            if not low.isalpha() or low == gap.old.lower() or low in source.picture.words:
                continue
            tagged = self.tagger.tag([gap.before + word + gap.after])[0]
            new = next((w for w in tagged.words if w.start == len(gap.before)), None)
            if new is None or new.pos != _POS[gap.kind] or new.lemma in source.picture.words:
                continue
            if (gap.kind == "action" and not source.free_verb(new.lemma)) or (
                gap.kind == "object" and not source.free_noun(new.lemma)
            ):
                continue
            scales = source.lexicon.scales_of
            lists = source.lexicon
            if gap.kind == "object" and (
                low in scales or (verb_of(low)[0] in lists.frames_of and new.lemma not in lists.groups_of)
            ):
                continue  # "on the blue", "on the jumps"
            if gap.kind == "attribute" and any(
                low in cell and gap.old.lower() in cell for s in scales.get(low, ()) for cell in s.cells
            ):
                continue
            if place >= self.rank:
                found.append(word)
        return found

    def _candidates(self, gaps: Sequence[Gap]) -> list[list[str]]:
        """The model's best words for each gap, the best first; none where the gap lies beyond what the model reads."""
        tokenizer, model, device = self._model()
        texts = [f"{gap.before}{tokenizer.mask_token}{gap.after}" for gap in gaps]
        found: list[list[str]] = [[] for _ in gaps]
        order = sorted(range(len(gaps)), key=lambda n: len(texts[n]))
        for start in range(0, len(order), self.batch):
            chosen = order[start : start + self.batch]
            tokens = tokenizer([texts[n] for n in chosen], return_tensors="pt", padding=True, truncation=True, max_length=512)
            with torch.inference_mode():
                logits_NLV = model(**tokens.to(device)).logits
            for row, n in enumerate(chosen):
                places = (tokens["input_ids"][row] == tokenizer.mask_token_id).nonzero()
                if len(places):
                    best = logits_NLV[row, places[0, 0]].float().topk(min(_TOP, logits_NLV.shape[-1])).indices.tolist()
                    found[n] = [str(tokenizer.decode([token])).strip() for token in best]
        return found

    def _model(self) -> tuple[PreTrainedTokenizerBase, PreTrainedModel, torch.device]:
        if self._loaded is None:
            try:
                from transformers import AutoModelForMaskedLM, AutoTokenizer
            except ImportError:
                raise UserError('CE-CLIP\'s negatives need transformers; install it with: pip install "wholegrain[hf]"') from None
            where = (
                "cuda" if self.device == "auto" and torch.cuda.is_available() else "cpu" if self.device == "auto" else self.device
            )
            try:
                tokenizer = AutoTokenizer.from_pretrained(self.model)
                model = AutoModelForMaskedLM.from_pretrained(self.model)
            except (OSError, ValueError) as error:
                raise UserError(
                    f"{self.model} is no masked language model that transformers can load: {str(error).splitlines()[0]}"
                ) from None
            if tokenizer.mask_token is None:
                raise UserError(f"{self.model} has no mask token; choose a masked language model such as distilroberta-base.")
            self._loaded = tokenizer, model.eval().to(where), torch.device(where)
        return self._loaded


def _digest(model: str) -> str:
    """The name; of a folder also a digest of its files, so that other weights are another model."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    total = blake2b(digest_size=8)
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".json", ".txt", ".safetensors", ".bin", ".model")):
        total.update(path.name.encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                total.update(chunk)
    return f"{folder.name} {total.hexdigest()}"
