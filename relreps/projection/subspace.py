"""Projections of the parts of a space, one by one."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from einops import rearrange
from torch import Tensor, nn

from relreps._core import checks
from relreps._core.invariance import BROKEN, invariances, residues
from relreps._core.state import write_all
from relreps.projection.base import Projection
from relreps.projection.combine import Combine, combiner
from relreps.projection.relative import RelativeProjection
from relreps.similarity import Similarity, SimilarityLike, inner, l1, linf
from relreps.similarity.base import resolve

Aggregation = Literal["concat", "sum", "mean", "max"]


class SubspaceProjection(Projection):
    r"""Project the parts of a space one by one, as the heads of an attention do.

    The features are cut into H blocks in their order, each compared with the same block of the
    anchors. Only transformations that respect the blocks can be removed, so rotations and
    permutations of the whole space are not. O(NAD), as for one projection.

    Args:
        in_features: Width D of the space, a multiple of H.
        num_anchors: Number of anchors A.
        num_heads: Number of blocks H.
        similarity: As for `RelativeProjection`.
        aggregation: ``"concat"`` (heads first, then anchors), ``"sum"``, ``"mean"``, ``"max"``, or
            a callable from a list of the H codes to one.

    Shape:
        - Input: :math:`(*, D)`. Output: :math:`(*, H A)` for ``"concat"``, else :math:`(*, A)`.

    Example:
        >>> heads = SubspaceProjection(4, 3, num_heads=2).set_anchors(torch.randn(3, 4))
        >>> heads(torch.randn(5, 4)).shape
        torch.Size([5, 6])

    References:
        Released code of arXiv:2209.15430 (subspaces).
    """

    aggregation: Aggregation | Combine
    _similarity: Similarity

    def __init__(
        self,
        in_features: int,
        num_anchors: int,
        num_heads: int,
        similarity: SimilarityLike = "cosine",
        aggregation: Aggregation | Combine = "concat",
    ) -> None:
        super().__init__()
        in_features = checks.check_size("in_features", in_features)
        num_heads = checks.check_size("num_heads", num_heads)
        if in_features % num_heads:
            raise ValueError(
                f"`in_features` must be a multiple of `num_heads`, got {in_features} and "
                f"{num_heads}."
            )
        width = in_features // num_heads
        self.heads = nn.ModuleList(
            RelativeProjection(width, num_anchors, similarity) for _ in range(num_heads)
        )
        self.in_features = in_features
        self.num_anchors = num_anchors
        self.num_heads = num_heads
        self.similarity = similarity
        self.combine = combiner(aggregation, get_args(Aggregation), [num_anchors] * num_heads)
        # Past the registration of children: modules are held as `similarity` and `combine`.
        object.__setattr__(self, "_similarity", resolve(similarity))
        object.__setattr__(self, "aggregation", aggregation)
        self._keep_configuration(aggregation=aggregation)

    @property
    def out_features(self) -> int:
        """Width of the code."""
        return self.combine.out_features  # type: ignore[return-value]

    @property
    def invariant_to(self) -> frozenset[str]:
        """What the heads are invariant to and does not mix the blocks.

        Some aggregations put the blocks together again: the sum of inner products, the sum of city
        block distances and the largest of largest distances are those of the whole space.
        """
        whole = (inner, "sum"), (inner, "mean"), (l1, "sum"), (l1, "mean"), (linf, "max")
        similarity = self._similarity
        if self.num_heads == 1 or (similarity, self.aggregation) in whole:
            return similarity.invariances(self.in_features, self.num_anchors)
        mixing = dict.fromkeys(("rotation", "permutation", "linear", "affine"), BROKEN)
        head = self.heads[0]
        return invariances(residues(**mixing), head.invariant_to)  # type: ignore[arg-type]

    @property
    def anchors(self) -> Tensor:
        """The anchors ``(A, D)``."""
        return torch.cat([head.anchors for head in self.heads], -1)  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        """Code of the samples ``(..., D)``."""
        checks.check_features("x", x, self.in_features)
        blocks = zip(self.heads, self._blocks(x), strict=True)
        code: Tensor = self.combine([head(block) for head, block in blocks])
        return code

    def project(self, x: Tensor, anchors: Tensor) -> Tensor:
        """Code of ``x`` for anchors given at the call; gradients reach them."""
        checks.check_features("x", x, self.in_features)
        checks.check_rows("anchors", anchors, self.in_features)
        parts = zip(self.heads, self._blocks(x), self._blocks(anchors), strict=True)
        code: Tensor = self.combine([head.project(z, a) for head, z, a in parts])  # type: ignore[operator]
        return code

    def state_of(self, anchors: Tensor, *, check: bool = False) -> list[Any]:
        """That of each head, for its block of the anchors."""
        checks.check_rows("anchors", anchors, self.in_features)
        blocks = zip(self.heads, self._blocks(anchors), strict=True)
        return [head.state_of(block, check=check) for head, block in blocks]  # type: ignore[operator]

    def writes(self, state: list[Any]) -> list[tuple[Tensor, Tensor]]:
        """Those of all heads."""
        heads = zip(self.heads, state, strict=True)
        return [pair for head, own in heads for pair in head.writes(own)]  # type: ignore[operator]

    def remember(self, state: list[Any]) -> None:
        """Each head its own, once all are written."""
        write_all(self.writes(state))
        for head, own in zip(self.heads, state, strict=True):
            head.remember(own)  # type: ignore[operator]

    def extra_repr(self) -> str:
        """Constructor call, heads aside."""
        sizes = f"{self.in_features}, {self.num_anchors}, {self.num_heads}"
        return f"{sizes}, similarity={self.similarity!r}, aggregation={self.aggregation!r}"

    def _blocks(self, x: Tensor) -> Tensor:
        return rearrange(x, "... (h d) -> h ... d", h=self.num_heads)
