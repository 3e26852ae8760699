"""Distances of rows to anchors, about the anchors' mean, and one without a unit."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.invariance import closure
from relreps._core.linalg import as_float64, at_least_float32
from relreps._core.pairwise import distances
from relreps._core.rounding import safe_reciprocal, unit_of
from relreps._core.warnings import warn
from relreps.similarity import span
from relreps.similarity.base import Similarity, SimilarityLike, resolve


class Distance(Similarity):
    """What these share: differences of coordinates about the anchors' mean, for an exponent p."""

    p: ClassVar[float]
    prepared_names: ClassVar[tuple[str, ...]] = ("mean", "centered")

    def prepare(self, anchors: Tensor) -> tuple[Tensor, ...]:
        """The anchors' mean, and the anchors about it."""
        wide = at_least_float32(anchors)
        mean = wide.mean(0)
        return mean, wide - mean

    def compare(self, x: Tensor, *prepared: Tensor) -> Tensor:
        """Distances of the rows about the same mean."""
        wide = at_least_float32(x)
        mean, centered = (tensor.to(wide.dtype) for tensor in prepared)
        rows = (wide - mean).reshape(math.prod(x.shape[:-1]), wide.shape[-1])
        if checks.recording():  # other runtimes know no such table
            apart = (rows[:, None] - centered).abs()
            code = apart.sum(-1) if self.p == 1 else apart.amax(-1)
        else:
            code = distances(rows, centered, self.p)
        # The largest of numbers is asked for by comparing them, by which NaN would be passed over.
        code = torch.where(rows.isnan().any(-1, keepdim=True), torch.nan, code)
        return code.reshape(*x.shape[:-1], centered.shape[0]).to(x.dtype)

    def invariances(self, in_features: int, rank: int) -> frozenset[str]:
        """Shifts, and whatever reorders the coordinates."""
        return closure(("translation", "permutation"))


