"""Similarity of relative codes: how near is a network to a reference, seen from shared anchors?"""

from __future__ import annotations

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import full_precision, unit_rows
from relreps._core.rounding import is_constant
from relreps.metrics.paired import paired_rows, undefined
from relreps.similarity import cosine


def latent_similarity(x: Tensor, y: Tensor, anchors: Tensor, centered: bool = False) -> Tensor:
    r"""Mean cosine between the relative codes that two spaces give to the same items.

    .. math:: \frac1N \sum_i \cos(r_i, s_i), \qquad
              r_{ij} = \cos(x_i, x_{a_j}), \quad s_{ij} = \cos(y_i, y_{a_j})

    Against a well-trained reference it predicts how well a network performs, without labels, and
    as it is differentiable it can guide one. Codes share a large mean, so the plain form is near 1
    even for spaces that have little in common; ``centered`` takes the mean code of each space away
    first. A row of zeros has no code and counts as 0. :math:`O(N A (D + E))` time,
    :math:`O(N A)` memory.

    Args:
        x: First encoding.
        y: Second encoding of the same items, in the same order.
        anchors: Indices of the rows that serve as anchors in both spaces.
        centered: Subtract the mean code of each space.

    Shape:
        - x: :math:`(N, D)`; y: :math:`(N, E)`; anchors: :math:`(A,)` integers. Output: scalar in
          [-1, 1]. NaN with a `NumericalWarning` if all rows of a side are the same.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> bool(latent_similarity(x, 3 * x.flip(1), torch.tensor([0, 2])) > 0.999)
        True

    References:
        Moschella et al., arXiv:2209.15430, section 4.2.
    """
    pair = paired_rows(x, y, rescaled=False)
    _check_anchors(anchors, pair.x)
    with full_precision(pair.x):
        defined, codes = [pair.defined], []
        for name, side, eps in zip("xy", pair[:2], pair.eps, strict=True):
            unit = unit_rows(side)
            defined.append(_points_apart(name, unit.detach(), eps, pair.speaks))
            code = cosine(unit, unit[anchors])
            codes.append(unit_rows(code - code.mean(0) if centered else code))
        similarity = (codes[0] * codes[1]).sum(-1).mean()
        return pair._replace(defined=torch.stack(defined).all()).result(similarity)


def _points_apart(name: str, unit: Tensor, eps: float, speaks: bool) -> Tensor:
    """Whether not all rows of length one point the same way, up to rounding."""
    # About the first row, not the mean: rows that are equal are equal to it, and differences of
    # near numbers are exact, so there is no need of a copy in float64.
    apart = ~is_constant((unit - unit[:1]).square().sum(), unit.square().sum(), eps)
    if speaks and not bool(apart):
        undefined(f"all rows of `{name}` point the same way")
    return apart


def _check_anchors(anchors: Tensor, x: Tensor) -> None:
    """Refuse what is not indices of rows."""
    if not isinstance(anchors, Tensor):
        raise checks.not_a_tensor("anchors", anchors, "a tensor of row indices")
    if anchors.dtype not in (torch.int64, torch.int32):
        raise TypeError(
            f"`anchors` must be integers, the indices of rows, got {anchors.dtype}. "
            "Give what a sampler returns, not the rows themselves."
        )
    if anchors.dim() != 1 or not len(anchors):
        raise ValueError(
            "`anchors` must have shape (A,), with at least one index of a row, got "
            f"{tuple(anchors.shape)}."
        )
    if checks.readable(anchors) and not anchors.is_meta:
        low, high = (int(bound) for bound in anchors.aminmax())
        if low < 0 or high >= x.shape[0]:
            raise ValueError(
                f"`anchors` must be row indices in 0..{x.shape[0] - 1}, got {low}..{high}."
            )
