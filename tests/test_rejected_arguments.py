"""Every rejected argument: a clear error, before anything is touched."""

import random
import re

import pytest
from by_hand import NAMES

import rngscope
from rngscope import (
    RNGState,
    RNGStream,
    assert_rng_unchanged,
    derive_seed,
    rng_scope,
    seed_all,
    seeded,
)


def named(value):
    """Return a name of a parameter that is the same in every process, as xdist wants it."""
    return re.sub(" (at |from .*)?0x[0-9A-Fa-f]+", "", repr(value))[:40]


class Unindexable:
    """An object whose ``__index__`` fails."""

    def __index__(self):
        raise OverflowError("no")


class Misindexed:
    """An object whose ``__index__`` returns no integer."""

    def __index__(self):
        return "42"


def libraries():
    """Return numpy and torch, or None for one that is not there."""
    modules = []
    for name in ("numpy", "torch"):
        modules.append(__import__(name) if name in NAMES else None)
    return modules


np, torch = libraries()


def check_message(error, *culprits):
    """Check the form of style: lower case, one line, the culprit by value or by type.

    It is raised by rngscope itself, and not while another error is handled.
    """
    text = str(error)
    assert text and (text[0].islower() or text[0] == "@"), text
    assert "\n" not in text and (text.endswith("...") or text[-1] != "."), text
    assert len(text) < 400, text
    for culprit in culprits:
        assert culprit in text
    frame = error.__traceback__
    while frame.tb_next is not None:
        frame = frame.tb_next
    assert frame.tb_frame.f_globals["__name__"].startswith("rngscope"), text
    assert error.__context__ is None or error.__suppress_context__


def raised(call):
    """Return the TypeError or ValueError that a call raises."""
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    return caught.value


def refused(kind, call, *culprits):
    """Check that a call raises ``kind`` with a message in good form."""
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    check_message(caught.value, *culprits)


# Seeds ------------------------------------------------------------------------------------

WRONG_TYPES = [
    (True, "bool"),
    (False, "bool"),
    (1.0, "float"),
    (float("nan"), "float"),
    (1j, "complex"),
    ("42", "str"),
    (b"42", "bytes"),
    (bytearray(b"42"), "bytearray"),
    ([42], "list"),
    ((42,), "tuple"),
    ({42}, "set"),
    ({42: 42}, "dict"),
    (range(1), "range"),
    (object(), "object"),
    (int, "type"),
    (random.Random(1), "Random"),
    (Unindexable(), "Unindexable"),
    (Misindexed(), "Misindexed"),
]
if np is not None:
    WRONG_TYPES += [
        (np.bool_(True), "bool"),
        (np.array(True), "ndarray"),
        (np.array([1]), "ndarray of shape (1,)"),
        (np.array([1, 2]), "ndarray of shape (2,)"),
        (np.array([[1]]), "ndarray of shape (1, 1)"),
        (np.zeros(0, dtype=int), "ndarray of shape (0,)"),
        (np.array(1.0), "ndarray"),
        (np.array("1"), "ndarray"),
        (np.array(None), "ndarray"),
        (np.float32(1), "float32"),
        (np.datetime64("2020"), "datetime64"),
        (np.random.RandomState(1), "RandomState"),
    ]
if torch is not None:
    WRONG_TYPES += [
        (torch.tensor(True), "Tensor"),
        (torch.tensor([1]), "Tensor of shape (1,)"),
        (torch.tensor([True]), "Tensor of shape (1,)"),
        (torch.tensor([[1]]), "Tensor of shape (1, 1)"),
        (torch.tensor(1.0), "Tensor"),
        (torch.tensor(1j), "Tensor"),
        (torch.tensor(1, device="meta"), "Tensor"),
        (torch.nn.Parameter(torch.tensor(1.0)), "Parameter"),
        (torch.Generator(), "Generator"),
    ]
OUT_OF_RANGE = [-1, -(2**63), 2**64, 2**64 + 42, 10**30]
if np is not None:
    OUT_OF_RANGE += [np.int64(-1)]
if torch is not None:
    OUT_OF_RANGE += [torch.tensor(-1)]

TAKES_A_SEED = {
    "rng_scope": rng_scope,
    "seeded": seeded,
    "seed_all": seed_all,
    "derive_seed": derive_seed,
    "RNGStream": RNGStream,
}
each_seed_taker = pytest.mark.parametrize("name", TAKES_A_SEED)