@dataclass(frozen=True)
class Euclidean(Distance):
    r"""Distance of each row to each anchor, :math:`r_j = \lVert x - a_j\rVert_2`.

    Both sides are shifted by the anchors' mean first, which changes no distance but keeps the
    product form :math:`\lVert x\rVert^2 - 2 \langle x, a_j\rangle + \lVert a_j\rVert^2` precise far
    from the origin. What its cancellation leaves is an error of about :math:`\epsilon R^2 / r_j`,
    with R the largest distance from that mean: in float32 a hundredth at :math:`r_j = 0.003 R`, and
    below :math:`0.0003 R` nothing but rounding, with gradient zero where that gives zero. Anchors
    that lie in clumps, nearer to each other than that, are warned of when they are set; ``exact``
    is for them. Rows may be of any size up to :math:`10^{18}` times the spread of the anchors.
    Invariant to rotations and translations. O(NAD) time, one matrix product.

    Args:
        exact: Take differences of coordinates, as l1 does, and in about its time: right at every
            distance.

    Shape:
        - x: :math:`(*, D)`; anchors: :math:`(A, D)`. Output: :math:`(*, A)`, dtype of ``x``.

    Example:
        >>> euclidean(torch.tensor([3.0, 4.0]), torch.tensor([[0.0, 0.0], [3.0, 0.0]]))
        tensor([5., 4.])

    References:
        arXiv:2310.01211.
    """

    exact: bool = False
    p = 2.0
    prepared_names = ("mean", "centered", "scale")

    def prepare(self, anchors: Tensor) -> tuple[Tensor, ...]:
        """The anchors' mean, and the anchors about it in units of their size, and that unit."""
        mean, centered = super().prepare(anchors)
        size = centered.detach().abs().amax()
        # No smaller than squares of what is measured in it allow: rows may be far larger.
        least = torch.finfo(centered.dtype).tiny ** (1 / 3)
        scale = unit_of(torch.where(size > 0, size, mean.detach().abs().amax()).clamp(min=least))
        return mean, centered / scale, scale

    def compare(self, x: Tensor, *prepared: Tensor) -> Tensor:
        """Distances of the rows about the same mean, in the same unit."""
        wide = at_least_float32(x)
        mean, centered, scale = (tensor.to(wide.dtype) for tensor in prepared)
        rows = ((wide - mean) / scale).reshape(math.prod(x.shape[:-1]), wide.shape[-1])
        # The form is never left to torch: it chooses by size, so that the answer for a row would
        # depend on its batch.
        if self.exact:
            code = distances(rows, centered)
        else:
            code = torch.cdist(rows, centered, compute_mode="use_mm_for_euclid_dist")
        # In place where nothing was recorded: a second table costs more than the distances.
        free = checks.concrete(code) and not code.requires_grad
        code = code.mul_(scale) if free else code * scale
        return code.reshape(*x.shape[:-1], centered.shape[0]).to(x.dtype)

    def check_anchors(self, anchors: Tensor) -> None:
        """Warn of anchors that are too near to each other for the product form."""
        if self.exact or anchors.is_meta or len(anchors) < 2:
            return
        centered = self.prepare(anchors)[1]
        rows = as_float64(centered)
        radius = torch.linalg.vector_norm(rows, dim=-1).amax()
        some = rows[:: 1 + len(rows) // 64]  # enough for a median
        apart = torch.cdist(some, rows, compute_mode="use_mm_for_euclid_dist")
        # Without themselves, and copies: what the product in float64 cannot tell from them.
        blur = (rows.shape[1] * torch.finfo(rows.dtype).eps) ** 0.5 * radius
        apart = torch.where(apart > blur, apart, torch.inf).amin(-1)
        if bool(apart.median() < 10 * torch.finfo(centered.dtype).eps ** 0.5 * radius):
            warn(
                "The anchors lie in clumps: half of them are nearer to another one than the "
                "rounding of a distance by products can tell. Use `Euclidean(exact=True)` of "
                "`relreps.similarity`, which takes differences."
            )

    def invariances(self, in_features: int, rank: int) -> frozenset[str]:
        """Shifts and rotations."""
        return closure(("translation", "rotation"))

    def invert(self, code: Tensor, anchors: Tensor) -> Tensor:
        """Trilateration: differences of squared distances are linear in the row."""
        # For the row y and the anchors b about their mean, |y - b|^2 - |b|^2 = |y|^2 - 2 <y, b>;
        # taking the mean over anchors away removes |y|^2, and <y, b> has mean zero.
        mean, centered, scale = self.prepare(anchors)
        excess = (code / scale.to(code.dtype)).square() - centered.square().sum(-1)
        products = -0.5 * (excess - excess.mean(-1, keepdim=True))
        rows = span.rows_with_products(products, centered, self, lost=1)
        return rows * scale.to(rows.dtype) + mean


@dataclass(frozen=True)
class L1(Distance):
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

    p = 1.0


@dataclass(frozen=True)
class Linf(Distance):
    r"""Largest coordinate distance, :math:`r_j = \max_d |x_d - a_{jd}|`.

    A row with a NaN has a code of NaN. Invariant to translations and permutations, not to
    rotations. Its gradient flows through one
    coordinate. O(NAD) time without a matrix product, O(NA) memory.

    Shape:
        - x: :math:`(*, D)`; anchors: :math:`(A, D)`. Output: :math:`(*, A)`, dtype of ``x``.

    Example:
        >>> linf(torch.tensor([3.0, 4.0]), torch.tensor([[0.0, 0.0], [3.0, 0.0]]))
        tensor([4., 4.])

    References:
        arXiv:2310.01211.
    """

    p = math.inf


@dataclass(frozen=True)
class Rescaled(Similarity):
    """A distance in units of the median distance between two anchors, in the same metric.

    Adds the invariance to a global scale, which no distance has by itself.

    Args:
        similarity: ``"euclidean"``, ``"l1"``, ``"linf"``, or another distance.

    Raises:
        ValueError: Anchors at a median distance of zero, when they are set.

    Example:
        >>> anchors = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
        >>> Rescaled("l1")(torch.tensor([[1.0, 0.0]]), anchors)
        tensor([[0.5000, 0.5000, 1.5000]])
    """

    similarity: SimilarityLike
    _distance: Similarity = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        distance = resolve(self.similarity)
        names = distance.prepared_names
        # Written past the frozen dataclass, for they follow from its argument.
        self.__dict__.update(
            _distance=distance,
            prepared_names=("unit", *names) if names else (),
            self_contained=distance.self_contained,
            widens=distance.widens,
        )

    def prepare(self, anchors: Tensor) -> tuple[Tensor, ...]:
        """The median, and what the distance prepares."""
        prepared = self._distance.prepare(anchors)
        between = at_least_float32(self._distance.compare(anchors, *prepared))
        i, j = torch.triu_indices(len(between), len(between), offset=1, device=between.device)
        return between[i, j].median(), *prepared

    def compare(self, x: Tensor, *prepared: Tensor) -> Tensor:
        """The distances, divided by the median."""
        code = self._distance.compare(x, *prepared[1:])
        return code * safe_reciprocal(prepared[0].to(code.dtype))

    def invariances(self, in_features: int, rank: int) -> frozenset[str]:
        """Those of the distance, and a global scale."""
        own = self._distance.invariances(in_features, rank)
        return closure((*own, "isotropic_scale"))

    def described(self) -> str:
        """The same for a distance and its name."""
        return f"Rescaled({self._distance.described()})"

    def check_anchors(self, anchors: Tensor) -> None:
        """Refuse anchors without a positive median distance."""
        self._distance.check_anchors(anchors)
        if anchors.shape[0] < 2 or (not anchors.is_meta and not self.prepare(anchors)[0] > 0):
            raise ValueError(
                "`anchors` must be at a positive median distance from each other to rescale by it; "
                "give at least two different anchors."
            )

    def invert(self, code: Tensor, anchors: Tensor) -> Tensor:
        """What the distance makes of the code in the unit of the space."""
        unit = self.prepare(anchors)[0]
        return self._distance.invert(code * unit.to(code.dtype), anchors)


euclidean = Euclidean()
l1 = L1()
linf = Linf()
