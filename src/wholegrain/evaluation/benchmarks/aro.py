"""ARO (Yuksekgonul et al., ICLR 2023): relations, attributes, and word order.

* ``vg_relation``, ``vg_attribution``: a part of a Visual Genome picture (it is cut out first), a true and a false caption; chance 50%. The
  published number is a *macro* average: over relations, after some 190 relations that the authors call symmetric or hard to judge are
  dropped (``dropped_relations.txt``, one a line, or the list in the official notebook), and over attribute pairs with at least 25 cases.
  ``vg_relation_micro`` is the row over all items: the two differ, and part of the disagreement between published numbers is that.
* ``coco_order``, ``flickr_order``: a caption against four shuffled forms; right if it scores above all four; chance 20%.

Where ours differs: the official code gives ties to one side (argmax: to the false caption in VG, to the caption in the orders); here a tie
is wrong and is shown. Boxes are cut to the picture. The order sets are random: nouns and adjectives shuffled among themselves, all but these
shuffled, words within trigrams, trigrams. They are made here by spaCy's tags and tokens with one seed a caption (official: NLTK for the
trigrams, one global seed), or read from ``coco_order.json`` / ``flickr30k_order.json``: a list of ``{"image", "caption_options": [true,
false…]}``. A shuffle that gives the caption back is left out of the item. Both sides are lower-cased and stripped of ``.!"()*#:;~`` and cut to
30 words, as in the official code.

Files: ``visual_genome_relation.json``, ``visual_genome_attribution.json`` and their ``images`` (https://github.com/mertyg/vision-language-models-are-bows,
its loader names the Google Drive files); ``coco_karpathy_test.json`` and ``flickr30k_test.json`` from
https://storage.googleapis.com/sfr-vision-language-research/datasets/, pictures of COCO 2014 and Flickr30k.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from wholegrain.errors import UserError
from wholegrain.evaluation.benchmarks.files import AGAIN, Folder, Row, field, read_json, read_rows
from wholegrain.evaluation.benchmarks.items import Benchmark, Item, Picture, Tree
from wholegrain.evaluation.result import NotSupportedError
from wholegrain.files import read_text

SOURCE = "https://github.com/mertyg/vision-language-models-are-bows (dataset_zoo/aro_datasets.py names the files)"
LEAST_CASES = 25
Tagger = Callable[[str], list[tuple[str, str]]]
"""text -> (token, Penn Treebank tag) pairs."""
_SETS = {"vg_relation": "visual_genome_relation.json", "vg_attribution": "visual_genome_attribution.json"}
_ORDERS = {
    "coco_order": ("coco_order.json", "coco_karpathy_test.json"),
    "flickr_order": ("flickr30k_order.json", "flickr30k_test.json"),
}


def aro(folder: Path | str, images: tuple[Path, ...] = (), *, tagger: Tagger | None = None) -> Benchmark:
    """Reads those of the four sets that are in the folder.

    Args:
        tagger: for the order sets; by default spaCy's ``en_core_web_sm``.
    """
    place = Folder(folder, SOURCE, images)
    items: list[Item] = []
    notes: list[str] = []
    averages: dict[str, Tree] = {}
    for name, file in _SETS.items():
        path = place.find(file)
        if path is None:
            notes.append(f"not there: {file}")
            continue
        kept, lost = place.kept(_cut_out(place, path, name))
        items += kept
        notes += lost
        averages[f"{name}_macro"], more = _macro(kept, name, place)
        notes += more
    for name, files in _ORDERS.items():
        path = place.find(*files)
        if path is None:
            notes.append(f"not there: {' or '.join(files)}")
            continue
        kept, lost = place.kept(_orders(place, path, name, tagger))
        items += kept
        notes += lost
    if not items:
        raise UserError(
            f"{place.path} has none of {', '.join((*_SETS.values(), *(f for fs in _ORDERS.values() for f in fs)))}; see {SOURCE}."
        )
    averages = {name: tree for name, tree in averages.items() if tree}
    protocol = (
        "VG: the true caption of the cut-out must score strictly above the false one, rows are micro averages, …_macro as published; "
        "order: a caption against its shuffled forms"
    )
    return Benchmark("aro", tuple(items), protocol, averages, micro=False, notes=tuple(notes))


def _cut_out(place: Folder, path: Path, name: str):
    for number, row in enumerate(read_rows(path)):
        file = field(row, path, "image_path")
        at = place.picture(file)
        x, y, w, h = (int(field(row, path, f"bbox_{side}")) for side in "xywh")
        part = row["relation_name"] if name == "vg_relation" else "_".join(field(row, path, "attributes")[:2])
        true, false = field(row, path, "true_caption"), field(row, path, "false_caption")
        yield file, at and Item(str(number), name, (Picture(at, (x, y, x + w, y + h)),), (true,), (false,), f"{name}:{part}")


def _macro(items: Sequence[Item], name: str, place: Folder) -> tuple[Tree, list[str]]:
    counts = Counter(item.part for item in items)
    if name == "vg_attribution":
        return tuple(sorted(part for part, count in counts.items() if count >= LEAST_CASES)), []
    listed = place.find("dropped_relations.txt")
    if listed is None:
        note = "vg_relation_macro is over all relations: put the official list of dropped ones into dropped_relations.txt for the published average"
        return tuple(sorted(counts)), [note]
    dropped = {f"{name}:{line.strip()}" for line in read_text(listed, AGAIN).splitlines()}
    return tuple(sorted(part for part in counts if part not in dropped)), []


def _orders(place: Folder, path: Path, name: str, tagger: Tagger | None):
    rows = read_json(path, list[Row])
    made = rows and "caption_options" in rows[0]
    if not made:
        tagger = tagger or spacy_tagger()
    for number, row in enumerate(rows):
        file = field(row, path, "image")
        at = place.picture(file)
        captions = [row["caption_options"]] if made else [[c] for c in field(row, path, "caption")]
        for index, options in enumerate(captions):
            if not made and tagger is not None and at is not None:
                options = [options[0], *shuffled_forms(options[0], tagger, seed=f"{name}:{number}:{index}")]
            true, *false = (plain(text) for text in options)
            false = [text for text in dict.fromkeys(false) if text != true]
            if at is None or false:
                yield file, at and Item(f"{number}:{index}", name, (Picture(at),), (true,), tuple(false))


def plain(caption: str, words: int = 30) -> str:
    """The form in which ARO compares captions.

    Example:
        >>> plain('A "red" cup;  on (the) table.')
        'a red cup on the table'
    """
    return " ".join(re.sub(r"\s{2,}", " ", re.sub(r"([.!\"()*#:;~])", " ", caption.lower())).strip().split(" ")[:words])


def shuffled_forms(caption: str, tagger: Tagger, seed: str) -> list[str]:
    """The four shuffled forms of a caption, the same for the same seed."""
    rng = random.Random(seed)
    tagged = tagger(caption)
    tokens = [token for token, _ in tagged]
    nouns = [n for n, (_, tag) in enumerate(tagged) if tag.startswith("NN")]
    adjectives = [n for n, (_, tag) in enumerate(tagged) if tag.startswith("JJ")]
    rest = [n for n in range(len(tagged)) if n not in {*nouns, *adjectives}]

    def permuted(*groups: list[int]) -> str:
        out = list(tokens)
        for places in groups:
            for to, origin in zip(places, rng.sample(places, len(places)), strict=True):
                out[to] = tokens[origin]
        return " ".join(out)

    threes = [tokens[n : n + 3] for n in range(0, len(tokens), 3)]
    within = " ".join(word for three in threes for word in rng.sample(three, len(three)))
    among = " ".join(word for three in rng.sample(threes, len(threes)) for word in three)
    return [permuted(nouns, adjectives), permuted(rest), within, among]


def spacy_tagger() -> Tagger:
    """spaCy's small English model.

    Raises:
        NotSupportedError: when it is not installed.
    """
    try:
        import spacy

        nlp = spacy.load("en_core_web_sm", disable=["parser", "ner", "lemmatizer"])
    except (ImportError, OSError) as error:
        raise NotSupportedError(
            "Parts of speech need spaCy: `pip install spacy` and `python -m spacy download en_core_web_sm`."
        ) from error
    return lambda text: [(token.text, token.tag_) for token in nlp(text)]
