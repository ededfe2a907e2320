"""Is this loss right? Every check that a loss must pass, for the losses of the package and for anybody's.

* :func:`verify`: one loss, by name, ``module:Class`` or ``file.py:Class``.
* :func:`verify_all`: every packaged loss with each of its variants.

``cases`` makes the problems; ``losses`` has a file for each packaged loss with its variants, its reference in loops (of what is in
``reference``), its answers on paper (``closed_form``) and what it is known to break, found by name (``definitions``); ``checks`` lists what
is checked; ``pool`` and ``processes`` run several processes; ``verdict`` says what was found, ``terminal`` prints it.
"""

from wholegrain.verify.checks import CHECKS
from wholegrain.verify.differences import Differences
from wholegrain.verify.verdict import CheckResult, Verdict, verify, verify_all

__all__ = ["CHECKS", "CheckResult", "Differences", "Verdict", "verify", "verify_all"]
