"""What torchrun starts in the tests of lost processes: ``wholegrain``, of which process 1 kills itself once, before its step 8."""

import os
import signal

from wholegrain.cli.main import main
from wholegrain.training import loop


def dying(*args, step, **kwargs):
    if step == 7 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    return taken(*args, step=step, **kwargs)


if __name__ == "__main__":
    taken, loop.take_step = loop.take_step, dying
    main()
