"""What anchors span: their pseudo-inverse, and rows from their products with them."""

from __future__ import annotations

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import as_float64
from relreps._core.rounding import rank_tolerance


def pseudo_inverse(anchors: Tensor, rcond: float | None = None) -> Tensor:
    """Pseudo-inverse ``(D, A)`` of anchors ``(A, D)``, in float64.

    Directions of the size of rounding count as absent, of the rounding of the anchors' own type,
    half types included: what a coarse grid leaves of a dead direction is not to be inverted.
    """
    if rcond is None:
        rcond = rank_tolerance(anchors.shape[1], torch.finfo(anchors.dtype).eps)
    try:
        inverse: Tensor = torch.linalg.pinv(as_float64(anchors), rtol=rcond)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        checks.check_finite("anchors", anchors)
        raise
    return inverse


def check_span(anchors: Tensor, similarity: object, lost: int = 0) -> None:
    """Refuse anchors too few to span the space; ``lost`` dimensions of them do not count."""
    num_anchors, features = anchors.shape
    if num_anchors - lost < features:
        raise ValueError(
            f"{similarity} can be inverted with at least {features + lost} anchors in {features} "
            f"dimensions, got {num_anchors}. Use more anchors."
        )


def rows_with_products(
    products: Tensor, anchors: Tensor, similarity: object, lost: int = 0
) -> Tensor:
    """The rows ``(..., D)`` whose inner products with the anchors are ``products (..., A)``."""
    check_span(anchors, similarity, lost)
    rows: Tensor = products @ pseudo_inverse(anchors).mT.to(products)
    return rows
