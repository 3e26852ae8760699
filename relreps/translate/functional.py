"""Maps of functions on two spaces: correspondences through the spectra of neighbour graphs."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import as_float64, full_precision, polar_factor, unit_rows
from relreps._core.warnings import warn
from relreps.translate.gram import check_ridge
from relreps.translate.matrix import Preprocessing
from relreps.translate.neighbors import mutual_nearest
from relreps.translate.procrustes import Scale
from relreps.translate.seeded import SeededTranslator, Seeds

#: Rows up to which a spectrum is taken by a dense solver.
_DENSE = 1000
#: Rows whose distances are held at once.
_CHUNK = 1024


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
    for name, values in (("values_x", values_x), ("values_y", values_y)):
        if values.shape != x.shape[:1]:
            raise ValueError(
                f"`{name}` must have one eigenvalue for each of the {len(x)} coefficients, shape "
                f"({len(x)},), got {tuple(values.shape)}."
            )
    check_ridge("alpha", alpha)
    dtype = torch.promote_types(x.dtype, y.dtype)
    wide = torch.promote_types(dtype, torch.float32)
    x, y, values_x, values_y = (t.to(wide) for t in (x, y, values_x, values_y))
    with full_precision(x):
        gaps = (values_y[:, None] - values_x).square()
        systems = x @ x.mT + alpha * torch.diag_embed(gaps)
        # Symmetric and scaled by their diagonals, so that a large alpha loses nothing.
        scale = systems.diagonal(dim1=-2, dim2=-1).clamp(min=torch.finfo(wide).tiny).rsqrt()
        scaled = systems * scale[:, :, None] * scale[:, None, :]
        inverse = torch.linalg.pinv(scaled, hermitian=True)
        found: Tensor = (inverse @ ((y @ x.mT) * scale)[:, :, None])[..., 0] * scale
        return found.to(dtype)


class FunctionalMapTranslator(SeededTranslator):
    r"""An orthogonal map from correspondences that a functional map has corrected.

    Each space is the graph of the k nearest neighbours of its rows; the first eigenfunctions of the
    normalised Laplacian are its coordinates. Cosines to the seeds are functions on both graphs that
    correspond, and determine a `functional_map`, which matches all rows: those that are each
    other's nearest in the spectral coordinates are pairs. Twice more the map is fitted to the
    pairs, as an orthogonal one, and pairs are found anew; the last ones give a Procrustes map.

    Seeds may be wrong in part: they enter as functions only, never as pairs, so this is for
    *approximate* correspondences. With right ones `RefinedProcrustesTranslator` is the stronger
    map, as the graphs of two encoders differ more than their geometry; so large k help. Nothing
    depends on rotations, translations or scales of either space. O((N^2 + M^2) D) for the graphs, a
    sparse eigenproblem on the host, O(K^4), and O(NMK) a round.

    Args:
        in_features: Width :math:`D_x` of the source space.
        out_features: Width :math:`D_y` of the target space.
        num_functions: Number K of eigenfunctions, fewer than the rows of either side.
        k: Number of neighbours in the graphs.
        alpha: Weight of commuting with the Laplacians, relative to the mean energy of the seeds'
            functions in an eigenfunction.
        scale: As in `ProcrustesTranslator`.
        pre: As in `ProcrustesTranslator`.

    Shape:
        - Input: :math:`(*, D_x)`. Output: :math:`(*, D_y)`.

    Attributes:
        map: The `ProcrustesTranslator` that was found.
        num_pairs: Number of pairs it was fitted on.
        similarity: :math:`\lVert \mathrm{diag}(C^\top C) \rVert^2 / \lVert C^\top C \rVert^2` of
            the functional map, 1 for isometric graphs.
        agreement: Share of the pairs that a map fitted on the other half of them finds again.

    Raises:
        RuntimeError: Used before `fit`.
        ValueError: Non-finite rows, wrong sizes, seeds out of range or repeated.

    Warns:
        NumericalWarning: ``agreement`` is below one half, or a graph falls into parts.

    Example:
        >>> x = torch.randn(300, 3)
        >>> y = x.flip(1) + 1
        >>> seeds = torch.arange(60), torch.cat((torch.arange(50), torch.arange(60, 50, -1)))
        >>> translator = FunctionalMapTranslator(3, 3, num_functions=20, k=30)
        >>> translator = translator.fit(x, y, seeds)
        >>> torch.allclose(translator(x), y, atol=1e-3)  # ten of the seeds were wrong
        True

    References:
        Fumero et al., arXiv:2406.14183.
    """

    similarity: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        num_functions: int = 100,
        k: int = 100,
        alpha: float = 10.0,
        scale: Scale = "none",
        pre: Preprocessing | None = "center",
    ) -> None:
        super().__init__(in_features, out_features, scale, pre)
        checks.check_size("num_functions", num_functions, minimum=2)
        checks.check_size("k", k)
        check_ridge("alpha", alpha)
        self.num_functions, self.k, self.alpha = num_functions, k, alpha
        self.register_buffer("similarity", torch.zeros(()))

    @torch.no_grad()
    def fit(self, x: Tensor, y: Tensor, seeds: Seeds) -> Self:
        """Fit on rows ``x (N, D_x)`` and ``y (M, D_y)`` in any order; on an error nothing changes.

        Args:
            x: Source rows.
            y: Target rows, in an order and a number of their own.
            seeds: ``(indices_x, indices_y)`` of rows that roughly correspond; for rows in the same
                order, ``torch.arange(n)`` twice.
        """
        known = self._checked(x, y, seeds)
        least = min(len(x), len(y))
        if self.num_functions >= least:
            raise ValueError(
                f"`num_functions` must be less than the rows of either side, got "
                f"{self.num_functions} and {least} rows. Build the translator for fewer."
            )
        checks.check_k(self.k, least - 1, "other rows")
        sides = [as_float64(rows).to(known[0].device) for rows in (x, y)]
        values, functions, codes = [], [], []
        for name, rows, index in zip("xy", sides, known, strict=True):
            spectrum = self._spectrum(name, rows)
            values.append(spectrum[0])
            functions.append(spectrum[1])
            rest = rows - rows[index].mean(0)
            code = unit_rows(rest) @ unit_rows(rest[index]).mT
            codes.append(spectrum[1].mT @ (code - code.mean(0)))
        weight = self.alpha * float(codes[0].square().sum()) / self.num_functions
        c = functional_map(codes[0], codes[1], values[0], values[1], weight)
        gram = c.mT @ c
        similarity = gram.diagonal().square().sum() / gram.square().sum()
        neighbours = min(10, least)
        pairs = mutual_nearest(functions[0] @ c.mT, functions[1], neighbours)
        for _ in range(2):
            i, j = pairs.indices_x, pairs.indices_y
            c = polar_factor(functions[1][j].mT @ functions[0][i])
            pairs = mutual_nearest(functions[0] @ c.mT, functions[1], neighbours)
        none = (known[0][:0], known[1][:0])
        found = self._united(none, pairs.indices_x, pairs.indices_y)
        self._finish(sides[0], sides[1], found, 0)
        self.similarity.copy_(similarity)
        return self

    def _spectrum(self, name: str, rows: Tensor) -> tuple[Tensor, Tensor]:
        """First eigenvalues and eigenfunctions of the graph of some rows."""
        values, functions = laplacian_eigenfunctions(rows, self.num_functions, self.k)
        parts = int((values < 1e-8).sum())
        if parts > 1:
            warn(
                f"The neighbour graph of `{name}` falls into {parts} parts or more, which the "
                "eigenfunctions cannot relate. Raise `k`."
            )
        return values, functions

    def _options(self) -> list[str]:
        return [
            f"num_functions={self.num_functions}",
            f"k={self.k}",
            f"alpha={self.alpha}",
            *super()._options(),
        ]


def laplacian_eigenfunctions(rows: Tensor, count: int, k: int) -> tuple[Tensor, Tensor]:
    r"""Smallest eigenvalues ``(K,)`` of :math:`I - D^{-1/2} W D^{-1/2}`, and eigenvectors.

    W joins each row to its k nearest, either way round, with weight 1. Dense for few rows, else by
    Lanczos iterations on the host.
    """
    import numpy as np
    from scipy.sparse import csr_array, diags_array
    from scipy.sparse.linalg import eigsh

    n = len(rows)
    rest = rows - rows.mean(0)
    squares = rest.square().sum(1)
    near = []
    for start in range(0, n, _CHUNK):
        some = rest[start : start + _CHUNK]
        distances = squares - 2 * some @ rest.mT
        own = torch.arange(len(some), device=rows.device)
        distances[own, own + start] = torch.inf
        near.append(distances.topk(k, largest=False).indices)
    targets = torch.cat(near).cpu().numpy()
    ends = (np.repeat(np.arange(n), k), targets.reshape(-1))
    joined = csr_array((np.ones(n * k), ends), shape=(n, n))
    joined = joined.maximum(joined.T)
    roots = diags_array(1 / np.sqrt(joined.sum(1)))
    walk = roots @ joined @ roots
    if n <= _DENSE:
        dense = torch.from_numpy(walk.toarray())
        values, vectors = torch.linalg.eigh(dense)
        values, vectors = values[-count:].flip(0), vectors[:, -count:].flip(1)
    else:
        # A start without structure: the constant vector could be an eigenvector itself.
        found = eigsh(walk, count, which="LA", v0=np.sin(np.arange(1.0, n + 1)))
        order = np.argsort(-found[0])
        values, vectors = (
            torch.from_numpy(part.copy()) for part in (found[0][order], found[1][:, order])
        )
    return (1 - values).to(rows), vectors.to(rows)
