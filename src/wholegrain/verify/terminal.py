"""Verdicts on the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wholegrain.verify.checks import CHECKS
from wholegrain.verify.verdict import CheckResult, Verdict

_COLOUR = {"pass": "green", "FAIL": "bold red", "known to break": "yellow", "not applicable": "dim", "note": "cyan"}
_SHORT = {
    "known_answers": "known", "reference": "loops", "gradients": "grad", "image_order": "images", "text_order": "texts",
    "duplicates": "copies", "processes": "W=1,2,4", "repeatable": "repeat", "inputs_kept": "inputs", "precision": "bf16",
}  # fmt: skip


def print_verdict(verdict: Verdict, console: Console | None = None) -> None:
    """One loss: a line for each check, what was seen where one failed, and the verdict."""
    console = console or Console()
    table = Table(
        "check", "", "off by", "what it means", title=escape(verdict.loss), title_justify="left", box=None, pad_edge=False
    )
    for finding in verdict.findings:
        said = escape(finding.means)
        if finding.status == "FAIL":
            said += f"\n[red]seen: {escape(finding.said)}[/]"
            said += f"\nlikely: {escape(finding.likely)}" if finding.likely else ""
        elif finding.said:
            said += f"\n[dim]{escape(finding.said)}[/]"
        table.add_row(finding.check, f"[{_COLOUR[finding.status]}]{finding.status}[/]", _number(finding), said)
    console.print(table)
    console.print()
    console.print(f"[{'green' if verdict.right else 'bold red'}]{escape(verdict.sentence)}[/]", soft_wrap=True)


def print_exactness(verdicts: Sequence[Verdict], console: Console | None = None) -> None:
    """Many losses: the largest difference of each check."""
    console = console or Console()
    shown = [check.name for check in CHECKS if check.judged]
    table = Table(
        "loss", title="largest difference seen, relative", title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for name in shown:
        table.add_column(_SHORT.get(name, name), justify="right", no_wrap=True)
    for verdict in verdicts:
        by_name = {finding.check: finding for finding in verdict.findings}
        cells = [_cell(by_name[name]) if name in by_name else "" for name in shown]
        table.add_row(escape(verdict.loss), *cells)
    console.print(table)
    console.print("0: equal, or finite; -: not applicable; (…): broken as declared; [bold red]FAIL[/]: see below")
    for verdict in verdicts:
        for finding in verdict.findings:
            if finding.status == "FAIL":
                console.print(f"[bold red]{escape(verdict.loss)}[/]: {finding.check}: {escape(finding.said)}", soft_wrap=True)
            elif finding.status == "known to break":
                console.print(
                    f"[yellow]{escape(verdict.loss)}[/]: breaks {finding.check}: {escape(finding.said)}", soft_wrap=True
                )
        if verdict.skipped:
            console.print(escape(verdict.sentence), soft_wrap=True)
    console.print()
    console.print(summary(verdicts), soft_wrap=True)


def summary(verdicts: Sequence[Verdict]) -> str:
    """The verdict on many in one sentence."""
    wrong = [verdict.loss for verdict in verdicts if not verdict.right]
    skipped = sum(bool(verdict.skipped) for verdict in verdicts)
    rest = f" {skipped} could not be verified." if skipped else ""
    if wrong:
        return f"{len(wrong)} of {len(verdicts)} losses and variants are NOT right: {'; '.join(wrong)}.{rest}"
    return f"All {len(verdicts) - skipped} losses and variants keep their promises.{rest}"


def _cell(finding: CheckResult) -> str:
    number = _number(finding)
    return {
        "FAIL": f"[bold red]FAIL {number}[/]",
        "known to break": f"[yellow]({number})[/]",
        "not applicable": "[dim]-[/]",
    }.get(finding.status, number)


def _number(finding: CheckResult) -> str:
    if finding.difference is None:
        return ""
    if math.isinf(finding.difference):
        return "inf"
    return f"{finding.difference:.0e}" if finding.difference else "0"