@each_seed_taker
@pytest.mark.parametrize("seed, type_name", WRONG_TYPES, ids=named)
def test_a_seed_of_the_wrong_type_is_a_type_error_that_names_it(name, seed, type_name, unchanged):
    """Nothing but integers is a seed, and a bool is no integer."""
    before = unchanged()
    # @seeded without parentheses has an error of its own.
    is_bare = name == "seeded" and callable(seed)
    culprit = "@seeded(42)" if is_bare else f"not {type_name}"
    refused(TypeError, lambda: TAKES_A_SEED[name](seed), culprit)
    assert unchanged() == before


@each_seed_taker
@pytest.mark.parametrize(
    "text, way_out",
    [
        ("dropout", "for a seed from a name, write derive_seed(0, 'dropout')"),
        ("a b", "derive_seed(0, 'a b')"),
        ("", "derive_seed(0, '')"),
        ("1.5", "derive_seed(0, '1.5')"),
        ("-1", "derive_seed(0, '-1')"),
        ("42", "write int('42')"),
        (" 42\n", "write int(' 42\\n')"),
    ],
)
def test_a_str_seed_shows_how_to_make_a_seed_of_it(name, text, way_out, unchanged):
    """A name has derive_seed, and digits, from a command line for one, have int."""
    refused(TypeError, lambda: TAKES_A_SEED[name](text), f"not str: {text!r}; ", way_out)
    assert "derive_seed" not in str(raised(lambda: TAKES_A_SEED[name](b"42")))


def test_what_a_str_seed_shows_is_right(unchanged):
    """A way out is one only if it works."""
    for way_out in re.findall("write (.*)", str(raised(lambda: rng_scope("dropout")))):
        assert rng_scope(eval(way_out)).seed == derive_seed(0, "dropout")
    for way_out in re.findall("write (.*)", str(raised(lambda: rng_scope(" 42\n")))):
        assert rng_scope(eval(way_out)).seed == 42


@each_seed_taker
@pytest.mark.parametrize("seed", OUT_OF_RANGE, ids=named)
def test_a_seed_out_of_range_is_a_value_error_that_names_it(name, seed, unchanged):
    """Seeds are in [0, 2**64): the value and the range are in the message."""
    before = unchanged()
    call = TAKES_A_SEED[name]
    refused(ValueError, lambda: call(seed), f"seed {int(seed)}", "0 <= seed < 2**64")
    assert unchanged() == before


@pytest.mark.parametrize("name", ["seed_all", "derive_seed", "RNGStream"])
def test_none_is_no_seed_where_there_is_nothing_to_preserve(name, unchanged):
    """Only a scope can preserve."""
    refused(TypeError, lambda: TAKES_A_SEED[name](None), "not NoneType")


@pytest.mark.parametrize("name", ["seed_all", "derive_seed", "RNGStream"])
def test_a_state_is_no_seed_where_nothing_can_be_replayed(name, unchanged):
    """Only a scope can replay."""
    refused(TypeError, lambda: TAKES_A_SEED[name](RNGState.capture()), "not RNGState")


# Sources, devices, generators, switches ---------------------------------------------------

TAKES_SOURCES = {
    "rng_scope": lambda **options: rng_scope(42, **options),
    "seeded": lambda **options: seeded(42, **options),
    "seed_all": lambda **options: seed_all(42, **options),
    "RNGStream": lambda **options: RNGStream(42, **options),
    "capture": RNGState.capture,
    "assert_rng_unchanged": assert_rng_unchanged,
}
each_source_taker = pytest.mark.parametrize("name", TAKES_SOURCES)
ALL_NAMES = "'python', 'numpy', 'torch', 'cuda', 'xpu', 'mps', 'mtia'"


@each_source_taker
@pytest.mark.parametrize("unknown", ["jax", "Torch", "", "random", "cuda:0", "generators[0]"])
def test_an_unknown_source_is_a_value_error_that_lists_the_choices(name, unknown, unchanged):
    """Also when it stands behind a known one."""
    call = TAKES_SOURCES[name]
    for sources in ([unknown], ("python", unknown)):
        refused(
            ValueError,
            lambda sources=sources: call(sources=sources),
            f"unknown source {unknown!r}; choose from {ALL_NAMES}",
        )


