"""Relative codes that keep the few most similar of very many anchors."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor

from relreps._core import checks
from relreps._core.linalg import at_least_float32, full_precision, unit_rows
from relreps._core.state import FittedModule, write_all
from relreps.projection.base import warn_of_equal

_INDEX_BITS = 32
_LOW_HALF = (1 << _INDEX_BITS) - 1

#: Neighbouring anchors whose largest cosine stands for all of them in a first selection.
_GROUP = 8


class TopK(NamedTuple):
    """A sparse code in a fixed shape: values and anchor indices ``(..., k)``, largest first."""

    values: Tensor
    indices: Tensor


def most_similar(rows: Tensor, anchors: Tensor, k: int, chunk_size: int) -> Tensor:
    """Indices ``(B, k)`` of the anchors with the largest cosines, largest first, ties by index.

    Rows and anchors are of length one; a negative cosine counts as zero.
    """
    if checks.traced() or torch.onnx.is_in_onnx_export():
        return _most_similar_of_all(rows, anchors, k)
    last = anchors.shape[0] - 1
    best = rows.new_zeros((rows.shape[0], 0), dtype=torch.long)
    step = chunk_size // _GROUP * _GROUP or chunk_size
    # One product after the other in the same memory: fetching it anew costs as much as they do.
    memory = rows.new_empty(rows.shape[0], min(step, anchors.shape[0]))
    for start in range(0, anchors.shape[0], step):
        block = anchors[start : start + step].to(rows.dtype)
        cosines = memory[:, : len(block)].addmm_(rows, block.mT, beta=0).clamp_(min=0)
        values, positions = _shortlist(cosines.to(torch.float32), k)
        best = torch.cat((best, _keys(values, last - start - positions)), 1)
        best = best.topk(min(k, best.shape[1])).values
    return last - best.bitwise_and_(_LOW_HALF)


def _most_similar_of_all(rows: Tensor, anchors: Tensor, k: int) -> Tensor:
    """The same by arithmetic alone, for runtimes that cannot read the bits of a number.

    Different float32 numbers are apart by 2^-24 of themselves at least. In float64, up to 2^26
    steps of 2^-51 fit between them, which order equal ones; zeros are ordered by what is added.
    """
    cosines = (rows @ anchors.to(rows.dtype).transpose(0, 1)).clamp(min=0).to(torch.float32)
    places = torch.arange(anchors.shape[0], dtype=torch.float64, device=rows.device)
    keys = cosines.to(torch.float64) * (1 - places * 2.0**-51) - places * 1e-200
    return keys.topk(k).indices


def _shortlist(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Few values ``(B, m)`` that have the k largest of ``(B, n)`` among them, and where they are.

    The k largest lie in the k groups of neighbours with the largest maxima. Equal maxima go to the
    first group, as equal values go to the lowest index.
    """
    rows, width = values.shape
    if width % _GROUP or width < 2 * k * _GROUP:
        return values, torch.arange(width, device=values.device)
    groups = values.unflatten(1, (-1, _GROUP))
    last = groups.shape[1] - 1
    order = torch.arange(last, -1, -1, device=values.device)
    keys = _keys(groups.amax(-1), order).topk(k, sorted=False).values
    chosen = last - keys.bitwise_and_(_LOW_HALF)
    first = torch.arange(0, rows * (last + 1), last + 1, device=values.device)[:, None]
    found = groups.reshape(-1, _GROUP).index_select(0, (chosen + first).flatten())
    positions = chosen[..., None] * _GROUP + torch.arange(_GROUP, device=values.device)
    return found.reshape(rows, k * _GROUP), positions.flatten(1)


def _keys(values: Tensor, low: Tensor) -> Tensor:
    """One integer that orders by (value, low), for float32 values that are not negative.

    The bits of such a number sort as it does, and fill the high half.
    """
    return values.view(torch.int32).to(torch.long).bitwise_left_shift_(_INDEX_BITS).add_(low)


def sharpened(cosines: Tensor, exponent: float) -> Tensor:
    """Powers of the positive part of each row, scaled to length one."""
    # Divided by the largest first: a power of small numbers underflows, their ratios do not.
    largest = cosines.detach().amax(-1, keepdim=True)
    ratios = cosines / torch.where(largest > 0, largest, 1)
    positive = ~(ratios <= 0)  # NaN comes out again
    powers = torch.where(positive, torch.where(positive, ratios, 1) ** exponent, 0)
    return unit_rows(powers)


