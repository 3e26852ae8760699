"""What is kept of anchors is computed before any of it is written: a refusal leaves no trace."""

import copy
import warnings

import pytest
import torch

import relreps
from relreps import (
    Center,
    GraphGeodesic,
    NormalizerChain,
    NumericalWarning,
    ParsevalFrame,
    ProductProjection,
    RelativeProjection,
    SparseRelativeProjection,
    StandardScale,
    SubspaceProjection,
    UnitNorm,
    Whiten,
)
from relreps.parity import RunningRelativeProjection
from relreps.similarity import SIMILARITIES, Basis, Cosine, Rescaled

D, A = 6, 9


def anchors(seed=1):
    return torch.randn(A, D, generator=torch.Generator().manual_seed(seed))


def everything(module):
    """All tensors of a module, caches included, and whether each part counts as fitted."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    flags = {name: getattr(part, "_fitted", None) for name, part in module.named_modules()}
    return {name: tensor.clone() for name, tensor in tensors.items()}, flags


def assert_unchanged(module, before):
    tensors, flags = everything(module)
    assert flags == before[1]
    assert tensors.keys() == before[0].keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, before[0][name]), name


def rescaled(pre):
    return RelativeProjection(D, A, Rescaled("euclidean"), pre=pre)


def dependent():
    return anchors()[:1].repeat(A, 1)


def spread():
    """Two clouds, and so two parts of a graph."""
    return torch.cat((anchors(2), anchors(3) + 100))


REFUSED = {
    "equal anchors, center": (lambda: rescaled(Center(D)), dependent(), "two different anchors"),
    "equal anchors, unit": (lambda: rescaled(UnitNorm()), dependent(), "two different anchors"),
    "equal anchors, chain": (
        lambda: rescaled(NormalizerChain(Center(D), UnitNorm())),
        dependent(),
        "two different anchors",
    ),
    "equal anchors, standard": (lambda: rescaled(StandardScale(D)), dependent(), "must vary in"),
    "too few to whiten": (
        lambda: RelativeProjection(D, A, pre=Whiten(D)),
        anchors()[:4].repeat(3, 1)[:A],
        "`anchors` must vary in all 6 directions",
    ),
    "a chain that fails at its end": (
        lambda: RelativeProjection(D, A, pre=NormalizerChain(UnitNorm(), StandardScale(D))),
        dependent() * torch.arange(1.0, A + 1)[:, None],
        "`anchors` must vary in",
    ),
    "ridge, zero anchors": (
        lambda: RelativeProjection(D, A, Basis(ridge=0.1)),
        torch.zeros(A, D),
        "`anchors` must not be zero, nor dependent beyond what ridge=0.1",
    ),
    "ridge below rounding": (
        lambda: RelativeProjection(D, A, Basis(ridge=1e-20)),
        dependent(),
        "`anchors` must not be zero, nor dependent beyond what ridge=1e-20",
    ),
    "graph out of reach": (
        lambda: RelativeProjection(D, A, GraphGeodesic(anchors(2).double(), 3)).double(),
        anchors().double() * 1e200,
        "`anchors` must be within reach of the reference",
    ),
    "the second part of a product": (
        lambda: ProductProjection([RelativeProjection(D, A, pre=Center(D)), rescaled(Center(D))]),
        dependent(),
        "two different anchors",
    ),
    "the second block": (
        lambda: SubspaceProjection(D, A, 2, Rescaled("l1")),
        torch.cat((anchors(2)[:, :3], torch.ones(A, 3)), 1),
        "two different anchors",
    ),
    "sparse": (
        lambda: SparseRelativeProjection(D, A, 2),
        torch.full((A, D), torch.inf),
        "must be finite",
    ),
}


@pytest.mark.parametrize("fitted", [True, False])
@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_changes_nothing(case, fitted):
    make, wrong, message = REFUSED[case]
    module = make()
    if fitted:
        module.set_anchors(anchors().to(module.anchors))
    before = everything(module)
    with pytest.raises(ValueError, match=message):
        module.set_anchors(wrong)
    assert_unchanged(module, before)


def test_a_warning_that_is_made_an_error_changes_nothing():
    """The graph is walked, which takes long and may warn, before anything is written."""
    reference = spread()
    projection = RelativeProjection(D, A, GraphGeodesic(reference, 3))
    with pytest.warns(NumericalWarning, match="falls into 2 parts"):
        projection.set_anchors(anchors())
    before = everything(projection)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(NumericalWarning):
            projection.set_anchors(anchors(4))
    assert_unchanged(projection, before)


class Interrupted(Cosine):
    """A cosine that can be interrupted."""

    now = False

    def prepare(self, anchors):
        if self.now:
            raise KeyboardInterrupt
        return super().prepare(anchors)


@pytest.mark.parametrize("call", ["set_anchors", "refresh"])
def test_an_interrupt_changes_nothing(call, monkeypatch):
    parts = [RelativeProjection(D, A, "euclidean", pre=Center(D)), RelativeProjection(D, A)]
    parts.append(RelativeProjection(D, A, Interrupted(), pre=StandardScale(D)))
    module = ProductProjection(parts).set_anchors(anchors())
    encoder = relreps.RelativeEncoder(torch.nn.Linear(3, D), module, torch.randn(A, 3))
    before = everything(module)
    monkeypatch.setattr(Interrupted, "now", True)
    with pytest.raises(KeyboardInterrupt):
        encoder.refresh() if call == "refresh" else module.set_anchors(anchors(2))
    assert_unchanged(module, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("pre", [None, Center, StandardScale, lambda d: Whiten(d, 0.2)])
def test_what_is_loaded_is_what_was_set(pre, dtype):
    """To the last bit: statistics enter as the state holds them."""
    for similarity in SIMILARITIES:
        projection, loaded = (
            RelativeProjection(D, A, similarity, pre=pre and pre(D)).to(dtype) for _ in range(2)
        )
        projection.set_anchors(anchors() + 3)
        loaded.load_state_dict(projection.state_dict())
        x = torch.randn(4, D, dtype=dtype)
        assert torch.equal(loaded(x), projection(x))


def test_set_anchors_copies_no_module(monkeypatch):
    def refuse(*_):
        raise AssertionError("a module was copied")

    parts = [RelativeProjection(D, A, pre=Center(D)), SubspaceProjection(D, A, 2)]
    modules = [ProductProjection(parts), RunningRelativeProjection(D, A), ParsevalFrame(D, A)]
    monkeypatch.setattr(copy, "deepcopy", refuse)
    for module in modules:
        module.set_anchors(anchors())


def test_caches_say_what_they_are():
    names = {
        "cosine": {"directions"},
        "euclidean": {"mean", "centered", "scale"},
        "basis": {"inverse"},
        Rescaled("l1"): {"unit", "mean", "centered"},
        GraphGeodesic(anchors(2), 3): {"paths"},
    }
    for similarity, wanted in names.items():
        projection = RelativeProjection(D, A, similarity).set_anchors(anchors())
        kept = {name for name, _ in projection.named_buffers() if name.startswith("prepared_")}
        assert kept == {f"prepared_{name}" for name in wanted}


def test_anchors_set_in_inference_mode_serve_in_training():
    x = torch.randn(4, D, requires_grad=True)
    parts = [RelativeProjection(D, A, pre=Center(D)), RelativeProjection(D, A, "l1")]
    for module in (ProductProjection(parts), SubspaceProjection(D, A, 2)):
        with torch.inference_mode():
            module.set_anchors(anchors())
            module.set_anchors(anchors(2))
        module(x).sum().backward()
        module.set_anchors(anchors(3))(x).sum().backward()


def test_a_copy_made_in_inference_mode_can_be_moved_and_loaded():
    projection = RelativeProjection(D, A).set_anchors(anchors())
    with torch.inference_mode():
        moved, loaded = copy.deepcopy(projection), copy.deepcopy(projection)
    x = torch.randn(4, D)
    torch.testing.assert_close(moved.double()(x.double()), projection(x).double())
    state = RelativeProjection(D, A).set_anchors(anchors(2)).state_dict()
    loaded.load_state_dict(state, assign=True)
    assert torch.equal(loaded(x), projection.set_anchors(anchors(2))(x))
