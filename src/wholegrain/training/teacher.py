"""A teacher: a copy of the model that is not trained, and follows the student's weights or stays where it was.

``ema``: after every optimiser step ``teacher = momentum * teacher + (1 - momentum) * student``, weight by weight (Tarvainen and
Valpola, *Mean teachers*, NeurIPS 2017, arXiv 1703.01780). ``frozen``: the model as it was when training began.

A teacher costs a forward pass without gradient of what it sees, and the memory of what is trained once more; what is frozen in
the student is shared, not copied. It always stands in eval mode. Every process holds the same teacher, for the students are the
same: nothing is sent. Buffers (running statistics) follow the student's at once.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from wholegrain.errors import UserError
from wholegrain.objectives.schema import TeacherRecipe
from wholegrain.towers.model import Model


class Teacher:
    """The copy, and how it follows.

    Args:
        student: the model as it is when training begins, on its device.
        recipe: kind ``ema`` or ``frozen``.

    Attributes:
        model: the copy, in eval mode, to be called without gradient. What is frozen in it is what is frozen in the student: all else
            moves, and must not be taken for a tower whose features may be kept.
        views: how many views of an image it sees; ``student_views``: how many the student sees, 0 is all.
    """

    def __init__(self, student: Model, recipe: TeacherRecipe) -> None:
        shared: dict[int, object] = {id(p): p for p in student.parameters() if not p.requires_grad}
        self.names = [name for name, p in student.named_parameters() if p.requires_grad]
        shared[id(student.tokenizer)] = student.tokenizer
        self.model: Model = copy.deepcopy(student, shared).eval()
        self.kind, self.views, self.student_views = recipe.kind, recipe.views, recipe.student_views
        self._average = get_ema_multi_avg_fn(recipe.momentum)

    @torch.no_grad()
    def follow(self, student: Model) -> None:
        """Takes the student's weights in, after an optimiser step."""
        if self.kind == "frozen":
            return
        own, new = (dict(model.named_parameters()) for model in (self.model, student))
        if self.names:
            self._average([own[name] for name in self.names], [new[name].detach() for name in self.names], 0)
        for mine, theirs in zip(self.model.buffers(), student.buffers(), strict=True):
            mine.copy_(theirs)

    def state_dict(self) -> dict[str, Tensor]:
        """What differs from the student's frozen parts: copies of trained weights, and buffers."""
        whole, parameters = self.model.state_dict(), dict(self.model.named_parameters())
        chosen = {*self.names, *(name for name in whole if name not in parameters)}
        return {name: whole[name] for name in sorted(chosen) if isinstance(whole[name], Tensor)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Puts back what :meth:`state_dict` gave.

        Raises:
            UserError: it is of another model, or of a run without a teacher.
        """
        own = self.state_dict()
        odd = sorted(own.keys() ^ state.keys()) or sorted(name for name in own if own[name].shape != state[name].shape)
        if odd:
            raise UserError(
                f'The checkpoint does not fit the teacher at "{odd[0]}"; resume with the model and recipe of the run.'
            )
        for name, value in own.items():
            value.copy_(state[name])


def make_teacher(student: Model, recipe: TeacherRecipe) -> Teacher | None:
    """The teacher that a recipe asks for, or ``None``."""
    return None if recipe.kind == "none" else Teacher(student, recipe)
