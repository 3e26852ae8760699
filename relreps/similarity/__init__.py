"""Similarities and distances of rows to anchors: ``(x, anchors) -> (..., A)``.

A similarity works in two steps: `Similarity.prepare` (what depends on the anchors alone) and
`Similarity.compare` (the rest, one product per call). `RelativeProjection` remembers the first
step; the functions here do both at once.

.. code-block:: text

    name       value for row x and anchor a         invariant to
    cosine     <x, a> / (|x| |a|)                   rotation, sample_scale
    angular    arccos(cosine) / pi                  rotation, sample_scale
    inner      <x, a>                               rotation
    euclidean  |x - a|_2                            rotation, translation
    l1         sum |x - a|                          permutation, translation
    linf       max |x - a|                          permutation, translation
    basis      coordinates w of x = sum w_j a_j     linear, if the anchors span the space
"""

from __future__ import annotations

from torch import Tensor

from relreps.similarity.base import (
    SIMILARITIES,
    Angular,
    Basis,
    Cosine,
    Distance,
    Inner,
    Parseval,
    Plain,
    Rescaled,
    Similarity,
    SimilarityLike,
)
from relreps.similarity.base import (
    evaluate as _evaluate,
)
from relreps.similarity.geodesic import GraphGeodesic, RelativeGeodesic

__all__ = [
    "SIMILARITIES",
    "Angular",
    "Basis",
    "Cosine",
    "Distance",
    "GraphGeodesic",
    "Inner",
    "Parseval",
    "Plain",
    "RelativeGeodesic",
    "Rescaled",
    "Similarity",
    "SimilarityLike",
    "angular",
    "basis",
    "cosine",
    "euclidean",
    "inner",
    "l1",
    "linf",
]


def cosine(x: Tensor, anchors: Tensor) -> Tensor:
    r"""Cosine of the angle between each row and each anchor.

    .. math:: r_j = \frac{\langle x, a_j\rangle}{\lVert x\rVert_2\,\lVert a_j\rVert_2} \in [-1, 1]

    up to rounding, which can carry a value past 1 by a few epsilon. A zero row gives zeros and has
    zero gradient. Invariant to rotations and to a positive scale of each row; not to translations.
    O(NAD) time, one matrix product.

    Shape:
        - x: :math:`(*, D)`; anchors: :math:`(A, D)`. Output: :math:`(*, A)`, dtype of ``x``.

    Example:
        >>> cosine(torch.tensor([3.0, 4.0]), torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
        tensor([0.6000, 0.8000])

    References:
        Moschella et al., arXiv:2209.15430, equation 2.
    """
    return _evaluate(x, anchors, "cosine")


def angular(x: Tensor, anchors: Tensor) -> Tensor:
    r"""Angle between each row and each anchor as a share of a half turn, :math:`\arccos(c)/\pi`.

    The geodesic distance on the sphere, a monotone function of the cosine with the same
    invariances; 0 for equal and 1 for opposite directions, 1/2 for a zero row. The gradient is
    finite everywhere, and zero at equal and opposite directions, near which rounding of the cosine
    leaves an error of about :math:`\sqrt{2\epsilon}/\pi`. O(NAD) time.

    Shape:
        - x: :math:`(*, D)`; anchors: :math:`(A, D)`. Output: :math:`(*, A)`, dtype of ``x``.

    Example:
        >>> angular(torch.tensor([1.0, 1.0]), torch.tensor([[2.0, 0.0], [-1.0, 1.0]]))
        tensor([0.2500, 0.5000])

    References:
        arXiv:2310.01211.
    """
    return _evaluate(x, anchors, "angular")


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
    return _evaluate(x, anchors, "inner")


def euclidean(x: Tensor, anchors: Tensor) -> Tensor:
    r"""Distance of each row to each anchor, :math:`r_j = \lVert x - a_j\rVert_2`.

    Both sides are shifted by the anchors' mean first, which changes no distance but keeps the
    product form precise far from the origin. What is left of its cancellation is an error of about
    :math:`\sqrt\epsilon` times the spread of the anchors at coincident points, where the gradient
    is zero. Invariant to rotations and translations. O(NAD) time, one matrix product.

    Shape:
        - x: :math:`(*, D)`; anchors: :math:`(A, D)`. Output: :math:`(*, A)`, dtype of ``x``.

    Example:
        >>> euclidean(torch.tensor([3.0, 4.0]), torch.tensor([[0.0, 0.0], [3.0, 0.0]]))
        tensor([5., 4.])

    References:
        arXiv:2310.01211.
    """
    return _evaluate(x, anchors, "euclidean")


def l1(x: Tensor, anchors: Tensor) -> Tensor:
    r"""City-block distance, :math:`r_j = \sum_d |x_d - a_{jd}|`.

    Invariant to translations and permutations, not to rotations. Grows like D. O(NAD) time with no
    matrix product to carry it: tens of times slower than a cosine, in O(NA) memory.

    Shape:
        - x: :math:`(*, D)`; anchors: :math:`(A, D)`. Output: :math:`(*, A)`, dtype of ``x``.

    Example:
        >>> l1(torch.tensor([3.0, 4.0]), torch.tensor([[0.0, 0.0], [3.0, 0.0]]))
        tensor([7., 4.])

    References:
        arXiv:2310.01211.
    """
    return _evaluate(x, anchors, "l1")


def linf(x: Tensor, anchors: Tensor) -> Tensor:
    r"""Largest coordinate distance, :math:`r_j = \max_d |x_d - a_{jd}|`.

    Invariant to translations and permutations, not to rotations. Its gradient flows through one
    coordinate. O(NAD) time without a matrix product, O(NA) memory.

    Shape:
        - x: :math:`(*, D)`; anchors: :math:`(A, D)`. Output: :math:`(*, A)`, dtype of ``x``.

    Example:
        >>> linf(torch.tensor([3.0, 4.0]), torch.tensor([[0.0, 0.0], [3.0, 0.0]]))
        tensor([4., 4.])

    References:
        arXiv:2310.01211.
    """
    return _evaluate(x, anchors, "linf")


def basis(x: Tensor, anchors: Tensor) -> Tensor:
    r"""Coordinates of each row in the anchors: the shortest best combination.

    .. math:: w = \arg\min_w \lVert w A - x\rVert_2 = x A^{+}

    With :math:`A \ge D` anchors that span the space it is invariant to every linear map; with fewer
    only to rotations and a global scale. As many anchors as dimensions is the worst case: the
    condition number of the anchors then multiplies the rounding. `Basis` has a ridge. O(A D
    min(A, D)) once for the anchors, in float64, then O(NAD).

    Shape:
        - x: :math:`(*, D)`; anchors: :math:`(A, D)`. Output: :math:`(*, A)`, dtype of ``x``.

    Example:
        >>> basis(torch.tensor([3.0, 4.0]), torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        tensor([3., 2.])

    References:
        Released code of arXiv:2209.15430, where it is called basis change.
    """
    return _evaluate(x, anchors, "basis")
