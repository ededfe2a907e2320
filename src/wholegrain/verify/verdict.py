"""Runs the checks on a loss and says what they found."""

from __future__ import annotations

import math
import sys
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

from wholegrain.errors import UserError
from wholegrain.objectives.resolve import packaged, resolve_loss
from wholegrain.objectives.schema import Term
from wholegrain.progress import Show, each, nowhere
from wholegrain.suggest import closest
from wholegrain.verify.checks import CHECKS, NAMES, Check
from wholegrain.verify.definitions import label, variant_settings
from wholegrain.verify.differences import Differences
from wholegrain.verify.subject import LossUnderTest, NotApplicable, make_subject

Status = Literal["pass", "FAIL", "known to break", "not applicable", "note"]


@dataclass(frozen=True)
class CheckResult:
    """What one check found.

    Attributes:
        check: its name.
        status: ``known to break`` is a failure that the loss declares; where a declared failure does not occur, that is a FAIL.
        means: what holds if it passes.
        said: the reason, what was seen with numbers, or a remark; may be empty.
        likely: where a failure most likely comes from; empty unless it failed.
        difference: the largest one seen, relative; ``None`` if nothing was compared.
    """

    check: str
    status: Status
    means: str
    said: str = ""
    likely: str = ""
    difference: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What all checks found of one loss.

    Attributes:
        loss: its name, with its settings.
        findings: one for each check.
        skipped: why it could not be verified at all; empty if it was.
    """

    loss: str
    findings: tuple[CheckResult, ...] = ()
    skipped: str = ""

    @property
    def right(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    @property
    def failed(self) -> list[str]:
        """The checks that failed, without those that are known to break."""
        return [finding.check for finding in self.findings if finding.status == "FAIL"]

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        if self.skipped:
            return f"{self.loss} was not verified: {self.skipped}"
        count = {
            status: sum(f.status == status for f in self.findings) for status in ("pass", "known to break", "not applicable")
        }
        if self.failed:
            judged = count["pass"] + count["known to break"] + len(self.failed)
            first = next(finding for finding in self.findings if finding.status == "FAIL")
            failed = f"{len(self.failed)} of {judged} checks failed ({', '.join(self.failed)})"
            return f"{self.loss} is NOT right: {failed}; {first.check}: {first.said.rstrip('.')}."
        breaks = f", {count['known to break']} broken as declared" if count["known to break"] else ""
        rest = f", {count['not applicable']} not applicable" if count["not applicable"] else ""
        return f"{self.loss} keeps its promises: {count['pass']} checks passed{breaks}{rest}."

    def as_json(self) -> dict[str, object]:
        """For ``json.dumps``: an infinite difference is the text "inf"."""
        findings = [asdict(finding) for finding in self.findings]
        for finding in findings:
            difference = finding["difference"]
            finding["difference"] = "inf" if difference is not None and math.isinf(difference) else difference
        return {
            "loss": self.loss,
            "right": self.right,
            "verdict": self.sentence,
            "findings": findings,
            "skipped": self.skipped,
        }


def verify(
    loss: str,
    settings: Mapping[str, object] | None = None,
    like: str | None = None,
    checks: Iterable[str] | None = None,
    show: Show = nowhere,
) -> Verdict:
    """Runs the checks on one loss.

    Args:
        loss: a packaged loss, ``module:Class`` or ``file.py:Class``; either of the latter **runs that code**.
        settings: of the loss.
        like: a packaged loss (``"imc variant=paper"``) whose formula it claims to compute.
        checks: only these; all by default.
        show: is shown which check is being made.

    Raises:
        UserError: there is no such loss, or it is no loss.
    """
    chosen = None if checks is None else set(checks)
    unknown = sorted((chosen or set()) - set(NAMES))
    if unknown:
        raise UserError(f'There is no check "{unknown[0]}"; {closest(unknown[0], NAMES)}')
    return verify_subject(make_subject(loss, settings, like), label(loss.rpartition("/")[2], dict(settings or {})), chosen, show)


def verify_subject(subject: LossUnderTest, name: str, chosen: set[str] | None = None, show: Show = nowhere) -> Verdict:
    """The checks on a subject; ``chosen``: only these."""
    unknown = sorted(set(subject.breaks) - set(NAMES))
    if unknown:
        raise UserError(f'{name} says that it breaks "{unknown[0]}", which is no check; {closest(unknown[0], NAMES)}')
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the problems are tiny
    try:
        wanted = [check for check in CHECKS if chosen is None or check.name in chosen]
        return Verdict(name, tuple(_run_check(check, subject) for check in each(wanted, f"verifying {name}", show)))
    finally:
        torch.set_num_threads(threads)


def verify_all(names: Iterable[str] | None = None, show: Show = nowhere) -> list[Verdict]:
    """Every packaged loss (or those of ``names``) with each of its variants."""
    found = []
    for name in each(packaged() if names is None else names, "verifying losses", show):
        found += _variants_of(name)
    return found


def _variants_of(name: str) -> Iterable[Verdict]:
    short = name.rpartition("/")[2]
    try:
        kind = type(resolve_loss(Term(name, name=short)))
    except UserError as problem:
        yield Verdict(short, skipped=str(problem))
        return
    for settings in variant_settings(kind):
        try:
            subject = make_subject(name, settings)
        except UserError as problem:
            yield Verdict(label(short, settings), skipped=str(problem))
            continue
        yield verify_subject(subject, label(short, settings))


def _run_check(check: Check, subject: LossUnderTest) -> CheckResult:
    differences, declared, crashed = Differences(), subject.breaks.get(check.name), False
    try:
        check.run(subject, differences)
    except NotApplicable as why:
        if declared:
            return CheckResult(check.name, "FAIL", check.means, f"declared as broken ({declared}), but: {why}")
        return CheckResult(check.name, "not applicable", check.means, str(why))
    except (Exception, SystemExit) as problem:
        crashed = True
        differences.require(False, _crash(problem, subject))
        differences.likely = "it cannot stand this case at all" if differences.case else ""
    difference = differences.worst if differences.count else None
    notes = "; ".join(differences.notes)
    if not check.judged:
        return CheckResult(check.name, "note", check.means, notes or differences.where)
    broken = differences.worst > check.tolerance
    why = declared or ("" if crashed else subject.may_break.get(check.name, ""))
    if why and broken:
        return CheckResult(check.name, "known to break", check.means, why, difference=difference)
    if declared:
        said = f"declared as broken ({declared}), but it holds"
        return CheckResult(check.name, "FAIL", check.means, said, "a declaration that is out of date", difference)
    if broken:
        return CheckResult(check.name, "FAIL", check.means, differences.where, differences.likely or check.likely, difference)
    return CheckResult(check.name, "pass", check.means, notes, difference=difference)


def _crash(problem: Exception | SystemExit, subject: LossUnderTest) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()] or [""]
    if isinstance(problem, RuntimeError) and lines[0].startswith(("process ", "no answer")):  # of the pool: a traceback
        said = lines[-1] if lines[0].startswith("process") else lines[0] + ": they wait for a call that the others never make"
        return said
    own = getattr(sys.modules.get(type(subject.loss).__module__), "__file__", None)
    places = [frame.lineno for frame in traceback.extract_tb(problem.__traceback__) if frame.filename == own]
    at = f", raised in {Path(own).name} line {places[-1]}" if own and places else ""
    return f"{type(problem).__name__}: {lines[0]}{at}"
