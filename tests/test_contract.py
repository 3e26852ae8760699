"""Every public module keeps every promise of the contract. A new class joins by one line."""

import pytest
import torch
from torch import nn

import relreps
from relreps.testing import CONTRACT

N, D, A = 7, 8, 5


def anchors():
    return torch.randn(A, D, generator=torch.Generator().manual_seed(1), device="cpu")


def wide_anchors():
    return torch.randn(3 * D, D, generator=torch.Generator().manual_seed(1))


def projection(similarity, pre=None, post=None):
    def make(fitted=True):
        module = relreps.RelativeProjection(
            D, A, similarity, pre=pre and pre(), post=post and post()
        )
        return module.set_anchors(anchors()) if fitted else module

    return make


def normalizer(cls):
    def make(fitted=True):
        module = cls(D)
        return module.fit(wide_anchors()) if fitted else module

    return make


def translator(out_features, **options):
    def make(fitted=True):
        module = relreps.ProcrustesTranslator(D, out_features, **options)
        x = wide_anchors()
        y = torch.randn(len(x), out_features, generator=torch.Generator().manual_seed(2))
        return module.fit(x, y) if fitted else module

    return make


def paired(cls, *arguments, out_features=5, **options):
    def make(fitted=True):
        torch.manual_seed(8)
        module = cls(D, out_features, *arguments, **options)
        return module.fit(torch.randn(24, D), torch.randn(24, out_features)) if fitted else module

    return make


def seeded(cls, **options):
    def make(fitted=True):
        torch.manual_seed(9)
        module = cls(D, D + 3, **options)
        x = torch.randn(60, D)
        seeds = torch.arange(20, device="cpu"), torch.arange(20, device="cpu")
        return module.fit(x, nn.functional.pad(x, (1, 2)) + 1, seeds) if fitted else module

    return make


def encoder(fitted=True):
    torch.manual_seed(3)
    module = relreps.RelativeEncoder(
        nn.Linear(D, 6), relreps.RelativeProjection(6, A), anchors().cpu()
    ).eval()
    return module.refresh() if fitted else module


def stitched(fitted=True):
    torch.manual_seed(4)
    translator = relreps.ProcrustesTranslator(6, 4)
    if fitted:
        translator.fit(torch.randn(20, 6), torch.randn(20, 4))
    return relreps.StitchedModel(nn.Linear(D, 6), nn.Linear(4, 3), translator)


def subspaces(fitted=True):
    module = relreps.SubspaceProjection(D, A, 2)
    return module.set_anchors(anchors()) if fitted else module


def product(aggregation, **options):
    def make(fitted=True):
        torch.manual_seed(5)
        parts = [relreps.RelativeProjection(D, A, name) for name in ("cosine", "l1", "euclidean")]
        module = relreps.ProductProjection(parts, aggregation, **options)
        return module.set_anchors(anchors()) if fitted else module

    return make


class SparseValues(relreps.SparseRelativeProjection):
    """The fixed-shape form of the sparse code; CSR output is no strided tensor."""

    def forward(self, x):
        return self.topk(x).values


def sparse(fitted=True):
    module = SparseValues(D, 3 * D, 4, chunk_size=7)
    return module.set_anchors(wide_anchors()) if fitted else module


def basis(ridge=0.0):
    def make(fitted=True):
        module = relreps.RelativeProjection(D, 3 * D, relreps.similarity.Basis(ridge=ridge))
        return module.set_anchors(wide_anchors()) if fitted else module

    return make


def frame(fitted=True):
    module = relreps.ParsevalFrame(D, 3 * D)
    return module.set_anchors(wide_anchors()) if fitted else module


def geodesic(metric):
    def make(fitted=True):
        torch.manual_seed(6)
        decoder = nn.Sequential(nn.Linear(D, 4), nn.Tanh(), nn.Linear(4, 3))
        module = relreps.RelativeProjection(D, A, relreps.RelativeGeodesic(decoder, 3, metric))
        return module.set_anchors(anchors()) if fitted else module

    return make


def graph(fitted=True):
    module = relreps.RelativeProjection(D, A, relreps.GraphGeodesic(wide_anchors(), k=4))
    return module.set_anchors(anchors()) if fitted else module


def attention(trainable):
    def make(fitted=True):
        torch.manual_seed(7)
        if trainable:
            return relreps.AnchorAttention(D, 3)
        if fitted:
            return relreps.AnchorAttention.from_values(torch.randn(D, 3))
        return relreps.AnchorAttention(D, 3, trainable=False)

    return make


def chain(fitted=True):
    module = relreps.NormalizerChain(relreps.Whiten(D), relreps.IsotropicScale(D))
    return module.fit(wide_anchors()) if fitted else module


def running(fitted=True):
    module = relreps.parity.RunningRelativeProjection(D, A).eval()
    return module.set_anchors(anchors()) if fitted else module


