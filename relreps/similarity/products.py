"""Similarities that are one matrix product with something made of the anchors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.invariance import closure
from relreps._core.linalg import as_float64, at_least_float32, polar_factor, unit_rows
from relreps._core.rounding import safe_sqrt
from relreps.similarity import span
from relreps.similarity.base import Similarity


@dataclass(frozen=True)
class Cosine(Similarity):
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

    prepared_names = ("directions",)

    def prepare(self, anchors: Tensor) -> tuple[Tensor, ...]:
        """Anchors of length one."""
        return (unit_rows(anchors),)

    def compare(self, x: Tensor, *prepared: Tensor) -> Tensor:
        """Products of rows of length one."""
        return unit_rows(x) @ prepared[0].transpose(0, 1)

    def invariances(self, in_features: int, rank: int) -> frozenset[str]:
        """Whatever keeps angles."""
        return closure(("rotation", "sample_scale"))

    def invert(self, code: Tensor, anchors: Tensor) -> Tensor:
        """Directions, given the average length of the anchors: a cosine does not see lengths."""
        return _rows_at_angles(code, anchors, self)


@dataclass(frozen=True)
class Angular(Similarity):
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

    prepared_names = ("directions",)

    def prepare(self, anchors: Tensor) -> tuple[Tensor, ...]:
        """Anchors of length one."""
        return (unit_rows(anchors),)

    def compare(self, x: Tensor, *prepared: Tensor) -> Tensor:
        """Angles of the points (cosine, sine)."""
        # arccos has an infinite gradient at +-1, where rounding also leaves its domain. The angle
        # of a point has neither fault; its gradient is zero where the sine is zero.
        wide = at_least_float32(unit_rows(x) @ prepared[0].transpose(0, 1))
        sine = safe_sqrt(1 - wide.square())
        return (torch.atan2(sine, wide) / math.pi).to(x.dtype)

    def invariances(self, in_features: int, rank: int) -> frozenset[str]:
        """Whatever keeps angles."""
        return closure(("rotation", "sample_scale"))

    def invert(self, code: Tensor, anchors: Tensor) -> Tensor:
        """Directions, given the average length of the anchors."""
        return _rows_at_angles(torch.cos(code * math.pi), anchors, self)


@dataclass(frozen=True)
class Inner(Similarity):
    r"""Inner product of each row with each anchor, :math:`r_j = \langle x, a_j\rangle`.

    Never rescaled: the released code of the papers divides by :math:`\sqrt D` here. So it has the
    range of the type: rows and anchors of which the lengths multiply to more than :math:`10^{38}`
    in float32 give infinity or NaN, to less than :math:`10^{-45}` zero. Invariant to rotations.
    O(NAD) time, one matrix product.

    Shape:
        - x: :math:`(*, D)`; anchors: :math:`(A, D)`. Output: :math:`(*, A)`, dtype of ``x``.

    Example:
        >>> inner(torch.tensor([3.0, 4.0]), torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
        tensor([6., 4.])
    """

    prepared_names = ("rows",)

    def prepare(self, anchors: Tensor) -> tuple[Tensor, ...]:
        """The anchors themselves."""
        return (anchors,)

    def compare(self, x: Tensor, *prepared: Tensor) -> Tensor:
        """The products."""
        return x @ prepared[0].transpose(0, 1)

    def invariances(self, in_features: int, rank: int) -> frozenset[str]:
        """Whatever keeps lengths and angles."""
        return closure(("rotation",))

    def invert(self, code: Tensor, anchors: Tensor) -> Tensor:
        """The rows with these products."""
        return span.rows_with_products(code, anchors, self)


@dataclass(frozen=True)
class Basis(Similarity):
    r"""Coordinates of each row in the anchors: the shortest best combination.

    .. math:: w = \arg\min_w \lVert w A - x\rVert_2 = x A^{+}

    With :math:`A \ge D` anchors that span the space it is invariant to every linear map; with fewer
    only to rotations and a global scale. As many anchors as dimensions is the worst case: the
    condition number of the anchors then multiplies the rounding. A ridge :math:`\lambda` adds
    :math:`\lambda\,\tfrac1A \sum_j \lVert a_j\rVert^2\,\lVert w\rVert^2`; ``basis`` is the object
    without options. O(A D min(A, D)) once for the anchors, in float64, then O(NAD).

    Args:
        rcond: Singular values below this share of the largest count as zero; by default
            :math:`10 \sqrt{D}\,\epsilon`, the rounding of a matrix of the anchors' type. Not used
            with a ridge.
        ridge: Penalty on the coordinates, in units of the mean squared length of the anchors. It
            trades the invariance to linear maps for stability.

    Shape:
        - x: :math:`(*, D)`; anchors: :math:`(A, D)`. Output: :math:`(*, A)`, dtype of ``x``.

    Raises:
        ValueError: With a ridge, anchors that are all zero, or dependent beyond what it makes up.

    Example:
        >>> basis(torch.tensor([3.0, 4.0]), torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        tensor([3., 2.])

    References:
        Released code of arXiv:2209.15430, where it is called basis change.
    """

    rcond: float | None = None
    ridge: float = 0.0
    prepared_names = ("inverse",)

    def __post_init__(self) -> None:
        checks.check_number("ridge", self.ridge, 0, math.inf)
        if self.rcond is not None:
            checks.check_number("rcond", self.rcond, 0, 1)

    def prepare(self, anchors: Tensor) -> tuple[Tensor, ...]:
        """The pseudo-inverse, or its ridge form."""
        inverse = (
            self._ridge_inverse(anchors) if self.ridge else span.pseudo_inverse(anchors, self.rcond)
        )
        return (inverse.to(at_least_float32(anchors[:0])),)  # which half types would spoil

    def compare(self, x: Tensor, *prepared: Tensor) -> Tensor:
        """The coordinates."""
        return x @ prepared[0]

    def invariances(self, in_features: int, rank: int) -> frozenset[str]:
        """Every linear map, where the anchors span the space and nothing is cut or shortened."""
        if rank >= in_features and not self.ridge and self.rcond is None:
            return closure(("linear",))
        return closure(("rotation", "isotropic_scale"))

    def check_anchors(self, anchors: Tensor) -> None:
        """Refuse anchors for which the ridge is below the rounding of their products."""
        if not self.ridge or anchors.is_meta:
            return
        a = as_float64(anchors)
        values = torch.linalg.svdvals(a).square() + self._penalty(a)
        if not bool(values[-1] > values[0] * len(values) * torch.finfo(a.dtype).eps):
            raise ValueError(self._too_dependent())

    def invert(self, code: Tensor, anchors: Tensor) -> Tensor:
        """The combination itself."""
        if self.ridge:
            raise ValueError(f"{self} has no inverse: a ridge shortens the coordinates.")
        span.check_span(anchors, self)
        return code @ anchors

    def _ridge_inverse(self, anchors: Tensor) -> Tensor:
        """``(A'A + p I)^-1 A'``, which is ``A' (AA' + p I)^-1``: the smaller system is solved."""
        a = as_float64(anchors)
        wide = a.shape[0] < a.shape[1]
        gram = a @ a.mT if wide else a.mT @ a
        gram = gram + self._penalty(a) * torch.eye(len(gram), dtype=a.dtype, device=a.device)
        try:
            inverse: Tensor = torch.linalg.solve(gram, a if wide else a.mT)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise ValueError(self._too_dependent()) from error
        return inverse.mT if wide else inverse

    def _penalty(self, anchors: Tensor) -> Tensor:
        return self.ridge * anchors.square().sum() / anchors.shape[0]

    def _too_dependent(self) -> str:
        return (
            f"`anchors` must not be zero, nor dependent beyond what ridge={self.ridge} makes up "
            "for. Give other anchors or a larger ridge; without one, what they do not span is "
            "left out."
        )


@dataclass(frozen=True)
class Parseval(Similarity):
    r"""Coordinates in the Parseval frame of the anchors: inner products with its rows.

    .. math:: \tilde F = A (A^\top A)^{-1/2}, \qquad r = x \tilde F^\top

    the polar factor of the anchors, zero in directions they do not span. It keeps lengths and
    angles if there are none.

    References:
        arXiv:2411.19719.
    """

    prepared_names = ("frame",)

    def prepare(self, anchors: Tensor) -> tuple[Tensor, ...]:
        """The frame ``(A, D)``."""
        a = as_float64(anchors)
        projector = span.pseudo_inverse(anchors) @ a
        try:
            frame = polar_factor(a) @ projector
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            checks.check_finite("anchors", anchors)
            raise
        return (frame.to(anchors),)

    def compare(self, x: Tensor, *prepared: Tensor) -> Tensor:
        """Products with the frame."""
        return x @ prepared[0].transpose(0, 1)

    def invariances(self, in_features: int, rank: int) -> frozenset[str]:
        """Whatever keeps lengths and angles."""
        return closure(("rotation",))

    def invert(self, code: Tensor, anchors: Tensor) -> Tensor:
        """Synthesis by the same frame."""
        span.check_span(anchors, self)
        return code @ self.prepare(anchors)[0].to(code.dtype)


cosine = Cosine()
angular = Angular()
inner = Inner()
basis = Basis()


def _rows_at_angles(cosines: Tensor, anchors: Tensor, similarity: Similarity) -> Tensor:
    """Rows of the anchors' average length that have these cosines with them."""
    length: Tensor = torch.linalg.vector_norm(anchors, dim=-1).mean()
    return unit_rows(span.rows_with_products(cosines, unit_rows(anchors), similarity)) * length
