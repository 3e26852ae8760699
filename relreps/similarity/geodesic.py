"""Similarities along the data: shortest paths in a graph, and lengths of decoded segments.

Both are modules, and go where a `RelativeProjection` asks for a similarity.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from relreps._core import checks
from relreps._core.linalg import as_float64, at_least_float32, unit_rows
from relreps._core.modules import refuse_class, tensor_of
from relreps._core.rounding import safe_norm, unit_of
from relreps._core.state import Stateful
from relreps._core.warnings import NumericalWarning
from relreps.similarity.base import Similarity


def shortest_paths(reference: Tensor, anchors: Tensor, k: int) -> Tensor:
    """Path lengths from each anchor to each reference row, ``(A, M)`` in float64, by SciPy.

    Edges join each reference row to its k nearest, either way round, and lead from each anchor to
    its k nearest. What no path reaches is at twice the longest path, with a warning.
    """
    from scipy.sparse.csgraph import connected_components, dijkstra

    m, a = reference.shape[0], anchors.shape[0]
    graph = _graph(as_float64(reference), as_float64(anchors), k)
    paths = torch.from_numpy(dijkstra(graph, indices=range(m, m + a)))[:, :m]
    lost = ~paths.isfinite()
    if bool(lost.all()):
        raise ValueError(
            "`anchors` must be within reach of the reference, got none that a path of finite "
            "length leads from. Bring both nearer to 1."
        )
    if bool(lost.any()):
        parts = connected_components(graph[:m, :m], directed=False)[0]
        warnings.warn(
            f"the neighbour graph of the reference falls into {parts} parts, so some anchors "
            "cannot be reached; their distance is set to twice the longest path. Raise `k`.",
            NumericalWarning,
            stacklevel=3,
        )
        paths = torch.where(lost, 2 * paths[~lost].max(), paths)
    return paths


def _graph(reference: Tensor, anchors: Tensor, k: int) -> Any:
    """Lengths of the edges as a sparse matrix of SciPy: reference rows first, then anchors."""
    from scipy.sparse import csr_array

    m, a = reference.shape[0], anchors.shape[0]
    near, lengths = _nearest(reference, reference, k + 1)
    ends = torch.arange(m, device=reference.device)[:, None].expand_as(near)
    other = near != ends
    i, j, d = ends[other], near[other], lengths[other]
    to, reach = _nearest(anchors, reference, k)
    start = torch.arange(m, m + a, device=reference.device)[:, None].expand_as(to).flatten()
    sources = torch.cat((i, j, start))
    targets = torch.cat((j, i, to.flatten()))
    weights = torch.cat((d, d, reach.flatten()))
    # An edge found from both ends is one edge; SciPy would add the two lengths up.
    edges, position = (sources * (m + a) + targets).unique(return_inverse=True)
    lengths = weights.new_zeros(len(edges)).scatter_(0, position, weights)
    # SciPy reads a zero as no edge: coincident rows get the smallest length there is.
    lengths = lengths.clamp(min=torch.finfo(torch.float64).tiny)
    rows, columns = torch.div(edges, m + a, rounding_mode="floor"), edges % (m + a)
    ij = rows.cpu().numpy(), columns.cpu().numpy()
    return csr_array((lengths.cpu().numpy(), ij), shape=(m + a, m + a))


def attached_paths(x: Tensor, reference: Tensor, paths: Tensor, k: int) -> Tensor:
    """The shortest way ``(N, A)`` from each row over one of its k nearest reference rows.

    Which ones these are is a choice without gradient; how far they lie has one.
    """
    # About the mean and in units of the size, where squares neither over- nor underflow.
    mean = reference.mean(0)
    unit = unit_of((reference - mean).abs().amax())
    x, reference, paths = (x - mean) / unit, (reference - mean) / unit, paths / unit
    with torch.no_grad():
        near, _ = _nearest(x, reference, k)
    lengths = safe_norm(x[:, None, :] - reference[near])
    code = lengths[:, :1] + paths.mT[near[:, 0]]
    for i in range(1, k):  # one neighbour at a time: all of them would be (N, k, A)
        code = torch.minimum(code, lengths[:, i : i + 1] + paths.mT[near[:, i]])
    return code * unit


class GraphGeodesic(Stateful, Similarity):
    r"""Shortest path from each row to each anchor in a neighbour graph of reference rows.

    .. math:: r_j = \min_{i \in N_k(x)} \lVert x - z_i\rVert_2 + d_G(z_i, a_j)

    :math:`G` joins each reference row to its k nearest (either way round), and each anchor to its k
    nearest. Paths are computed once, when the anchors are set, on the host (so not in a compiled or
    training `RelativeEncoder`); a call attaches rows to the graph, to reference rows only: an
    anchor is at distance 0 from itself if it is one of them. Rows that no path reaches are put at
    twice the longest path, with a warning. The code is invariant to rotations and translations of
    reference, anchors and samples *together*; nothing is declared, because the reference stays
    where it is when anchors change. Anchors: O(M^2 D + A M log M) time and O(M^2) memory for M
    reference rows; a call: O(N M D + N k A) time, O(N (M + k D + A)) memory.

    Args:
        reference: Rows ``(M, D)`` that trace out the data.
        k: Number of neighbours, fewer than M.

    Shape:
        - x: :math:`(*, D)`; anchors: :math:`(A, D)`. Output: :math:`(*, A)`.

    Example:
        >>> line = torch.arange(5.0)[:, None]
        >>> GraphGeodesic(line, k=2)(torch.tensor([[3.5]]), line[:1])
        tensor([[3.5000]])

    Raises:
        ValueError: k outside 1..M-1, a reference that is not finite, anchors of another width or
            out of reach.

    References:
        arXiv:2310.01211; Isomap: Tenenbaum et al. 2000.
    """

    reference: Tensor
    self_contained = False
    prepared_names = ("paths",)

    def __init__(self, reference: Tensor, k: int = 10) -> None:
        super().__init__()
        checks.check_rows("reference", reference, minimum=2)
        checks.check_finite("reference", reference)
        k = checks.check_k(k, reference.shape[0] - 1, "other reference rows")
        self.k = k
        self.register_buffer("reference", reference.detach().clone())

    def forward(self, x: Tensor, anchors: Tensor) -> Tensor:
        """Path lengths; the graph is walked anew, so prefer a `RelativeProjection`."""
        return Similarity.__call__(self, x, anchors)

    def check_anchors(self, anchors: Tensor) -> None:
        """Refuse anchors of another width than the reference."""
        checks.check_features("anchors", anchors, self.reference.shape[1])

    @torch.no_grad()
    def prepare(self, anchors: Tensor) -> tuple[Tensor, ...]:
        """Path length from each anchor to each reference row, ``(A, M)``."""
        checks.check_finite("anchors", anchors)
        return (shortest_paths(self.reference, anchors, self.k).to(anchors),)

    def compare(self, x: Tensor, *prepared: Tensor) -> Tensor:
        """Attach rows ``(..., D)`` to the graph."""
        wide = at_least_float32(x)
        flat = wide.reshape(-1, wide.shape[-1])
        reference, paths = self.reference.to(wide.dtype), prepared[0].to(wide.dtype)
        code = attached_paths(flat, reference, paths, self.k)
        return code.reshape(*x.shape[:-1], paths.shape[0]).to(x.dtype)

    def extra_repr(self) -> str:
        """Sizes of the graph."""
        return f"reference={tuple(self.reference.shape)}, k={self.k}"


Metric = Literal["euclidean", "spherical", "fisher"]


def segment_lengths(
    decoder: nn.Module, x: Tensor, anchors: Tensor, steps: int, metric: Metric = "euclidean"
) -> Tensor:
    """Lengths ``(N, A)`` of the decoded straight segments; see `RelativeGeodesic`."""
    t = torch.linspace(0, 1, steps + 1, dtype=x.dtype, device=x.device)[:, None]
    points = x[:, None, None] + t * (anchors[:, None] - x[:, None, None])  # (N, A, T + 1, D)
    out = tensor_of("decoder", decoder, points.reshape(-1, x.shape[-1])).flatten(1)
    out = at_least_float32(out).reshape(*points.shape[:-1], out.shape[-1])
    if metric == "euclidean":
        pieces = out[..., 1:, :] - out[..., :-1, :]
        largest = pieces.detach().abs().amax((-2, -1), keepdim=True)
        unit = torch.where(largest > 0, largest, 1)  # in which squares neither over- nor underflow
        return safe_norm(pieces / unit).sum(-1) * unit[..., 0, 0]
    # Root probabilities lie on the sphere, where the Fisher distance is twice the angle.
    points = unit_rows(out) if metric == "spherical" else (out.log_softmax(-1) / 2).exp()
    a, b = points[..., 1:, :], points[..., :-1, :]
    # Unlike arccos of the product, exact for small angles and finite in its gradient.
    angle = 2 * torch.atan2(safe_norm(a - b), safe_norm(a + b))
    return angle.sum(-1) * (2 if metric == "fisher" else 1)


class RelativeGeodesic(nn.Module, Similarity):
    r"""Length of the straight segment from each row to each anchor, as a decoder sees it.

    .. math:: r_j = \sum_{t=1}^{T} \delta\bigl(f(z_t), f(z_{t-1})\bigr), \qquad
              z_t = x + \tfrac{t}{T} (a_j - x)

    an upper bound of the geodesic distance that the decoder pulls back. It does not depend on the
    basis of the latent space: an affine change of the space that the decoder undoes leaves it as it
    is. Since that involves the decoder, nothing is declared. The length never shrinks when the
    steps are doubled. O(NAT) decoder evaluations and as much memory, unless chunked.

    Args:
        decoder: From latents ``(rows, D)`` to outputs ``(rows, ...)``, which are flattened.
        steps: Number of pieces T of a segment.
        metric: Distance of two outputs: ``"euclidean"``, ``"spherical"`` (the angle between them)
            or ``"fisher"`` (between the distributions whose logits they are).
        chunk_size: Samples handled at once; all of them by default.

    Shape:
        - x: :math:`(*, D)`; anchors: :math:`(A, D)`. Output: :math:`(*, A)`.

    Example:
        >>> double = nn.Linear(2, 2, bias=False)
        >>> double.weight.data = 2 * torch.eye(2)
        >>> with torch.no_grad():
        ...     RelativeGeodesic(double, steps=4)(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
        tensor([[10.]])

    References:
        Relative geodesic representations, arXiv:2506.01599.
    """

    self_contained = False
    widens = False
    prepared_names = ("rows",)

    def __init__(
        self,
        decoder: nn.Module,
        steps: int = 8,
        metric: Metric = "euclidean",
        *,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        steps = checks.check_size("steps", steps)
        checks.check_choice("metric", metric, get_args(Metric))
        if chunk_size is not None:
            chunk_size = checks.check_size("chunk_size", chunk_size)
        refuse_class("decoder", decoder)
        self.decoder = decoder
        self.steps = steps
        self.metric: Metric = metric
        self.chunk_size = chunk_size

    def forward(self, x: Tensor, anchors: Tensor) -> Tensor:
        """Lengths of the decoded segments."""
        return Similarity.__call__(self, x, anchors)

    def prepare(self, anchors: Tensor) -> tuple[Tensor, ...]:
        """The anchors themselves."""
        return (anchors,)

    def compare(self, x: Tensor, *prepared: Tensor) -> Tensor:
        """Lengths for rows ``(..., D)``."""
        flat = x.reshape(-1, x.shape[-1])
        blocks = (flat,) if self.chunk_size is None else flat.split(self.chunk_size)
        anchors = prepared[0]
        lengths = [
            segment_lengths(self.decoder, block, anchors, self.steps, self.metric)
            for block in blocks
        ]
        code = torch.cat(lengths)
        return code.reshape(*x.shape[:-1], anchors.shape[0]).to(x.dtype)

    def extra_repr(self) -> str:
        """Constructor call, decoder aside."""
        return f"steps={self.steps}, metric={self.metric!r}, chunk_size={self.chunk_size}"


def _nearest(x: Tensor, reference: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Indices and distances of the k nearest reference rows, nearest first."""
    mean = reference.mean(0)
    distances = torch.cdist(x - mean, reference - mean, compute_mode="use_mm_for_euclid_dist")
    lengths, near = distances.topk(k, largest=False)
    return near, lengths
