"""Relative representations: a sample becomes its similarities to shared anchors (arXiv:2209.15430).

Two networks trained apart place the same data in spaces that differ by a transformation. Encode
the *same* anchor samples in both, and describe every sample by how it relates to them: what the
similarity is invariant to disappears, and the two codes can be compared, or exchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from relreps import _checks
from relreps._invariance import invariances, residues
from relreps._state import FittedModule
from relreps.normalization import AbstractNormalizer
from relreps.similarity import SimilarityLike, checked_code, compare, resolve


def relative_projection(
    x: Tensor, anchors: Tensor, similarity: SimilarityLike = "cosine"
) -> Tensor:
    r"""Similarities of each row to each anchor, :math:`r_j = s(x, a_j)`.

    Differentiable in both arguments. O(NAD) time and O(NA) memory: no ``(N, A, D)`` tensor.

    Args:
        x: Samples.
        anchors: Encodings of the anchor samples in the same space, one a row.
        similarity: ``"cosine"``, ``"inner"``, ``"euclidean"``, or a callable ``(x, anchors)``.

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
    return compare(x, anchors, similarity)


class RelativeProjection(FittedModule):
    r"""Replace each sample by its similarities to anchors, :math:`r_j = s(p(x), p(a_j))`.

    The part of the similarity that depends on the anchors alone (for a cosine, their lengths) is
    computed when they are set, loaded or moved, and a call is one matrix product. The output width
    is the number of anchors, whatever the width of the space: networks of different sizes meet
    there. A head has to be trained on such codes once; to feed an existing head use a translator.

    Args:
        in_features: Width D of the space.
        num_anchors: Number of anchors A, the width of the code.
        similarity: ``"cosine"``, ``"inner"``, ``"euclidean"``, or a callable ``(x, anchors)``.
        pre: Normaliser owned by the projection: refitted on the anchors whenever they change, and
            applied to samples and anchors. For one that stays fixed, apply it before.
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
        pre: AbstractNormalizer | None = None,
        post: nn.Module | None = None,
    ) -> None:
        super().__init__()
        _checks.check_size("in_features", in_features)
        _checks.check_size("num_anchors", num_anchors)
        if pre is not None and not isinstance(pre, AbstractNormalizer):
            raise TypeError(f"`pre` must be a normaliser of relreps, got {type(pre).__name__}.")
        width = getattr(pre, "in_features", in_features)
        if width != in_features:
            raise ValueError(f"`pre` has in_features={width}, the projection {in_features}.")
        self.in_features = in_features
        self.num_anchors = num_anchors
        self.similarity = similarity
        self._rule = resolve(similarity)
        self.pre = pre
        self.post = post
        self.register_buffer("anchors", torch.zeros(num_anchors, in_features))
        self._cache_names: list[str] = []
        for i, tensor in enumerate(self._rule.prepare(self.anchors)):
            self._cache_names.append(f"_prepared_{i}")
            self.register_buffer(self._cache_names[-1], tensor.clone(), persistent=False)

    @classmethod
    def from_anchors(
        cls,
        anchors: Tensor,
        similarity: SimilarityLike = "cosine",
        *,
        pre: AbstractNormalizer | None = None,
        post: nn.Module | None = None,
    ) -> Self:
        """A projection with the sizes, dtype and device of ``anchors`` ``(A, D)``, ready to use."""
        _checks.check_rows("anchors", anchors)
        projection = cls(anchors.shape[1], anchors.shape[0], similarity, pre=pre, post=post)
        return projection.to(anchors.device, anchors.dtype).set_anchors(anchors)

    @property
    def out_features(self) -> int:
        """Width of the code before ``post``."""
        return self.num_anchors

    @property
    def invariant_to(self) -> frozenset[str]:
        """Transformations of samples and anchors together that leave the code as it is.

        Closed under implication. ``post`` acts on the code and takes nothing away.
        """
        return invariances(
            residues() if self.pre is None else self.pre.residues, self._rule.invariant_to
        )

    @torch.no_grad()
    def set_anchors(self, anchors: Tensor) -> Self:
        """Copy anchors ``(A, D)`` and refit ``pre`` on them. On an error nothing changes."""
        _checks.check_rows("anchors", anchors, self.in_features)
        if anchors.shape[0] != self.num_anchors:
            raise ValueError(
                f"`anchors` must have {self.num_anchors} rows, got {anchors.shape[0]}. Build the "
                "projection with that `num_anchors`, or use `from_anchors`."
            )
        _checks.check_finite("anchors", anchors)
        anchors = anchors.to(self.anchors)
        if self.pre is not None:
            self.pre.fit(anchors)
        self._write(anchors)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Code of the samples ``(..., D)``."""
        self._require_fitted("Call `set_anchors(anchors)` first, or build it with `from_anchors`.")
        _checks.check_features("x", x, self.in_features)
        if self.pre is not None:
            x = self.pre(x)
        prepared = (getattr(self, name).to(x.dtype) for name in self._cache_names)
        return self._finish(self._rule.compare(x, *prepared), x)

    def project(self, x: Tensor, anchors: Tensor) -> Tensor:
        """Code of ``x`` for anchors given at the call: gradients reach them, no state is used."""
        _checks.check_features("x", x, self.in_features)
        _checks.check_rows("anchors", anchors, self.in_features)
        if self.pre is not None:
            x, anchors = self.pre.relative_to(x, anchors), self.pre.relative_to(anchors, anchors)
        prepared = (tensor.to(x.dtype) for tensor in self._rule.prepare(anchors))
        return self._finish(self._rule.compare(x, *prepared), x)

    def extra_repr(self) -> str:
        """Constructor call."""
        return f"{self.in_features}, {self.num_anchors}, similarity={self.similarity!r}"

    def _finish(self, code: Tensor, x: Tensor) -> Tensor:
        code = checked_code(code, x, self.num_anchors)
        return code if self.post is None else self.post(code)

    @torch.no_grad()
    def _write(self, anchors: Tensor) -> None:
        self.anchors.copy_(anchors)
        self._mark_fitted()
        self._rebuild()

    def _refresh(self, anchors: Tensor) -> None:
        """`set_anchors` without looking at values, for use inside ``forward``."""
        if self.pre is not None:
            self.pre._refit(anchors)
        self._write(anchors)

    @torch.no_grad()
    def _rebuild(self) -> None:
        anchors = self.anchors
        if self.pre is not None and self._fitted:
            anchors = self.pre(anchors)
        for name, tensor in zip(self._cache_names, self._rule.prepare(anchors), strict=True):
            cache = getattr(self, name)
            if (cache.shape, cache.dtype, cache.device) == (
                tensor.shape,
                tensor.dtype,
                tensor.device,
            ):
                cache.copy_(tensor)
            else:
                setattr(self, name, tensor)


