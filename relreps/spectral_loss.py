"""Spectrum of the neighbour graph of a batch: does it fall into as many parts as there are classes?

Neighbours and eigenvectors are selected without gradient; eigenvalues carry it to the points.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from relreps._core import checks
from relreps._core.linalg import at_least_float32, full_precision

Graph: TypeAlias = Literal["knn", "heat"]
Solver: TypeAlias = Literal["auto", "dense", "partial"]

#: Graphs of at least so many points go by the partial solver on the CPU.
_PARTIAL_SIZE = 512
#: Directions carried along beyond those wanted, and the degree of a filter, of the partial solver.
_SPARE, _DEGREE = 8, 32
#: Residual below which an eigenvector of the partial solver is done (eigenvalues are in [0, 2]).
_RESIDUAL = 1e-9


def spectral_gap(
    z: Tensor,
    components: int | Tensor,
    k: int = 10,
    *,
    graph: Graph = "knn",
    temperature: float | Literal["median"] = "median",
    paper_offset: bool = False,
    solver: Solver = "auto",
) -> Tensor:
    r"""Smallest eigenvalues of the graph Laplacian of a cloud, less the next one.

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
    _check_options(k, graph, temperature, solver)
    _check_points(z)
    n = z.shape[-2]
    if graph == "knn":
        checks.check_k(k, max(n - 1, 0), "other points")
    components = _checked_components(components, n, paper_offset)
    count = components + paper_offset
    if checks.on_host(z):
        checks.check_finite("z", z.flatten(0, -2))
    with full_precision(z):
        distances, heat = _squared_distances(at_least_float32(z), temperature)
        weights = torch.exp(-heat) if graph == "heat" else _neighbour_graph(distances, heat, k)
        laplacian = _normalized_laplacian(weights)
        if _partially(laplacian, count, graph, solver):
            total: Tensor = _SmallestEigenvalues.apply(  # type: ignore[no-untyped-call]
                laplacian, int(count)
            )
        else:
            total = _dense(laplacian, count)
        if isinstance(components, Tensor):
            total = torch.where((components > 0) & (count < n), total, math.nan)
    return total.to(z.dtype)


