"""Neighbourhoods: is who is near whom the same in two spaces?

Each space is searched in itself: :math:`N_X(i)` are the k rows of ``x`` with the largest cosine to
row i, row i itself left out by its index. The widths may differ, and a space may be rotated or its
rows rescaled without effect. Where rows tie for the last places, as copies do, and codes on a
grid, the result is the expected value over random choices among them, drawn independently in the
two spaces: it does not depend on the order of the rows. Hence a space with ties at the k-th place
is not quite like itself. Rows are handled in chunks: O(N^2 (D + E)) time, O(chunk N) memory.
Results are scalar tensors; they are not differentiable. Where all rows of a space point the same
way nobody is near anybody: the result is NaN, with a `NumericalWarning`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.warnings import warn
from relreps.metrics.search import (
    CHUNK,
    Nearest,
    Search,
    Space,
    chunks,
    nearest,
    overlap,
    searched_spaces,
)
from relreps.metrics.streaming import PairedRows
from relreps.metrics.ties import Drawn, drawn, expected_common, expected_jaccard, some_at_once


def mutual_knn(
    x: Tensor, y: Tensor, k: int = 10, calibrated: bool = False, *, chunk_size: int = CHUNK
) -> Tensor:
    r"""Share of the ``k`` nearest neighbours that two spaces have in common.

    .. math:: m = \frac1N \sum_i \frac{|N_X(i) \cap N_Y(i)|}{k}, \qquad
              c = \frac{k}{N - 1}, \qquad m' = \frac{m - c}{1 - c}

    m is the plain measure, with c what independent spaces share by chance, and :math:`m'` the
    calibrated one: 0 by chance, 1 for equal neighbourhoods, comparable over N and k. Symmetric.
    Range [0, 1]; calibrated it may be slightly negative.

    Args:
        x: Rows of one space.
        y: Rows of another for the same items, in the same order.
        k: Number of neighbours, at most N - 1; calibrated at most N - 2.
        calibrated: Take the share that is due to chance away.
        chunk_size: Rows compared with all others at once.

    Shape:
        - x: :math:`(N, D)`; y: :math:`(N, E)`. Output: scalar.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
        >>> mutual_knn(x, x.flip(1), k=1), mutual_knn(x, x.roll(1, 0), k=1)
        (tensor(1.), tensor(0.))

    References:
        Huh et al., arXiv:2405.07987, who use k = 10.
    """
    first, second = _spaces(x, y, k, spare=int(calibrated))
    if _has_either_collapsed(first, second):
        return first.nan()
    share = _mean_agreement(first, second, k, chunk_size, lambda n: n / k, _expected_share)
    if calibrated:
        chance = k / (len(x) - 1)
        share = (share - chance) / (1 - chance)
    return share.to(first.rows)


class MutualKNN(PairedRows):
    """`mutual_knn` of rows that arrive in batches.

    Neighbours are looked for among all rows, so the rows themselves are kept: O(N (D + E)) memory,
    twice while `compute` puts them together. Give rows on the CPU if they do not fit their device.

    Args:
        k: As in `mutual_knn`.
        calibrated: As in `mutual_knn`.

    Example:
        >>> measure = MutualKNN(k=2)
        >>> for batch in torch.randn(5, 10, 3):
        ...     _ = measure.update(batch, 2 * batch)
        >>> measure.compute()
        tensor(1.)
    """

    def __init__(self, k: int = 10, calibrated: bool = False) -> None:
        super().__init__()
        k = checks.check_size("k", k)
        self.k, self.calibrated = k, calibrated

    def compute(self) -> Tensor:
        """The measure of all rows so far. O(N^2 (D + E))."""
        return mutual_knn(*self.rows(), self.k, self.calibrated)

    def __repr__(self) -> str:
        return f"MutualKNN(k={self.k}, calibrated={self.calibrated})"


def neighborhood_jaccard(x: Tensor, y: Tensor, k: int = 10, *, chunk_size: int = CHUNK) -> Tensor:
    r"""Mean Jaccard index of the neighbourhoods of each item in two spaces.

    .. math:: \frac1N \sum_i \frac{|N_X(i) \cap N_Y(i)|}{|N_X(i) \cup N_Y(i)|}

    Unlike `jaccard_at_k`, which searches one space twice, each space is searched in itself, so that
    no common coordinates are needed. With a share m of the neighbours in common a row counts
    m / (2 - m). Symmetric. By chance: about k / 2N. Range [0, 1].

    Args:
        x: Rows of one space.
        y: Rows of another for the same items, in the same order.
        k: Number of neighbours, at most N - 1.
        chunk_size: Rows compared with all others at once.

    Shape:
        - x: :math:`(N, D)`; y: :math:`(N, E)`. Output: scalar.

    References:
        Klabunde et al., arXiv:2305.06329.
    """
    first, second = _spaces(x, y, k)
    if _has_either_collapsed(first, second):
        return first.nan()
    index = _mean_agreement(
        first, second, k, chunk_size, lambda n: n / (2 * k - n), expected_jaccard
    )
    return index.to(first.rows)


def cknna(x: Tensor, y: Tensor, k: int = 10, *, chunk_size: int = CHUNK) -> Tensor:
    r"""Debiased CKA of what near neighbours have to do with each other.

    .. math:: \frac{h(K_{\alpha}, L_{\alpha})}
              {\sqrt{h(K_{\beta}, K_{\beta})\; h(L_{\gamma}, L_{\gamma})}}

    with K and L the cosines of the rows, and masks that keep entry (i, j) of both where j is among
    the k nearest of i in both spaces (:math:`\alpha`), of K where it is in ``x`` (:math:`\beta`),
    and of L where it is in ``y`` (:math:`\gamma`). With :math:`r_i, s_i` the sums of row i,

    .. math:: h(K, L) = \sum_{ij} K_{ij} L_{ij} + \frac{\sum_i r_i \sum_i s_i}{(N - 1)(N - 2)}
              - \frac{2}{N - 2} \sum_i r_i s_i

    is the unbiased independence criterion without its common factor. At k = N - 1 this is the
    debiased linear CKA of the unit rows; smaller k look at local structure. Symmetric. 1 for equal
    spaces without ties, and no cosine in general: the three terms differ in their masks, so that
    nothing bounds it, and with few rows it may be far outside of [0, 1] (7 rows and k=4: beyond
    20). By chance: about k / N for k much smaller than N, which are the neighbours in common, and
    0 at N - 1. Where neighbours tie it is the expected value, exactly: equals have equal cosines,
    so that the self terms do not depend on which of them are taken. NaN with a `NumericalWarning`
    if a self term is not positive.

    The authors' released code pairs :math:`K_{ij}` with :math:`L_{ji}`, which differs because
    being a neighbour is not mutual, and is not symmetric in its arguments.

    Args:
        x: Rows of one space, at least four.
        y: Rows of another for the same items, in the same order.
        k: Number of neighbours, from 2 to N - 1.
        chunk_size: Rows compared with all others at once.

    Shape:
        - x: :math:`(N, D)`; y: :math:`(N, E)`. Output: scalar.

    References:
        Huh et al., arXiv:2405.07987, appendix A.
    """
    first, second = _spaces(x, y, k, minimum=4)
    k = checks.check_size("k", k, minimum=2)
    if _has_either_collapsed(first, second):
        return first.nan()
    n, terms = len(x), torch.zeros(3, 5, dtype=torch.float64, device=x.device)
    for found in _neighbors(first, second, k, chunk_size):
        # Equals have equal cosines, so that only what is in common depends on which are taken.
        ours, theirs = (cosines.double() for cosines in found.cosines())
        settled = _joint(found, ours, theirs)
        terms += torch.stack([_terms(*settled), _terms(ours, ours), _terms(theirs, theirs)])
        for part in found.tied(n):
            (of_x, of_y), (in_x, in_y) = found.drawn(part, k), found.all_cosines(part)
            terms[0] += _expected_terms(of_x, of_y, in_x, in_y)
    products, sum_a, sum_b, rows, excess = terms.unbind(1)
    h = products + (sum_a * sum_b + excess) / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows
    cross, self_x, self_y = h.unbind()
    if not bool((self_x > 0) & (self_y > 0)):
        warn(
            f"The self terms of `x` and `y` must be positive, got {float(self_x):.3g} and "
            f"{float(self_y):.3g}: {n} rows and k={k} say too little. Give more rows."
        )
        return first.nan()
    return (cross / (self_x * self_y).sqrt()).to(first.rows)


class _Neighbors(NamedTuple):
    """Neighbours of a chunk of rows in two spaces, and where they were looked for."""

    rows: Tensor
    nearest: tuple[Nearest, Nearest]
    spaces: tuple[Space, Space]
    searches: tuple[Search, Search]

    def cosines(self) -> list[Tensor]:
        """Those of the neighbours in either space, ``(rows, k)``."""
        return [
            search.cosines(found.scores, space.rows[self.rows])
            for found, space, search in zip(self.nearest, self.spaces, self.searches, strict=True)
        ]

    def tied(self, columns: int) -> Iterator[Tensor]:
        """Rows whose last neighbour is not decided in one of the spaces, some at a time."""
        ours, theirs = self.nearest
        return some_at_once(self.rows[ours.tied | theirs.tied], columns)

    def drawn(self, rows: Tensor, k: int) -> list[Drawn]:
        """The random neighbours of some rows in either space."""
        return [
            drawn(search.exact.others(space.exact_rows(rows), rows), k)
            for space, search in zip(self.spaces, self.searches, strict=True)
        ]

    def all_cosines(self, rows: Tensor) -> list[Tensor]:
        """Of some rows with all of either space."""
        return [
            search.exact.cosines(search.exact(wide), wide)
            for wide, search in (
                (space.exact_rows(rows), search)
                for space, search in zip(self.spaces, self.searches, strict=True)
            )
        ]


def _neighbors(x: Space, y: Space, k: int, chunk_size: int) -> Iterator[_Neighbors]:
    spaces, searches = (x, y), (Search(x, chunk_size), Search(y, chunk_size))
    everybody = torch.arange(len(x.rows), device=x.rows.device)
    for rows in chunks(len(x.rows), chunk_size):
        own = everybody[rows]
        ours, theirs = (
            nearest(search.others(space.rows[rows], own), k)
            for space, search in zip(spaces, searches, strict=True)
        )
        yield _Neighbors(own, (ours, theirs), spaces, searches)


def _mean_agreement(
    x: Space,
    y: Space,
    k: int,
    chunk_size: int,
    of_common: Callable[[Tensor], Tensor],
    expected: Callable[[Drawn, Drawn], Tensor],
) -> Tensor:
    """Mean over the items of a function of how many neighbours they have in common, in float64.

    Args:
        x: One space.
        y: The other.
        k: Number of neighbours.
        chunk_size: Rows at once.
        of_common: The function.
        expected: Its expected value for neighbours that are drawn.
    """
    parts = []
    for found in _neighbors(x, y, k, chunk_size):
        ours, theirs = found.nearest
        parts.append(of_common(overlap(ours.columns, theirs.columns).double()))
        for part in found.tied(len(x.rows)):
            parts[-1][part - found.rows[0]] = expected(*found.drawn(part, k))
    return torch.cat(parts).mean()


def _expected_share(a: Drawn, b: Drawn) -> Tensor:
    return expected_common(a, b) / (a.sure.sum(1) + a.room[:, 0])


def _joint(found: _Neighbors, ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines in both spaces of the neighbours in common, zeros between them and at ties."""
    a, b = found.nearest
    # Sorted by index, and x before y, the two entries of a common neighbour lie side by side.
    indices, order = torch.cat((a.columns, b.columns), 1).sort(dim=-1, stable=True)
    values = torch.cat((ours, theirs), 1).gather(1, order)
    common = (indices[:, 1:] == indices[:, :-1]) & ~(a.tied | b.tied)[:, None]
    return values[:, :-1] * common, values[:, 1:] * common


