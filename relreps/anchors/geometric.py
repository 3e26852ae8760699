"""Anchors by where rows lie: far apart, influential, or alike in two spaces."""

from __future__ import annotations

import torch
from torch import Tensor

from relreps._core import blocks, checks, draws
from relreps._core.linalg import as_float64, full_precision, unit_rows
from relreps._core.rounding import moment_tolerance, rounding_of, safe_reciprocal, unit_of
from relreps.anchors.rows import check_samples, directions, prepared, squared_lengths, tie
from relreps.anchors.samplers import Sampler


class FarthestAnchors(Sampler):
    r"""Greedy k-centre: each new anchor is the row farthest from those chosen so far.

    Starts from a random row; ties within rounding go to the lowest index. The radius of the largest
    uncovered ball shrinks with every anchor and is at most twice the best possible (Gonzalez 1985).
    It covers the space, outliers first. Seen from an origin far away all directions are alike:
    centre such a space first, or compare positions. The first ``a`` indices are the choice of
    ``FarthestAnchors(a)`` from the same generator state. O(NAD) time: one product of the data with
    a vector for each anchor. O(N) memory for directions; positions, half types and numbers of
    extreme size take one copy of the data.

    Args:
        num_anchors: Number of anchors A.
        normalize: Compare directions (rows scaled to length one) rather than positions.
        generator: Source of randomness; torch's default one if not given.

    Raises:
        ValueError: If there are fewer samples, or fewer distinct samples, than anchors.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
        >>> 2 in FarthestAnchors(2)(x)
        True

    References:
        Moschella et al., arXiv:2209.15430, appendix A.2.
    """

    def __init__(
        self, num_anchors: int, *, normalize: bool = True, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(num_anchors, generator=generator)
        self.normalize = normalize

    def pick(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """A random row, then again and again the one farthest from those chosen."""
        if self.normalize:
            rows, factors = directions(x)
            squares = (factors > 0).to(rows.dtype)
        else:
            rows = prepared(x, normalize=False)
            factors = rows.new_ones(rows.shape[0])
            squares = squared_lengths(rows)
        # With f the factors: |f_i x_i - f_a x_a|^2 = s_i + s_a - 2 f_i f_a x_i.x_a, so that an
        # anchor costs one product, and no scaled copy of the rows is needed.
        rounding = tie(squares)
        nearest = torch.full_like(squares, torch.inf)
        distance = torch.empty_like(squares)
        chosen = [int(self.shuffled(x.shape[0])[0])]
        while len(chosen) < self.num_anchors:
            last = chosen[-1]
            torch.mv(rows, rows[last], out=distance)
            distance.mul_(factors).mul_(-2 * float(factors[last]))
            distance.add_(squares).add_(float(squares[last]))
            torch.minimum(nearest, distance, out=nearest)
            nearest[last] = -torch.inf
            chosen.append(int((nearest >= nearest.max() - rounding).to(torch.uint8).argmax()))
        return torch.tensor(chosen, device=x.device)


class LeverageAnchors(Sampler):
    r"""Rows drawn in proportion to their leverage, so that every direction of the data is met.

    .. math:: \ell_i = x_i^\top (X^\top X)^+ x_i \in [0, 1]

    A row is influential where it lies in a direction that few others share. The scores sum to the
    rank of the data, and with ``normalize=False`` no invertible linear map changes them: two spaces
    that differ by one agree on what to draw. Drawn without replacement, one after the other in
    proportion to what is left; rows of zeros come last. The first ``a`` indices are the draw of
    ``LeverageAnchors(a)`` from the same generator state. O(ND² + D³) time, O(N + D²) memory beside
    the data.

    Args:
        num_anchors: Number of anchors A.
        normalize: Take the scores of directions (rows scaled to length one), not of rows as given.
        sampled: Draw at random; otherwise take the highest scores, highest first, ties by index.
        generator: Source of randomness; torch's default one if not given.

    Raises:
        ValueError: If there are fewer samples, or fewer distinct samples, than anchors.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0], [0.0, 0.1]])
        >>> LeverageAnchors(1, normalize=False, sampled=False)(x)
        tensor([3])

    References:
        Drineas et al., arXiv:1109.3843 (leverage); Efraimidis and Spirakis 2006 (the draw).
    """

    def __init__(
        self,
        num_anchors: int,
        *,
        normalize: bool = True,
        sampled: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_anchors, generator=generator)
        self.normalize = normalize
        self.sampled = sampled

    def pick(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Rows by their leverage: in the order of a weighted draw, or the highest first."""
        scores = _leverage(x, self.normalize)
        if not self.sampled:
            return scores.argsort(descending=True, stable=True)[: self.num_anchors]
        # Row i arrives after a time -log(1 - u) / l_i, exponential at rate l_i. The first of all
        # to arrive is i with probability l_i / sum(l), and times have no memory: so it goes on
        # among those that are left, and the order of arrival is the draw. Ties are shuffled.
        points = draws.uniform(len(scores), self.generator).to(scores.device)
        waiting = -torch.log1p(-points) / scores
        waiting = torch.where(scores > 0, waiting, torch.inf)
        order = self.shuffled(len(scores)).to(scores.device)
        return order[waiting[order].argsort(stable=True)][: self.num_anchors]


class BestAlignedAnchors(Sampler):
    r"""Rows whose distances to all others agree best between two paired spaces: an oracle.

    .. math:: s_i = \sum_j \bigl(d(x_i, x_j) - d(y_i, y_j)\bigr)^2, \qquad \text{smallest first}

    It sees both spaces in full, so that it needs what anchors are meant to replace: something to
    compare a choice of anchors with, not a method, and no upper bound either. Nothing is random;
    ties go to the lowest index. The first ``a`` indices are those of ``BestAlignedAnchors(a)``.
    O(N²D) time; distances are taken in blocks, so memory for one copy of each space.

    Args:
        num_anchors: Number of anchors A.
        other: The same samples in the other space, ``(N, D')``, in the same order.
        normalize: Compare distances of directions; otherwise those of positions, each space in
            units of its root mean square distance to the mean.

    Raises:
        ValueError: If the spaces are not paired row by row, or hold too few (distinct) samples.

    Example:
        >>> x = torch.randn(6, 3)
        >>> y = x.clone()
        >>> y[4] = -y[4]
        >>> 4 in BestAlignedAnchors(5, y)(x)
        False

    References:
        Code of Moschella et al., arXiv:2209.15430.
    """

    def __init__(self, num_anchors: int, other: Tensor, *, normalize: bool = True) -> None:
        super().__init__(num_anchors)
        checks.check_rows("other", other)
        checks.check_finite("other", other)
        self.other = other
        self.normalize = normalize

    def pick(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Rows by how much their distances differ between the spaces, the least first."""
        checks.check_paired(x, self.other, ("x", "other"))
        spaces = [_one_unit(space, self.normalize) for space in (x, self.other.to(x.device))]
        scores = torch.empty(x.shape[0], dtype=torch.float64, device=x.device)
        step = blocks.rows_of_table(x.shape[0], spaces[0].dtype, x.device)
        for start in range(0, x.shape[0], step):
            a, b = (torch.cdist(space[start : start + step], space) for space in spaces)
            scores[start : start + step] = (a - b).square_().sum(1)
        return scores.argsort(stable=True)[: self.num_anchors]


@torch.no_grad()
def leverage_scores(x: Tensor, *, normalize: bool = False) -> Tensor:
    r"""How much each row alone decides about a direction, :math:`x_i^\top (X^\top X)^+ x_i`.

    In [0, 1], with the rank of the data as their sum. A direction counts as absent where its
    singular value is the rounding of the type of the rows, to the largest one. Sums
    are in float64. O(ND² + D³) time, O(N + D²) memory beside the data.

    Args:
        x: Samples, not centred.
        normalize: Take the scores of directions (rows scaled to length one).

    Shape:
        - x: :math:`(N, D)`. Output: :math:`(N,)` in float64.

    Example:
        >>> leverage_scores(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 5.0]]))
        tensor([0.5000, 0.5000, 1.0000], dtype=torch.float64)

    References:
        Drineas et al., arXiv:1109.3843.
    """
    check_samples(x, 1)
    with full_precision(x):
        return _leverage(x.detach(), normalize)


def _leverage(x: Tensor, normalize: bool) -> Tensor:
    r"""`leverage_scores` of checked rows.

    .. math:: X^\top X = V \Lambda V^\top \quad\Rightarrow\quad
              x_i^\top (X^\top X)^+ x_i = \lVert \Lambda^{-1/2} V^\top x_i \rVert^2
    """
    unit = unit_of(as_float64(torch.stack(x.aminmax())).abs().max())
    step = blocks.rows_at_once(x.shape[1], torch.float64, x.device)
    gram = unit.new_zeros(x.shape[1], x.shape[1])
    for block in x.split(step):
        wide = _wide(block, unit, normalize)
        gram.addmm_(wide.mT, wide)
    values, vectors = torch.linalg.eigh(gram)
    kept = values > values[-1] * moment_tolerance(x.shape[1], rounding_of(x.dtype))
    roots = torch.where(kept, values, 1).rsqrt() * kept
    scores = [
        (_wide(b, unit, normalize) @ vectors).mul_(roots).square_().sum(1) for b in x.split(step)
    ]
    return torch.cat(scores).to(x.device)


def _wide(rows: Tensor, unit: Tensor, normalize: bool) -> Tensor:
    """Directions, or rows over ``unit``, in float64."""
    return unit_rows(as_float64(rows)) if normalize else as_float64(rows) / unit


def _one_unit(x: Tensor, normalize: bool) -> Tensor:
    """Directions, or positions in units of their root mean square distance to the mean."""
    rows = prepared(x, normalize)
    if normalize:
        return rows
    return rows * safe_reciprocal(torch.linalg.vector_norm(rows) / rows.shape[0] ** 0.5)
