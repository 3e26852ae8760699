"""Every public module keeps every promise of the contract. A new class joins by one line."""

import importlib
import inspect
import pkgutil

import pytest
import torch
from torch import nn

import relreps
from relreps import parity, similarity, translate
from relreps.testing import CONTRACT

N, D, A = 7, 8, 5
WIDE = 3 * D  # anchors, or rows to fit on, that span the space


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), device="cpu")


def case(build, fit=lambda module: None):
    """The ``make`` of the contract, from what constructs a module and what fits it."""

    def make(fitted=True):
        torch.manual_seed(3)
        module = build()
        if fitted:
            fit(module)
        return module

    return make


def anchored(build, anchors=A, features=D):
    """A projection, with its anchors."""
    return case(build, lambda module: module.set_anchors(normal(anchors, features)))


def projection(*arguments, anchors=A, pre=None, post=None):
    """A `RelativeProjection`, with what it owns made anew."""

    def build():
        parts = {"pre": pre and pre(), "post": post and post()}
        return relreps.RelativeProjection(D, anchors, *(a() for a in arguments), **parts)

    return anchored(build, anchors)


def named(*names):
    return {name: projection(lambda name=name: name) for name in names}


def normalizer(build):
    return case(build, lambda module: module.fit(normal(WIDE, D)))


def paired(cls, *arguments, out_features=5, **options):
    """A translator, on pairs that have nothing to do with each other."""
    return case(
        lambda: cls(D, out_features, *arguments, **options),
        lambda module: module.fit(normal(WIDE, D), normal(WIDE, out_features, seed=2)),
    )


def seeded(cls, **options):
    """A translator that finds pairs itself, from twenty that it knows."""
    x, seeds = normal(60, D), (torch.arange(20, device="cpu"),) * 2
    y = nn.functional.pad(x, (1, 2)) + 1
    return case(lambda: cls(D, D + 3, **options), lambda module: module.fit(x, y, seeds))


def product(aggregation, *options):
    def build():
        parts = [relreps.RelativeProjection(D, A, name) for name in ("cosine", "l1", "euclidean")]
        return relreps.ProductProjection(parts, aggregation, *options)

    return anchored(build)


def decoder():
    return nn.Sequential(nn.Linear(D, 4), nn.Tanh(), nn.Linear(4, 3))


def geodesics(*metrics):
    return {
        f"RelativeGeodesic-{metric}": projection(
            lambda metric=metric: relreps.RelativeGeodesic(decoder(), 3, metric)
        )
        for metric in metrics
    }


def stitched():
    translator = relreps.ProcrustesTranslator(6, 4)
    return relreps.StitchedModel(nn.Linear(D, 6), nn.Linear(4, 3), translator)


def encoder():
    onto = relreps.RelativeProjection(6, A)
    return relreps.RelativeEncoder(nn.Linear(D, 6), onto, normal(A, D)).eval()


class SparseValues(relreps.SparseRelativeProjection):
    """The fixed-shape form of the sparse code; CSR output is no strided tensor."""

    def forward(self, x):
        return self.topk(x).values


def products(x, anchors):
    """A callable that is no object of the package."""
    return x @ anchors.mT


