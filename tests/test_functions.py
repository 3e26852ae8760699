"""What every public function of tensors promises, by construction: types, layouts, transforms."""

import inspect
import math

import pytest
import torch
from torch.utils._pytree import tree_leaves

import relreps
from relreps import anchors, correspondence, metrics, testing, topo_loss, translate
from tests._calls import CALLS, NO_CALL, public_functions

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
TWICE = [name for name, call in CALLS.items() if call.order == 2]
ONCE = [name for name, call in CALLS.items() if call.order == 1]
DIFFERENTIABLE = TWICE + ONCE
BATCHED = [name for name, call in CALLS.items() if call.batches]
UNBATCHED = [name for name, call in CALLS.items() if not call.batches and call.refuses]
REFUSING = [name for name, call in CALLS.items() if call.refuses]

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def leaves(result):
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor | float | int)]


def close(found, wanted, tolerance=1e-9):
    for a, b in zip(leaves(found), leaves(wanted), strict=True):
        a, b = torch.as_tensor(a, device="cpu"), torch.as_tensor(b, device="cpu")
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)


def given(name, dtype=torch.float64):
    return [x.to(dtype) for x in CALLS[name].inputs()]


def total(name):
    return lambda *inputs: CALLS[name].function(*inputs).sum()


def many(name):
    """Three inputs of a function, one after the other."""
    return [torch.stack([x, x.flip([*range(x.dim())]), 1.5 * x]) for x in given(name)]


def test_every_public_function_is_called():
    called = {name.partition(",")[0].rpartition(".")[2] for name in CALLS}
    public = public_functions().keys()
    assert len(public) > 70
    assert public == called | NO_CALL.keys()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", [name for name in CALLS if name != "outer"])  # a bare product
def test_autocast_changes_nothing(name, dtype):
    function, inputs = CALLS[name].function, given(name, dtype)
    usual = function(*inputs)
    for kind in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=kind):
            found = function(*inputs)
        close(found, usual, torch.finfo(dtype).eps)


