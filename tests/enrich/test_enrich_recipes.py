"""The papers' recipes: CE-CLIP's with a masked language model made on the spot, NegCLIP's swaps, random captions; and a spaCy tagger."""

from __future__ import annotations

import pickle
from collections import Counter

import pytest
import torch

from wholegrain.data.record import Caption, Negative, Record, caption_id
from wholegrain.enrich.negatives.ce_clip import CeClipStage
from wholegrain.enrich.negatives.negclip import NegClipStage
from wholegrain.enrich.negatives.random_negatives import RandomStage
from wholegrain.enrich.negatives.word_rules import NegativesStage
from wholegrain.errors import UserError
from wholegrain.text.words.tagging import BuiltinTagger
from wholegrain.text.words.tagging_spacy import SpacyTagger

WORDS = [
    "a", "the", "man", "woman", "dog", "cat", "ball", "red", "blue", "big", "small", "runs",
    "jumps", "sits", "on", "in", "with", "grass", "wo", "table", "##man", ".", "chases", "black", "bench",
]  # fmt: skip


def record(*texts: str, key: str = "k") -> Record:
    return Record(key, f"{key}.jpg", (8, 8), captions=tuple(Caption(caption_id(text), text) for text in texts))


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> str:
    """A BERT whose words have a fixed order of likelihood wherever the mask stands: its output bias alone speaks."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("bert")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    transformers.BertTokenizerFast(vocab={w: n for n, w in enumerate(vocabulary)}, do_lower_case=True).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        max_position_embeddings=64,
    )  # fmt: skip
    model = transformers.BertForMaskedLM(config)
    order = ["dog", "cat", "blue", "jumps", "sits", "small", "table", "ball", "bench", "runs", "black", "red", "man"]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        bias = model.get_output_embeddings().bias
        for place, word in enumerate(order):
            bias[vocabulary.index(word)] = 100.0 - place
    model.save_pretrained(folder)
    return str(folder)


def kinds(stage: CeClipStage, *texts: str) -> dict[str, str]:
    (rows,) = stage.rows([record(*texts)], [None])
    return {row.kind: row.text for row in rows if isinstance(row, Negative) and row.caption == caption_id(texts[0])}


def test_the_released_variant_takes_the_fourth_word_whatever_it_is(bert):
    assert kinds(CeClipStage(bert, "released", kinds=("action",)), "a cat jumps .") == {
        "action": "a cat jumps ."
    }  # the word itself
    assert kinds(CeClipStage(bert, "released", kinds=("action",), rank=1), "a cat jumps .") == {"action": "a cat dog ."}


def test_the_released_variant_cuts_words_out_of_others(bert):
    made = kinds(CeClipStage(bert, "released", kinds=("object",), rank=1), "the woman and man")
    assert made["object"] in ("the wodog and man", "the dog and man")
    assert "the wodog and man" in {
        kinds(CeClipStage(bert, "released", kinds=("object",), rank=1, seed=seed), "the woman and man")["object"]
        for seed in range(9)
    }


def test_the_released_variant_fills_a_bare_mask(bert):
    assert kinds(CeClipStage(bert, "released", kinds=("attribute",)), "a cat jumps .") == {"attribute": "jumps"}


def test_the_released_variant_exchanges_all_places_of_the_first_two_of_three_nouns(bert):
    released = CeClipStage(bert, "released", kinds=("relation",))
    assert kinds(released, "a man and a cat on a man 's table") == {"relation": "a cat and a man on a cat 's table"}
    assert kinds(released, "a man and a cat") == {}
    assert kinds(released, "a man and a woman on a table") == {"relation": "a woman and a wowoman on a table"}


def test_the_corrected_variant_takes_the_next_word_that_is_another_of_its_kind(bert):
    corrected = CeClipStage(bert, kinds=("action", "attribute", "object"), rank=1)
    made = kinds(corrected, "a red cat runs on the grass .", "a dog on the grass")
    assert made["action"] == "a red cat jumps on the grass ."  # the best verb; dog and cat are none
    assert made["attribute"] == "a blue cat runs on the grass ."
    assert made["object"] in ("a red table runs on the grass .", "a red cat runs on the table .")
    assert kinds(corrected, "a cat sleeps .").get("attribute") is None  # no bare mask


def test_the_corrected_variant_leaves_synonyms_and_what_is_said_alone(bert):
    corrected = CeClipStage(bert, kinds=("action",), rank=1)
    assert kinds(corrected, "a cat runs .", "it jumps") == {"action": "a cat sits ."}
    assert kinds(corrected, "a cat leaps .")["action"] == "a cat sits ."


def test_batches_order_and_pickling_change_nothing(bert):
    records = [
        record(text, key=f"k{n}") for n, text in enumerate(["a red dog runs .", "a big cat sits on the small table .", "a man"])
    ]
    stage = CeClipStage(bert, seed=2)
    whole = stage.rows(records, [None] * 3)
    small = pickle.loads(pickle.dumps(CeClipStage(bert, seed=2, batch=1)))
    assert small.rows(records[::-1], [None] * 3)[::-1] == whole
    for rows, its in zip(whole, records, strict=True):
        for row in rows:
            assert all(its.captions[0].text[start:end] == old for start, end, old, _ in row.edits)


def test_another_model_is_another_identity(bert, tmp_path):
    assert CeClipStage(bert).identity == CeClipStage(bert).identity
    assert CeClipStage(bert).identity != CeClipStage(bert, "released").identity
    with pytest.raises(UserError, match="no masked language model"):
        CeClipStage(str(tmp_path)).rows([record("a dog runs")], [None])


def test_negclip_swaps_two_of_a_kind():
    stage = NegClipStage(per_caption=0)
    rows = stage.rows([record("A red dog slowly chases a blue cat and quickly sits .")], [None])[0]
    made = {row.kind: row.text for row in rows}
    assert made["swap_adjective"] == "A blue dog slowly chases a red cat and quickly sits ."
    assert made["swap_noun"] == "A red cat slowly chases a blue dog and quickly sits ."
    assert made["swap_adverb"] == "A red dog quickly chases a blue cat and slowly sits ."
    assert made["swap_verb"] == "A red dog slowly sits a blue cat and quickly chases ."
    assert made["swap_phrase"] == "A blue cat slowly chases a red dog and quickly sits ."
    assert len(NegClipStage().rows([record("A red dog chases a blue cat .")], [None])[0]) == 1
    assert NegClipStage().rows([record("Hello")], [None])[0] == []


class Few:
    """Some records, as a data set."""

    folder = "here"

    def __init__(self, count: int, negatives: dict | None = None) -> None:
        self.all = {f"k{n}": record(f"a dog number {n}", f"the dog {n}", key=f"k{n}") for n in range(count)}
        self.negatives = negatives or {}

    def record(self, key: str) -> Record:
        return self.all[key]


def test_random_ones_are_other_images_captions_as_many_as_there_were():
    data = Few(12)
    first, second = (caption.id for caption in data.all["k3"].captions)
    data.negatives = {("k3", first): (None,) * 3, ("k3", second): (None,)}
    stage = RandomStage(seed=1)
    stage.fit(data, list(data.all))
    rows = stage.rows(list(data.all.values()), [None] * 12)
    assert Counter(row.caption for its in rows for row in its) == {first: 3, second: 1}
    own = {caption.text for caption in data.all["k3"].captions}
    texts = [row.text for row in rows[3] if row.caption == first]
    assert len(set(texts)) == 3
    assert not set(texts) & own
    assert pickle.loads(pickle.dumps(stage)).rows([data.all["k3"]], [None]) == [rows[3]]


def test_random_ones_without_a_number_or_other_images_are_refused():
    with pytest.raises(UserError, match="make those first"):
        RandomStage().fit(Few(4), ["k0", "k1"])
    with pytest.raises(UserError, match="at least two images"):
        RandomStage(per_caption=1).fit(Few(4), ["k0"])


@pytest.fixture(scope="module")
def pipeline():
    """A pipeline without a download: an attribute ruler tags the words that it is told of."""
    spacy = pytest.importorskip("spacy")
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("attribute_ruler")
    tags = {
        "DET": "a the", "NOUN": "man dog beach coat", "ADJ": "red", "VERB": "runs", "ADP": "on in", "PUNCT": ".", "CCONJ": "and",
        "PRON": "his", "PROPN": "Rex",
    }  # fmt: skip
    for pos, words in tags.items():
        for word in words.split():
            ruler.add(patterns=[[{"LOWER": word.lower()}]], attrs={"POS": pos})
    return nlp


def test_a_spacy_pipeline_gives_the_same_grammar_as_the_built_in_tagger(pipeline):
    text = "A man in his red coat runs on the beach ."
    ours, theirs = BuiltinTagger().tag([text])[0], SpacyTagger(loaded=pipeline).tag([text])[0]
    assert [word.pos for word in theirs.words] == [word.pos for word in ours.words]
    assert theirs.phrases == ours.phrases
    assert [word.lemma for word in theirs.words] == [word.lemma for word in ours.words]
    assert SpacyTagger(loaded=pipeline).tag(["Rex and a dog"])[0].words[0].pos == "NOUN"


def test_rules_run_on_a_spacy_pipeline(pipeline):
    stage = NegativesStage(("attribute_colour", "action"), 9, tagger=SpacyTagger(loaded=pipeline), balance=())
    texts = {row.text for row in stage.of(record("A man in his red coat runs on the beach ."))}
    assert "A man in his blue coat runs on the beach ." in texts
    assert "A man in his red coat dances on the beach ." in texts
    assert stage.identity["tagger"].startswith("spacy en_")


def test_a_pipeline_that_is_not_there_is_named():
    pytest.importorskip("spacy")
    with pytest.raises(UserError, match="no pipeline 'en_core_web_nothing'"):
        SpacyTagger("en_core_web_nothing")
