"""Correspondences through the spectra of neighbour graphs: functional maps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from relreps._core import blocks, checks
from relreps._core.linalg import as_float64, full_precision, polar_factor, unit_rows
from relreps._core.rounding import safe_reciprocal, safe_sqrt, unit_of
from relreps._core.warnings import warn
from relreps.correspondence.neighbors import matched
from relreps.correspondence.pairs import Indices, Pairs

#: Rows up to which a spectrum is taken by a dense solver.
_DENSE = 1000
#: Eigenvalues of a Laplacian, which lie in [0, 2], that count as zero: far above the rounding of a
#: dense solver, as Lanczos iterations stop earlier, and far below what a weak link of parts makes.
_ZERO = 1e-8
#: Times that the map is fitted to the pairs, as an orthogonal one, and pairs are found anew.
_REFINEMENTS = 2
#: Neighbours of the scores by which pairs are found.
_NEIGHBORS = 10


def functional_map(
    x: Tensor, y: Tensor, values_x: Tensor, values_y: Tensor, alpha: float
) -> Tensor:
    r"""The linear map of spectral coefficients that best agrees on corresponding functions.

    .. math:: \min_C\ \lVert C F_x - F_y \rVert^2
              + \alpha \lVert \Lambda_y C - C \Lambda_x \rVert^2

    The rows of C are independent, K systems of size K, so no problem of K^2 unknowns is formed:
    O(K^4 + K^2 Q) time, O(K^3) memory. The second term asks C to commute with the Laplacians: it
    pushes C towards the diagonal where eigenvalues differ.

    Args:
        x: Coefficients :math:`F_x` of Q functions in the eigenfunctions of the first space.
        y: Coefficients of the corresponding functions in those of the second.
        values_x: Eigenvalues of the first space.
        values_y: Eigenvalues of the second.
        alpha: Weight of the second term.

    Shape:
        - x, y: :math:`(K, Q)`; eigenvalues: :math:`(K,)`. Output: :math:`(K, K)`.

    Example:
        >>> x = torch.eye(2)
        >>> functional_map(x, 3 * x, torch.zeros(2), torch.zeros(2), alpha=1.0)
        tensor([[3., 0.],
                [0., 3.]])

    References:
        arXiv:2406.14183; functional maps: Ovsjanikov et al. 2012.
    """
    for name, rows in (("x", x), ("y", y)):
        checks.check_rows(name, rows)
    if x.shape != y.shape:
        raise ValueError(
            f"`x` and `y` must have one shape (K, Q), got {tuple(x.shape)} and {tuple(y.shape)}. "
            "Give as many coefficients of the same functions on both sides."
        )
    checks.check_device(x, y)
    for name, values in (("values_x", values_x), ("values_y", values_y)):
        checks.check_floating(name, values)
        checks.check_device(x, values, ("x", name))
        if values.shape != x.shape[:1]:
            raise ValueError(
                f"`{name}` must have one eigenvalue for each of the {len(x)} coefficients, shape "
                f"({len(x)},), got {tuple(values.shape)}."
            )
    checks.check_nonnegative("alpha", alpha)
    for name, rows in (("x", x), ("y", y), ("values_x", values_x), ("values_y", values_y)):
        if checks.readable(rows):
            checks.check_finite(name, rows.detach())
    return _functional_map(x, y, values_x, values_y, alpha)


def _functional_map(
    x: Tensor, y: Tensor, values_x: Tensor, values_y: Tensor, alpha: float
) -> Tensor:
    """`functional_map` of checked coefficients."""
    dtype = torch.promote_types(x.dtype, y.dtype)
    device = x.device
    x, y, values_x, values_y = (as_float64(t) for t in (x, y, values_x, values_y))
    with full_precision(x):
        # In units in which nothing over- or underflows; alpha has the square of that of x.
        unit_x, unit_y = (unit_of(t.detach().abs().amax()) if t.numel() else 1.0 for t in (x, y))
        x, y, weight = x / unit_x, y / unit_y, alpha / unit_x**2
        # Entry (i, j) of Ly C - C Lx is (ly_i - lx_j) C_ij, so that row c of C, with a = ly_i,
        #     minimises |c Fx - f|^2 + alpha |c diag(a - lx)|^2,    f the same row of Fy,
        #     c (Fx Fx^T + alpha diag(a - lx)^2) = f Fx^T.
        # The systems are symmetric, S c = b. Scaled by d = diag(S)^(-1/2) on both sides, they are
        # (d S d) (c / d) = d b, with ones on the diagonal: a large alpha then loses nothing.
        gaps = (values_y[:, None] - values_x).square()
        systems = x @ x.mT + weight * torch.diag_embed(gaps)
        scale = safe_reciprocal(safe_sqrt(systems.diagonal(dim1=-2, dim2=-1)))
        scaled = systems * scale[:, :, None] * scale[:, None, :]
        inverse = torch.linalg.pinv(scaled, hermitian=True)
        found: Tensor = (inverse @ ((y @ x.mT) * scale)[:, :, None])[..., 0] * scale
        return (found * (unit_y / unit_x)).to(device, dtype)


def functional_pairs(
    x: Tensor, y: Tensor, seeds: Indices, num_functions: int, k: int, alpha: float
) -> tuple[Pairs, Tensor]:
    r"""Rows that are each other's nearest in spectra, and how isometric the graphs are.

    Coordinates of a row are its values of the first eigenfunctions. Cosines to the seeds are
    functions on both graphs that correspond, and determine the map of coefficients C by which the
    coordinates of ``x`` are turned into those of ``y``. The second number is
    :math:`\lVert \mathrm{diag}(C^\top C) \rVert^2 / \lVert C^\top C \rVert^2`.

    Args:
        x: Checked float64 rows ``(N, D_x)``.
        y: Checked float64 rows ``(M, D_y)`` on the same device.
        seeds: Rows that roughly correspond.
        num_functions: Number K of eigenfunctions, fewer than the rows of either side.
        k: Number of neighbours in the graphs.
        alpha: Weight of commuting with the Laplacians, relative to the mean energy of the seeds'
            functions in an eigenfunction.
    """
    values, functions, codes = [], [], []
    for name, rows, index in zip("xy", (x, y), seeds, strict=True):
        spectrum = _connected_spectrum(name, rows, num_functions, k)
        rest = rows - rows[index].mean(0)
        code = unit_rows(rest) @ unit_rows(rest[index]).mT
        values.append(spectrum[0])
        functions.append(spectrum[1])
        codes.append(spectrum[1].mT @ (code - code.mean(0)))
    weight = alpha * float(codes[0].square().sum()) / num_functions
    c = _functional_map(codes[0], codes[1], values[0], values[1], weight)
    gram = c.mT @ c
    similarity = gram.diagonal().square().sum() * safe_reciprocal(gram.square().sum())
    near = min(_NEIGHBORS, len(x), len(y))
    pairs = matched(functions[0] @ c.mT, functions[1], near)
    for _ in range(_REFINEMENTS):
        c = polar_factor(functions[1][pairs.indices_y].mT @ functions[0][pairs.indices_x])
        pairs = matched(functions[0] @ c.mT, functions[1], near)
    return pairs, similarity


def laplacian_eigenfunctions(rows: Tensor, count: int, k: int) -> tuple[Tensor, Tensor]:
    r"""Smallest eigenvalues ``(K,)`` of :math:`I - D^{-1/2} W D^{-1/2}`, and eigenvectors.

    W joins each row to its k nearest, either way round, with weight 1, and D holds its row sums.
    The smallest of the Laplacian are the largest of :math:`D^{-1/2} W D^{-1/2}`, which a solver
    finds soonest. Dense for few rows, else by Lanczos iterations on the host.
    """
    import numpy as np
    from scipy.sparse import csr_array, diags_array

    n = len(rows)
    ends = (np.repeat(np.arange(n), k), _nearest(rows, k).cpu().numpy().reshape(-1))
    joined = csr_array((np.ones(n * k), ends), shape=(n, n))
    joined = joined.maximum(joined.T)
    roots = diags_array(1 / np.sqrt(joined.sum(1)))
    walk = roots @ joined @ roots
    if n <= _DENSE:
        found = torch.linalg.eigh(torch.from_numpy(walk.toarray()))
        values, vectors = found[0][-count:].flip(0), found[1][:, -count:].flip(1)
    else:
        values, vectors = _largest(walk, count)
    return (1 - values).to(rows), vectors.to(rows)


def _largest(matrix: Any, count: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues of a sparse symmetric matrix, descending, and eigenvectors."""
    import numpy as np
    from scipy.sparse.linalg import eigsh

    # A start without structure: the constant vector could be an eigenvector itself.
    start = np.sin(np.arange(1.0, matrix.shape[0] + 1))
    values, vectors = eigsh(matrix, count, which="LA", v0=start)
    order = np.argsort(-values)
    return torch.from_numpy(values[order]), torch.from_numpy(vectors[:, order].copy())


def _nearest(rows: Tensor, k: int) -> Tensor:
    """The k nearest other rows of each row ``(N, k)``."""
    rest = rows - rows.mean(0)
    squares = rest.square().sum(1)
    near, start = [], 0
    for some in rest.split(blocks.rows_of_table(len(rows), rows.dtype, rows.device)):
        distances = squares - 2 * some @ rest.mT  # but for |x_i|^2, which orders nothing
        own = torch.arange(len(some), device=rows.device)
        distances[own, own + start] = torch.inf
        near.append(distances.topk(k, largest=False).indices)
        start += len(some)
    return torch.cat(near)


def _connected_spectrum(name: str, rows: Tensor, count: int, k: int) -> tuple[Tensor, Tensor]:
    """First eigenvalues and eigenfunctions of the graph of some rows; warns if it is in parts."""
    values, functions = laplacian_eigenfunctions(rows, count, k)
    parts = int((values < _ZERO).sum())  # each part has a function of its own with eigenvalue 0
    if parts > 1:
        warn(
            f"The neighbour graph of `{name}` falls into {parts} parts or more, which the "
            "eigenfunctions cannot relate. Raise `k`."
        )
    return values, functions