CASES = {
    **named("cosine", "inner", "euclidean", "angular", "l1", "linf"),
    "callable": projection(lambda: products),
    "euclidean-exact": projection(lambda: similarity.Euclidean(exact=True)),
    "rescaled": projection(lambda: similarity.Rescaled("euclidean")),
    "basis": projection(similarity.Basis, anchors=WIDE),
    "basis-ridge": projection(lambda: similarity.Basis(ridge=0.1), anchors=WIDE),
    "cosine-center": projection(pre=lambda: relreps.Center(D)),
    "cosine-standard": projection(pre=lambda: relreps.StandardScale(D)),
    "cosine-unit": projection(pre=relreps.UnitNorm),
    "cosine-isotropic": projection(pre=lambda: relreps.IsotropicScale(D)),
    "cosine-whiten": projection(pre=lambda: relreps.Whiten(D, shrinkage=0.3)),
    "euclidean-center-post": projection(
        lambda: "euclidean", pre=lambda: relreps.Center(D), post=lambda: nn.LayerNorm(A)
    ),
    "GraphGeodesic": projection(lambda: relreps.GraphGeodesic(normal(WIDE, D, seed=2), k=4)),
    **geodesics("euclidean", "spherical", "fisher"),
    "RunningRelativeProjection": anchored(lambda: parity.RunningRelativeProjection(D, A).eval()),
    "ParsevalFrame": anchored(lambda: relreps.ParsevalFrame(D, WIDE), WIDE),
    "SubspaceProjection": anchored(lambda: relreps.SubspaceProjection(D, A, 2)),
    "SparseRelativeProjection": anchored(lambda: SparseValues(D, WIDE, 4, chunk_size=7), WIDE),
    "ProductProjection-concat": product("concat"),
    "ProductProjection-sum": product("sum"),
    "ProductProjection-mlp": product("mlp", 6),
    "ProductProjection-attention": product("attention", 6),
    "RelativeEncoder": case(encoder, lambda module: module.refresh()),
    "Quantize-smooth": case(lambda: relreps.Quantize(0.5, "smooth")),
    "StratifiedMean": case(lambda: relreps.StratifiedMean(torch.arange(D, device="cpu") % 3)),
    "AnchorAttention": case(lambda: relreps.AnchorAttention(D, 3)),
    "AnchorAttention-values": case(
        lambda: relreps.AnchorAttention(D, 3, trainable=False),
        lambda module: module.values.copy_(normal(D, 3)),
    ),
    "Center": normalizer(lambda: relreps.Center(D)),
    "StandardScale": normalizer(lambda: relreps.StandardScale(D)),
    "IsotropicScale": normalizer(lambda: relreps.IsotropicScale(D)),
    "Whiten": normalizer(lambda: relreps.Whiten(D)),
    "UnitNorm": normalizer(relreps.UnitNorm),
    "NormalizerChain": normalizer(
        lambda: relreps.NormalizerChain(relreps.Whiten(D), relreps.IsotropicScale(D))
    ),
    "Procrustes": paired(relreps.ProcrustesTranslator, out_features=D),
    "Procrustes-narrower": paired(relreps.ProcrustesTranslator, scale="norm", pre="standard"),
    "Procrustes-wider": paired(
        relreps.ProcrustesTranslator, out_features=11, scale="umeyama", pre="unit"
    ),
    "Procrustes-rotation": paired(
        relreps.ProcrustesTranslator, out_features=D, allow_reflection=False, pre=None
    ),
    "LinearTranslator": paired(relreps.LinearTranslator, pre="unit"),
    "AffineTranslator": case(
        lambda: relreps.AffineTranslator(D, 5, ridge="gcv", pre="standard"),
        lambda module: module.fit(normal(WIDE, D), normal(WIDE, D)[:, :5] + 1),
    ),
    "ProcrustesRidgeTranslator": paired(translate.ProcrustesRidgeTranslator),
    "ReducedRankTranslator": paired(translate.ReducedRankTranslator, 2),
    "LOrthoTranslator": paired(relreps.LOrthoTranslator),
    "SGDAffineTranslator": paired(parity.SGDAffineTranslator, max_iterations=3),
    "CCATranslator": paired(relreps.CCATranslator, max_rank=3),
    "WhitenedTranslator": paired(translate.WhitenedTranslator),
    "InverseRelativeTranslator": paired(relreps.InverseRelativeTranslator, WIDE, ridge=0.1),
    "InverseRelative-source": paired(relreps.InverseRelativeTranslator, WIDE, rescale="source"),
    "PermutationTranslator": paired(translate.PermutationTranslator, signed=True),
    "RCSLSTranslator": paired(translate.RCSLSTranslator, k=3, max_iterations=3),
    "RefinedProcrustesTranslator": seeded(relreps.RefinedProcrustesTranslator),
    "TransportTranslator": seeded(relreps.TransportTranslator),
    "FunctionalMapTranslator": seeded(relreps.FunctionalMapTranslator, num_functions=30, k=9),
    "StitchedModel": case(
        stitched, lambda module: module.translator.fit(normal(20, 6), normal(20, 4, seed=2))
    ),
}

#: A module that holds parameters computes in their type, as torch's own do.
HOLDS_PARAMETERS = {
    "euclidean-center-post",
    "RelativeEncoder",
    "StitchedModel",
    "ProductProjection-mlp",
    "ProductProjection-attention",
    "RelativeGeodesic-euclidean",
    "RelativeGeodesic-spherical",
    "RelativeGeodesic-fisher",
}
EXCEPTIONS = {(case, "dtype_is_kept") for case in HOLDS_PARAMETERS}


