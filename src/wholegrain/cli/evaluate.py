"""``wholegrain evaluate``: what a model can and cannot do on a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from wholegrain.workflows.commands.evaluate import EvaluateArguments

if TYPE_CHECKING:
    from wholegrain.evaluation.result import TaskResult


def evaluate(args: EvaluateArguments) -> None:
    """Evaluate a model: every figure with its interval, its chance level and the shuffled-images control.

    wholegrain evaluate runs/latest --data data/photos --out results/mine

    Under torchrun or srun all processes share the encoding.
    """
    from wholegrain.workflows.commands.evaluate import evaluate as run

    found = run(args)
    if found is None:
        return
    _print_results(found.results, found.left_out, found.overlap)
    print(f"written: {found.keep()}")
    print(f"next: {_report_command(found.args)}beside another model's results: wholegrain compare OTHER {found.out}")


def _report_command(args: EvaluateArguments) -> str:
    from wholegrain.evaluation.named import is_function

    if args.data is None or args.grain or is_function(args.model):
        return ""
    return f"wholegrain report {args.model} --data {args.data} --split {args.split}, or, "


def _print_results(results: Sequence[TaskResult], left_out: Mapping[str, str], overlap: str) -> None:
    import sys

    from wholegrain.evaluation.show import left_out_lines, print_results

    print_results(results)
    for line in left_out_lines([dict(left_out)]):
        print(line, file=sys.stderr)
    print(overlap)
