"""Warning classes, two so that users can turn exactly one of them into an error."""


class NumericalWarning(UserWarning):
    """The answer is defined, but the data determine it poorly (rank, conditioning, ties)."""


class PerformanceWarning(UserWarning):
    """The answer is right, but a cheaper way to it exists."""
