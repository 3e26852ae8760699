"""Relative representations: a sample becomes its similarities to shared anchors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Self

import torch
from torch import Tensor, nn

from relreps._core import checks
from relreps._core.invariance import invariances
from relreps._core.state import FittedModule
from relreps.normalization import Normalizer
from relreps.similarity import (
    Similarity,
    SimilarityLike,
)
from relreps.similarity.base import checked_code, evaluate, resolve


def relative_projection(
    x: Tensor, anchors: Tensor, similarity: SimilarityLike = "cosine"
) -> Tensor:
    r"""Similarities of each row to each anchor, :math:`r_j = s(x, a_j)`.

    Differentiable in both arguments. O(NAD) time and O(NA) memory: no ``(N, A, D)`` tensor.

    Args:
        x: Samples.
        anchors: Encodings of the anchor samples in the same space, one a row.
        similarity: A name (see `relreps.similarity`), a `Similarity`, or a callable
            ``(x, anchors) -> (..., A)``.

    Shape:
        - x: :math:`(*, D)`; anchors: :math:`(A, D)`. Output: :math:`(*, A)`, dtype of ``x``.

    Raises:
        TypeError: An argument that is not a floating-point tensor.
        ValueError: Sizes that do not fit, no anchors, an unknown similarity.

    Example:
        >>> anchors = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
        >>> relative_projection(torch.tensor([[0.0, 2.0]]), anchors)
        tensor([[0.0000, 0.7071]])

    References:
        Moschella et al., arXiv:2209.15430, section 3.
    """
    return evaluate(x, anchors, similarity)


class RelativeProjection(FittedModule):
    r"""Replace each sample by its similarities to anchors, :math:`r_j = s(p(x), p(a_j))`.

    The part of the similarity that depends on the anchors alone (for a cosine, their lengths) is
    computed when they are set, loaded or moved, and a call is one matrix product. The output width
    is the number of anchors, whatever the width of the space: networks of different sizes meet
    there. A head has to be trained on such codes once; to feed an existing head use a translator.

    Args:
        in_features: Width D of the space.
        num_anchors: Number of anchors A, the width of the code.
        similarity: ``"cosine"``, ``"angular"``, ``"inner"``, ``"euclidean"``, ``"l1"``, ``"linf"``,
            ``"basis"``, an object of `relreps.similarity`, or a callable ``(x, anchors)``.
        pre: Normaliser owned by the projection: refitted on the anchors whenever they change, and
            applied to samples and anchors. Give each projection its own and leave it alone; one
            that is to stay fixed goes before the projection.
        post: Module on the code, such as ``nn.LayerNorm(num_anchors)``.

    Shape:
        - Input: :math:`(*, D)`. Output: :math:`(*, A)`, or what ``post`` makes of it.

    Raises:
        RuntimeError: Used before `set_anchors`.
        TypeError, ValueError: Input of another width or type, an unknown similarity.

    Example:
        >>> projection = RelativeProjection.from_anchors(torch.eye(3)[:2])
        >>> projection(torch.tensor([[3.0, 4.0, 0.0]]))
        tensor([[0.6000, 0.8000]])
        >>> sorted(projection.invariant_to)
        ['isotropic_scale', 'permutation', 'rotation', 'sample_scale']

    References:
        Moschella et al., arXiv:2209.15430; normalisers: arXiv:2409.10967.
    """

    anchors: Tensor

    def __init__(
        self,
        in_features: int,
        num_anchors: int,
        similarity: SimilarityLike = "cosine",
        *,
        pre: Normalizer | None = None,
        post: nn.Module | None = None,
    ) -> None:
        super().__init__()
        checks.check_size("in_features", in_features)
        checks.check_size("num_anchors", num_anchors)
        if pre is not None and not isinstance(pre, Normalizer):
            raise TypeError(f"`pre` must be a normaliser of relreps, got {type(pre).__name__}.")
        width = getattr(pre, "in_features", in_features)
        if width != in_features:
            raise ValueError(f"`pre` has in_features={width}, the projection {in_features}.")
        self.in_features = in_features
        self.num_anchors = num_anchors
        self.similarity = similarity
        rule = resolve(similarity)
        if pre is not None and not rule.self_contained:
            raise ValueError(
                f"`pre` cannot be combined with {similarity}, which would not be normalised along. "
                "Normalise the space before everything that lives in it."
            )
        self.pre = pre
        self.post = post
        self.register_buffer("anchors", torch.zeros(num_anchors, in_features))
        self._num_prepared = 0

    @classmethod
    def from_anchors(
        cls,
        anchors: Tensor,
        similarity: SimilarityLike = "cosine",
        *,
        pre: Normalizer | None = None,
        post: nn.Module | None = None,
    ) -> Self:
        """A projection with the sizes, dtype and device of ``anchors`` ``(A, D)``, ready to use."""
        checks.check_rows("anchors", anchors)
        projection = cls(anchors.shape[1], anchors.shape[0], similarity, pre=pre, post=post)
        return projection.to(anchors.device, anchors.dtype).set_anchors(anchors)

    @property
    def out_features(self) -> int:
        """Width of the code: the number of anchors, or what a ``post`` with a width makes of it."""
        width: int = getattr(self.post, "out_features", self.num_anchors)
        return width

    @property
    def invariant_to(self) -> frozenset[str]:
        """Transformations of samples and anchors together that leave the code as it is.

        Closed under implication, for anchors in general position. ``post`` acts on the code and
        takes nothing away.
        """
        if self.pre is None:
            return self._rule.invariances(self.in_features, self.num_anchors)
        # Anchors that sum to zero span one dimension less.
        rank = self.num_anchors - self.pre.centers
        return invariances(self.pre.residues, self._rule.invariances(self.in_features, rank))

    @property
    def _rule(self) -> Similarity:
        return resolve(self.similarity)

    @torch.no_grad()
    def set_anchors(self, anchors: Tensor) -> Self:
        """Copy anchors ``(A, D)`` and refit ``pre`` on them. On an error nothing changes."""
        checks.check_anchors(anchors, self.num_anchors, self.in_features)
        anchors = anchors.to(self.anchors)
        checks.check_finite("anchors", anchors)
        if self.pre is None:
            self._rule.check_anchors(anchors)
        else:
            try:
                statistics = self.pre.checked_statistics_of(anchors)
                self._rule.check_anchors(self.pre.map(anchors, statistics))
            except ValueError as error:
                raise ValueError(str(error).replace("`x`", "`anchors`", 1)) from error
            self.pre.remember(statistics)
        return self._write(anchors)

    def forward(self, x: Tensor) -> Tensor:
        """Code of the samples ``(..., D)``."""
        self._require_fitted("Call `set_anchors(anchors)` first, or build it with `from_anchors`.")
        checks.check_features("x", x, self.in_features)
        if self.pre is not None:
            x = self.pre(x)
        prepared = (tensor.to(x.dtype) for tensor in self._prepared())
        return self._finish(self._rule.compare(x, *prepared), x)

    def project(self, x: Tensor, anchors: Tensor) -> Tensor:
        """Code of ``x`` for anchors given at the call: gradients reach them, no state is used.

        This is the way for anchors that change at every call: `forward` works from what it keeps of
        the anchors that were set, and does not see edits of the buffer, nor one that
        `torch.func.functional_call` puts in its place.
        """
        checks.check_features("x", x, self.in_features)
        checks.check_rows("anchors", anchors, self.in_features)
        if self.pre is not None:
            statistics = self.pre.statistics_of(anchors)
            x, anchors = self.pre.map(x, statistics), self.pre.map(anchors, statistics)
        prepared = (tensor.to(x.dtype) for tensor in self._rule.prepare(anchors))
        return self._finish(self._rule.compare(x, *prepared), x)

    def inverse(self, code: Tensor) -> Tensor:
        """Samples ``(..., D)`` whose code is ``(..., A)``, where the code determines them.

        Exact for ``"inner"`` and ``"basis"`` (A >= D anchors that span the space) and
        ``"euclidean"`` (A >= D + 1); for ``"cosine"`` and ``"angular"`` (A >= D) up to the length,
        for which the average length of the anchors is given. Goes back through ``pre`` if that has
        an inverse. O(A D min(A, D)) for the anchors, in float64, at every call.

        Raises:
            ValueError: No inverse: by the similarity, by a ``post``, or by too few anchors.
        """
        self._require_fitted("Call `set_anchors(anchors)` first, or build it with `from_anchors`.")
        checks.check_features("code", code, self.num_anchors)
        if self.post is not None:
            raise ValueError(f"a projection with a `post` has no inverse; undo {self.post} first.")
        anchors = self.anchors if self.pre is None else self.pre(self.anchors)
        x = self._rule.invert(code, anchors.to(code.dtype))
        if self.pre is None:
            return x
        return self.pre.inverse(x)

    def extra_repr(self) -> str:
        """Constructor call."""
        return f"{self.in_features}, {self.num_anchors}, similarity={self.similarity!r}"

    def _finish(self, code: Tensor, x: Tensor) -> Tensor:
        code = checked_code(code, x, self.num_anchors)
        return code if self.post is None else self.post(code)

    def _refresh(self, anchors: Tensor) -> None:
        """`set_anchors` without looking at values, for use inside ``forward``."""
        if self.pre is not None:
            self.pre.remember(self.pre.statistics_of(anchors))
        self._write(anchors)

    @torch.no_grad()
    def _write(self, anchors: Tensor) -> Self:
        self.anchors.copy_(anchors)
        self._mark_fitted()
        self._rebuild()
        return self

    def _prepared(self) -> list[Tensor]:
        return [getattr(self, f"_prepared_{i}") for i in range(self._num_prepared)]

    @torch.inference_mode(False)  # or the caches could not be used in training later
    @torch.no_grad()
    def _rebuild(self) -> None:
        """Redo what depends on the anchors alone, in place where that is possible."""
        if not self._fitted or self.anchors.is_meta:
            return
        anchors = self.anchors if self.pre is None else self.pre(self.anchors)
        prepared = self._rule.prepare(anchors)
        for i, tensor in enumerate(prepared):
            old = self._prepared()[i] if i < self._num_prepared else None
            if old is not None and _same_kind(old, tensor):
                old.copy_(tensor)
            else:
                self.register_buffer(f"_prepared_{i}", tensor.clone(), persistent=False)
        self._num_prepared = len(prepared)

    def _on_load(self) -> None:
        self._rebuild()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        dtype = self.anchors.dtype
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.anchors.dtype != dtype:  # what was prepared moved along, with its old rounding
            self._rebuild()
        return self


def set_all(projections: Iterable[nn.Module], anchors: Iterable[Tensor]) -> None:
    """Give each projection its anchors: all of them, or on an error none."""
    pairs = list(zip(projections, anchors, strict=True))
    for projection, rows in pairs:
        copy.deepcopy(projection).set_anchors(rows)  # type: ignore[operator]
    for projection, rows in pairs:
        projection.set_anchors(rows)  # type: ignore[operator]


def _same_kind(a: Tensor, b: Tensor) -> bool:
    return (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)
