"""How far a classifier minds the length of its input, which some translators lose."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from relreps._core import checks


class ScaleInvarianceReport(NamedTuple):
    """What `scale_invariance_report` found, one entry for each ``alpha``; ``str`` is a table."""

    alphas: tuple[float, ...]
    """Factors that the rows were multiplied by."""
    agreement: tuple[float, ...]
    """Part of the rows that are still given the class they have without a factor."""
    accuracy: tuple[float, ...]
    """Part of the rows that are given their label; NaN without labels."""

    def __str__(self) -> str:
        known = not any(map(math.isnan, self.accuracy))
        lines = ["alpha  agreement" + ("  accuracy" if known else "")]
        for alpha, agreement, accuracy in zip(*self, strict=True):
            end = f"  {accuracy:8.3f}" if known else ""
            lines.append(f"{alpha:5g}  {agreement:9.3f}{end}")
        return "\n".join(lines)


@torch.no_grad()
def scale_invariance_report(
    decoder: Callable[[Tensor], Tensor],
    x: Tensor,
    alphas: Sequence[float] = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 10.0),
    *,
    labels: Tensor | None = None,
) -> ScaleInvarianceReport:
    r"""How far a classifier depends on the length of its input, which some translators lose.

    .. math:: \text{agreement}(\alpha) = \frac1N \sum_i
              \bigl[\arg\max f(\alpha x_i) = \arg\max f(x_i)\bigr]

    Exactly 1 for networks without biases and with positively homogeneous activations, and for those
    that begin with a `LayerNorm` or a cosine; an inverse relative projection may then be used
    whatever its lengths. If it falls near :math:`\alpha = 1`, restore the lengths: a translator
    with a scale. One call of the decoder for each factor; put it in ``eval`` mode first.

    Args:
        decoder: From latents to scores of classes, the last axis of its output.
        x: Latents as the decoder knows them.
        alphas: Positive factors.
        labels: Classes, to report the accuracy as well.

    Shape:
        - x: :math:`(N, D)`. labels: :math:`(N,)`.

    Example:
        >>> head = torch.nn.Linear(2, 2, bias=False)
        >>> print(scale_invariance_report(head, torch.randn(50, 2), (0.5, 2.0)))
        alpha  agreement
          0.5      1.000
            2      1.000

    References:
        arXiv:2406.15057.
    """
    checks.check_rows("x", x)
    checks.check_readable("x", x)
    checks.check_finite("x", x)
    factors = tuple(float(alpha) for alpha in alphas)
    if not factors or not all(0 < alpha < math.inf for alpha in factors):
        raise ValueError(f"`alphas` must be positive numbers, got {alphas}.")
    if labels is not None and labels.shape != x.shape[:1]:
        raise ValueError(
            f"`labels` must have shape ({x.shape[0]},), one for each row of `x`, got "
            f"{tuple(labels.shape)}."
        )
    usual = _classes(decoder, x)
    agreement, accuracy = [], []
    for alpha in factors:
        classes = _classes(decoder, alpha * x)
        agreement.append(float((classes == usual).double().mean()))
        right = math.nan if labels is None else float((classes == labels).double().mean())
        accuracy.append(right)
    return ScaleInvarianceReport(factors, tuple(agreement), tuple(accuracy))


def _classes(decoder: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    scores = decoder(x)
    if scores.dim() != 2 or scores.shape[0] != x.shape[0]:
        raise ValueError(
            f"`decoder` must return scores of shape ({x.shape[0]}, classes), got "
            f"{tuple(scores.shape)}."
        )
    return scores.argmax(-1)
