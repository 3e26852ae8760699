"""Similarities and distances of rows to anchors: ``(x, anchors) -> (..., A)``.

A rule has two steps, ``prepare`` (what depends on the anchors alone, done once) and ``compare``
(the rest, one product per call); the function of the same name does both. `RelativeProjection`
remembers the first step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from relreps import _checks
from relreps._invariance import closure
from relreps._linalg import at_least_float32, unit_rows

#: What may stand where a similarity is asked for: a name, or a function ``(x, anchors)``.
SimilarityLike = str | Callable[[Tensor, Tensor], Tensor]


class Rule(NamedTuple):
    """A similarity in two steps, with what it is invariant to.

    Attributes:
        prepare: ``anchors -> tensors``, what can be computed once.
        compare: ``(x, *tensors) -> (..., A)``.
        invariant_to: Transformations of rows and anchors together that change nothing.
    """

    prepare: Callable[[Tensor], tuple[Tensor, ...]]
    compare: Callable[..., Tensor]
    invariant_to: frozenset[str]


def cosine(x: Tensor, anchors: Tensor) -> Tensor:
    r"""Cosine of the angle between each row and each anchor.

    .. math:: r_j = \frac{\langle x, a_j\rangle}{\lVert x\rVert_2\,\lVert a_j\rVert_2} \in [-1, 1]

    A zero row gives zeros and has zero gradient. Invariant to rotations and to a positive scale of
    each row; not to translations. O(NAD) time, one matrix product.

    Shape:
        - x: :math:`(*, D)`; anchors: :math:`(A, D)`. Output: :math:`(*, A)`, dtype of ``x``.

    Example:
        >>> cosine(torch.tensor([3.0, 4.0]), torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
        tensor([0.6000, 0.8000])

    References:
        Moschella et al., arXiv:2209.15430, equation 2.
    """
    return compare(x, anchors, "cosine")


def inner(x: Tensor, anchors: Tensor) -> Tensor:
    r"""Inner product of each row with each anchor, :math:`r_j = \langle x, a_j\rangle`.

    Never rescaled: the released code of the papers divides by :math:`\sqrt D` here. Invariant to
    rotations. O(NAD) time, one matrix product.

    Shape:
        - x: :math:`(*, D)`; anchors: :math:`(A, D)`. Output: :math:`(*, A)`, dtype of ``x``.

    Example:
        >>> inner(torch.tensor([3.0, 4.0]), torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
        tensor([6., 4.])
    """
    return compare(x, anchors, "inner")


def euclidean(x: Tensor, anchors: Tensor) -> Tensor:
    r"""Distance of each row to each anchor, :math:`r_j = \lVert x - a_j\rVert_2`.

    Both sides are shifted by the anchors' mean first, which changes no distance but keeps the
    product form of `torch.cdist` precise far from the origin. What is left of its cancellation is
    an error of about :math:`\sqrt\epsilon` times the spread of the anchors at coincident points,
    where the gradient is zero. Invariant to rotations and translations. O(NAD) time.

    Shape:
        - x: :math:`(*, D)`; anchors: :math:`(A, D)`. Output: :math:`(*, A)`, dtype of ``x``.

    Example:
        >>> euclidean(torch.tensor([3.0, 4.0]), torch.tensor([[0.0, 0.0], [3.0, 0.0]]))
        tensor([5., 4.])
    """
    return compare(x, anchors, "euclidean")


def compare(x: Tensor, anchors: Tensor, similarity: SimilarityLike) -> Tensor:
    """Both steps of a similarity, checked: ``(..., D), (A, D) -> (..., A)``."""
    _checks.check_rows("anchors", anchors)
    _checks.check_features("x", x, anchors.shape[1])
    rule = resolve(similarity)
    return checked_code(
        rule.compare(x, *(p.to(x.dtype) for p in rule.prepare(anchors))), x, anchors.shape[0]
    )


def resolve(similarity: SimilarityLike) -> Rule:
    """The rule behind a name, or behind a callable, which may declare ``invariant_to``."""
    if callable(similarity):
        declared = closure(getattr(similarity, "invariant_to", ()))
        return Rule(_itself, similarity, declared)
    _checks.check_choice("similarity", similarity, RULES)
    return RULES[similarity]


def checked_code(code: Tensor, x: Tensor, num_anchors: int) -> Tensor:
    """Refuse the output of a similarity that is not one number for each row and anchor."""
    wanted = (*x.shape[:-1], num_anchors)
    if tuple(code.shape) != wanted:
        raise ValueError(
            f"`similarity` must return shape {wanted} for x of shape {tuple(x.shape)} and "
            f"{num_anchors} anchors, got {tuple(code.shape)}."
        )
    return code


def _itself(anchors: Tensor) -> tuple[Tensor, ...]:
    return (anchors,)


def _prepare_cosine(anchors: Tensor) -> tuple[Tensor, ...]:
    return (unit_rows(anchors),)


def _compare_cosine(x: Tensor, anchors: Tensor) -> Tensor:
    return unit_rows(x) @ anchors.mT


def _compare_inner(x: Tensor, anchors: Tensor) -> Tensor:
    return x @ anchors.mT


def _prepare_euclidean(anchors: Tensor) -> tuple[Tensor, ...]:
    mean = at_least_float32(anchors).mean(0)
    return mean, at_least_float32(anchors) - mean


def _compare_euclidean(x: Tensor, mean: Tensor, centred: Tensor) -> Tensor:
    wide = at_least_float32(x)
    rows = (wide - mean.to(wide.dtype)).reshape(-1, wide.shape[-1])
    # Always the product form: the other one is chosen by size, so that the answer for a row would
    # depend on its batch, cannot be exported with a dynamic batch, and is not twice differentiable.
    code = torch.cdist(rows, centred.to(wide.dtype), compute_mode="use_mm_for_euclid_dist")
    return code.reshape(*x.shape[:-1], centred.shape[0]).to(x.dtype)


#: The named similarities.
RULES: dict[str, Rule] = {
    "cosine": Rule(_prepare_cosine, _compare_cosine, closure(("rotation", "sample_scale"))),
    "inner": Rule(_itself, _compare_inner, closure(("rotation",))),
    "euclidean": Rule(_prepare_euclidean, _compare_euclidean, closure(("rotation", "translation"))),
}
