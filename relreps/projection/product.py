"""Several projections at once, so that a head can use the invariance that fits its data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn

from relreps._core import checks
from relreps.projection.relative import set_all

Aggregation = Literal["concat", "sum", "mlp", "attention"]


class ProductProjection(nn.Module):
    r"""Combine projections of the same space that differ in their invariances.

    * ``"concat"``: the codes side by side, :math:`(*, \sum_i A_i)`;
    * ``"sum"``: their sum, for codes of one width;
    * ``"mlp"``: :math:`\sum_i \mathrm{MLP}_i(\mathrm{LayerNorm}_i(r_i))`, the published choice;
    * ``"attention"``: the codes as tokens, self-attention among them, and their mean.

    The result is invariant to what *all* of its parts are invariant to, the intersection and no
    more: which part to trust is left to what is learned behind it. Distances grow with the width
    and unit of the space, so normalise them (``"mlp"`` and ``"attention"`` do, `Rescaled` does).
    Cost: the sum of the parts, and O(N h (A + h)) each for an MLP of width h.

    Args:
        projections: Projections of one width onto the same anchors.
        aggregation: See above.
        out_features: Width h for ``"mlp"`` and ``"attention"``; that of the first code by default.

    Shape:
        - Input: :math:`(*, D)`. Output: :math:`(*, h)`.

    Example:
        >>> parts = [RelativeProjection(4, 3), RelativeProjection(4, 3, "euclidean")]
        >>> product = ProductProjection(parts).set_anchors(torch.randn(3, 4))
        >>> product(torch.randn(5, 4)).shape, sorted(product.invariant_to)
        (torch.Size([5, 6]), ['permutation', 'rotation'])

    References:
        Cannistraci et al., arXiv:2310.01211.
    """

    def __init__(
        self,
        projections: Sequence[Any],
        aggregation: Aggregation = "concat",
        out_features: int | None = None,
    ) -> None:
        super().__init__()
        checks.check_choice("aggregation", aggregation, get_args(Aggregation))
        if not all(hasattr(p, "project") for p in projections):
            came = ", ".join(type(p).__name__ for p in projections)
            raise TypeError(f"`projections` must be dense projections, got {came}.")
        sizes = {(p.in_features, p.num_anchors) for p in projections}
        if len(sizes) != 1:
            came = ", ".join(str(p) for p in projections) or "none"
            raise ValueError(
                f"`projections` must share one `in_features` and `num_anchors`, got {came}."
            )
        codes: list[int] = [p.out_features for p in projections]
        if aggregation == "sum" and len(set(codes)) != 1:
            raise ValueError(f"`aggregation='sum'` needs codes of one width, got {codes}.")
        if aggregation in ("concat", "sum"):
            if out_features is not None:
                raise ValueError(f"`out_features` is given by the parts for {aggregation!r}.")
            out_features = sum(codes) if aggregation == "concat" else codes[0]
        else:
            out_features = codes[0] if out_features is None else out_features
            checks.check_size("out_features", out_features)
        self.in_features, self.num_anchors = sizes.pop()
        self.out_features = out_features
        self.aggregation = aggregation
        self.projections = nn.ModuleList(projections)
        self.embed = nn.ModuleList()
        self.attention: nn.MultiheadAttention | None = None
        if aggregation == "mlp":
            self.embed.extend(_mlp(width, out_features) for width in codes)
        elif aggregation == "attention":
            self.embed.extend(
                nn.Sequential(nn.LayerNorm(width), nn.Linear(width, out_features))
                for width in codes
            )
            self.attention = nn.MultiheadAttention(out_features, 1, batch_first=True)

    @property
    def invariant_to(self) -> frozenset[str]:
        """The intersection of what the parts are invariant to."""
        return frozenset.intersection(*(p.invariant_to for p in self.projections))  # type: ignore[arg-type]

    @property
    def anchors(self) -> Tensor:
        """The anchors ``(A, D)``."""
        return self.projections[0].anchors  # type: ignore[return-value]

    def set_anchors(self, anchors: Tensor) -> Self:
        """Give every part the anchors ``(A, D)``. On an error nothing changes."""
        set_all(self.projections, [anchors] * len(self.projections))
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Combined code of the samples ``(..., D)``."""
        return self._combine([projection(x) for projection in self.projections], x)

    def project(self, x: Tensor, anchors: Tensor) -> Tensor:
        """Combined code for anchors given at the call; gradients reach them."""
        return self._combine([p.project(x, anchors) for p in self.projections], x)  # type: ignore[operator]

    def _refresh(self, anchors: Tensor) -> None:
        for projection in self.projections:
            projection._refresh(anchors)  # type: ignore[operator]

    def _combine(self, codes: list[Tensor], x: Tensor) -> Tensor:
        if self.aggregation == "concat":
            return torch.cat(codes, -1)
        if self.aggregation != "sum":
            codes = [embed(code) for embed, code in zip(self.embed, codes, strict=True)]
        if self.attention is None:
            return torch.stack(codes).sum(0)
        tokens = torch.stack(codes, -2)
        flat = tokens.reshape(-1, *tokens.shape[-2:])
        mixed: Tensor = self.attention(flat, flat, flat, need_weights=False)[0]
        return mixed.mean(-2).reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Constructor call, parts aside."""
        return f"aggregation={self.aggregation!r}, out_features={self.out_features}"


def _mlp(in_features: int, out_features: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(in_features),
        nn.Linear(in_features, out_features),
        nn.SiLU(),
        nn.Linear(out_features, out_features),
    )
