"""Relative representations: a sample becomes its similarities to shared anchors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from relreps._core import checks
from relreps._core.invariance import invariances
from relreps._core.modules import refuse_class
from relreps._core.state import FittedModule, write_all
from relreps.normalization import Normalizer
from relreps.projection.base import Projection
from relreps.similarity import Similarity, SimilarityLike
from relreps.similarity.base import resolve


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
    sizes = [tuple(getattr(rows, "shape", ())) for rows in (x, anchors)]
    if all(sizes) and len(sizes[1]) == 2 and sizes[1][0] == sizes[0][-1] != sizes[1][1]:
        raise ValueError(
            f"`anchors` must have shape (anchors, {sizes[0][-1]}), one row for each anchor, got "
            f"{sizes[1]}: the transpose."
        )
    return resolve(similarity)(x, anchors)


class AnchorState(NamedTuple):
    """What a `RelativeProjection` keeps: of the anchors, of ``pre``, and of the similarity."""

    anchors: Tensor
    statistics: tuple[Any, ...]
    prepared: tuple[Tensor, ...]


class RelativeProjection(FittedModule, Projection):
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
    _similarity: Similarity
    _unset = "Call `set_anchors(anchors)` first, or build it with `from_anchors`."

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
        in_features = checks.check_size("in_features", in_features)
        num_anchors = checks.check_size("num_anchors", num_anchors)
        refuse_class("pre", pre)
        refuse_class("post", post)
        if pre is not None and not isinstance(pre, Normalizer):
            raise TypeError(f"`pre` must be a normaliser of relreps, got {type(pre).__name__}.")
        width = getattr(pre, "in_features", in_features)
        if width != in_features:
            raise ValueError(f"`pre` has in_features={width}, the projection {in_features}.")
        self.in_features = in_features
        self.num_anchors = num_anchors
        self.similarity = similarity
        # Past the registration of children: a geodesic is one already, as `similarity`.
        object.__setattr__(self, "_similarity", resolve(similarity))
        if pre is not None and not self._similarity.self_contained:
            raise ValueError(
                f"`pre` cannot be combined with {similarity}, which would not be normalised along. "
                "Normalise the space before everything that lives in it."
            )
        self.pre = pre
        self.post = post
        self.register_buffer("anchors", torch.zeros(num_anchors, in_features))
        self._keep_configuration(similarity=self._similarity, pre=pre, post=post)
        self._prepared: tuple[str, ...] = ()  # names of buffers

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
            return self._similarity.invariances(self.in_features, self.num_anchors)
        # Anchors that sum to zero span one dimension less.
        rank = self.num_anchors - self.pre.centers
        own = self._similarity.invariances(self.in_features, rank)
        return invariances(self.pre.residues, own)

    def forward(self, x: Tensor) -> Tensor:
        """Code of the samples ``(..., D)``."""
        self.require_fitted(self._unset)
        checks.check_features("x", x, self.in_features)
        if self.pre is not None:
            x = self.pre(x)
        prepared = (getattr(self, name) for name in self._prepared)
        code = self._similarity.code(x, prepared, self.num_anchors)
        return code if self.post is None else self.post(code)

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
        code = self._similarity.code(x, self._similarity.prepare(anchors), self.num_anchors)
        return code if self.post is None else self.post(code)

    def inverse(self, code: Tensor) -> Tensor:
        """Samples ``(..., D)`` whose code is ``(..., A)``, where the code determines them.

        Exact for ``"inner"`` and ``"basis"`` (A >= D anchors that span the space) and
        ``"euclidean"`` (A >= D + 1); for ``"cosine"`` and ``"angular"`` (A >= D) up to the length,
        for which the average length of the anchors is given. Goes back through ``pre`` if that has
        an inverse. O(A D min(A, D)) for the anchors, in float64, at every call.

        Raises:
            ValueError: No inverse: by the similarity, by a ``post``, or by too few anchors.
        """
        self.require_fitted(self._unset)
        checks.check_features("code", code, self.num_anchors)
        if self.post is not None:
            raise ValueError(f"a projection with a `post` has no inverse; undo {self.post} first.")
        anchors = self.anchors if self.pre is None else self.pre(self.anchors)
        x = self._similarity.invert(code, anchors.to(code.dtype))
        return x if self.pre is None else self.pre.inverse(x)

    @torch.no_grad()
    def state_of(self, anchors: Tensor, *, check: bool = False) -> AnchorState:
        """What `remember` keeps of anchors ``(A, D)``; nothing is written."""
        if check:
            checks.check_anchors(anchors, self.num_anchors, self.in_features)
            checks.check_finite("anchors", anchors.to(self.anchors))
        anchors = anchors.to(self.anchors)
        statistics = self._statistics_of(anchors, check)
        mapped = anchors if self.pre is None else self.pre.map(anchors, statistics)
        if check:
            self._similarity.check_anchors(mapped)
        return AnchorState(anchors, statistics, self._similarity.prepare(mapped))

    def remember(self, state: AnchorState) -> None:
        """Keep what `state_of` gave: all of it in one step."""
        write_all(self.writes(state))
        if self.pre is not None:
            self.pre.remember(state.statistics)  # nothing new, but that it is fitted
        self._fitted = True

    def writes(self, state: AnchorState) -> list[tuple[Tensor, Tensor]]:
        """The buffers that `remember` fills, and with what."""
        pairs = [(self.anchors, state.anchors), (self.fitted, torch.ones_like(self.fitted))]
        if self.pre is not None:
            pairs += self.pre.writes(state.statistics)
        return pairs + self._caches(state.prepared)

    def extra_repr(self) -> str:
        """Constructor call."""
        return f"{self.in_features}, {self.num_anchors}, similarity={self.similarity!r}"

    def _statistics_of(self, anchors: Tensor, check: bool) -> tuple[Any, ...]:
        if self.pre is None:
            return ()
        if not check:
            return self.pre.statistics_of(anchors)
        try:
            return self.pre.checked_statistics_of(anchors)
        except ValueError as error:
            raise ValueError(str(error).replace("`x`", "`anchors`", 1)) from error

    def _caches(self, prepared: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor]]:
        """Buffers for what is prepared, made anew where those at hand are of another kind."""
        names = self._similarity.prepared_names or [str(i) for i in range(len(prepared))]
        self._prepared = tuple(f"prepared_{name}" for name in names)
        for name, tensor in zip(self._prepared, prepared, strict=True):
            old = getattr(self, name, None)
            if old is None or not _same_kind(old, tensor):
                self.register_buffer(name, tensor.detach().clone(), persistent=False)
        return [(getattr(self, n), t) for n, t in zip(self._prepared, prepared, strict=True)]

    @torch.no_grad()
    def _on_load(self) -> None:
        """Prepare anew what follows from the anchors at hand."""
        if self._fitted and not self.anchors.is_meta:
            anchors = self.anchors if self.pre is None else self.pre(self.anchors)
            write_all(self._caches(self._similarity.prepare(anchors)))

    def _check_state(self, state: dict[str, Any], prefix: str) -> None:
        super()._check_state(state, prefix)
        checks.check_finite("anchors", state[f"{prefix}anchors"])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        dtype = self.anchors.dtype
        super()._apply(fn, recurse)
        if self.anchors.dtype != dtype:  # what was prepared moved along, with its old rounding
            self._on_load()
        return self


def _same_kind(a: Tensor, b: Tensor) -> bool:
    return (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)
