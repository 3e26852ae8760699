"""Spectrum of the neighbour graph of a batch: does it fall into as many parts as there are classes?

Neighbours and eigenvectors are selected without gradient; eigenvalues carry it to the points.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor, nn

from relreps._core import checks
from relreps._core.eigen import gap_of_all, gap_of_smallest, smallest_pays
from relreps._core.graphs import neighbor_graph, normalized_laplacian, squared_distances
from relreps._core.linalg import at_least_float32, full_precision

Graph: TypeAlias = Literal["knn", "heat"]
Solver: TypeAlias = Literal["auto", "dense", "partial"]
Temperature: TypeAlias = float | Literal["median"]


def spectral_gap(
    z: Tensor,
    components: int | Tensor,
    k: int = 10,
    *,
    graph: Graph = "knn",
    temperature: Temperature = "median",
    paper_offset: bool = False,
    solver: Solver = "auto",
) -> Tensor:
    r"""Sum of the g smallest eigenvalues of the graph Laplacian of a cloud, minus the next.

    .. math:: \ell = \sum_{j=1}^{g} \lambda_j - \lambda_{g+1}, \qquad
              L = I - B^{-1/2} A B^{-1/2}, \quad B = \operatorname{diag}(A 1)

    with eigenvalues :math:`0 = \lambda_1 \le \lambda_2 \le \dots \le 2`. The number of zero
    eigenvalues is the number of connected components of the graph: the value is low if there are
    g parts with few edges between them, and none of them falls into two. See `SpectralGapLoss`,
    which also says what the options mean.

    Args:
        z: Points.
        components: Number g of parts wanted, from 1 to n - 1. As a tensor (a scalar) it is only
            looked at on the CPU outside of tracing; elsewhere, a wrong one gives NaN.
        k: Number of neighbours, less than n.
        graph: ``"knn"`` or ``"heat"``.
        temperature: Unit of squared distances.
        paper_offset: Count one part more, as the released code does.
        solver: ``"auto"``, ``"dense"`` or ``"partial"``.

    Shape:
        - z: :math:`(*, n, D)`. Output: :math:`(*)`.

    Example:
        >>> z = torch.tensor([[0.0], [1.0], [2.0], [7.0], [8.0], [9.0]])
        >>> spectral_gap(z, components=2, k=2)
        tensor(-1.5000)
    """
    options = _checked(k, graph, temperature, paper_offset, solver)
    _check_points(z)
    return _gap(z, components, options)


class SpectralGapLoss(nn.Module):
    r"""Draws a batch into as many weakly connected parts as it has classes (CaSpeR).

    .. math:: \ell = \sum_{j=1}^{g} \lambda_j - \lambda_{g+1}

    with the ascending eigenvalues :math:`\lambda` of the normalised Laplacian of the graph of the
    batch, see `spectral_gap`. It looks at labels only to count the classes g, not at which point
    has which. The least value for n points is :math:`-n/(n-g)`: g cliques of s points each.

    The ``"knn"`` graph joins i and j if either is among the k nearest of the other; where several
    tie for the last places, each is joined with the share of the places that falls to it. Its
    gradient is that of a soft graph (straight through): k times, a softmax of
    :math:`-d_{ij}^2 / T` over j is added up and :math:`\log(1 - w_{ij})` added to its logits; both
    directions are summed. So there is a gradient, but it is not that of the value. The ``"heat"``
    graph has weights :math:`\exp(-d_{ij}^2 / T)`, no k, and the exact gradient for a number T. The
    median is a constant to autograd.

    Values are invariant to isometries of the space, to the order of the points, and to the scale of
    the space (with ``temperature="median"``, or for ``"knn"``).

    ``"dense"`` takes all eigenvalues, O(n³) time. ``"partial"`` finds only those it needs, by
    subspace iteration on the sparse graph, on the host, O(n k g) time per step; it has no second
    derivative, and that of ``"dense"`` is finite only where the eigenvalue subtracted differs from
    both its neighbours. Both agree, to
    1e-5 in value and 1e-4 in gradient as long as :math:`\lambda_{g+1} < \lambda_{g+2}` (else the
    gradient is not unique). ``"auto"`` is ``"partial"`` for ``"knn"`` graphs of 512 points or more
    on the CPU, outside of ``torch.compile``, otherwise ``"dense"``. Forming the graph takes
    O(n² (D + k)) time and O(n² k) memory with gradient.

    Args:
        k: Number of neighbours, less than the number of points.
        components: Number g of parts wanted, less than the number of points. By default the number
            of distinct labels, counted on the device; if given, labels are not needed.
        graph: ``"knn"`` or ``"heat"``.
        temperature: T as a number, or ``"median"``: the median over the points of their median
            squared distance to the others.
        paper_offset: Sum g + 1 eigenvalues and subtract the one after, as the released code does:
            it asks for one part more than there are classes.
        solver: ``"auto"``, ``"dense"`` or ``"partial"``.

    Shape:
        - z: :math:`(*, n, D)`, or :math:`(n, D)` with labels :math:`(n)`. Output: :math:`(*)`.

    Example:
        >>> z = torch.tensor([[0.0], [1.0], [2.0], [7.0], [8.0], [9.0]])
        >>> SpectralGapLoss(k=2)(z, torch.tensor([0, 0, 0, 1, 1, 1]))
        tensor(-1.5000)

    References:
        Frascaroli et al., arXiv:2301.03345; the soft graph: Plötz and Roth, arXiv:1810.12575.
    """

    def __init__(
        self,
        k: int = 10,
        components: int | None = None,
        *,
        graph: Graph = "knn",
        temperature: Temperature = "median",
        paper_offset: bool = False,
        solver: Solver = "auto",
    ) -> None:
        super().__init__()
        self._options = _checked(k, graph, temperature, paper_offset, solver)
        if components is not None:
            components = checks.check_size("components", components)
        self.k = k
        self.components = components
        self.graph: Graph = graph
        self.temperature = temperature
        self.paper_offset = paper_offset
        self.solver: Solver = solver

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Loss of a batch."""
        _check_points(z)
        components: int | Tensor | None = self.components
        if labels is not None:
            if z.dim() != 2:
                raise ValueError(
                    f"`z` must have shape (n, D) where `labels` are given, got {tuple(z.shape)}. "
                    "For several clouds, give `components`."
                )
            checks.check_labels(labels, z.shape[0])
            if components is None:
                components = 1 + (labels.sort().values.diff() != 0).sum()
        if components is None:
            raise ValueError(
                "`labels` must be given to a SpectralGapLoss without `components`: one integer a "
                "point. Or build it with `components`."
            )
        return _gap(z, components, self._options)

    def extra_repr(self) -> str:
        """Constructor call."""
        return (
            f"k={self.k}, components={self.components}, graph={self.graph!r}, "
            f"temperature={self.temperature!r}, paper_offset={self.paper_offset}, "
            f"solver={self.solver!r}"
        )