def _terms(a: Tensor, b: Tensor) -> Tensor:
    """What the criterion sums over rows: products, entries of each, products of row sums.

    The fifth is by how much the product of the row sums is larger than that of their means.
    """
    rows_a, rows_b = a.sum(1), b.sum(1)
    settled = (a * b).sum(), rows_a.sum(), rows_b.sum(), rows_a @ rows_b
    return torch.stack((*settled, settled[0].new_zeros(())))


def _expected_terms(x: Drawn, y: Drawn, k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
    r"""What `_terms` are on average for neighbours in common that are drawn."""
    p, q = x.chance, y.chance
    # In a row, with A_j whether j is a neighbour in common,
    #   E[r s] = sum_j K_j L_j E[A_j] + sum_{j != l} K_j L_l E[A_j A_l],
    #   E[A_j A_l] = (p_j p_l - d tau_j tau_l) (q_j q_l - e sigma_j sigma_l),
    # tau and sigma for those that tie in either space, d and e their repulsion. Multiplied out it
    # is four products of sums over all j and l, and what they have at j = l is taken away.
    both, d, e = p * q, x.repulsion, y.repulsion
    parts = ((1, both), (-e, p * y.tied), (-d, x.tied * q), (d * e, x.tied * y.tied))
    pairs = torch.stack(
        [(f * (k * w).sum(1, keepdim=True) * (l * w).sum(1, keepdim=True)).sum() for f, w in parts]
    ).sum()
    twice = k * l * (p.square() - d * x.tied) * (q.square() - e * y.tied)
    product = (k * l * both).sum()
    rows_k, rows_l = (k * both).sum(1), (l * both).sum(1)
    rows = product + pairs - twice.sum()
    return torch.stack((product, rows_k.sum(), rows_l.sum(), rows, rows - rows_k @ rows_l))


def _spaces(
    x: Tensor, y: Tensor, k: int, *, minimum: int = 2, spare: int = 0
) -> tuple[Space, Space]:
    """Two spaces where each row has ``k`` others, and ``spare`` more."""
    first, second = searched_spaces(x, y, minimum=minimum + spare)
    k = checks.check_k(k, len(x) - 1, "other rows")
    if k >= len(x) - spare:
        raise ValueError(
            f"`k` must be at most {len(x) - 1 - spare} to be calibrated, got {k}: all "
            "other rows are neighbours, by chance as well. Lower `k` or give more rows."
        )
    return first, second


def _has_either_collapsed(x: Space, y: Space) -> bool:
    """Whether one has; warns of both."""
    return any([x.has_collapsed(), y.has_collapsed()])
