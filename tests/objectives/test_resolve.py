"""A loss of the user's own that cannot be had is refused in one sentence that names the file and the line."""

from __future__ import annotations

import sys

import pytest

from wholegrain.cli.main import main
from wholegrain.errors import UserError
from wholegrain.objectives.objective import Objective
from wholegrain.objectives.recipe import load_recipe
from wholegrain.objectives.resolve import resolve_loss
from wholegrain.objectives.schema import Term

UNUSABLE = {
    "raises": ("def half():\n    return 1 / 0\nhalf()\n", r"mine\.py line 2 raises ZeroDivisionError \(division by zero\)"),
    "lacks a file": ("open('/nowhere/weights.txt')\n", r"mine\.py line 1 raises FileNotFoundError"),
    "exits": ("import sys\n\nsys.exit('no GPU\\nhere')\n", r"mine\.py line 3 calls exit\(no GPU here\)"),
    "is no Python": ("x = 1\ndef f(:\n    pass\n", r"mine\.py line 2 is not Python \(invalid syntax\)"),
    "is no text": (b"x = '\xff'\n", r"mine\.py line 1 is not Python .*utf-8"),
    "imports what is not there": ("\nimport nothing_of_the_kind\n", r"mine\.py line 2 raises ModuleNotFoundError .*'nothing_of_the_kind'"),
    "says much": ("raise RuntimeError('a\\n\\n  b.')\n", r"mine\.py line 1 raises RuntimeError \(a b\)"),
    "stops oddly": ("class Stop(BaseException): pass\nraise Stop\n", r"mine\.py line 2 raises Stop;"),
    "cannot be made": (
        "class Loss:\n    needs = frozenset()\n    def __init__(self): {}['x']\n    def __call__(self): pass\n",
        r"mine\.py line 3 raises KeyError",
    ),
    "has another name": ("class Lost: pass\nclass Other: pass\n", r'mine\.py" has no "Loss" .*did you mean "Lost"'),
    "is empty": ("", r'mine\.py" has no "Loss" .*it defines no class'),
}  # fmt: skip


@pytest.mark.parametrize("fault", UNUSABLE)
def test_a_file_that_cannot_be_used_is_refused(fault, tmp_path, capsys):
    text, said = UNUSABLE[fault]
    file = tmp_path / "mine.py"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    recipe = load_recipe({"terms": [{"loss": f"{file}:Loss", "name": "own"}]})
    with pytest.raises(UserError, match=said) as refused:
        Objective(recipe.terms)
    assert "\n" not in str(refused.value)
    assert 'term "own"' in str(refused.value)
    with pytest.raises(SystemExit) as ended:
        main(["verify", f"{file}:Loss"])
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out, printed.err.count("\n")) == (2, "", 1)
    assert "mine.py" in printed.err


def test_what_is_not_there_is_refused(tmp_path, monkeypatch):
    (tmp_path / "folder.py").mkdir()
    for place, said in ((f"{tmp_path}/none.py", "There is no file"), (f"{tmp_path}/folder.py", "There is no file"),
                        ("nothing.of_the_kind", "There is no module")):  # fmt: skip
        with pytest.raises(UserError, match=said):
            resolve_loss(Term(f"{place}:Loss"))
    (tmp_path / "broken_module.py").write_text("import math\nmath.sqrt(-1)\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"broken_module\.py line 2 raises ValueError"):
        resolve_loss(Term("broken_module:Loss"))


def test_ctrl_c_while_a_file_is_read_stays_ctrl_c(tmp_path):
    (tmp_path / "mine.py").write_text("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        resolve_loss(Term(f"{tmp_path}/mine.py:Loss"))


def test_a_file_that_raises_leaves_no_half_module_behind(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "wholegrain_user_half", raising=False)
    (tmp_path / "half.py").write_text("x = 1\nraise ValueError\n")
    with pytest.raises(UserError, match=r"half\.py line 2 raises ValueError;"):
        resolve_loss(Term(f"{tmp_path}/half.py:Loss"))
    assert "wholegrain_user_half" not in sys.modules


def test_a_loss_of_ones_own_may_state_ranges(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom wholegrain.losses.clip import ClipLoss\n\n\n@dataclass(frozen=True)\nclass Loss(ClipLoss):\n"
        "    power: float = 1.0\n    ranges = {**ClipLoss.ranges, 'power': (0, 4)}\n"
    )
    assert resolve_loss(Term(f"{tmp_path}/mine.py:Loss", settings={"power": 4.0})).power == 4
    for settings in ({"power": 5.0}, {"label_smoothing": 5.0}):
        with pytest.raises(UserError, match=r"is 5\.0; it must be from 0 to"):
            resolve_loss(Term(f"{tmp_path}/mine.py:Loss", settings=settings))