@each_source_taker
def test_a_plain_str_of_sources_shows_the_list_to_write(name, unchanged):
    """A str is an iterable of letters, and never what was meant."""
    call = TAKES_SOURCES[name]
    refused(TypeError, lambda: call(sources="torch"), "sources=['torch']")


@each_source_taker
@pytest.mark.parametrize("sources", [b"torch", 42, True, [None], [1], [["torch"]], [b"torch"]])
def test_sources_of_the_wrong_type_are_a_type_error(name, sources, unchanged):
    """Sources are names in a list."""
    call = TAKES_SOURCES[name]
    refused(TypeError, lambda: call(sources=sources), "sources must be a list of names")
    if not isinstance(sources, (list, bytes)):
        refused(TypeError, lambda: call(sources=sources), "write sources=['torch']")


@each_source_taker
@pytest.mark.parametrize("devices", ["cuda", "cuda:0", b"0", 0, True, 1.5, object()], ids=named)
def test_devices_that_are_no_list_are_a_type_error(name, devices, unchanged):
    """Devices are ints or torch.device in a list."""
    call = TAKES_SOURCES[name]
    refused(TypeError, lambda: call(devices=devices), "devices must be a list", repr(devices))


DEVICES_TO_WRITE = [
    ("cuda:0", "devices=[torch.device('cuda:0')]"),
    ("cuda", "devices=[torch.device('cuda')]"),
    ("cpu", "devices=[]"),
    ("0", "devices=[0]"),
    ("a device", "devices=[0]"),
    (0, "devices=[0]"),
    (3, "devices=[3]"),
    (-1, "devices=[0]"),
    (True, "devices=[0]"),
]
if np is not None:
    DEVICES_TO_WRITE += [(np.int64(0), "devices=[0]"), (np.array(0), "devices=[0]")]
if torch is not None:
    DEVICES_TO_WRITE += [
        (torch.device("cuda", 1), "devices=[torch.device('cuda:1')]"),
        (torch.device("cpu"), "devices=[]"),
        (torch.tensor(0), "devices=[0]"),
    ]


@each_source_taker
@pytest.mark.parametrize("devices, way_out", DEVICES_TO_WRITE, ids=named)
def test_a_single_device_shows_the_list_to_write(name, devices, way_out, unchanged):
    """The list holds what was given, where that can be told."""
    call = TAKES_SOURCES[name]
    refused(TypeError, lambda: call(devices=devices), "devices must be a list", f"write {way_out}")
    if torch is not None and name != "seed_all":
        call(devices=eval(way_out.partition("=")[2], {"torch": torch}))


@each_source_taker
@pytest.mark.parametrize(
    "device, way_out",
    [
        ("cuda:1", "torch.device('cuda:1')"),
        ("cuda", "torch.device('cuda')"),
        ("0", "write 0"),
        *((device, "write 0 or torch.device('cuda', 0)") for device in [1.0, True, None, [0]]),
        ("cpu", "write 0 or torch.device('cuda', 0)"),
        (b"0", "write 0 or torch.device('cuda', 0)"),
    ],
)
def test_a_device_of_the_wrong_type_is_a_type_error(name, device, way_out, unchanged):
    """Also when it stands behind a good one; a bool is no index."""
    call = TAKES_SOURCES[name]
    for devices in ([device], [0, device]):
        refused(
            TypeError,
            lambda devices=devices: call(devices=devices),
            f"not {device!r}",
            way_out,
        )


@each_source_taker
def test_a_negative_device_is_a_value_error(name, unchanged):
    """Devices are counted from 0."""
    call = TAKES_SOURCES[name]
    refused(ValueError, lambda: call(devices=[0, -1]), "device -1 is negative")


@each_source_taker
@pytest.mark.parametrize("device", ["cpu", "meta", "cuda:0"])
def test_a_torch_device_that_is_not_covered_is_a_value_error(name, device, unchanged):
    """The CPU is no accelerator, and a device of another source is a mistake."""
    if torch is None:
        pytest.skip("needs torch")
    call = TAKES_SOURCES[name]
    sources = ["python", "torch", "xpu"]
    refused(
        ValueError,
        lambda: call(sources=sources, devices=[torch.device(device)]),
        f"device {device!r}",
    )


