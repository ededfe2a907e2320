"""The commands as functions of Python: the same names, defaults and work, and what they make is returned instead of printed.

What a function does not name is an option of its command, by the same name with ``_`` for ``-``: ``image_column="photo"`` is ``--image-column photo``.
Where a recipe is trained, a dotted name is a key of the recipe: ``**{"optimiser.warmup_steps": 10}``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar, get_args, get_type_hints

from wholegrain.errors import UserError
from wholegrain.structure import StructureError, structure
from wholegrain.workflows.commands.audit import AuditArguments
from wholegrain.workflows.commands.compete import CompeteArguments
from wholegrain.workflows.commands.evaluate import EvaluateArguments
from wholegrain.workflows.commands.prepare import PrepareArguments
from wholegrain.workflows.commands.train import TrainArguments

if TYPE_CHECKING:
    from wholegrain.evaluation.result import TaskResult
    from wholegrain.report.curves import Curves
    from wholegrain.report.standings import Standings
    from wholegrain.workflows.audit import Audit

Place: TypeAlias = str | os.PathLike[str]
Arguments = TypeVar("Arguments")


def prepare(source: Place, out: Place, **options: object) -> Path:
    """``wholegrain prepare``: a table, folder, shards or ``hf:NAME`` becomes one checked data set; gives its folder.

    Raises:
        UserError: an unknown option, or a source that cannot be used.

    Example::

        data = prepare("photos.csv", "data/photos", caption_column="title")
    """
    from wholegrain.workflows.commands.prepare import prepare as run

    args = arguments("prepare", PrepareArguments, {"source": source, "out": out, **options})
    run(args)
    return args.out


def train(
    recipe: Place = "", data: Place | Sequence[Place] = (), model: Place = "small", *, out: Place | None = None, steps: int | None = None,
    epochs: float | None = None, **options: object,
) -> Path:  # fmt: skip
    """``wholegrain train``: trains or fine-tunes by a recipe; gives the run's folder, which :func:`load` and :func:`evaluate` take.

    Args:
        recipe: a packaged one (:func:`recipes`) or a TOML file.
        data: a prepared data set, or several with weights, such as ``["photos:3", "scenes:1"]``.
        model: where to start.
        out: the run's folder; by default ``runs/RECIPE-DATA-TIME``.
        steps, epochs: how long.

    Raises:
        UserError: an unknown option or key, or input that cannot be used.

    Example::

        run = train("clip", data="data/photos", model="ViT-B-32:openai", steps=100, **{"optimiser.warmup_steps": 10})
    """
    from wholegrain.workflows.commands.train import train as run

    named = {"recipe": recipe, "data": data, "model": model, "out": out, "steps": steps, "epochs": epochs}
    given = {**{name: value for name, value in named.items() if value is not None}, **options}
    return run(arguments("train", TrainArguments, given), _as_written("train", given)).folder


def evaluate(
    model: Place, data: Place | None = None, *, split: str = "test", suite: str = "all", out: Place | None = None, **options: object
) -> Sequence[TaskResult]:
    """``wholegrain evaluate``: every figure with its interval, its chance level and its control; the results are also written, as by the command.

    Args:
        model: as of :func:`load`; or a run.
        data: a prepared data set.
        split: to test on.
        suite: tasks or suites, separated by commas.
        out: a folder for results.json and the items; by default where compare and report look for them.

    Raises:
        UserError: an unknown option, task or split, or input that cannot be used.

    Example::

        for result in evaluate(run, data="data/photos", suite="retrieval"):
            print(result.task, {figure.name: figure.value for figure in result.figures})
    """
    from wholegrain.workflows.commands.evaluate import evaluate as run

    given = {"model": model, "data": data, "split": split, "suite": suite, "out": out, **options}
    found = run(arguments("evaluate", EvaluateArguments, given))
    if found is None:
        return ()
    found.keep()
    return found.results


def compete(
    recipes: str | Sequence[str], data: Place, model: Place = "small", *, out: Place = "compete", seeds: Sequence[int] = (0,),
    steps: int | None = None, say: Callable[[str], None] | None = None, **options: object,
) -> Standings | Curves:  # fmt: skip
    """``wholegrain compete``: trains methods from one model on the same data and seeds, and measures them; goes on where it was interrupted.

    Args:
        recipes: names or TOML files; the others are compared with the first. ``"all"`` is every packaged one.
        data: a prepared data set.
        model: where all start.
        out: the competition's folder.
        seeds: of training.
        steps: of every run.
        say: is told what is going on, and who could not take part; nobody by default.

    Returns:
        The standings; with ``budgets`` the curves.

    Raises:
        UserError: an unknown option or recipe, or a run in ``out`` that was made otherwise.

    Example::

        print(compete(["clip", "siglip"], data="data/photos", steps=100).as_markdown())
    """
    from wholegrain.workflows.commands.compete import compete as run

    given = {"recipes": recipes, "data": data, "model": model, "out": out, "seeds": seeds, "steps": steps, **options}
    tell = say or _silent
    found, left_out = run(arguments("compete", CompeteArguments, given), tell)
    for name, why in left_out.items():
        tell(f"left out: {name}. {why}")
    return found


def audit(model: Place, photos: Place, *, out: Place = "audit", **options: object) -> Audit:
    """``wholegrain audit``: what a model misses on your own photos and captions, without training; writes ``audit.html`` into ``out``.

    Args:
        model: as of :func:`load`.
        photos: a prepared data set, or anything that :func:`prepare` takes.
        out: a folder.

    Raises:
        UserError: an unknown option, or input that cannot be used.

    Example::

        for line in audit("ViT-B-32:openai", "photos.csv").lines:
            print(line.title, line.figure.value)
    """
    from wholegrain.workflows.commands.audit import audit as run

    return run(arguments("audit", AuditArguments, {"model": model, "photos": photos, "out": out, **options}))


def recipes() -> list[str]:
    """The names of the packaged recipes, as ``wholegrain methods`` lists them.

    Example:
        >>> "ce_clip" in recipes()
        True
    """
    from wholegrain.objectives.recipe import recipe_names

    return list(recipe_names())


def read_outs() -> list[str]:
    """The names of the read-outs: the ways to read a phrase out of the patches of a picture.

    Example:
        >>> read_outs()[0]
        'pooled'
    """
    from wholegrain.evaluation.read_outs.registry import READ_OUTS

    return list(READ_OUTS)


def arguments(command: str, kind: type[Arguments], given: Mapping[str, object]) -> Arguments:
    """A command's words and options out of values of Python: a path for a text, one value where several may stand.

    Raises:
        UserError: an unknown name, or a value of another type.

    Example:
        >>> arguments("prepare", PrepareArguments, {"source": Path("a.csv"), "out": "b"}).out.name
        'b'
        >>> arguments("prepare", PrepareArguments, {"source": "a.csv", "out": "b", "rol": "web"})
        Traceback (most recent call last):
        wholegrain.errors.UserError: prepare() has no option "rol" (did you mean "role"?)
    """
    hints = get_type_hints(kind)  # without the marks of the command line
    values = {name: _plain(value, several=_several(hints.get(name))) for name, value in given.items() if "." not in name}
    dotted = [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in given.items() if "." in name]
    if dotted:
        if "overrides" not in {field.name for field in fields(kind)}:  # pyright: ignore[reportArgumentType]
            raise UserError(f"{command}() trains by no recipe, so it takes no dotted names such as {dotted[0][2:].partition('=')[0]}.")
        values["overrides"] = dotted
    try:
        return structure(values, kind)
    except StructureError as error:
        raise UserError(f"{command}() {str(error).replace('an unknown key', 'no option')}") from None


def _several(hint: object) -> bool:
    return Ellipsis in get_args(hint)


def _plain(value: object, *, several: bool) -> object:
    if several:
        items: Sequence[object] = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        return [_plain(item, several=False) for item in items]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _as_written(command: str, given: Mapping[str, object]) -> str:
    """The call, for the record."""
    plain = {name: _plain(value, several=False) for name, value in given.items()}
    return f"wholegrain.{command}({', '.join(f'{name}={value!r}' for name, value in plain.items())})"


def _silent(_: str) -> None:
    """Nobody listens."""