class SpectralGapLoss(nn.Module):
    r"""Draws a batch into as many weakly connected parts as it has classes (CaSpeR).

    .. math:: \ell = \sum_{j=1}^{g} \lambda_j - \lambda_{g+1}

    with the ascending eigenvalues :math:`\lambda` of the normalised Laplacian of the graph of the
    batch, see `spectral_gap`. It looks at labels only to count the classes g, not at which point
    has which. The least value for n points is :math:`-n/(n-g)`: g cliques of s points each.

    The ``"knn"`` graph joins i and j if either is among the k nearest of the other (ties go to the
    lowest index). Its gradient is that of a soft graph (straight through): k times, a softmax of
    :math:`-d_{ij}^2 / T` over j is added up and :math:`\log(1 - w_{ij})` added to its logits; both
    directions are summed. So there is a gradient, but it is not that of the value. The ``"heat"``
    graph has weights :math:`\exp(-d_{ij}^2 / T)`, no k, and the exact gradient for a number T. The
    median is a constant to autograd.

    Values are invariant to isometries of the space, to the order of the points, and to the scale of
    the space (with ``temperature="median"``, or for ``"knn"``).

    ``"dense"`` takes all eigenvalues, O(n³) time. ``"partial"`` finds only those it needs, by
    subspace iteration on the sparse graph, on the host, O(n k g) time per step; it has no second
    derivative, and that of ``"dense"`` is finite only where all eigenvalues differ. Both agree, to
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
        temperature: float | Literal["median"] = "median",
        paper_offset: bool = False,
        solver: Solver = "auto",
    ) -> None:
        super().__init__()
        _check_options(k, graph, temperature, solver)
        if components is not None:
            checks.check_size("components", components)
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
        return spectral_gap(
            z,
            components,
            self.k,
            graph=self.graph,
            temperature=self.temperature,
            paper_offset=self.paper_offset,
            solver=self.solver,
        )

    def extra_repr(self) -> str:
        """Constructor call."""
        return (
            f"k={self.k}, components={self.components}, graph={self.graph!r}, "
            f"temperature={self.temperature!r}, paper_offset={self.paper_offset}, "
            f"solver={self.solver!r}"
        )


def _check_options(k: int, graph: object, temperature: object, solver: object) -> None:
    checks.check_size("k", k)
    checks.check_choice("graph", graph, get_args(Graph))
    checks.check_choice("solver", solver, get_args(Solver))
    if isinstance(temperature, int | float):
        checks.check_positive("temperature", temperature)
    else:
        checks.check_choice("temperature", temperature, ("median",))


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
    checks.check_size("components", components)
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


def _squared_distances(z: Tensor, temperature: float | str) -> tuple[Tensor, Tensor]:
    """Squared distances, in some unit and in that of the temperature; infinite on the diagonal."""
    # Brought near one by a power of two, so that squares neither overflow nor vanish, nor round.
    n, width = z.shape[-2:]
    cloud = z.detach()
    spread = (cloud - cloud[..., :1, :]).abs().amax((-2, -1), keepdim=True) if width else z[..., :1]
    unit = torch.where(spread > 0, spread, 1).log2().floor().exp2()
    points = z / unit
    d = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").square()
    divisor = _median(d.detach()) if isinstance(temperature, str) else temperature / unit.square()
    # Nothing is nearer than the smallest number, or farther than the largest one: no NaN follows.
    top = torch.finfo(d.dtype).max / 8
    heat = (d / divisor.clamp(min=torch.finfo(d.dtype).tiny)).clamp(max=top)
    own = torch.eye(n, dtype=torch.bool, device=d.device)
    return d.detach().masked_fill(own, math.inf), heat.masked_fill(own, math.inf)


def _median(d: Tensor) -> Tensor:
    """Median over the rows of the median off the diagonal; the mean, or 1, where that is 0."""
    n = d.shape[-1]
    # Its own zero is the first of n distances of a point. Off the CPU kthvalue may be refused.
    half = n // 2
    rows = d.kthvalue(half + 1).values if checks.on_host(d) else d.sort(-1).values[..., half]
    middle = rows.sort(-1).values[..., (n - 1) // 2]
    mean = d.mean((-2, -1)) * (n / max(n - 1, 1))
    middle = torch.where(middle > 0, middle, torch.where(mean > 0, mean, 1))
    return middle[..., None, None]


def _neighbour_graph(distances: Tensor, heat: Tensor, k: int) -> Tensor:
    """Graph of k nearest neighbours in value, in gradient its soft form at a temperature of 1."""
    with torch.no_grad():
        farthest = distances.topk(k, largest=False).values[..., -1:]
        nearer, tied = distances < farthest, distances == farthest
        room = k - nearer.sum(-1, keepdim=True)
        chosen = nearer | (tied & (tied.cumsum(-1) <= room))
        hard = (chosen | chosen.mT).to(distances.dtype)
    if not heat.requires_grad:
        return hard
    soft = _soft_neighbours(-heat, k)
    soft = soft + soft.mT
    return hard + (soft - soft.detach())


def _soft_neighbours(logits: Tensor, k: int) -> Tensor:
    """Sum of k softmaxes along rows, each taking away from the logits what it chose."""
    log_weights = logits.log_softmax(-1)
    total = weights = log_weights.exp()
    for _ in range(k - 1):
        log_weights = (log_weights + _log_rest(log_weights, weights)).log_softmax(-1)
        weights = log_weights.exp()
        total = total + weights
    return total


def _log_rest(log_weights: Tensor, weights: Tensor) -> Tensor:
    """``log(1 - weights)`` for weights that sum to 1, exact also where one of them is next to 1.

    Only the largest weight can be above one half. What it leaves is the sum of the others.
    """
    first = torch.zeros_like(weights, dtype=torch.bool)
    first = first.scatter(-1, weights.argmax(-1, keepdim=True), True)
    others = log_weights.masked_fill(first, -math.inf).logsumexp(-1, keepdim=True)
    return torch.where(first, others, torch.log1p(-weights.masked_fill(first, 0)))


def _normalized_laplacian(weights: Tensor) -> Tensor:
    """Laplacian of symmetric weights; a row of zeros stands for weights that were too small."""
    degree = weights.sum(-1)
    scale = torch.where(degree > 0, torch.where(degree > 0, degree, 1).rsqrt(), 0)
    n = weights.shape[-1]
    identity = torch.eye(n, dtype=weights.dtype, device=weights.device)
    return identity - scale[..., :, None] * weights * scale[..., None, :]


def _signs(n: int, count: int | Tensor, like: Tensor) -> Tensor:
    """1 for the eigenvalues that are added, -1 for the one subtracted, 0 for the others."""
    index = torch.arange(n, device=like.device)
    return (index < count).to(like.dtype) - (index == count).to(like.dtype)


def _dense(laplacian: Tensor, count: int | Tensor) -> Tensor:
    n = laplacian.shape[-1]
    total: Tensor = (torch.linalg.eigvalsh(laplacian) * _signs(n, count, laplacian)).sum(-1)
    return total


def _partially(laplacian: Tensor, count: int | Tensor, graph: str, solver: str) -> bool:
    """Whether the partial solver is asked for, or pays; of no clouds there is nothing to solve."""
    if solver == "partial" and not checks.on_host(laplacian):
        raise ValueError(
            "`solver` 'partial' runs on the CPU outside of torch.compile only. Use 'auto' or "
            "'dense' here."
        )
    if solver == "dense" or not laplacian.numel():
        return False
    if solver == "partial":
        return True
    n = laplacian.shape[-1]
    pays = graph == "knn" and n >= _PARTIAL_SIZE and checks.on_host(laplacian)
    return pays and 4 * (int(count) + 1 + _SPARE) <= n


class _SmallestEigenvalues(torch.autograd.Function):
    """Sum of the ``count`` smallest eigenvalues of each matrix, less the next one."""

    @staticmethod
    def forward(ctx: Any, laplacian: Tensor, count: int) -> Tensor:
        n = laplacian.shape[-1]
        pairs = [_smallest(m, count + 1) for m in laplacian.detach().reshape(-1, n, n)]
        values = torch.stack([v for v, _ in pairs]).view(*laplacian.shape[:-2], count + 1)
        vectors = torch.stack([u for _, u in pairs]).view(*laplacian.shape[:-1], count + 1)
        signs = _signs(count + 1, count, laplacian)
        ctx.save_for_backward(vectors.to(laplacian.dtype), signs)
        total: Tensor = (values.to(laplacian.dtype) * signs).sum(-1)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # An eigenvalue moves by v^T dL v.
        vectors, signs = ctx.saved_tensors
        return grad[..., None, None] * ((vectors * signs) @ vectors.mT), None


def _smallest(laplacian: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The smallest eigenvalues and their vectors, in float64, by Chebyshev-filtered subspaces.

    A block of directions finds repeated eigenvalues, which Lanczos' method with one start vector
    misses: there are as many zeros as components. Where it does not settle, all are computed.
    """
    import numpy as np
    from scipy.sparse import csr_array

    n = laplacian.shape[-1]
    matrix = laplacian.double()
    width = count + max(_SPARE, count // 4)
    if width < n:
        sparse = csr_array(matrix.numpy())
        block = np.random.default_rng(0).standard_normal((n, width))
        for _ in range(20):
            block = np.linalg.qr(block)[0]
            image = sparse @ block
            values, turn = np.linalg.eigh(block.T @ image)
            block, image = block @ turn, image @ turn
            rest = (image - block * values)[:, :count]
            if np.linalg.norm(rest, axis=0).max() < _RESIDUAL:
                found = values[:count].copy(), block[:, :count].copy()
                return torch.from_numpy(found[0]), torch.from_numpy(found[1])
            # The polynomial is within 1 on [cut, 2] and grows fast below.
            cut = min(values[-1], 1.9)
            middle, half = 1 + cut / 2, 1 - cut / 2
            before, block = block, (image - middle * block) / half
            for _ in range(_DEGREE - 1):
                before, block = block, (sparse @ block - middle * block) * (2 / half) - before
    values_, vectors = torch.linalg.eigh(matrix)
    return values_[:count], vectors[:, :count]
