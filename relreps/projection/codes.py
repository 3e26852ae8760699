"""Small modules that go behind a projection, or around one; each one idea of the published blocks.

`Quantize`, `StratifiedMean` and `AnchorAttention` act on a code: give them as ``post``, or put them
after the projection. `SubspaceProjection` splits the space into parts and projects each.
"""

from __future__ import annotations

import math
from typing import Literal, Self, get_args

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from relreps._core import checks
from relreps._core.invariance import BROKEN, invariances, residues
from relreps.projection.relative import RelativeProjection, set_all
from relreps.similarity import SimilarityLike
from relreps.similarity.base import resolve


class Quantize(nn.Module):
    r"""Coarsen a code to multiples of a step, so that small differences between spaces vanish.

    .. math:: \text{round:}\; \beta\,\mathrm{round}(r / \beta), \qquad
              \text{smooth:}\; \beta\, s(r / \beta),\; s(u) = u - \tfrac{\sin 2\pi u}{2\pi}

    Rounding passes the gradient on as it is (straight through). The smooth form is differentiable,
    flat at the multiples of the step, and steep between them. Invariances of the code are kept, up
    to rounding at the edges of a bin. O(NA).

    Args:
        step: Width :math:`\beta` of a bin.
        mode: ``"round"`` or ``"smooth"``.

    Shape:
        - Input: :math:`(*, A)`. Output: the same.

    Example:
        >>> Quantize(0.5)(torch.tensor([0.2, 0.3, 0.9]))
        tensor([0.0000, 0.5000, 1.0000])

    References:
        Moschella et al., arXiv:2209.15430, appendix; in the released code smooth steps ignore the
        bin size and the rounding of absolute coordinates has no gradient.
    """

    Mode = Literal["round", "smooth"]

    def __init__(self, step: float, mode: Mode = "round") -> None:
        super().__init__()
        checks.check_positive("step", step)
        checks.check_choice("mode", mode, get_args(self.Mode))
        self.step = step
        self.mode = mode

    def forward(self, code: Tensor) -> Tensor:
        """Quantised code."""
        checks.check_floating("code", code)
        bins = code / self.step
        if self.mode == "smooth":
            return (bins - torch.sin(2 * math.pi * bins) / (2 * math.pi)) * self.step
        return code + (bins.round() * self.step - code).detach()

    def extra_repr(self) -> str:
        """Constructor call."""
        return f"step={self.step}, mode={self.mode!r}"


class StratifiedMean(nn.Module):
    r"""Average the similarities to the anchors of each class, in one or several groups.

    .. math:: s_{kC + c} = \operatorname{mean}\{\, r_j : y_j = c,\; n_j \bmod G = k \,\}

    where :math:`n_j` counts the anchors of the same class before j. Groups come first, then
    classes; a part without anchors is 0. O(NACG).

    Args:
        labels: Class :math:`y_j` of each anchor, from 0.
        groups: Number of groups G.
        num_classes: Number of classes C; the largest label plus one by default.

    Shape:
        - Input: :math:`(*, A)`. Output: :math:`(*, G C)`.

    Example:
        >>> StratifiedMean(torch.tensor([0, 0, 1]))(torch.tensor([1.0, 3.0, 5.0]))
        tensor([2., 5.])

    References:
        Released code of arXiv:2209.15430 (stratified average).
    """

    weights: Tensor

    def __init__(self, labels: Tensor, groups: int = 1, num_classes: int | None = None) -> None:
        super().__init__()
        checks.check_size("groups", groups)
        if num_classes is not None:
            checks.check_size("num_classes", num_classes)
        if not isinstance(labels, Tensor) or labels.dim() != 1 or not len(labels):
            raise ValueError("`labels` must be a tensor with one class for each anchor.")
        checks.check_labels(labels, len(labels))
        classes = int(labels.max()) + 1 if num_classes is None else num_classes
        if int(labels.min()) < 0 or int(labels.max()) >= classes:
            raise ValueError(
                f"`labels` must be in 0..{classes - 1}, got {int(labels.min())} to "
                f"{int(labels.max())}."
            )
        one_hot = nn.functional.one_hot(labels.long(), classes)
        earlier = (one_hot.cumsum(0) - one_hot).gather(1, labels.long()[:, None]).squeeze(1)
        columns = nn.functional.one_hot((earlier % groups) * classes + labels, groups * classes)
        self.register_buffer("weights", columns / columns.sum(0).clamp(min=1))

    @property
    def out_features(self) -> int:
        """Number of parts."""
        return self.weights.shape[1]

    def forward(self, code: Tensor) -> Tensor:
        """Mean of each part of the code."""
        checks.check_features("code", code, self.weights.shape[0])
        return code @ self.weights.to(code.dtype)

    def extra_repr(self) -> str:
        """Sizes in and out."""
        return f"{self.weights.shape[0]}, {self.weights.shape[1]}"


