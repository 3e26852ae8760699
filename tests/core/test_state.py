"""A state is taken over whole or not at all, by the module that it is for, in any mode."""

import copy
import io
import pickle
import sys
import warnings

import pytest
import torch
from torch import nn

import relreps
from relreps import (
    Center,
    GraphGeodesic,
    NormalizerChain,
    ParsevalFrame,
    ProductProjection,
    Quantize,
    RelativeEncoder,
    RelativeGeodesic,
    RelativeProjection,
    SparseRelativeProjection,
    StandardScale,
    SubspaceProjection,
    UnitNorm,
)
from relreps._core.description import description
from relreps._core.state import write_all
from relreps.similarity import Basis, Cosine, Rescaled, cosine, l1

D, A = 6, 9


def rows(seed, n=A, d=D):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def everything(module):
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    flags = {name: getattr(part, "_fitted", None) for name, part in module.named_modules()}
    return {name: tensor.clone() for name, tensor in tensors.items()}, flags


def same(a, b):
    tensors, others = a[0], b[0]
    return (
        tensors.keys() == others.keys()
        and a[1] == b[1]
        and all(torch.equal(tensor, others[name]) for name, tensor in tensors.items())
    )


def onto(*arguments, **options):
    return RelativeProjection(D, A, *arguments, **options)


# A state that does not fit.


def test_the_error_says_what_does_not_fit():
    state = RelativeProjection(D, A + 1, pre=Center(D)).set_anchors(rows(1, A + 1)).state_dict()
    state["pre.fitted"] = None
    with pytest.raises(RuntimeError) as caught:
        onto(pre=Center(D)).load_state_dict(state)
    for part in ("RelativeProjection", "nothing was loaded", "(10, 6), not (9, 6)", "NoneType"):
        assert part in str(caught.value)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("assign", [True, False])
def test_inside_another_module(strict, assign):
    """Where torch itself would have gone on, and taken the rest."""
    network = nn.Sequential(nn.Linear(3, D), onto(pre=Center(D)))
    state = nn.Sequential(nn.Linear(3, D), onto(pre=Center(D)).set_anchors(rows(1))).state_dict()
    for key in ("1.anchors", "1.pre.mean"):
        before = everything(network[1])
        wrong = {**state, key: torch.zeros(2)}
        with pytest.raises(RuntimeError, match="nothing was loaded"):
            network.load_state_dict(wrong, strict, assign)
        del wrong[key]
        with pytest.raises(RuntimeError, match="nothing was loaded"):
            network.load_state_dict(wrong, strict, assign)
        assert same(everything(network[1]), before)
    network.load_state_dict(state, strict, assign)
    assert network[1]._fitted


def test_a_state_that_says_nothing_of_a_module_leaves_it_alone():
    network = nn.Sequential(nn.Linear(3, D), Center(D).partial_fit(rows(1)))
    found = network.load_state_dict(nn.Sequential(nn.Linear(3, D)).state_dict(), strict=False)
    assert {key.partition(".")[0] for key in found.missing_keys} == {"1"}
    network[1].partial_fit(rows(2))  # the running sums are those of before
    torch.testing.assert_close(network[1].mean, torch.cat((rows(1), rows(2))).mean(0))


def test_what_is_not_its_own_may_be_missing():
    """The weights of a `post`, of an encoder: as in torch."""
    projection = onto(post=nn.LayerNorm(A))
    state = onto(post=nn.LayerNorm(A)).set_anchors(rows(1)).state_dict()
    del state["post.bias"]
    assert projection.load_state_dict(state, strict=False).missing_keys == ["post.bias"]
    assert torch.equal(projection.anchors, rows(1))
    encoder = RelativeEncoder(nn.Linear(3, D), onto(), rows(2, d=3))
    weights = {f"encoder.{key}": t for key, t in nn.Linear(3, D).state_dict().items()}
    encoder.load_state_dict(weights, strict=False)
    assert not encoder.projection._fitted


def test_a_module_with_its_own_way_of_reading_is_left_to_it():
    """Such as one that renames the entries of older checkpoints."""
    post = nn.Linear(A, 2)
    projection = onto(post=post)
    post.register_load_state_dict_pre_hook(
        lambda module, state, prefix, *_: state.update({f"{prefix}bias": state.pop(f"{prefix}b")})
    )
    state = onto(post=nn.Linear(A, 2)).set_anchors(rows(1)).state_dict()
    state["post.b"] = state.pop("post.bias")
    projection.load_state_dict(state)
    assert projection._fitted


def test_anchors_of_a_state_that_are_not_finite():
    state = onto("basis").set_anchors(rows(1)).state_dict()
    state["anchors"][2, 3] = torch.nan
    projection = onto("basis").set_anchors(rows(2))
    before = everything(projection)
    with pytest.raises(ValueError, match=r"`anchors` must be finite.*row 2"):
        projection.load_state_dict(state)
    assert same(everything(projection), before)


