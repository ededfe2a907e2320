"""``wholegrain verify``: is this loss right?"""

from __future__ import annotations

from typing import Annotated

import tyro
from tyro.conf import Positional


def verify(
    loss: Positional[str] = "",
    /,
    *,
    all: bool = False,
    settings: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE")] = (),
    like: str = "",
    checks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="CHECK")] = (),
    json: bool = False,
) -> int:
    """Puts a loss through every check that a loss must pass, and says what was seen where it fails (docs/verify.md).

    wholegrain verify my_losses.py:MyLoss --settings margin=0.2

    Args:
        loss: a packaged loss, such as clip, or your own: file.py:Class or module:Class, which runs that code.
        all: every variant of the loss, or of all packaged losses: the largest difference of each check.
        settings: of the loss.
        like: the packaged loss whose formula yours claims to compute, with settings if need be: "imc variant=paper".
        checks: only these.
        json: machine-readable, nothing else on the output.
    """
    import json as text

    from wholegrain.errors import UserError
    from wholegrain.progress import showing
    from wholegrain.verify.settings import parse_settings

    if all and (settings or like or checks):
        raise UserError("Option --all goes with no other option but --json; leave the others out.")
    if not all and not loss:
        raise UserError('Say which loss: "wholegrain verify clip", "… verify losses.py:MyLoss", or "… verify --all".')
    given = parse_settings(settings)
    with showing() as show:
        show("starting")
        from wholegrain.verify.terminal import print_exactness, print_verdict
        from wholegrain.verify.verdict import verify as run
        from wholegrain.verify.verdict import verify_all

        if all:
            verdicts = verify_all([loss] if loss else None, show)
        else:
            verdicts = [run(loss, given, like or None, checks or None, show)]
    if json:
        print(
            text.dumps(
                [verdict.as_json() for verdict in verdicts] if all else verdicts[0].as_json(), indent=1, ensure_ascii=False
            )
        )
    elif all:
        print_exactness(verdicts)
    else:
        print_verdict(verdicts[0])
    if not json and not all and not verdicts[0].right:
        print("next: docs/verify.md says what each check means; --checks NAME repeats one alone")
    return 1 if [verdict for verdict in verdicts if not verdict.right] else 0