TAKES_GENERATORS = {
    name: call
    for name, call in TAKES_SOURCES.items()
    if name not in ("seed_all", "assert_rng_unchanged")
}
WRONG_GENERATORS = [42, None, "random", random, random.Random, object(), [random.Random(1)]]
if np is not None:
    WRONG_GENERATORS += [np.random, np.random.PCG64(1), np.random.SeedSequence(1)]
if torch is not None:
    WRONG_GENERATORS += [torch, torch.Generator]


@pytest.mark.parametrize("name", TAKES_GENERATORS)
@pytest.mark.parametrize("generator", WRONG_GENERATORS, ids=named)
def test_what_is_no_generator_is_a_type_error_that_lists_the_kinds(name, generator, unchanged):
    """Also when it stands behind a good one."""
    call = TAKES_GENERATORS[name]
    for generators in ([generator], [random.Random(1), generator]):
        refused(
            TypeError,
            lambda generators=generators: call(generators=generators),
            "torch.Generator, numpy.random.Generator, numpy.random.RandomState, random.Random",
            f"not {type(generator).__name__}",
        )


@pytest.mark.parametrize("name", TAKES_GENERATORS)
def test_a_system_random_is_refused_since_it_has_no_state(name, unchanged):
    """It is a random.Random by class only."""
    call = TAKES_GENERATORS[name]
    refused(TypeError, lambda: call(generators=[random.SystemRandom()]), "SystemRandom", "no state")


WRONG_LISTS = [42, False, "random", b"random", random.Random(1), object()]
if np is not None:
    WRONG_LISTS += [np.random.RandomState(1), np.random.default_rng(1), np.array(1)]
if torch is not None:
    WRONG_LISTS += [torch.Generator(), torch.tensor(1)]


@pytest.mark.parametrize("name", TAKES_GENERATORS)
@pytest.mark.parametrize("generators", WRONG_LISTS, ids=named)
def test_generators_that_are_no_list_are_a_type_error(name, generators, unchanged):
    """One generator is written generators=[generator]."""
    call = TAKES_GENERATORS[name]
    refused(
        TypeError,
        lambda: call(generators=generators),
        "generators must be a list",
        "write generators=[generator]",
    )


@pytest.mark.parametrize("name", TAKES_GENERATORS)
def test_none_is_no_generators(name, unchanged):
    """As an optional argument is passed on, and as with sources and devices."""
    call = TAKES_GENERATORS[name]
    call(generators=None, devices=None, sources=None)
    state = RNGState.capture()
    state.restore(generators=None)
    with rng_scope(42, generators=None, deterministic=False) as scope:
        assert random.random() == random.Random(42).random()
    assert scope._plan.is_simple and scope._plan.sources is rng_scope(42)._plan.sources


def test_an_array_of_generators_is_judged_by_what_it_holds(unchanged):
    """NumPy's own comparison must not come between."""
    if np is None:
        pytest.skip("needs numpy")
    refused(TypeError, lambda: rng_scope(42, generators=np.array([1, 2])), "generators must hold")
    own = random.Random(1)
    before = own.getstate()
    with rng_scope(42, generators=np.array([own, own], dtype=object)):
        assert own.random() == random.Random(42).random()
    assert own.getstate() == before


@pytest.mark.parametrize("name", ["rng_scope", "seeded", "RNGStream", "seed_all"])
@pytest.mark.parametrize("value", [1, 0, "yes", None, []])
def test_independent_is_true_or_false(name, value, unchanged):
    """A switch is a bool: independent='no' is a mistake."""
    call = TAKES_SOURCES[name]
    refused(TypeError, lambda: call(independent=value), f"not {value!r}")


@pytest.mark.parametrize("name", ["rng_scope", "seeded", "RNGStream"])
@pytest.mark.parametrize("value", [1, 0, "yes", None, []])
def test_deterministic_is_true_or_false(name, value, unchanged):
    """A switch is a bool: deterministic='no' is a mistake."""
    call = TAKES_SOURCES[name]
    refused(TypeError, lambda: call(deterministic=value), f"not {value!r}")


@pytest.mark.parametrize(
    "call",
    [
        lambda: rng_scope(42, ["python"]),
        lambda: seeded(42, lambda: 1),
        lambda: seed_all(42, ["python"]),
        lambda: RNGState.capture(["python"]),
        lambda: RNGStream(42, ["python"]),
        lambda: assert_rng_unchanged(["python"]),
        lambda: rng_scope(42, source=["python"]),
    ],
)
def test_options_are_given_by_name(call, unchanged):
    """Only the seed has a place."""
    with pytest.raises(TypeError):
        call()


