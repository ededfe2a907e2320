"""Results that are damaged or do not belong together: one sentence from compare, report and their reader, and nothing is written."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import damaged_files, damaged_json_files, met_badly
from made_results import make_result

from wholegrain.cli.compare import compare
from wholegrain.errors import UserError
from wholegrain.evaluation.result import load_results, save_results
from wholegrain.evaluation.show import print_results


@pytest.fixture
def results(tmp_path):
    save_results([make_result(), make_result("retrieval")], tmp_path / "a", {"dataset": "photos", "left_out": {"dense": "no masks"}})
    save_results([make_result(shift=1), make_result("retrieval")], tmp_path / "b", {"dataset": "photos"})
    return tmp_path


def undigested(folder):
    """As results were saved before they had digests of their items."""
    document = json.loads((folder / "results.json").read_text())
    for row in document["results"]:
        del row["digest"]
    (folder / "results.json").write_text(json.dumps(document))


def used(copy, other):
    """What compare and a report do with results."""
    out = copy.parent / "out.json"
    try:
        found, meta = load_results(copy)
        print_results(found)
        assert set(meta.get("left_out") or {}) <= {"dense", "unheard_of"}
        compare((copy, other), out=out)
    except UserError:
        assert not out.exists()
        raise
    json.loads(out.read_text())


@pytest.mark.parametrize("digests", [True, False])
def test_damaged_results_give_a_sentence_and_no_file(results, digests, capsys):
    if not digests:
        undigested(results / "a")
    cases = damaged_files(results / "a", lambda path: "clip_benchmark" not in path.parts, every=1 if digests else 2)
    bad = [said for what, copy in cases if (said := met_badly(what, used, copy, results / "b"))]
    assert not bad, "\n".join(bad)


def test_wrong_values_give_a_sentence_or_a_result(results, capsys):
    cases = damaged_json_files(results / "a", lambda path: path.name == "results.json", every=11)
    bad = [said for what, copy in cases if (said := met_badly(what, used, copy, results / "b"))]
    assert not bad, "\n".join(bad)


def test_items_of_another_evaluation_are_refused(results):
    (results / "b" / "items" / "composition.parquet").replace(results / "a" / "items" / "composition.parquet")
    with pytest.raises(UserError, match=r"composition\.parquet was not written together with .*results\.json"):
        load_results(results / "a")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop_columns(["group"]), "has no|no column 'group'|Nothing could be compared"),
        (lambda t: t.set_column(0, "item", pa.array([None] * len(t), pa.string())), "column 'item'"),
        (lambda t: t.set_column(3, "overall", pa.array(["yes"] * len(t))), "column 'overall'"),
        (lambda t: t.set_column(4, "accuracy", pa.array(["1"] * len(t))), "column 'accuracy'"),
        (lambda t: t.append_column("s00", pa.array(["1"] * len(t))), "column 's00'"),
        (lambda t: t.append_column("item", t["item"]), "2 times"),
        (lambda t: t.set_column(4, "accuracy", pa.array(np.full(len(t), np.nan))).drop_columns(["rank"]), "Nothing could be compared"),
    ],
)
def test_items_with_other_columns_are_refused_by_name(results, change, words):
    undigested(results / "a")
    (results / "a" / "items" / "retrieval.parquet").unlink()
    document = json.loads((results / "a" / "results.json").read_text())
    document["results"] = document["results"][:1]
    (results / "a" / "results.json").write_text(json.dumps(document))
    path = results / "a" / "items" / "composition.parquet"
    pq.write_table(change(pq.read_table(path)), path)
    with pytest.raises(UserError, match=words):
        compare((results / "a", results / "b"), out=results / "out.json")
    assert not (results / "out.json").exists()


@pytest.mark.parametrize("task", ["../composition", "", "a/b", "nul\0"])
def test_a_task_is_no_path(results, task):
    document = json.loads((results / "a" / "results.json").read_text())
    document["results"][0]["task"] = task
    (results / "a" / "results.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match="cannot be the name of a file"):
        load_results(results / "a")