class RelativeEncoder(nn.Module):
    r"""An encoder whose output is relative: it re-encodes the anchor samples as it learns.

    The anchors are encodings of fixed samples by the encoder itself, so they move at every step.
    While training they are encoded anew at every ``refresh_every``-th forward. In eval they are
    encoded anew only if the encoder has changed since, so a stale code never appears. The encoder
    runs in whatever mode it is in, for anchors as for samples.

    A change is seen through the version counters of parameters and buffers, and a switch between
    train and eval counts as one. Edits that PyTorch cannot see (through ``.data``, or in eval when
    this module as a whole is compiled) need a call of `refresh`. Cost: one pass of the encoder over
    the anchor samples per refresh; with ``detach_anchors=False`` also their backward pass.

    Args:
        encoder: Maps ``anchor_inputs`` and batches of the same kind to ``(rows, in_features)``.
        projection: The relative projection behind it.
        anchor_inputs: The anchor samples as the encoder takes them: a tensor, or dicts, lists and
            tuples of tensors. They move with the module, but are not part of its checkpoint.
        refresh_every: Training forwards per refresh.
        detach_anchors: If false, gradients reach the encoder through the anchors too.

    Shape:
        - Input: a batch of N samples. Output: :math:`(N, A)`.

    Example:
        >>> encoder = RelativeEncoder(nn.Linear(4, 3), RelativeProjection(3, 2), torch.eye(4)[:2])
        >>> encoder(torch.ones(5, 4)).shape
        torch.Size([5, 2])

    References:
        Moschella et al., arXiv:2209.15430, section 4.
    """

    def __init__(
        self,
        encoder: nn.Module,
        projection: RelativeProjection,
        anchor_inputs: Any,
        *,
        refresh_every: int = 1,
        detach_anchors: bool = True,
    ) -> None:
        super().__init__()
        _checks.check_size("refresh_every", refresh_every)
        self.encoder = encoder
        self.projection = projection
        self.refresh_every = refresh_every
        self.detach_anchors = detach_anchors
        self.anchor_inputs = anchor_inputs
        self._forwards = 0
        self._stale = True
        self._seen: list[tuple[int, int]] = []

    def forward(self, x: Any) -> Tensor:
        """Relative code of a batch."""
        if not self.training:
            if self._stale or (_checks.eager() and self._seen != self._versions()):
                self._encode_anchors(detach=True)
            code: Tensor = self.projection(self.encoder(x))
            return code
        if self.refresh_every > 1 and self._forwards % self.refresh_every != 0:
            # A copy: the graph of this step must survive a refresh before its backward.
            anchors = self.projection.anchors.clone()
        else:
            anchors = self._encode_anchors(self.detach_anchors)
        if self.refresh_every > 1:
            self._forwards += 1
        return self.projection.project(self.encoder(x), anchors)

    def refresh(self) -> Self:
        """Encode the anchors now."""
        self._encode_anchors(detach=True)
        return self

    def train(self, mode: bool = True) -> Self:
        """Switch between train and eval; the next eval forward then re-encodes the anchors."""
        self._stale = self._stale or mode != self.training
        return super().train(mode)

    def extra_repr(self) -> str:
        """Constructor call, modules aside."""
        return f"refresh_every={self.refresh_every}, detach_anchors={self.detach_anchors}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.anchor_inputs = tree_map_only(Tensor, fn, self.anchor_inputs)
        return self

    def _encode_anchors(self, detach: bool) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not detach):
            anchors: Tensor = self.encoder(self.anchor_inputs)
        wanted = (self.projection.num_anchors, self.projection.in_features)
        if tuple(anchors.shape) != wanted:
            raise ValueError(
                f"`encoder` must map `anchor_inputs` to shape {wanted}, got "
                f"{tuple(anchors.shape)}. The projection needs one row for each of its anchors."
            )
        self.projection._refresh(anchors.detach())
        self._stale = False
        if _checks.eager():
            self._seen = self._versions()
        return anchors

    def _versions(self) -> list[tuple[int, int]]:
        """One entry a tensor of the encoder, which changes when the tensor is written."""
        tensors = [*self.encoder.parameters(), *self.encoder.buffers()]
        return [(id(t), 0 if t.is_inference() else t._version) for t in tensors]