CASES = {
    "cosine": projection("cosine"),
    "inner": projection("inner"),
    "euclidean": projection("euclidean"),
    "callable": projection(relreps.similarity.inner),
    "cosine-center": projection("cosine", lambda: relreps.Center(D)),
    "cosine-standard": projection("cosine", lambda: relreps.StandardScale(D)),
    "cosine-unit": projection("cosine", relreps.UnitNorm),
    "euclidean-center-post": projection(
        "euclidean", lambda: relreps.Center(D), lambda: nn.LayerNorm(A)
    ),
    "Center": normalizer(relreps.Center),
    "StandardScale": normalizer(relreps.StandardScale),
    "UnitNorm": lambda fitted=True: relreps.UnitNorm(),
    "Procrustes": translator(D),
    "Procrustes-narrower": translator(5, scale="norm", pre="standard"),
    "Procrustes-wider": translator(11, scale="umeyama", pre="unit"),
    "Procrustes-rotation": translator(D, allow_reflection=False, pre=None),
    "LinearTranslator": paired(relreps.LinearTranslator, pre="unit"),
    "AffineTranslator": paired(relreps.AffineTranslator, ridge="gcv", pre="standard"),
    "ProcrustesRidgeTranslator": paired(relreps.translate.ProcrustesRidgeTranslator),
    "ReducedRankTranslator": paired(relreps.translate.ReducedRankTranslator, 2),
    "LOrthoTranslator": paired(relreps.LOrthoTranslator),
    "SGDAffineTranslator": paired(relreps.parity.SGDAffineTranslator, max_iterations=3),
    "CCATranslator": paired(relreps.CCATranslator, max_rank=3),
    "WhitenedTranslator": paired(relreps.translate.WhitenedTranslator),
    "InverseRelativeTranslator": paired(relreps.InverseRelativeTranslator, 24, ridge=0.1),
    "InverseRelative-source": paired(relreps.InverseRelativeTranslator, 24, rescale="source"),
    "PermutationTranslator": paired(relreps.translate.PermutationTranslator, signed=True),
    "RCSLSTranslator": paired(relreps.translate.RCSLSTranslator, k=3, steps=3),
    "RefinedProcrustesTranslator": seeded(relreps.RefinedProcrustesTranslator),
    "TransportTranslator": seeded(relreps.TransportTranslator),
    "FunctionalMapTranslator": seeded(relreps.FunctionalMapTranslator, num_functions=30, k=9),
    "RelativeEncoder": encoder,
    "StitchedModel": stitched,
    "angular": projection("angular"),
    "l1": projection("l1"),
    "linf": projection("linf"),
    "rescaled": projection(relreps.similarity.Rescaled("euclidean")),
    "basis": basis(),
    "basis-ridge": basis(ridge=0.1),
    "cosine-isotropic": projection("cosine", lambda: relreps.IsotropicScale(D)),
    "cosine-whiten": projection("cosine", lambda: relreps.Whiten(D, shrinkage=0.3)),
    "IsotropicScale": normalizer(relreps.IsotropicScale),
    "Whiten": normalizer(relreps.Whiten),
    "NormalizerChain": chain,
    "RunningRelativeProjection": running,
    "ParsevalFrame": frame,
    "SubspaceProjection": subspaces,
    "ProductProjection-concat": product("concat"),
    "ProductProjection-sum": product("sum"),
    "ProductProjection-mlp": product("mlp", out_features=6),
    "ProductProjection-attention": product("attention", out_features=6),
    "SparseRelativeProjection": sparse,
    "GraphGeodesic": graph,
    "RelativeGeodesic-euclidean": geodesic("euclidean"),
    "RelativeGeodesic-spherical": geodesic("spherical"),
    "RelativeGeodesic-fisher": geodesic("fisher"),
    "Quantize-smooth": lambda fitted=True: relreps.Quantize(0.5, "smooth"),
    "StratifiedMean": lambda fitted=True: relreps.StratifiedMean(torch.arange(D, device="cpu") % 3),
    "AnchorAttention": attention(True),
    "AnchorAttention-values": attention(False),
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


def test_every_public_module_is_in_the_contract():
    without_forward = {
        relreps.Moments,
        relreps.moments.FeatureMoments,
        relreps.EMAAnchors,
        relreps.GeneralizedProcrustes,  # its maps are between any two spaces, named at the call
    }
    of_sets = {relreps.ConvexAnchors}  # its rows are one input together: see test_made_anchors.py
    public = {
        value
        for value in vars(relreps).values()
        if isinstance(value, type) and issubclass(value, nn.Module)
    }
    losses = {cls for cls in public if cls.__name__.endswith("Loss")}  # one value a batch
    tested = {
        cls for make in CASES.values() for part in make().modules() for cls in type(part).mro()
    }
    assert public - without_forward - of_sets - losses <= tested


@pytest.mark.parametrize("check", CONTRACT)
def test_the_contract_can_fail(check):
    """A module that breaks every promise at once is caught by every check."""

    class Careless(nn.Module):
        def __init__(self, fitted=True):
            super().__init__()
            self.offset = torch.randn(N, 1)
            self.scale = nn.Parameter(torch.randn(D))

        def forward(self, x):
            if float(x.float().norm()) < 0 or torch.is_autocast_enabled("cpu"):
                return torch.zeros_like(x)
            y = (x.float() * self.scale.float() + self.offset) / x.float().norm(
                dim=-1, keepdim=True
            )
            return y.float().round()

        def __reduce__(self):
            return (Careless, ())

        def __deepcopy__(self, memo):
            return Careless()

        def __repr__(self):
            return ""

    with pytest.raises(Exception):  # noqa: B017, PT011
        CONTRACT[check](Careless, torch.randn(N, D, dtype=torch.float64))
