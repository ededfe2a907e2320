"""The objective of a recipe: a weighted sum of losses, what they need, and the state that they carry from step to step.

Every term sees the images and the texts of its own roles (a negative goes with its caption). A term's value is this process's
share of the global loss (:mod:`wholegrain.losses.core.contract`), and so is the sum.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from wholegrain.errors import UserError
from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.contract import REMEDIES, LossOutput, State
from wholegrain.objectives.resolve import resolve_loss
from wholegrain.objectives.schema import Recipe, Term, selects


class Objective:
    """The weighted sum of a recipe's terms.

    Args:
        terms: the recipe's terms.

    Attributes:
        needs: the union of what the terms need, from ``losses.core.contract.NEEDS``.

    Example:
        >>> from wholegrain.objectives.recipe import load_recipe
        >>> objective = Objective(load_recipe("clip").terms)
        >>> output = objective(ImageFeatures(torch.eye(3)), TextFeatures(torch.eye(3)), Pairing.one_to_one(3), torch.tensor(10.0))
        >>> output.value.item() < 0.001
        True
    """

    def __init__(self, terms: Iterable[Term]) -> None:
        self.terms = tuple(terms)
        self._losses = {term.name: resolve_loss(term) for term in self.terms}
        self._state: dict[str, State] = {}

    @property
    def needs(self) -> frozenset[str]:
        return frozenset[str]().union(*(loss.needs for loss in self._losses.values()))

    def __call__(
        self,
        image: ImageFeatures,
        text: TextFeatures,
        pairing: Pairing,
        scale: Tensor,
        bias: Tensor | None = None,
        *,
        group: dist.ProcessGroup | None = None,
    ) -> LossOutput:
        """This process's share, and parts named ``<term>`` (its value without its weight) and ``<term>/<part>``.

        The carried state moves on with every call.
        """
        total: Tensor | None = None
        parts: dict[str, Tensor] = {}
        for term in self.terms:
            texts, pairs = _of_roles(term.roles, text, pairing)
            state = self._state_of(term, pairing)
            output = self._losses[term.name](image, texts, pairs, scale, bias, state, group=group)
            if output.state is not None:
                self._state[term.name] = {key: value.detach() for key, value in output.state.items()}
            parts[term.name] = output.value.detach()
            parts |= {f"{term.name}/{name}": part.detach() for name, part in output.parts.items()}
            weighted = term.weight * output.value
            total = weighted if total is None else total + weighted
        assert total is not None, "a recipe has at least one term"
        return LossOutput(total, parts)

    def _state_of(self, term: Term, pairing: Pairing) -> State | None:
        initial = getattr(self._losses[term.name], "initial_state", None)
        if initial is None:
            return None
        if term.name not in self._state:
            self._state[term.name] = initial(pairing.kinds)
        device = pairing.owner_N.device
        return {key: value.to(device) for key, value in self._state[term.name].items()}

    def fresh_state(self, kinds: Sequence[str]) -> dict[str, Tensor]:
        """What every term that carries a state begins with, for these kinds of negatives; names as in :meth:`state_dict`."""
        begun = {name: getattr(loss, "initial_state", None) for name, loss in self._losses.items()}
        return {f"{term}/{name}": v for term, initial in begun.items() if initial is not None for name, v in initial(kinds).items()}

    def state_dict(self) -> dict[str, Tensor]:
        """The carried state of every term, as ``<term>/<name>`` -> tensor."""
        return {f"{term}/{name}": value for term, state in self._state.items() for name, value in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Puts back what :meth:`state_dict` gave; a name that belongs to no term is refused."""
        loaded: dict[str, dict[str, Tensor]] = {}
        for key, value in state.items():
            term, _, name = key.rpartition("/")
            if term not in self._losses:
                raise UserError(f'The saved state "{key}" belongs to no term of this recipe; resume with the recipe of the run.')
            loaded.setdefault(term, {})[name] = value
        self._state = dict(loaded)


def choose_terms(recipe: Recipe, roles: Collection[str], offers: Collection[str]) -> tuple[tuple[Term, ...], tuple[str, ...]]:
    """The terms that the data and the model can serve, and a sentence for each reason why optional terms were left out.

    Args:
        recipe: the recipe.
        roles: roles of the captions that the recipe can draw from the data.
        offers: what data and model give, out of ``losses.core.contract.NEEDS``.

    Raises:
        UserError: a term that is not optional lacks something: which term, what, and what to do.
    """
    kept: list[Term] = []
    left_out: dict[str, list[str]] = {}  # reason -> terms
    for term in recipe.terms:
        lack = _lack(term, roles, frozenset(offers))
        if not lack:
            kept.append(term)
        elif term.optional:
            left_out.setdefault(lack, []).append(f'"{term.name}"')
        else:
            raise UserError(f'Term "{term.name}" of recipe {recipe.name} cannot be computed: {lack}.')
    notes = [
        f"Term {names[0]} is left out: {lack}." if len(names) == 1 else f"Terms {', '.join(names)} are left out: {lack}."
        for lack, names in left_out.items()
    ]
    if not kept:
        raise UserError(f"Recipe {recipe.name} has no term left for these data and this model; {notes[0]}")
    return tuple(kept), tuple(notes)


def _lack(term: Term, roles: Collection[str], offers: frozenset[str]) -> str:
    missing = sorted(frozenset(resolve_loss(term).needs) - offers)
    if missing:
        return f'it needs "{missing[0]}"; {REMEDIES[missing[0]]}'
    if not any(selects(term.roles, role) for role in roles):
        have = ", ".join(sorted(roles)) or "none"
        wants = ", ".join(term.roles)
        return f"it sees texts of the roles {wants}, and the drawn captions have {have}; change its roles or data.captions"
    return ""


def _of_roles(roles: Sequence[str], text: TextFeatures, pairing: Pairing) -> tuple[TextFeatures, Pairing]:
    wanted = [selects(roles, role) for role in pairing.roles]
    if all(wanted):
        return text, pairing
    index = torch.tensor(wanted, device=pairing.role_N.device)[pairing.role_N].nonzero().squeeze(1)
    return text.select(index), pairing.select_texts(index)
