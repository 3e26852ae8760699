"""Neighbourhoods: is who is near whom the same in two spaces?

Each space is searched in itself: :math:`N_X(i)` are the k rows of ``x`` with the largest cosine to
row i, row i itself left out by its index. The widths may differ, and a space may be rotated or its
rows rescaled without effect. Copies of a row tie exactly, and ties go to the lowest index. Rows are
handled in chunks: O(N^2 (D + E)) time, O(chunk N) memory. Results are scalar tensors; they are not
differentiable. Where all rows of a space point the same way nobody is near anybody: the result is
NaN, with a `NumericalWarning`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.warnings import warn
from relreps.metrics.search import (
    CHUNK,
    Search,
    Space,
    chunks,
    overlap,
    searched_spaces,
    top_k,
)
from relreps.metrics.streaming import PairedRows


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
    share = _common(first, second, k, chunk_size).double().mean() / k
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
    common = _common(first, second, k, chunk_size).double()
    return (common / (2 * k - common)).mean().to(first.rows)


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
    spaces, and no cosine in general: the three terms differ in their masks, so that nothing bounds
    it, and with few rows it may be far outside of [0, 1] (7 rows and k=4: beyond 20). By chance:
    about k / N for k much smaller than N, which are the neighbours in common, and 0 at N - 1. NaN
    with a `NumericalWarning` if a self term is not positive.

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
    n, terms = len(x), torch.zeros(3, 4, dtype=torch.float64, device=x.device)
    for found in _neighbors(first, second, k, chunk_size):
        ours, theirs = found.x_values.double(), found.y_values.double()
        parts = (_joint(found), (ours, ours), (theirs, theirs))
        terms += torch.stack([_terms(a, b) for a, b in parts])
    products, sum_a, sum_b, rows = terms.unbind(1)
    h = products + sum_a * sum_b / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows
    cross, self_x, self_y = h.unbind()
    if not bool((self_x > 0) & (self_y > 0)):
        warn(
            f"The self terms of `x` and `y` must be positive, got {float(self_x):.3g} and "
            f"{float(self_y):.3g}: {n} rows and k={k} say too little. Give more rows."
        )
        return first.nan()
    return (cross / (self_x * self_y).sqrt()).to(first.rows)


class _Neighbors(NamedTuple):
    """Neighbours of a chunk of rows ``(rows, k)`` in two spaces, and their cosines."""

    x_indices: Tensor
    x_values: Tensor
    y_indices: Tensor
    y_values: Tensor


def _neighbors(x: Space, y: Space, k: int, chunk_size: int) -> Iterator[_Neighbors]:
    searches = [(side.rows, Search(side, chunk_size)) for side in (x, y)]
    for rows in chunks(len(x.rows), chunk_size):
        found: list[Tensor] = []
        for queries, search in searches:
            similar = search(queries[rows])
            similar.diagonal(rows.start).fill_(-math.inf)
            indices = top_k(similar, k)
            found += [indices, similar.gather(1, indices) + search.constant(queries[rows])]
        yield _Neighbors(*found)


def _common(x: Space, y: Space, k: int, chunk_size: int) -> Tensor:
    """Number of neighbours that each item has in common, ``(N,)``."""
    found = _neighbors(x, y, k, chunk_size)
    return torch.cat([overlap(f.x_indices, f.y_indices) for f in found])


def _joint(found: _Neighbors) -> tuple[Tensor, Tensor]:
    """Cosines in both spaces of the neighbours in common, with zeros between them."""
    # Sorted by index, and x before y, the two entries of a common neighbour lie side by side.
    indices, order = torch.cat((found.x_indices, found.y_indices), 1).sort(dim=-1, stable=True)
    values = torch.cat((found.x_values, found.y_values), 1).double().gather(1, order)
    common = indices[:, 1:] == indices[:, :-1]
    return values[:, :-1] * common, values[:, 1:] * common


def _terms(a: Tensor, b: Tensor) -> Tensor:
    """What the criterion sums over rows: products, entries of each, products of row sums."""
    rows_a, rows_b = a.sum(1), b.sum(1)
    return torch.stack(((a * b).sum(), rows_a.sum(), rows_b.sum(), rows_a @ rows_b))


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