@pytest.mark.parametrize("check", CONTRACT)
@pytest.mark.parametrize("case", CASES)
def test_contract(case, check):
    make = CASES[case]
    if (case, check) in EXCEPTIONS:
        module = make().double()
        assert module(torch.randn(N, D, dtype=torch.float64)).dtype == torch.float64
        return
    CONTRACT[check](make, torch.randn(N, D, dtype=torch.float64))


def everything(module):
    """All tensors of a module, what is not saved included, and whether each part is fitted."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    flags = {name: getattr(part, "_fitted", None) for name, part in module.named_modules()}
    return {name: tensor.clone() for name, tensor in tensors.items()}, flags


#: What is done to an entry of a state, for which the whole of it is refused.
DAMAGE = {
    "missing": lambda state, key: state.pop(key),
    "none": lambda state, key: state.update({key: None}),
    "longer": lambda state, key: state.update({key: torch.zeros(*state[key].shape, 2)}),
    "complex": lambda state, key: state.update({key: state[key].to(torch.complex64)}),
    "meta": lambda state, key: state.update({key: state[key].to("meta")}),
    "unexpected": lambda state, key: state.update({f"{key}_of_another": torch.zeros(2)}),
}


@pytest.mark.parametrize("fitted", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_a_refused_state_changes_nothing(case, fitted):
    """Not one entry is taken over, whichever is wrong, nor does the module count as fitted."""
    module, other = CASES[case](fitted), CASES[case]()
    for tensor in other.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(1)
    state, before = other.state_dict(), everything(module)
    # Without these torch, or this package, takes a state as one that was saved before they were.
    may_lack = ("configuration", "fingerprint", "num_batches_tracked")
    for damage, spoil in DAMAGE.items():
        for key in [key for key in state if not key.endswith(may_lack)]:
            wrong = dict(state)
            spoil(wrong, key)
            with pytest.raises(RuntimeError, match="Error"):
                module.load_state_dict(wrong)
            tensors, flags = everything(module)
            assert flags == before[1], (damage, key)
            assert all(torch.equal(tensors[name], tensor) for name, tensor in before[0].items())


def public_modules():
    """Every module class that a public package of relreps offers, adapters of others aside."""
    names = [info.name for info in pkgutil.walk_packages(relreps.__path__, "relreps.")]
    skipped = ("._", ".integrations")
    packages = [importlib.import_module(n) for n in names if not any(s in n for s in skipped)]
    offered = [getattr(p, name) for p in packages for name in getattr(p, "__all__", ())]
    classes = {c for c in offered if isinstance(c, type) and issubclass(c, nn.Module)}
    return {c for c in classes if not inspect.isabstract(c)}


def test_every_public_module_is_in_the_contract():
    public = public_modules()
    no_layers = {cls.__name__ for cls in public if cls.forward is nn.Module.forward}
    streams = {"CKA", "MinibatchCKA", "MomentStream", "Moments", "FeatureMoments", "EMAAnchors"}
    assert no_layers == streams
    losses = {cls for cls in public if cls.__name__.endswith("Loss")}  # one value a batch
    # The rows of the first are one input together (test_made.py), and the second is told between
    # which spaces at the call (test_generalized.py).
    of_sets = {relreps.ConvexAnchors, relreps.GeneralizedProcrustes}
    layers = {cls for cls in public - losses - of_sets if cls.__name__ not in no_layers}
    assert len(layers) > 30
    assert layers <= {
        cls for make in CASES.values() for part in make().modules() for cls in type(part).mro()
    }


class Careful(nn.Module):
    """Keeps every promise; each class below breaks one."""

    def __init__(self, fitted=True):
        super().__init__()
        self.register_buffer("weight", torch.full((D,), 2.0) if fitted else torch.zeros(D))

    def forward(self, x):
        return x * self.weight.to(x.dtype)

    def extra_repr(self):
        return str(D)


class Flat(Careful):
    def forward(self, x):
        return super().forward(x).reshape(-1, D)


class NotesSingleRows(Careful):
    def forward(self, x):
        return super().forward(x) + (x.dim() == 2 and x.shape[0] == 1)


class PadsNothing(Careful):
    def forward(self, x):
        return super().forward(x) if x.shape[0] else x.new_zeros(1, D)


class Widens(Careful):
    def forward(self, x):
        return super().forward(x).to(torch.promote_types(x.dtype, torch.float32))


class WrongGradient(Careful):
    def forward(self, x):
        return super().forward(2 * x.detach() - x)


class Divides(Careful):
    def forward(self, x):
        return super().forward(x) / x.norm(dim=-1, keepdim=True)


class Breaks(Careful):
    def forward(self, x):
        torch._dynamo.graph_break()
        return super().forward(x)


class KnowsTheBatch(Careful):
    def forward(self, x):
        return super().forward(x[:N] if x.shape[0] == N else x)


class StaysBehind(Careful):
    def __init__(self, fitted=True):
        super().__init__(fitted)
        self.offset = torch.ones(D, device="cpu")

    def forward(self, x):
        return super().forward(x) + self.offset.to(x.dtype)


class Forgets(Careful):
    def __init__(self, fitted=True):
        super().__init__(fitted)
        self.offset = float(fitted)

    def forward(self, x):
        return super().forward(x) + self.offset


class LooksAtConstruction(Careful):
    def __init__(self, fitted=True):
        super().__init__(fitted)
        self.size = float(self.weight.sum())


class Shares(Careful):
    def __init__(self, fitted=True):
        super().__init__(fitted)
        self.register_buffer("again", self.weight)


class HoldsAFunction(Careful):
    def __init__(self, fitted=True):
        super().__init__(fitted)
        self.function = lambda x: x


class WearsOut(Careful):
    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        self.weight.mul_(1.01)
        return self


class DislikesAutocast(Careful):
    def forward(self, x):
        return super().forward(x) + torch.is_autocast_enabled("cpu")


class WritesInPlace(Careful):
    def forward(self, x):
        out = torch.zeros(x.shape, dtype=x.dtype, device=x.device)
        return out.add_(super().forward(x))


class Anonymous(Careful):
    def __repr__(self):
        return ""


#: Check -> the module that breaks it, and the reason that is given.
BROKEN = {
    "leading_axes": (Flat, "shape"),
    "rows_are_independent": (NotesSingleRows, "not close"),
    "empty_batch": (PadsNothing, r"shape \(1, 8\), not \(0, 8\)"),
    "dtype_is_kept": (Widens, "torch.float16 in, torch.float32 out"),
    "gradients": (WrongGradient, "Jacobian mismatch"),
    "zero_row": (Divides, "output is not finite in torch.float16"),
    "compiles_in_one_graph": (Breaks, "graph_break"),
    "exports": (KnowsTheBatch, "batch"),
    "runs_on_meta": (StaysBehind, "meta"),
    "fresh_instance_loads": (Forgets, "not close"),
    "loads_onto_meta": (LooksAtConstruction, "meta"),
    "safetensors": (Shares, "share memory"),
    "copies": (HoldsAFunction, "pickle"),
    "moves": (WearsOut, "not close"),
    "autocast": (DislikesAutocast, "not close"),
    "transforms": (WritesInPlace, "output with shape"),
    "repr": (Anonymous, ""),
}

#: What a module that breaks the one promise cannot keep.
ALSO = {"leading_axes": ("transforms",), "fresh_instance_loads": ("loads_onto_meta", "safetensors")}


@pytest.mark.parametrize("check", CONTRACT)
def test_the_contract_can_fail(check):
    """Each check finds the module that breaks its promise, and says why, and spares a good one."""
    x = torch.randn(N, D, dtype=torch.float64)
    CONTRACT[check](Careful, x)
    broken, reason = BROKEN[check]
    with pytest.raises(AssertionError, match=rf"(?s)^{check} is not kept\..*\n.*{reason}"):
        CONTRACT[check](broken, x)
    for other in CONTRACT.keys() - {check, *ALSO.get(check, ())}:
        CONTRACT[other](broken, x)


@pytest.mark.parametrize("case", CASES)
def test_constructor_arguments_are_attributes_under_their_own_names(case):
    module = CASES[case]()
    parameters = inspect.signature(type(module)).parameters.values()
    named = {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    assert not {name for name in named if not hasattr(module, name)}
