"""The sizes that a file or a command states, checked before anything of that size is made.

A configuration of a few bytes can ask for a billion layers. So its numbers are held against :data:`MAX_VALUE`, and networks are first built
on torch's ``meta`` device, which has shapes but no memory, while what is registered is counted: building stops as soon as there is more than the
weights' file can hold, or than this machine can.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from wholegrain.errors import UserError
from wholegrain.files import memory_bytes

MAX_VALUE = 2**20
"""Of any whole number in a model's configuration, such as a width, a vocabulary or the side of a picture."""
MAX_LAYERS = 1024
MAX_MODULES = 200_000
_DEPTHS = ("layers", "depth", "depths", "heads", "num_heads", "num_hidden_layers", "num_attention_heads", "image_layers", "text_layers")
_SIZES = ("size", "width", "layers", "heads", "dim", "length", "depth")
_RUNS_CODE = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "attn_implementation",
              "_attn_implementation", "auto_map", "trust_remote_code")  # fmt: skip
Made = TypeVar("Made")


def first_line(error: BaseException) -> str:
    """What an error of another library says, as a part of a sentence."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "").rstrip(".")
    return (line if len(line) <= 300 else f"{line[:297]}…") or type(error).__name__


def memory_limit() -> int:
    """How many numbers a model may have on this machine: their float32 take half of its memory."""
    return memory_bytes() // 8


def check_numbers(values: object, where: str, advice: str) -> None:
    """Refuses numbers that no model has, anywhere in a configuration.

    Raises:
        UserError: a whole number beyond :data:`MAX_VALUE` (of layers and heads: :data:`MAX_LAYERS`), or one that is not finite; names its key.
    """
    for path, value in _leaves(values, ()):
        keys = [key for key in path if not key.isdigit()] or [""]
        if isinstance(value, bool) and keys[-1] != "true_length" and keys[-1].rpartition("_")[2] in _SIZES:
            raise UserError(f'{where} has a wrong value at "{".".join(path)}": {value} is not a number; {advice}.')
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        most = MAX_LAYERS if keys[-1] in _DEPTHS else MAX_VALUE
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f'{where} has a wrong value at "{".".join(path)}": {value} is not a finite number; {advice}.')
        if keys[-1] in _DEPTHS and value < 1:
            raise UserError(f'{where} has a wrong value at "{".".join(path)}": {value} is less than 1; {advice}.')
        if isinstance(value, int) and abs(value) > most and "theta" not in keys[-1]:
            shown = f"{value:,}" if abs(value) < 10**18 else "the number"
            raise UserError(f'{where} has a wrong value at "{".".join(path)}": {shown} is beyond {most:,}, the most there is; {advice}.')


def without_code(settings: dict[str, Made], where: str) -> dict[str, Made]:
    """Settings for another library, if none of them makes it fetch or run something.

    Raises:
        UserError: one does.
    """
    for name in settings:
        if name in _RUNS_CODE:
            raise UserError(f"{where} has the setting {name!r}, which fetches or runs something; leave it out.")
    return settings


def _leaves(values: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], object]]:
    pairs = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list | tuple) else None
    if pairs is None:
        yield path, values
        return
    for key, inner in pairs:
        yield from _leaves(inner, (*path, str(key)))


class _TooLargeError(Exception):
    """More is registered than there may be."""


@contextmanager
def size_limit(most: int) -> Iterator[None]:
    """Stops the building of networks, in this thread, at more than ``most`` numbers or :data:`MAX_MODULES` modules."""
    mine, numbers, modules = threading.get_ident(), 0, 0

    def of_tensor(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal numbers
        if tensor is not None and threading.get_ident() == mine:
            numbers += tensor.numel()
            if numbers > most:
                raise _TooLargeError(f"asks for more than {most:,} numbers")

    def of_module(module: nn.Module, name: str, inner: object) -> None:
        nonlocal modules
        modules += threading.get_ident() == mine
        if modules > MAX_MODULES:
            raise _TooLargeError(f"asks for more than {MAX_MODULES:,} modules")

    with ExitStack() as stack:
        for handle in (
            hooks.register_module_parameter_registration_hook(of_tensor),
            hooks.register_module_buffer_registration_hook(of_tensor),
            hooks.register_module_module_registration_hook(of_module),
        ):
            stack.callback(handle.remove)
        yield


def build_on_meta(make: Callable[[], Made], most: int, where: str, advice: str) -> Made:
    """What ``make`` builds, on the ``meta`` device: shapes without values.

    Args:
        make: builds networks.
        most: numbers that they may have, all together.
        where: for the sentence: what the sizes stand in.

    Raises:
        UserError: they have more, or cannot be built.
    """
    try:
        with size_limit(min(most, memory_limit())), torch.device("meta"):
            return make()
    except _TooLargeError as error:
        raise UserError(f"{where} {error}, more than there is place or weights for; {advice}.") from None
    except UserError as error:
        raise UserError(f"{where} cannot be used: {str(error).rstrip('.')}; {advice}.") from None
    except Exception as error:  # builders of other libraries raise whatever their parts raise
        raise UserError(f"{where} describes a model that cannot be built ({type(error).__name__}: {first_line(error)}); {advice}.") from None


def build_bounded(make: Callable[[], Made], most: int, where: str, advice: str) -> Made:
    """What ``make`` builds, after :func:`build_on_meta` has shown that it can be built and is not too large."""
    build_on_meta(make, most, where, advice)
    return make()


def check_finite(model: nn.Module, where: str) -> None:
    """Refuses weights that are not numbers.

    Raises:
        UserError: names the first such weight.
    """
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(f"{where} has a weight that is not a finite number ({name}): its training diverged, or it is damaged; use another.")