class SparseRelativeProjection(FittedModule):
    r"""Cosines to the k most similar anchors, sharpened by a power and scaled to length one.

    .. math:: r_j = \max(0, \cos(x, a_j))^p \;\text{ for the k largest, else } 0, \qquad
              r / \lVert r\rVert_2

    A negative cosine counts as zero, whatever the exponent. Ties go to the lowest index. A row with
    no positive cosine has a zero code. Anchors are compared in chunks with a running merge: time is
    that of the products and of one selection in each chunk, memory O(B (k + chunk + D)) beyond the
    anchors, and O(B k D) more where gradients are recorded. Computed in float32 at least. The
    choice of anchors carries no gradient, the values do.

    Args:
        in_features: Width D of the space.
        num_anchors: Number of anchors A.
        k: Number of anchors kept, at most A.
        exponent: The power p.
        chunk_size: Anchors compared at once.

    Shape:
        - Input: :math:`(B, D)`. Output: sparse CSR :math:`(B, A)`, with k entries a row.

    Raises:
        RuntimeError: Used before `set_anchors`.
        ValueError: k outside 1..A, input of another width.

    Example:
        >>> sparse = SparseRelativeProjection(2, 3, k=1).set_anchors(torch.eye(3)[:, :2])
        >>> sparse(torch.tensor([[1.0, 2.0]])).to_dense()
        tensor([[0., 1., 0.]])

    References:
        ASIF, arXiv:2210.01738.
    """

    anchors: Tensor

    def __init__(
        self,
        in_features: int,
        num_anchors: int,
        k: int,
        *,
        exponent: float = 8.0,
        chunk_size: int = 8192,
    ) -> None:
        super().__init__()
        in_features = checks.check_size("in_features", in_features)
        num_anchors = checks.check_size("num_anchors", num_anchors)
        k = checks.check_k(k, num_anchors, "anchors")
        chunk_size = checks.check_size("chunk_size", chunk_size)
        checks.check_positive("exponent", exponent)
        self.in_features = in_features
        self.num_anchors = num_anchors
        self.k = k
        self.exponent = exponent
        self.chunk_size = chunk_size
        self.register_buffer("anchors", torch.zeros(num_anchors, in_features))
        self._keep_configuration(k=k, exponent=exponent)

    @property
    def out_features(self) -> int:
        """Width of the code."""
        return self.num_anchors

    @property
    def invariant_to(self) -> frozenset[str]:
        """The invariances of a cosine."""
        return frozenset(("rotation", "permutation", "sample_scale", "isotropic_scale"))

    @torch.no_grad()
    def set_anchors(self, anchors: Tensor) -> Self:
        """Copy anchors ``(A, D)``; they are stored with length one."""
        checks.check_anchors(anchors, self.num_anchors, self.in_features)
        checks.check_finite("anchors", anchors)
        warn_of_equal(anchors)
        units = unit_rows(anchors)
        write_all([(self.anchors, units), (self.fitted, torch.ones_like(self.fitted))])
        self._fitted = True
        return self

    def topk(self, x: Tensor) -> TopK:
        """The code of rows ``(..., D)`` as values and indices ``(..., k)``: a fixed shape."""
        self.require_fitted("Call `set_anchors(anchors)` first.")
        checks.check_features("x", x, self.in_features)
        with full_precision(x):
            rows = unit_rows(at_least_float32(x))
            with torch.no_grad():
                flat = rows.reshape(-1, self.in_features)
                chosen = most_similar(flat, self.anchors, self.k, self.chunk_size)
                indices = chosen.reshape(*x.shape[:-1], self.k)
            # A few columns at a time: all chosen anchors at once would be (B, k, D).
            blocks = (self.anchors[part].to(rows.dtype) for part in indices.split(8, dim=-1))
            cosines = torch.cat([(block @ rows[..., None]).squeeze(-1) for block in blocks], -1)
            return TopK(sharpened(cosines, self.exponent).to(x.dtype), indices)

    def forward(self, x: Tensor) -> Tensor:
        """The code of rows ``(B, D)`` as a sparse CSR tensor ``(B, A)``."""
        if checks.recording():
            raise RuntimeError(
                "A sparse tensor cannot be exported. Use `topk(x)`, the same code as "
                "values and indices."
            )
        checks.check_rows("x", x, self.in_features, minimum=0)
        values, indices = self.topk(x)
        columns, order = indices.sort(-1)
        rows = torch.arange(0, columns.numel() + 1, self.k, device=columns.device)
        return torch.sparse_csr_tensor(
            rows,
            columns.flatten(),
            values.gather(-1, order).flatten(),
            size=(x.shape[0], self.num_anchors),
            device=x.device,
            check_invariants=False,
        )

    def extra_repr(self) -> str:
        """Constructor call."""
        return (
            f"{self.in_features}, {self.num_anchors}, k={self.k}, exponent={self.exponent}, "
            f"chunk_size={self.chunk_size}"
        )


def sparse_scores(x: Tensor, y: Tensor, *, chunk_size: int = 64) -> Tensor:
    r"""Inner products of two sets of sparse codes, :math:`\langle r_i, s_j\rangle`.

    O(N C k) time and O(A chunk) memory for k entries a row, whatever the number of anchors A.

    Args:
        x: Sparse CSR codes.
        y: Sparse CSR codes for anchors of the same samples.
        chunk_size: Rows of ``y`` handled at once.

    Shape:
        - x: :math:`(N, A)`; y: :math:`(C, A)`. Output: :math:`(N, C)`, dense.

    Example:
        >>> code = torch.eye(2).to_sparse_csr()
        >>> sparse_scores(code, code)
        tensor([[1., 0.],
                [0., 1.]])
    """
    for name, code in (("x", x), ("y", y)):
        if not isinstance(code, Tensor):
            raise checks.not_a_tensor(name, code, "a sparse CSR tensor")
        if code.layout != torch.sparse_csr or code.dim() != 2:
            raise TypeError(
                f"`{name}` must be a two-dimensional sparse CSR tensor, got {code.layout}."
            )
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"`x` and `y` must be codes for the same anchors, got {x.shape[1]} and {y.shape[1]}."
        )
    chunk_size = checks.check_size("chunk_size", chunk_size)
    checks.check_device(x, y)
    dtype = torch.promote_types(x.dtype, y.dtype)
    x = x.to(torch.promote_types(dtype, torch.float32))
    bounds, columns, values = y.crow_indices(), y.col_indices(), y.values().to(x.dtype)
    scores = [values.new_zeros(x.shape[0], 0)]
    for start in range(0, y.shape[0], chunk_size):
        rows = bounds[start : start + chunk_size + 1]
        part = slice(int(rows[0]), int(rows[-1]))
        owner = torch.repeat_interleave(rows.diff())
        dense = values.new_zeros(y.shape[1], len(rows) - 1)
        dense = dense.index_put((columns[part], owner), values[part])
        with full_precision(x):
            scores.append(x @ dense)
    with full_precision(x):
        return torch.cat(scores, 1).to(dtype)