class _Options(NamedTuple):
    k: int
    graph: str
    temperature: float | str
    paper_offset: bool
    solver: str


def _checked(
    k: int, graph: str, temperature: float | str, paper_offset: bool, solver: str
) -> _Options:
    k = checks.check_size("k", k)
    checks.check_choice("graph", graph, get_args(Graph))
    checks.check_choice("solver", solver, get_args(Solver))
    if isinstance(temperature, int | float):
        checks.check_positive("temperature", temperature)
    else:
        checks.check_choice("temperature", temperature, ("median",))
    return _Options(k, graph, temperature, paper_offset, solver)


def _gap(z: Tensor, components: int | Tensor, options: _Options) -> Tensor:
    """The gap of a cloud, of options that have been checked."""
    n = z.shape[-2]
    if options.graph == "knn":
        checks.check_k(options.k, max(n - 1, 0), "other points")
    components = _checked_components(components, n, options.paper_offset)
    count = components + options.paper_offset
    if checks.on_host(z):
        checks.check_finite("z", z.flatten(0, -2))
        finite = None
    else:  # it is said at the end: neighbours are chosen of what is no number, too
        finite = z.isfinite().flatten(-2).all(-1)
        z = torch.where(finite[..., None, None], z, 0)
    with full_precision(z):
        distances, heat = squared_distances(at_least_float32(z), options.temperature)
        if options.graph == "heat":
            weights = torch.exp(-heat)
        else:
            weights = neighbor_graph(distances, heat, options.k)
        laplacian = normalized_laplacian(weights)
        if _partially(laplacian, count, options):
            total = gap_of_smallest(laplacian, int(count))
        else:
            total = gap_of_all(laplacian, count)
        if isinstance(components, Tensor):
            total = torch.where((components > 0) & (count < n), total, math.nan)
        if finite is not None:
            total = torch.where(finite, total, math.nan)
    return total.to(z.dtype)


def _partially(laplacian: Tensor, count: int | Tensor, options: _Options) -> bool:
    """Whether the partial solver is asked for, or pays; of no clouds there is nothing to solve."""
    here = checks.on_host(laplacian) and not isinstance(count, Tensor)
    if options.solver == "partial" and not here:
        raise ValueError(
            "`solver` 'partial' runs on the CPU outside of torch.compile only. Use 'auto' or "
            "'dense' here."
        )
    if options.solver == "dense" or not laplacian.numel():
        return False
    if options.solver == "partial":
        return True
    sparse = options.graph == "knn"
    return sparse and here and smallest_pays(laplacian.shape[-1], int(count))


def _checked_components(components: int | Tensor, n: int, offset: bool) -> int | Tensor:
    """Number of parts, as an int wherever it may be looked at."""
    if isinstance(components, Tensor):
        whole = not (components.is_floating_point() or components.is_complex())
        if components.dim() or not whole or components.dtype == torch.bool:
            raise ValueError(
                "`components` must be an int or a scalar tensor of integers, got "
                f"{components.dtype} of shape {tuple(components.shape)}."
            )
        if not checks.on_host(components):
            return components
        components = int(components)
    components = checks.check_size("components", components)
    if components + offset >= n:
        raise ValueError(
            f"`components` must be less than the number of points, got {components} for "
            f"{n} points{', and the paper counts one more' if offset else ''}. Give more "
            "points or ask for fewer components."
        )
    return components


def _check_points(z: Tensor) -> None:
    checks.check_floating("z", z)
    if z.dim() < 2:
        raise ValueError(f"`z` must have shape (..., n, D), one point a row, got {tuple(z.shape)}.")
