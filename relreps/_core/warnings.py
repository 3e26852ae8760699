"""Warning classes, two so that users can turn exactly one of them into an error."""

import sys
import warnings


class NumericalWarning(UserWarning):
    """The answer is defined, but the data determine it poorly (rank, conditioning, ties)."""


class PerformanceWarning(UserWarning):
    """The answer is right, but a cheaper way to it exists."""


def warn(message: str, category: type[UserWarning] = NumericalWarning) -> None:
    """Warn at the call of the user, however many frames of this package and torch's are between."""
    frame, level = sys._getframe(), 1
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in _OURS:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


_OURS = ("relreps", "torch")
