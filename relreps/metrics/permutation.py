"""Permutation tests: is what a measure says of two spaces more than chance?"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.draws import shuffled
from relreps._core.rounding import rounding_of
from relreps._core.warnings import warn
from relreps.metrics.declarations import MEASURES


class PermutationTest(NamedTuple):
    """What came of a permutation test.

    Attributes:
        value: The measure of the spaces as they are paired.
        p_value: How likely a value at least as good is if the pairing means nothing.
        null: The measure of each random pairing, float64 ``(num_permutations,)``.
    """

    value: Tensor
    p_value: Tensor
    null: Tensor


@torch.no_grad()
def permutation_test(
    measure: Callable[..., Any],
    x: Tensor,
    y: Tensor,
    *,
    num_permutations: int = 199,
    higher_is_better: bool | None = None,
    generator: torch.Generator | None = None,
) -> PermutationTest:
    r"""How often would a measure be as good if the rows of ``y`` were paired at random?

    .. math:: p = \frac{1 + \#\{ m(x, y_{\pi_b}) \ge m(x, y) \}}{1 + B}

    over B random permutations :math:`\pi_b` of the rows of ``y``, with :math:`\le` for a measure
    that is less for spaces that are more alike. The pairing as it is counts as one of them, so that
    p is never 0, and at most :math:`\alpha` with a probability of at most :math:`\alpha` where the
    pairing means nothing. That holds if rows are exchangeable: each drawn for itself. Frames of a
    film, patches of one picture or samples of few classes are not, and p is too small for them.
    B calls of the measure.

    Args:
        measure: A function of two spaces that gives one number, such as `linear_cka`.
        x: First encoding.
        y: Second encoding of the same items, in the same order.
        num_permutations: Number B of random pairings; p is a multiple of 1 / (1 + B).
        higher_is_better: Whether the measure grows as spaces become alike. By default what
            `MEASURES` says of it, and true of what is not in there.
        generator: Draws the permutations.

    Shape:
        - x: :math:`(N, D)`; y: :math:`(N, E)`. Output: two scalars, and :math:`(B,)`.

    Raises:
        TypeError: The measure cannot be called, or does not give one number.

    Warns:
        NumericalWarning: The measure has no value for the spaces as they are, or for a pairing:
            then p is NaN.

    Example:
        >>> from relreps.metrics import linear_cka, permutation_test
        >>> x = torch.randn(50, 3)
        >>> test = permutation_test(linear_cka, x, x + 0.1 * torch.randn(50, 3))
        >>> round(float(test.p_value), 3)
        0.005

    References:
        Phipson and Smyth 2010, Stat. Appl. Genet. Mol. Biol. 9:39.
    """
    if not callable(measure):
        raise TypeError(f"`measure` must be a function of two spaces, got {measure!r}.")
    checks.check_rows("x", x, minimum=2)
    checks.check_rows("y", y, minimum=2)
    checks.check_paired(x, y)
    checks.check_size("num_permutations", num_permutations)
    checks.check_generator(generator)
    if higher_is_better is None:
        higher_is_better = _grows(measure)
    value = _number(measure(x, y))
    with warnings.catch_warnings():
        # What the measure has to say of the spaces it has said by now.
        warnings.simplefilter("ignore")
        null = [
            _number(measure(x, y[shuffled(len(y), generator).to(y.device)]))
            for _ in range(num_permutations)
        ]
    numbers = torch.tensor(null, dtype=torch.float64, device="cpu")
    whole = torch.tensor(value, dtype=torch.float64, device="cpu")
    as_good = numbers >= whole if higher_is_better else numbers <= whole
    # Equal up to rounding is as good: sums over rows in another order differ in the last digits.
    near = (numbers - whole).abs() <= 8 * rounding_of(x.dtype, y.dtype) * whole.abs()
    p_value = (1 + (as_good | near).sum().double()) / (1 + num_permutations)
    if not bool(numbers.isfinite().all() & whole.isfinite()):
        warn("`measure` has no value for some pairing of `x` and `y`, so that p is NaN.")
        p_value = torch.full_like(p_value, torch.nan)
    return PermutationTest(whole, p_value, numbers)


def _number(value: Any) -> float:
    if not isinstance(value, int | float) and getattr(value, "shape", None) != ():
        raise TypeError(
            f"`measure` must give one number for two spaces, got a {type(value).__name__}. "
            "Wrap it: `lambda x, y: retrieval_scores(x, y)[0]`."
        )
    return float(value)


def _grows(measure: Callable[..., Any]) -> bool:
    """What is declared of a measure, or of the function of a `functools.partial`."""
    function = getattr(measure, "func", measure)
    declared = (m for m in MEASURES.values() if function is getattr(m.function, "func", m.function))
    return next((m.higher_is_better for m in declared), True)