@pytest.mark.parametrize("name", CALLS)
def test_the_default_type_and_device_change_nothing(name):
    """Every tensor that is made on the way says its type and its device."""
    function, inputs = CALLS[name].function, given(name, torch.float32)
    usual = function(*inputs)
    torch.set_default_dtype(torch.float64)
    try:
        close(function(*inputs), usual, 1e-6)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.set_default_device("meta")
    try:
        found = function(*inputs)
    finally:
        torch.set_default_device(None)
    close(found, usual, 1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", [name for name, call in CALLS.items() if call.half])
def test_half_types_are_computed_in_float32(name, dtype):
    inputs = given(name, dtype)
    found = CALLS[name].function(*inputs)
    wide = CALLS[name].function(*(x.float() for x in inputs))
    for a, b in zip(leaves(found), leaves(wide), strict=True):
        assert a.dtype in (dtype, b.dtype)
        error = (a.double() - b.double()).abs().max()
        assert error <= CALLS[name].half * max(1.0, float(b.abs().max()))


def spread(x):
    """The same numbers with others between them."""
    if not x.dim():
        return x
    return torch.stack((x, x + 1), -1).flatten(-2)[..., ::2]


LAYOUTS = {
    "spread": spread,
    "transposed": lambda x: x.mT.contiguous().mT if x.dim() > 1 else x,
    "with gradient": lambda x: x.clone().requires_grad_(),
    "part": lambda x: torch.cat((x, x))[len(x) :] if x.dim() else x,
    "negated view": lambda x: torch._neg_view(-x),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CALLS)
def test_another_layout_gives_the_same(name, layout):
    inputs = given(name)
    found = CALLS[name].function(*(LAYOUTS[layout](x) for x in inputs))
    close(found, CALLS[name].function(*inputs))


@pytest.mark.parametrize("name", CALLS)
def test_inference_mode_gives_the_same(name):
    inputs = given(name)
    with torch.inference_mode():
        found = CALLS[name].function(*inputs)
    close(found, CALLS[name].function(*inputs))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_by_torch_func_are_those_of_autograd(name):
    inputs = given(name)
    places = tuple(range(len(inputs)))
    leaf = [x.clone().requires_grad_() for x in inputs]
    wanted = torch.autograd.grad(total(name)(*leaf), leaf, materialize_grads=True)
    close(torch.func.grad(total(name), places)(*inputs), wanted)
    jacobians = torch.func.jacrev(CALLS[name].function, places)(*inputs)
    plain = torch.autograd.functional.jacobian(CALLS[name].function, tuple(inputs))
    close(jacobians, plain)


@pytest.mark.parametrize("name", BATCHED)
def test_vmap_is_a_loop(name):
    inputs = many(name)
    close(
        torch.vmap(CALLS[name].function)(*inputs),
        torch.stack([CALLS[name].function(*each) for each in zip(*inputs, strict=True)]),
    )


@pytest.mark.parametrize("name", [name for name in BATCHED if name in DIFFERENTIABLE])
def test_vmap_of_gradients_is_a_loop(name):
    inputs = many(name)
    slopes = torch.func.grad(total(name), tuple(range(len(inputs))))
    looped = [slopes(*each) for each in zip(*inputs, strict=True)]
    wanted = [torch.stack(parts) for parts in zip(*looped, strict=True)]
    close(torch.vmap(slopes)(*inputs), wanted)


@pytest.mark.parametrize("name", UNBATCHED)
def test_what_looks_at_values_says_so_under_vmap(name):
    with pytest.raises(RuntimeError, match=r"^`\w+` must have values .* `torch.vmap` hides\. Loop"):
        torch.vmap(CALLS[name].function)(*many(name))


@pytest.mark.parametrize("name", [name for name in TWICE if not CALLS[name].held])
def test_second_derivatives(name):
    inputs = [x.requires_grad_() for x in given(name)]
    assert torch.autograd.gradgradcheck(CALLS[name].function, inputs, fast_mode=True)


@pytest.mark.parametrize("name", [name for name in TWICE if CALLS[name].held])
def test_second_derivatives_with_a_part_that_is_constant(name):
    """The gradient is not that of the value, of which a part is held; but it has one."""
    hessians = torch.autograd.functional.hessian(total(name), tuple(given(name)))
    assert all(part.isfinite().all() for row in hessians for part in row)
    assert max(part.abs().max() for row in hessians for part in row) > 0


@pytest.mark.parametrize("name", ONCE)
def test_what_has_no_second_derivative_says_so(name):
    inputs = [x.requires_grad_() for x in given(name)]
    slopes = torch.autograd.grad(total(name)(*inputs), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match=r"^\w+ has no second derivative\. Leave it out"):
        sum(slope.square().sum() for slope in slopes).backward()


class Frame:
    """A stand-in for a table of another package."""

    def __init__(self, x):
        self.x = x

    def to_numpy(self):
        return self.x.numpy()


class Output:
    """A stand-in for what a network of another package returns."""

    def __init__(self, x):
        self.last_hidden_state = x[None]


#: What is given for a tensor, and what its refusal has to say.
KINDS = {
    "complex": (lambda x: torch.complex(x, x), r"torch\.view_as_real\(\w+\)"),
    "numpy": (lambda x: x.numpy(), r"torch\.from_numpy\(\w+\)"),
    "frame": (Frame, r"torch\.from_numpy\(\w+\.to_numpy\(\)\)"),
    "list": (lambda x: x.tolist(), r"torch\.tensor\(\w+\)"),
    "list of tensors": (lambda x: [*x], r"`torch\.stack` or `torch\.cat`"),
    "network output": (Output, r"\.last_hidden_state"),
    "integers": (lambda x: x.long(), r"Indices select vectors .*`\.float\(\)`"),
    "bools": (lambda x: x > 0, r"`\.float\(\)`"),
    "sparse": (lambda x: x.to_sparse(), r"`\.to_dense\(\)`"),
    "quantized": (
        lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8),
        r"`\.dequantize\(\)`",
    ),
    "float8": (lambda x: x.to(torch.float8_e4m3fn), r"`\.float\(\)`"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", REFUSING)
def test_other_kinds_of_input_are_refused_with_the_cure(name, kind):
    make, cure = KINDS[kind]
    for place, x in enumerate(given(name)):
        inputs = given(name)
        inputs[place] = make(x)
        with pytest.raises(TypeError, match=rf"^`\w+` must be a .*, got .*{cure}"):
            CALLS[name].function(*inputs)


@pytest.mark.parametrize("name", [n for n in REFUSING if len(CALLS[n].inputs()) > 1])
def test_two_devices_are_refused(name):
    for place in range(len(given(name))):
        inputs = given(name)
        inputs[place] = inputs[place].to("meta")
        with pytest.raises(ValueError, match=r"on one device, got|values to be looked at"):
            CALLS[name].function(*inputs)


#: Calls that draw, without their generator.
X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
SEEDS, LABELS = (torch.arange(9),) * 2, torch.arange(40) % 4
DRAWS = {
    "cluster_labels": lambda g: anchors.cluster_labels(X, 3, generator=g),
    **{
        name: lambda g, name=name: getattr(anchors, name)(5, generator=g)(X, LABELS)
        for name in (
            *("FarthestAnchors", "KMeansAnchors", "LeverageAnchors"),
            *("StratifiedAnchors", "UniformAnchors"),
        )
    },
    "ClusterAnchors": lambda g: anchors.ClusterAnchors(5, 3, generator=g)(X),
    "TopKAnchors": lambda g: anchors.TopKAnchors(5, X[:, 0], 9, generator=g)(X),
    "discover_parallel_anchors": lambda g: correspondence.discover_parallel_anchors(
        X, X.flip(1), SEEDS, 12, generator=g
    ),
    "discover_parallel_anchors_unsupervised": lambda g: (
        correspondence.discover_parallel_anchors_unsupervised(
            X, X.flip(1), 9, num_clusters=3, num_starts=1, generator=g
        )
    ),
    "death_time_quantiles": lambda g: topo_loss.death_time_quantiles(
        X, samples_per_class=9, generator=g
    ),
    "permutation_test": lambda g: metrics.permutation_test(
        metrics.linear_cka, X, X.flip(1), num_permutations=2, generator=g
    ),
    "translation_report": lambda g: translate.translation_report(
        relreps.ProcrustesTranslator(4, 4), X, X.flip(1), generator=g
    ),
    "TransportTranslator": lambda g: relreps.TransportTranslator(4, 4, num_clusters=3).fit(
        X, X.flip(1), generator=g
    ),
    "InverseRelativeTranslator": lambda g: relreps.InverseRelativeTranslator(4, 4, 40).fit(
        X, X.flip(1), generator=g
    ),
    "SGDAffineTranslator": lambda g: relreps.parity.SGDAffineTranslator(4, 4, max_iterations=1).fit(
        X, X, generator=g
    ),
    "random_transformation": lambda g: testing.random_transformation("rotation", 4, generator=g),
    "intertwiner": lambda g: testing.intertwiner("relu", 4, generator=g),
    "deviation": lambda g: testing.deviation(
        relreps.relative_projection, "rotation", X, X[:5], generator=g
    ),
    "assert_invariant": lambda g: testing.assert_invariant(
        relreps.relative_projection, "rotation", X, X[:5], generator=g
    ),
    "assert_not_invariant": lambda g: testing.assert_not_invariant(
        relreps.relative_projection, "translation", X, X[:5], generator=g
    ),
}


def takes_generator(member):
    parts = [member, getattr(member, "fit", None)]
    functions = [part for part in parts if inspect.isroutine(part) or inspect.isclass(part)]
    if issubclass(getattr(member, "__class__", type), type) and issubclass(member, Warning):
        return False  # of Python itself, without a signature
    return any("generator" in inspect.signature(part).parameters for part in functions)


def test_every_draw_is_listed():
    modules = relreps, anchors, correspondence, metrics, testing, topo_loss, translate
    members = {name: getattr(m, name) for m in (*modules, relreps.parity) for name in m.__all__}
    drawing = {
        name
        for name, member in members.items()
        if callable(member) and not inspect.isabstract(member) and takes_generator(member)
    }
    assert drawing == DRAWS.keys()


@pytest.mark.parametrize("name", DRAWS)
def test_a_seed_is_no_generator(name):
    with pytest.raises(TypeError, match=r"^`generator` must be .*got int\. A seed makes one"):
        DRAWS[name](3)


@pytest.mark.parametrize("name", [n for n in DRAWS if "Translator" not in n and "report" not in n])
def test_draws_are_the_same_whatever_the_default_device(name):
    """Buffers of a translator go where the default device is: those are left out."""
    usual = DRAWS[name](torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    torch.set_default_device("meta")
    try:
        found = DRAWS[name](generator)
    finally:
        torch.set_default_device(None)
    close(found, usual, 1e-6)


def test_the_gradient_of_a_similarity_that_torch_gets_wrong():
    """Torch's rule for the Jacobian of `cdist` forgets that weights alone may be many."""
    x, rows = torch.randn(5, 3).double(), torch.randn(4, 3).double()
    for p, name in ((1.0, "l1"), (math.inf, "linf")):
        wanted = torch.autograd.functional.jacobian(lambda x, p=p: torch.cdist(x, rows, p), x)
        found = torch.func.jacrev(lambda x, n=name: relreps.relative_projection(x, rows, n))(x)
        close(found, wanted)