# The decorator ----------------------------------------------------------------------------


def test_seeded_without_parentheses_says_how_to_write_it(unchanged):
    """Otherwise the function would disappear silently."""

    def body():
        pass

    for decorated in (body, staticmethod(body), classmethod(body), type("C", (), {})):
        refused(TypeError, lambda decorated=decorated: seeded(decorated), "@seeded(42)")


@pytest.mark.parametrize("seed_from", [42, "name", [int], b""])
def test_seed_from_is_callable_and_stands_alone(seed_from, unchanged):
    """Both seeds at once have no meaning."""
    refused(TypeError, lambda: seeded(seed_from=seed_from), "seed_from", repr(seed_from))
    refused(TypeError, lambda: seeded(42, seed_from=int), "either seed or seed_from", "seed=42")


@pytest.mark.parametrize("seed", [True, -1, 2**64, 1.5, "42", [42]], ids=named)
def test_a_bad_seed_from_touches_nothing(seed, unchanged):
    """It is checked as a seed is, before the call begins."""
    called = []

    @seeded(seed_from=lambda: seed)
    def body():
        called.append(True)

    refused((ValueError if type(seed) is int else TypeError), body, "seed")
    assert not called


def test_an_error_in_seed_from_comes_out_and_touches_nothing(unchanged):
    """It is the caller's own."""

    @seeded(seed_from=lambda: 1 / 0)
    def body():
        raise AssertionError

    with pytest.raises(ZeroDivisionError):
        body()


@pytest.mark.parametrize("decorated", [42, "body", None, [len], object()], ids=named)
def test_what_cannot_be_called_cannot_be_decorated(decorated, unchanged):
    """Neither by seeded nor by a scope, a stream or a check."""
    for decorate in (seeded(42), rng_scope(42), RNGStream(42), assert_rng_unchanged()):
        refused(TypeError, lambda decorate=decorate: decorate(decorated), "can be decorated")


# Blocks without a call --------------------------------------------------------------------


@pytest.mark.parametrize(
    "cls, way_out",
    [
        (rng_scope, "with rng_scope(42):"),
        (RNGStream, "with RNGStream(42):"),
        (assert_rng_unchanged, "with assert_rng_unchanged():"),
    ],
)
def test_a_class_without_parentheses_says_how_to_write_the_block(cls, way_out, unchanged):
    """Python says only that 'type' is no context manager."""
    import contextlib
    import copy
    import pickle

    def block():
        with cls:
            raise AssertionError

    refused(TypeError, block, "needs parentheses", way_out)
    with contextlib.ExitStack() as stack:
        refused(TypeError, lambda: stack.enter_context(cls), way_out)
    # It is a class like any other.
    assert pickle.loads(pickle.dumps(cls)) is copy.deepcopy(cls) is cls
    assert isinstance(cls, type) and repr(cls).startswith("<class 'rngscope.")


def test_seeded_as_a_block_says_what_to_write(unchanged):
    """What seeded returns decorates functions, and nothing else."""

    def block(seed):
        with seeded(seed):
            raise AssertionError

    refused(TypeError, lambda: block(42), "seeded(...) decorates", "with rng_scope(42):")
    refused(TypeError, lambda: block(None), "with rng_scope():")

    def block_from():
        with seeded(seed_from=int):
            raise AssertionError

    refused(TypeError, block_from, "with rng_scope(seed):")
    assert repr(seeded(42)) == "<seeded seed=42>"


# States -----------------------------------------------------------------------------------


def test_a_state_is_not_made_by_hand(unchanged):
    """There is no other way to one than capture and from_state_dict."""
    refused(TypeError, RNGState, "RNGState.capture()")


def test_a_state_is_compared_with_states_only(unchanged):
    """differs_from names the other thing; == is just false."""
    state = RNGState.capture()
    refused(TypeError, lambda: state.differs_from(42), "42")
    assert state != 42 and not state == "state"


@pytest.mark.parametrize("value", [1, 0, "no", None])
def test_strict_is_true_or_false(value, unchanged):
    """A switch is a bool: strict='no' is a mistake."""
    state = RNGState.capture()
    refused(TypeError, lambda: state.restore(strict=value), f"not {value!r}")