def test_a_state_whose_anchors_fail_leaves_nothing_in_use():
    """Two parts of a graph warn; where that is an error, no old paths serve the new anchors."""
    reference = torch.cat((rows(2), rows(3) + 100))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = onto(GraphGeodesic(reference, 3)).set_anchors(rows(1)).state_dict()
        projection = onto(GraphGeodesic(reference, 3)).set_anchors(rows(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(relreps.NumericalWarning):
            projection.load_state_dict(state)
    with pytest.raises(RuntimeError, match="has no state yet"):
        projection(rows(5))


# The state of another configuration.

OTHERS = {
    "similarity": (lambda: onto("euclidean"), "similarity=Cosine"),
    "option": (lambda: onto(Basis(ridge=0.1)), "Basis"),
    "unit": (lambda: onto(Rescaled("l1")), r"Rescaled\(L1\(\)\)"),
    "no pre": (lambda: onto(pre=UnitNorm()), "pre=UnitNorm"),
    "post": (lambda: onto(post=Quantize(0.5)), r"post=Quantize\(step=0.5\)"),
    "step": (lambda: onto(post=Quantize(0.25)), r"post=Quantize\(step=0.5\)"),
    "neighbours": (lambda: onto(GraphGeodesic(rows(7, 20), 4)), r"GraphGeodesic\(k=4\)"),
    "decoder": (lambda: onto(RelativeGeodesic(nn.Identity(), 3)), "steps=3"),
    "frame": (lambda: ParsevalFrame(D, A), "Parseval"),
    "heads": (lambda: SubspaceProjection(D, A, 2, aggregation="sum"), "aggregation='sum'"),
    "parts": (lambda: ProductProjection([onto(), onto("l1")], "sum"), "aggregation='sum'"),
    "sparse": (lambda: SparseRelativeProjection(D, A, 3, exponent=2.0), "exponent=2.0"),
}
INSTEAD = {
    "similarity": lambda: onto(),
    "option": lambda: onto("basis"),
    "unit": lambda: onto(Rescaled("linf")),
    "no pre": lambda: onto(),
    "post": lambda: onto(),
    "step": lambda: onto(post=Quantize(0.5)),
    "neighbours": lambda: onto(GraphGeodesic(rows(7, 20), 5)),
    "decoder": lambda: onto(RelativeGeodesic(nn.Identity(), 4)),
    "frame": lambda: onto(),
    "heads": lambda: SubspaceProjection(D, A, 2, aggregation="max"),
    "parts": lambda: ProductProjection([onto(), onto("l1")], lambda codes: codes[0]),
    "sparse": lambda: SparseRelativeProjection(D, A, 3),
}


@pytest.mark.parametrize("case", OTHERS)
def test_the_state_of_another_configuration_is_refused(case):
    module, other = OTHERS[case][0]().set_anchors(rows(1)), INSTEAD[case]().set_anchors(rows(2))
    for a, b in ((module, other), (other, module)):
        before = everything(a)
        with pytest.raises(ValueError, match=OTHERS[case][1]):
            a.load_state_dict(b.state_dict())
        with pytest.raises(ValueError, match="Build it as that one was built"):
            nn.Sequential(a).load_state_dict(nn.Sequential(b).state_dict(), strict=False)
        assert same(everything(a), before)
    fresh = OTHERS[case][0]()
    fresh.load_state_dict(module.state_dict())
    assert same(everything(fresh), everything(module))


def test_what_does_not_matter_is_not_asked_for():
    """A name and its object, sizes of blocks, a function by another name, an older state."""
    for a, b in (
        (onto("cosine"), onto(Cosine())),
        (onto(Rescaled("l1")), onto(Rescaled(l1))),
        (onto(lambda x, y: cosine(x, y)), onto(lambda x, y: 2 * cosine(x, y))),
        (
            SparseRelativeProjection(D, A, 3, chunk_size=2),
            SparseRelativeProjection(D, A, 3, chunk_size=4),
        ),
    ):
        b.load_state_dict(a.set_anchors(rows(1)).state_dict())
        state = a.state_dict()
        del state["configuration"]
        b.load_state_dict(state)
        assert torch.equal(b.configuration, a.configuration)


def test_descriptions():
    chain = NormalizerChain(UnitNorm(), StandardScale(3))
    assert description(chain) == "NormalizerChain(normalizers=[UnitNorm(), StandardScale()])"
    assert description(nn.LayerNorm(3)) == "LayerNorm"
    assert description(Basis(ridge=0.5)) == "Basis(ridge=0.5)"
    assert description(Basis()) == "Basis()"


# An interrupt, at whatever line.


def interrupted_at_every_line(call, look):
    """Make the call with an interrupt at its first line, its second one, and so on; and look."""
    line = 0
    while True:
        line += 1
        count = 0

        def trace(frame, event, _):
            nonlocal count
            if not frame.f_globals.get("__name__", "").startswith("relreps"):
                return None
            if event == "line":
                count += 1
                if count == line:  # noqa: B023
                    raise KeyboardInterrupt
            return trace

        old = sys.gettrace()
        sys.settrace(trace)
        try:
            call()
        except KeyboardInterrupt:
            sys.settrace(old)
            look()
        else:
            return line - 1
        finally:
            sys.settrace(old)
            torch.set_grad_enabled(True)  # a trace may raise between a `with` block and its end


def frames():
    return {
        "pre": onto(pre=NormalizerChain(Center(D), StandardScale(D))),
        "euclidean": onto(Rescaled("euclidean")),
        "basis": onto(Basis(ridge=0.1)),
        "graph": onto(GraphGeodesic(rows(7, 20), 4)),
        "decoded": onto(RelativeGeodesic(nn.Identity(), 3)),
        "frame": ParsevalFrame(D, A),
        "subspaces": SubspaceProjection(D, A, 2, "euclidean"),
        "sparse": SparseRelativeProjection(D, A, 3),
        "product": ProductProjection([onto(pre=StandardScale(D)), onto("l1")]),
    }


@pytest.mark.parametrize("case", frames())
def test_an_interrupt_leaves_the_old_anchors_or_the_new_ones(case):
    module, new = frames()[case].set_anchors(rows(1)), frames()[case].set_anchors(rows(2))
    old, wanted = everything(module), everything(new)

    def look():
        found = everything(module)
        assert same(found, old) or same(found, wanted)
        module.set_anchors(rows(1))

    assert interrupted_at_every_line(lambda: module.set_anchors(rows(2)), look) > 10


@pytest.mark.parametrize("ema", [True, False])
def test_an_interrupted_refresh_leaves_the_old_anchors_or_the_new_ones(ema):
    def make():
        average = relreps.EMAAnchors(D, A, 0.5) if ema else None
        parts = ProductProjection([onto(pre=StandardScale(D)), onto("l1")])
        return RelativeEncoder(nn.Identity(), parts, rows(1), ema=average).refresh()

    module, new = make(), make()
    old = copy.deepcopy(module.state_dict())
    for each in (module, new):
        each.anchor_inputs = rows(2)
    wanted = new.refresh().state_dict()

    def look():
        found = module.state_dict()
        for state in (found, old, wanted):
            state.pop("fingerprint", None)  # of the inputs, which are the new ones
        assert any(all(torch.equal(found[n], s[n]) for n in found) for s in (old, wanted))
        module.anchor_inputs = rows(1)
        module.load_state_dict(old)
        module.anchor_inputs = rows(2)

    assert interrupted_at_every_line(module.refresh, look) > 20


def test_all_are_written_in_one_step():
    a, b = torch.zeros(2), torch.zeros((), dtype=torch.bool)
    write_all([(a, torch.ones(2, dtype=torch.float64)), (b, torch.tensor(True))])
    assert torch.equal(a, torch.ones(2))
    assert bool(b)
    with pytest.raises(RuntimeError):
        write_all([(a, torch.zeros(2)), (b, torch.zeros(3, dtype=torch.bool))])


# Inference mode.


@pytest.mark.parametrize("case", frames())
def test_what_inference_mode_made_can_be_written_outside_of_it(case):
    """Built in it, copied in it, moved in it, unpickled in it, loaded by assignment in it."""
    x = rows(5, 4)
    state = frames()[case].set_anchors(rows(3)).state_dict()
    plain = frames()[case].set_anchors(rows(1))
    bytes_ = pickle.dumps(plain)
    with torch.inference_mode():
        built = frames()[case].set_anchors(rows(1))
        assigned = frames()[case]
        assigned.load_state_dict(copy.deepcopy(state), assign=True)
        made = [built, copy.deepcopy(plain), copy.deepcopy(plain).double().float()]
        made += [pickle.loads(bytes_), assigned]
    for module in made:
        assert not any(buffer.is_inference() for buffer in module.buffers())
        module.set_anchors(rows(2))
        module.load_state_dict(state)
        module.double().float()
        if case != "sparse":
            module(x.clone().requires_grad_()).sum().backward()
            assert torch.equal(module(x), frames()[case].set_anchors(rows(3))(x))


def test_fits_after_inference_mode():
    x = rows(1)
    with torch.inference_mode():
        scale = StandardScale(D).fit(x)
        translator = relreps.ProcrustesTranslator(D, D).fit(x, x)
        average = relreps.EMAAnchors(D, A, 0.5).update(x)
        moments = relreps.Moments(D)
        moments.update(x)
    scale.fit(rows(2))
    translator.fit(rows(2), x)
    average.update(rows(2))
    moments.update(rows(2))
    assert moments.count == 2 * A


# Copies, in every state.


@pytest.mark.parametrize("fitted", ["no", "yes", "used", "compiled"])
@pytest.mark.parametrize("case", frames())
def test_copies_in_every_state(case, fitted):
    module = frames()[case]
    if fitted != "no":
        module.set_anchors(rows(1))
    if fitted == "compiled":
        torch._dynamo.reset()
        module.compile(backend="eager")
    if fitted in ("used", "compiled"):
        module(rows(2, 4))
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    for other in (
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(buffer, weights_only=False),
    ):
        assert same(everything(other), everything(module))
        other.set_anchors(rows(3))
        other.load_state_dict(frames()[case].set_anchors(rows(3)).state_dict())
