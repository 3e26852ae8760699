"""Several projections at once, so that a head can use the invariance that fits its data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from torch import Tensor, nn

from relreps._core.modules import refuse_class
from relreps._core.state import write_all
from relreps.projection.base import Projection
from relreps.projection.combine import Combine, combiner

Aggregation = Literal["concat", "sum", "mlp", "attention"]


class ProductProjection(Projection):
    r"""Combine projections of the same space that differ in their invariances.

    * ``"concat"``: the codes side by side, :math:`(*, \sum_i A_i)`;
    * ``"sum"``: their sum, for codes of one width;
    * ``"mlp"``: :math:`\sum_i \mathrm{MLP}_i(\mathrm{LayerNorm}_i(r_i))`, the published choice;
    * ``"attention"``: the codes as tokens, self-attention among them, and their mean;
    * a callable from the list of codes to one.

    The result is invariant to what *all* of its parts are invariant to, the intersection and no
    more: which part to trust is left to what is learned after it. Distances grow with the width
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

    aggregation: Aggregation | Combine

    def __init__(
        self,
        projections: Sequence[Any],
        aggregation: Aggregation | Combine = "concat",
        out_features: int | None = None,
    ) -> None:
        super().__init__()
        several = isinstance(projections, Sequence | nn.ModuleList)
        parts = projections if several else [projections]
        if not several or not all(hasattr(p, "project") for p in parts):
            came = ", ".join(type(p).__name__ for p in parts)
            raise TypeError(f"`projections` must be a list of dense projections, got {came}.")
        for i, part in enumerate(projections):
            refuse_class(f"projections[{i}]", part)
        sizes = {(p.in_features, p.num_anchors) for p in projections}
        if len(sizes) != 1:
            came = ", ".join(str(p) for p in projections) or "none"
            raise ValueError(
                f"`projections` must share one `in_features` and `num_anchors`, got {came}."
            )
        self.in_features, self.num_anchors = sizes.pop()
        widths = [p.out_features for p in projections]
        self.combine = combiner(aggregation, get_args(Aggregation), widths, out_features)
        # Past the registration of children: a module is one already, as `combine`.
        object.__setattr__(self, "aggregation", aggregation)
        self.projections = nn.ModuleList(projections)
        self._keep_configuration(aggregation=aggregation)

    @property
    def out_features(self) -> int:
        """Width of the code."""
        return self.combine.out_features  # type: ignore[return-value]

    @property
    def invariant_to(self) -> frozenset[str]:
        """The intersection of what the parts are invariant to."""
        return frozenset.intersection(*(p.invariant_to for p in self.projections))  # type: ignore[arg-type]

    @property
    def anchors(self) -> Tensor:
        """The anchors ``(A, D)``."""
        return self.projections[0].anchors  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        """Combined code of the samples ``(..., D)``."""
        code: Tensor = self.combine([projection(x) for projection in self.projections])
        return code

    def project(self, x: Tensor, anchors: Tensor) -> Tensor:
        """Combined code for anchors given at the call; gradients reach them."""
        code: Tensor = self.combine([p.project(x, anchors) for p in self.projections])  # type: ignore[operator]
        return code

    def state_of(self, anchors: Tensor, *, check: bool = False) -> list[Any]:
        """That of each part."""
        return [p.state_of(anchors, check=check) for p in self.projections]  # type: ignore[operator]

    def writes(self, state: list[Any]) -> list[tuple[Tensor, Tensor]]:
        """Those of all parts."""
        parts = zip(self.projections, state, strict=True)
        return [pair for projection, own in parts for pair in projection.writes(own)]  # type: ignore[operator]

    def remember(self, state: list[Any]) -> None:
        """Each part its own, once all are written."""
        write_all(self.writes(state))
        for projection, own in zip(self.projections, state, strict=True):
            projection.remember(own)  # type: ignore[operator]

    def extra_repr(self) -> str:
        """Constructor call, parts aside."""
        return f"aggregation={self.aggregation!r}, out_features={self.out_features}"