def wrong_generators_for_a_state():
    """Return a state of one random.Random, and what does not fit it."""
    state = RNGState.capture(generators=[random.Random(1)])
    wrong = [[], [random.Random(2), random.Random(3)]]
    if np is not None:
        wrong += [[np.random.RandomState(1)], [np.random.default_rng(1)]]
    if torch is not None:
        wrong += [[torch.Generator()]]
    return state, wrong


def test_generators_that_do_not_fit_the_state_are_a_value_error(unchanged):
    """A wrong number or type, for restore, for a replay and for seed_from."""
    state, wrong = wrong_generators_for_a_state()
    for generators in wrong:
        dumped = [RNGState.capture(sources=[], generators=generators)]
        for call in (
            lambda: state.restore(generators=generators),
            lambda: state.restore(generators=generators, strict=False),
            lambda: rng_scope(state, generators=generators),
            lambda: seeded(state, generators=generators),
            seeded(seed_from=lambda: state, generators=generators)(lambda: None),
        ):
            refused(ValueError, call, "generator")
        assert dumped == [RNGState.capture(sources=[], generators=generators)]


@pytest.mark.skipif(np is None, reason="needs numpy")
def test_a_state_of_another_bit_generator_does_not_fit(unchanged):
    """A user's generator keeps its bit generator, so the state must be of the same type."""
    state = RNGState.capture(generators=[np.random.Generator(np.random.PCG64(1))])
    own = np.random.Generator(np.random.Philox(1))
    before = RNGState.capture(generators=[own])
    refused(ValueError, lambda: state.restore(generators=[own]), "Philox", "PCG64")
    refused(ValueError, lambda: rng_scope(state, generators=[own]), "Philox", "PCG64")
    assert before == RNGState.capture(generators=[own])


@pytest.mark.parametrize("plain", [None, 42, "state", [], {}, {1: 2}, {"rngscope": 1}], ids=named)
def test_what_is_no_state_dict_is_a_value_error(plain, unchanged):
    """For a state and for a stream; the stream goes on as it was."""
    refused(ValueError, lambda: RNGState.from_state_dict(plain))
    stream = RNGStream(42)
    with stream:
        first = random.random()
    refused(ValueError, lambda: stream.load_state_dict(plain))
    with stream:
        assert [first, random.random()] == [own() for own in [random.Random(42).random] * 2]


def test_a_state_dict_of_another_kind_is_a_value_error(unchanged):
    """A stream's is no state's, and the other way round."""
    refused(ValueError, lambda: RNGState.from_state_dict(RNGStream(42).state_dict()), "RNGStream")
    plain = RNGState.capture().state_dict()
    refused(ValueError, lambda: RNGStream(42).load_state_dict(plain), "RNGState")


# Derived seeds ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "part", [True, None, 1.0, b"a", ["a"], ("a", 1), object(), Unindexable()], ids=named
)
def test_a_path_is_made_of_str_and_int(part, unchanged):
    """Anything else would have no name that is the same in every process."""
    for path in ([part], ["a", part], [part, 1]):
        refused(
            TypeError,
            lambda path=path: derive_seed(42, *path),
            "path must be made of str and int",
            f"not {type(part).__name__}",
        )


@pytest.mark.parametrize("bits", [True, None, 32.0, "32", [32], Unindexable()], ids=named)
def test_bits_of_the_wrong_type_are_a_type_error(bits):
    """A number of bits is an integer."""
    refused(
        TypeError,
        lambda: derive_seed(42, "a", bits=bits),
        "bits must be an integer in [1, 64]",
        f"not {type(bits).__name__}",
    )


@pytest.mark.parametrize("bits", [0, -1, 65, 2**32])
def test_bits_out_of_range_are_a_value_error(bits):
    """No bits are no seed, and there are 64."""
    refused(ValueError, lambda: derive_seed(42, bits=bits), f"bits {bits}", "1 <= bits <= 64")


def test_every_public_name_is_there():
    """What this file checks is what the package offers."""
    names = set(rngscope.__all__)
    assert names == {
        "RNGState",
        "RNGStream",
        "assert_rng_unchanged",
        "checkpoint_context_fn",
        "derive_seed",
        "rng_scope",
        "same_draws",
        "seed_all",
        "seeded",
        "to_thread",
    }
    assert all(hasattr(rngscope, name) for name in names)
