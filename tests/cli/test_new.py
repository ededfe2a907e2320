"""``wholegrain new``: what it writes passes its own test, and nothing of the user's is overwritten; ``wholegrain completion`` completes."""

import os
import shutil
import subprocess
import sys

import pytest
from quick_processes import started

from wholegrain.cli.completion import command_parser
from wholegrain.cli.main import COMMANDS
from wholegrain.errors import UserError
from wholegrain.objectives.recipe import load_recipe
from wholegrain.workflows.skeleton import write_skeleton


@pytest.mark.slow
def test_what_is_written_passes_its_own_tests(tmp_path):
    tests = [write_skeleton(kind, f"my_{kind}", tmp_path)[1] for kind in ("recipe", "loss", "benchmark")]
    process = started(run_pytest, tmp_path, tests, said=tmp_path / "said")
    process.join(300)
    said = (tmp_path / "said").read_text()
    assert process.exitcode == 0, said
    assert all(test.name in said for test in tests), said


def run_pytest(folder, tests):
    """In a process of its own."""
    os.chdir(folder)
    sys.exit(pytest.main(["-v", "-p", "no:cacheprovider", "--rootdir", str(folder), *map(str, tests)]))


def test_a_recipe_begins_as_another_one(tmp_path):
    recipe, _ = write_skeleton("recipe", "mine", tmp_path / "new", "scenes/sparc")
    assert load_recipe(recipe).terms == load_recipe("scenes/sparc").terms
    assert load_recipe(recipe).name == "mine"


@pytest.mark.parametrize(
    ("name", "like", "said"),
    [
        ("my-loss", "clip", '"my-loss" cannot name'),
        ("class", "clip", '"class" cannot name'),
        ("Ä", "clip", "cannot name"),
        ("mine", "clap", 'did you mean "clip"'),
    ],
)
def test_names_that_cannot_be_are_refused_and_nothing_is_written(name, like, said, tmp_path):
    with pytest.raises(UserError, match=said):
        write_skeleton("recipe", name, tmp_path / "new", like)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_stays(tmp_path):
    (tmp_path / "test_mine.py").write_text("of the user")
    with pytest.raises(UserError, match=r"test_mine\.py is there already"):
        write_skeleton("loss", "mine", tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("test_mine.py", "of the user")]


def test_every_command_and_option_is_completed():
    commands = command_parser()._subparsers._group_actions[0].choices
    assert list(commands) == list(COMMANDS)
    options = {string for action in commands["train"]._actions for string in action.option_strings}
    assert {"--data", "--model", "--resume", "--steps"} <= options
    recipes = commands["compete"]._actions[1].choices
    assert {"clip", "scenes/sparc"} <= set(recipes)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_a_command_an_option_and_a_recipe():
    script = subprocess.run([sys.executable, "-m", "wholegrain", "completion", "bash"], capture_output=True, text=True, check=True).stdout
    typed = {"comp": {"compete", "compare", "completion"}, "train --resu": {"--resume"}, "compete ce_": {"ce_clip", "ce_fusion"}}
    for line, wanted in typed.items():
        words = line.split()
        ask = f"COMP_WORDS=(wholegrain {' '.join(words)}); COMP_CWORD={len(words)}; _shtab_wholegrain; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True)
        assert {word.strip() for word in done.stdout.split()} == wanted, (words, done.stdout, done.stderr)
