"""``wholegrain completion SHELL``: commands, options and recipes at a press of Tab."""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

from tyro.conf import Positional

Shell = Literal["bash", "zsh", "tcsh", "fish", "powershell"]


def completion(shell: Positional[Shell] = "bash") -> None:
    """Prints the script that completes commands, options, their values and recipes in a shell.

    source <(wholegrain completion bash)

    Args:
        shell: bash, zsh, tcsh, fish or powershell. To keep it: write it to ~/.local/share/bash-completion/completions/wholegrain (bash), a
            file _wholegrain in a folder of fpath (zsh), or ~/.config/fish/completions/wholegrain.fish (fish).
    """
    import shtab

    print(shtab.complete(command_parser(), shell))


def command_parser() -> argparse.ArgumentParser:
    """The command line as argparse sees it: names, options and choices, for completion alone."""
    from wholegrain.cli.arguments import options_of
    from wholegrain.cli.main import COMMANDS, function_of

    parser = argparse.ArgumentParser("wholegrain")
    commands = parser.add_subparsers()
    for name, said in COMMANDS.items():
        command = commands.add_parser(name, help=said, description=said)
        for option in options_of(function_of(name)):
            _add(command, option)
    return parser


def _add(command: argparse.ArgumentParser, option: inspect.Parameter) -> None:
    import shtab

    from wholegrain.cli.arguments import is_word, shown

    choices = _choices(option)
    if option.annotation is bool:
        command.add_argument(shown(option), action=argparse.BooleanOptionalAction, help=argparse.SUPPRESS)
        return
    several = "*" if get_origin(_kind(option)) is tuple else "?" if is_word(option) else None
    made = command.add_argument(option.name.upper() if is_word(option) else shown(option), nargs=several, choices=choices, help="")
    if choices is None and any(kind is Path for kind in _kinds(_kind(option))):
        made.__dict__["complete"] = shtab.FILE  # where shtab looks for it


def _choices(option: inspect.Parameter) -> list[str] | None:
    from wholegrain.objectives.recipe import recipe_names

    if option.name in ("recipe", "recipes"):
        return [*recipe_names(), *recipe_names("scenes")]
    words = [choice for choice in _kinds(_kind(option)) if isinstance(choice, str)]
    return words or None


def _kind(option: inspect.Parameter) -> object:
    kind = option.annotation
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _kinds(kind: object) -> list[object]:
    """What a type is made of: ``Literal["a"] | None`` is "a" and None."""
    inner = get_args(kind)
    return [leaf for part in inner for leaf in _kinds(part)] if inner else [kind]