class AnchorAttention(nn.Module):
    r"""Mix values of the anchors by how similar they are, :math:`\mathrm{softmax}(r / \tau) V`.

    With learned values the output keeps the invariances of the code. With the anchors themselves as
    values (`from_values`) it is a point of their space and moves along with it: equivariant, not
    invariant. O(NAH).

    Args:
        num_anchors: Number of anchors A.
        out_features: Width H of the values.
        temperature: :math:`\tau`.
        trainable: Learn the values; otherwise they are a buffer, zero until loaded or given.

    Shape:
        - Input: :math:`(*, A)`. Output: :math:`(*, H)`.

    Example:
        >>> attend = AnchorAttention.from_values(torch.tensor([[0.0, 0.0], [2.0, 4.0]]))
        >>> attend(torch.tensor([0.5, 0.5]))
        tensor([1., 2.])

    References:
        Released code of arXiv:2209.15430 (trainable values, anchors as values).
    """

    values: Tensor

    def __init__(
        self,
        num_anchors: int,
        out_features: int,
        temperature: float = 1.0,
        *,
        trainable: bool = True,
    ) -> None:
        super().__init__()
        checks.check_size("num_anchors", num_anchors)
        checks.check_size("out_features", out_features)
        checks.check_positive("temperature", temperature)
        self.temperature = temperature
        if trainable:
            self.values = nn.Parameter(torch.randn(num_anchors, out_features) / num_anchors**0.5)
        else:
            self.register_buffer("values", torch.zeros(num_anchors, out_features))

    @classmethod
    def from_values(cls, values: Tensor, temperature: float = 1.0) -> Self:
        """Attention onto fixed values ``(A, H)``, such as the anchors."""
        checks.check_rows("values", values)
        attention = cls(values.shape[0], values.shape[1], temperature, trainable=False)
        attention.values = values.detach().clone()
        return attention

    @property
    def out_features(self) -> int:
        """Width of the values."""
        return self.values.shape[1]

    def forward(self, code: Tensor) -> Tensor:
        """Mixed values."""
        checks.check_features("code", code, self.values.shape[0])
        return (code / self.temperature).softmax(-1) @ self.values.to(code.dtype)

    def extra_repr(self) -> str:
        """Sizes in and out."""
        a, h = self.values.shape
        trainable = isinstance(self.values, nn.Parameter)
        return f"{a}, {h}, temperature={self.temperature}, trainable={trainable}"


