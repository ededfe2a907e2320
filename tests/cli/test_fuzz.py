"""Damaged and hostile input of every kind, a few cases of each: served, or refused in one sentence, and nothing else."""

import pytest
from fuzz.run import tried
from fuzz.surfaces import SURFACES

EACH = {"pictures": 30, "overrides": 30, "checkpoints": 6, "degenerate": 6}


@pytest.mark.slow
def test_whatever_comes_is_served_or_refused_in_one_sentence() -> None:
    cases = [(surface, number) for surface in SURFACES for number in range(EACH.get(surface, 15))]
    found = tried(cases)
    assert len(found) == len(cases)
    bad = [f"{surface} {number}: {verdict.met}: {verdict.detail}\n{trace}" for (surface, number), verdict, trace in found if verdict.bad]
    assert not bad, "\n".join(bad[:5])
    met = {verdict.met for _, verdict, _ in found}
    assert met == {"served", "refused"}


def test_what_is_badly_met_is_seen() -> None:
    """The watch itself: an exception, a sentence of two lines, a program, a file elsewhere, a loop."""
    import subprocess
    import sys
    import time
    from pathlib import Path

    from fuzz import watch

    from wholegrain.errors import UserError

    def loop(rng, folder) -> None:
        while True:
            time.sleep(0)

    def refuse(text):
        raise UserError(text)

    expected = {
        "served": lambda rng, folder: (folder / "x").write_text("x"),
        "refused": lambda rng, folder: refuse("this is wrong there; do that"),
        "traceback": lambda rng, folder: {}["x"],
        "no sentence": lambda rng, folder: refuse("wrong"),
        "side effect": lambda rng, folder: subprocess.run([sys.executable, "-c", ""], check=True),
    }
    for met, case in expected.items():
        assert watch.watched(case, "0")[0].met == met
    outside = Path(__file__).parent / ".fuzz"
    assert watch.watched(lambda rng, folder: (outside.mkdir(), outside.rmdir()), "0")[0].met == "side effect"
    watch.SECONDS, before = 0.2, watch.SECONDS
    try:
        assert watch.watched(loop, "0")[0].met == "too slow"
    finally:
        watch.SECONDS = before
