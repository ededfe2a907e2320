"""``--grain`` of evaluate, audit and export: the same score by the option, by the model's name and by an exported head."""

import json

import pytest
from tiny_training import make_dataset, make_model

from wholegrain.cli.main import main
from wholegrain.evaluation.result import load_results
from wholegrain.towers import convert_head, load_model, save_model


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grain")
    data = make_dataset(folder / "photos", 12, splits=("train", "val", "test"))
    save_model(make_model(data, image_size=32).eval(), folder / "model")
    return folder


def wholegrain(*args):
    with pytest.raises(SystemExit) as end:
        main(list(map(str, args)))
    return end.value.code


def figures(folder):
    (result,), meta = load_results(folder)
    return meta, result.metrics


def evaluated(place, name, model, *words):
    out = place / name
    assert wholegrain("evaluate", model, "--data", place / "photos", "--suite", "retrieval", "--out", out, *words) == 0
    return figures(out)


def test_option_name_and_exported_head_score_alike(place, capsys):
    meta, by_option = evaluated(place, "a", place / "model", "--grain", "4:0.05")
    _, by_name = evaluated(place, "b", f"{place / 'model'},grain=4:0.05")
    assert meta["model"].endswith("model,grain=4:0.05")
    assert by_option == by_name != evaluated(place, "c", place / "model")[1]
    assert wholegrain("export", place / "model", place / "with_head", "--to", "wholegrain", "--grain", "4:0.05") == 0
    assert load_model(place / "with_head").head.kind == "grain"
    assert evaluated(place, "d", place / "with_head")[1] == pytest.approx(by_option)


def test_results_of_another_weight_are_not_taken_for_the_same(place):
    first, _ = evaluated(place, "e", place / "model", "--grain", "1")
    second, _ = evaluated(place, "e", place / "model", "--grain", "2")
    assert first["weights"] != second["weights"]


def test_auto_takes_what_is_best_on_val(place, capsys):
    meta, _ = evaluated(place, "f", place / "model", "--grain", "auto")
    said = capsys.readouterr().out
    assert "on val" in said
    assert meta["model"].rpartition("=")[2] in said
    assert wholegrain("evaluate", place / "model", "--data", place / "photos", "--split", "val", "--grain", "auto") == 2
    assert "another one" in capsys.readouterr().err


def test_an_audit_asks_by_whole_and_grain(place):
    words = ("--split", "test", "--pictures", "1")
    for name, grain in (("plain", ()), ("grained", ("--grain", "4:0.05"))):
        assert wholegrain("audit", place / "model", place / "photos", "--out", place / name, *words, *grain) == 0
    plain, grained = (json.loads((place / name / "audit.json").read_text()) for name in ("plain", "grained"))
    assert grained["model"].endswith(",grain=4:0.05")
    assert plain["scorecard"] != grained["scorecard"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("evaluate", "MODEL", "--data", "DATA", "--grain", "much"), "grain=1"),
        (("evaluate", "HEAD", "--data", "DATA", "--grain", "1"), "jointly already"),
        (("export", "HEAD", "OUT", "--to", "wholegrain", "--grain", "1"), "head 'pacl'"),
        (("export", "MODEL", "OUT", "--to", "wholegrain", "--grain", "1:0.1:en_core_web_sm"), "built-in tagger"),
        (("export", "MODEL", "OUT", "--to", "wholegrain", "--grain", "0"), "head_settings.weight"),
    ],
)
def test_what_cannot_be_scored_so_is_refused(place, words, sentence, capsys):
    if not (place / "head").exists():
        save_model(convert_head(load_model(place / "model"), "pacl"), place / "head")
    names = {"MODEL": place / "model", "DATA": place / "photos", "HEAD": place / "head", "OUT": place / "out"}
    assert wholegrain(*(names.get(word, word) for word in words)) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not (place / "out").exists()