class SubspaceProjection(nn.Module):
    r"""Project the parts of a space one by one, as the heads of an attention do.

    The features are cut into H blocks in their order, each compared with the same block of the
    anchors. Only transformations that respect the blocks can be removed, so rotations and
    permutations of the whole space are not. O(NAD), as for one projection.

    Args:
        in_features: Width D of the space, a multiple of H.
        num_anchors: Number of anchors A.
        num_heads: Number of blocks H.
        similarity: As for `RelativeProjection`.
        aggregation: ``"concat"`` (heads first, then anchors), ``"sum"``, ``"mean"`` or ``"max"``.

    Shape:
        - Input: :math:`(*, D)`. Output: :math:`(*, H A)` for ``"concat"``, else :math:`(*, A)`.

    Example:
        >>> heads = SubspaceProjection(4, 3, num_heads=2).set_anchors(torch.randn(3, 4))
        >>> heads(torch.randn(5, 4)).shape
        torch.Size([5, 6])

    References:
        Released code of arXiv:2209.15430 (subspaces).
    """

    Aggregation = Literal["concat", "sum", "mean", "max"]

    def __init__(
        self,
        in_features: int,
        num_anchors: int,
        num_heads: int,
        similarity: SimilarityLike = "cosine",
        aggregation: Aggregation = "concat",
    ) -> None:
        super().__init__()
        checks.check_size("in_features", in_features)
        checks.check_size("num_heads", num_heads)
        checks.check_choice("aggregation", aggregation, get_args(self.Aggregation))
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
        self.similarity = similarity
        self.aggregation = aggregation

    @property
    def out_features(self) -> int:
        """Width of the code."""
        heads = len(self.heads) if self.aggregation == "concat" else 1
        return heads * self.num_anchors

    @property
    def invariant_to(self) -> frozenset[str]:
        """What the heads are invariant to and does not mix the blocks.

        Some aggregations put the blocks together again: the sum of inner products, the sum of city
        block distances and the largest of largest distances are those of the whole space.
        """
        whole = ("inner", "sum"), ("inner", "mean"), ("l1", "sum"), ("l1", "mean"), ("linf", "max")
        if len(self.heads) == 1 or (self.similarity, self.aggregation) in whole:
            return resolve(self.similarity).invariances(self.in_features, self.num_anchors)
        mixing = dict.fromkeys(("rotation", "permutation", "linear", "affine"), BROKEN)
        head = self.heads[0]
        return invariances(residues(**mixing), head.invariant_to)  # type: ignore[arg-type]

    @property
    def anchors(self) -> Tensor:
        """The anchors ``(A, D)``."""
        return torch.cat([head.anchors for head in self.heads], -1)  # type: ignore[misc]

    def set_anchors(self, anchors: Tensor) -> Self:
        """Copy anchors ``(A, D)``. On an error nothing changes."""
        checks.check_rows("anchors", anchors, self.in_features)
        set_all(self.heads, self._blocks(anchors))
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Code of the samples ``(..., D)``."""
        checks.check_features("x", x, self.in_features)
        blocks = zip(self.heads, self._blocks(x), strict=True)
        return self._combine([head(block) for head, block in blocks])

    def project(self, x: Tensor, anchors: Tensor) -> Tensor:
        """Code of ``x`` for anchors given at the call; gradients reach them."""
        checks.check_features("x", x, self.in_features)
        checks.check_rows("anchors", anchors, self.in_features)
        parts = zip(self.heads, self._blocks(x), self._blocks(anchors), strict=True)
        return self._combine([head.project(z, a) for head, z, a in parts])  # type: ignore[operator]

    def _refresh(self, anchors: Tensor) -> None:
        for head, block in zip(self.heads, self._blocks(anchors), strict=True):
            head._refresh(block)  # type: ignore[operator]

    def _combine(self, parts: list[Tensor]) -> Tensor:
        codes = torch.stack(parts)
        if self.aggregation == "concat":
            return rearrange(codes, "h ... a -> ... (h a)")
        return reduce(codes, "h ... a -> ... a", self.aggregation)

    def extra_repr(self) -> str:
        """Constructor call, heads aside."""
        return f"{self.in_features}, {self.num_anchors}, aggregation={self.aggregation!r}"

    def _blocks(self, x: Tensor) -> Tensor:
        return rearrange(x, "... (h d) -> h ... d", h=len(self.heads))
