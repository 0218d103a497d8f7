"""``RNGState``, ``derive_seed``, ``seed_all`` and ``assert_rng_unchanged``."""

import copy
import io
import itertools
import json
import os
import pathlib
import pickle
import random
import subprocess
import sys
import textwrap
import warnings

import pytest
from by_hand import NAMES, cache_gaussians, draw, expected, words

from rngscope import (
    RNGState,
    _order,
    assert_rng_unchanged,
    derive_seed,
    rng_scope,
    seed_all,
)
from rngscope._state_dict import _checksum
from rngscope.sources import SOURCES

ROOT = pathlib.Path(__file__).resolve().parents[1]
BIT_GENERATORS = ["MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"]
each_source = pytest.mark.parametrize("name", NAMES)


def resealed(plain):
    """Return a state_dict with the checksum that its fields call for."""
    return {**plain, "checksum": _checksum(plain)}


def own_generators():
    """Return one generator of every kind."""
    own = [random.Random(1)]
    if "numpy" in NAMES:
        import numpy as np

        own += [np.random.Generator(getattr(np.random, kind)(2)) for kind in BIT_GENERATORS]
        own += [np.random.RandomState(3), np.random.RandomState(np.random.Philox(3))]
    if "torch" in NAMES:
        import torch

        own += [torch.Generator().manual_seed(4)]
    return own


def draw_own(own):
    if isinstance(own, random.Random):
        return own.gauss(0, 1)
    if hasattr(own, "initial_seed"):
        import torch

        return torch.randn(1, generator=own).item()
    return own.standard_normal()


def run(code, *args, **options):
    """Run code in a process of its own and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *args],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=250,
        **options,
    )
    status = f"exit status {done.returncode}"
    assert done.returncode == 0, f"{status}\n{done.stdout}{done.stderr[-4000:]}"
    return done.stdout


# Equality ---------------------------------------------------------------------------------


def test_two_captures_in_a_row_are_equal(path, unchanged):
    """Equal states have equal hashes, fingerprints and texts, and differ in nothing."""
    one, two = RNGState.capture(), RNGState.capture()
    assert one == two and not one != two and hash(one) == hash(two)
    assert one.fingerprints() == two.fingerprints() and one.fingerprint() == two.fingerprint()
    assert one.differs_from(two) == [] and repr(one) == repr(two)
    assert len({one, two}) == 1


@each_source
def test_a_draw_makes_exactly_its_source_differ(name, path, unchanged):
    """Equal fingerprints if and only if equal states, source by source."""
    with rng_scope():
        one = RNGState.capture()
        draw(name)
        two = RNGState.capture()
    assert one != two and one.differs_from(two) == two.differs_from(one) == [name]
    assert one.fingerprint() != two.fingerprint()
    one, two = one.fingerprints(), two.fingerprints()
    assert [source for source in one if one[source] != two[source]] == [name]


def test_a_cached_gaussian_alone_makes_states_differ(path, unchanged):
    """The words are the same, the next draw is not."""
    with rng_scope():
        one = RNGState.capture()
        random.gauss(0, 1)
        if "numpy" in NAMES:
            sys.modules["numpy"].random.standard_normal()
        two = RNGState.capture()
        random.setstate((*random.getstate()[:2], 0.5))
        three = RNGState.capture()
    names = [name for name in NAMES if name != "torch"]
    assert sorted(one.differs_from(two)) == sorted(names)
    assert two.differs_from(three) == ["python"]


def test_states_over_different_sources_differ_by_what_one_side_has(unchanged):
    """differs_from names what only one side has, either side."""
    everything, one = RNGState.capture(), RNGState.capture(sources=["python"])
    others = sorted(set(NAMES) - {"python"})
    assert sorted(everything.differs_from(one)) == sorted(one.differs_from(everything)) == others
    assert (everything == one) == (not others)
    assert RNGState.capture(sources=[]).differs_from(one) == ["python"]


def test_fingerprints_are_short_hex_by_source_name(unchanged):
    """16 digits for each source, and for all together."""
    state = RNGState.capture(generators=[random.Random(1)])
    digests = state.fingerprints()
    assert {*NAMES, "generators[0]"} == set(digests)
    for digest in [*digests.values(), state.fingerprint()]:
        assert len(digest) == 16 and set(digest) <= set("0123456789abcdef")
    digests.clear()
    assert state.fingerprints() != {}


def test_fingerprints_are_the_same_in_every_process(unchanged):
    """So two runs can be compared by what they print."""
    code = f"""
    for module in {NAMES!r}:
        if module != "python":
            __import__(module)
    from rngscope import RNGState, rng_scope
    with rng_scope(42):
        print(RNGState.capture().fingerprint())
    """
    with rng_scope(42):
        here = RNGState.capture(sources=NAMES).fingerprint()
    if "numpy" in NAMES:
        code = code.replace("__import__(module)", "__import__(module); import numpy.random")
    assert run(code).strip() == here


def test_both_roads_capture_the_same(unchanged):
    """How a state was read is no part of it."""
    from conftest import take_path

    states = []
    for fast in (True, False, True):
        take_path(fast)
        states.append(RNGState.capture(generators=own_generators()))
    assert states[0] == states[1] == states[2]
    assert states[0].state_dict() == states[1].state_dict()


# Restoring --------------------------------------------------------------------------------


@each_source
def test_restore_goes_on_from_the_capture(name, path, unchanged):
    """As often as wanted, and whatever was drawn meanwhile."""
    with rng_scope():
        state = RNGState.capture()
        first = [draw(name), draw(name)]
        for _ in range(3):
            state.restore()
            assert RNGState.capture() == state
            assert [draw(name), draw(name)] == first


def test_restore_touches_only_what_the_state_holds(path, public_states):
    """A source that is not in the state is left alone."""
    for name in NAMES:
        cache_gaussians()
        state = RNGState.capture(sources=[name])
        for other in NAMES:
            draw(other)
        moved = public_states()
        state.restore()
        restored = public_states()
        for other in NAMES:
            assert (restored[other] == moved[other]) == (other != name)


def test_a_state_does_not_change(path, unchanged):
    """Neither by assignment, nor by draws, nor through what its methods return."""
    state = RNGState.capture(generators=own_generators())
    plain, digest = state.state_dict(), state.fingerprint()
    for name in ("_sources", "_fingerprints", "anything"):
        with pytest.raises(AttributeError, match="cannot be changed"):
            setattr(state, name, {})
        with pytest.raises(AttributeError, match="cannot be changed"):
            delattr(state, name)
    with rng_scope():
        state.restore(generators=own_generators())
        for name in NAMES:
            draw(name)
    loaded = RNGState.from_state_dict(written := copy.deepcopy(plain))
    written["sources"].clear()
    written["generators"].clear()
    state.state_dict()["sources"].clear()
    assert state.state_dict() == loaded.state_dict() == plain
    assert state.fingerprint() == loaded.fingerprint() == digest


@pytest.mark.parametrize("failing", NAMES)
def test_if_one_source_cannot_be_restored_none_is(failing, path, unchanged, monkeypatch):
    """Nothing by halves: what was set already is put back."""
    with rng_scope(42):
        state = RNGState.capture()
    source = {source.name: source for source in SOURCES}[failing]
    before = unchanged()

    def fail(state):
        monkeypatch.undo()
        raise OSError("broken")

    monkeypatch.setattr(source, "setstate", fail)
    with pytest.raises(OSError, match="broken"):
        state.restore()
    assert unchanged() == before


def test_a_library_that_is_not_there_is_an_error_or_a_warning(unchanged, monkeypatch):
    """strict=False restores what is there and says what it left out."""
    with rng_scope(42):
        state = RNGState.capture()
    for name in NAMES[1:]:
        source = {source.name: source for source in SOURCES}[name]
        monkeypatch.setattr(source, "is_present", lambda: False)
        before = unchanged()
        with pytest.raises(ValueError, match=f"the state holds '{name}'.*import its library first"):
            state.restore()
        assert unchanged() == before
        with rng_scope():
            with pytest.warns(RuntimeWarning, match=f"not restored: the state holds '{name}'"):
                state.restore(strict=False)
            assert random.random() == random.Random(42).random()
        monkeypatch.undo()


# Generators of the user -------------------------------------------------------------------


def test_generators_are_stored_by_position(path, unchanged):
    """restore is given the objects again, in the same order."""
    own, twins = own_generators(), own_generators()
    state = RNGState.capture(generators=own)
    for generator, twin in zip(own, twins):
        assert draw_own(generator) == draw_own(twin)
    moved = RNGState.capture(generators=own)
    assert sorted(state.differs_from(moved)) == sorted(
        f"generators[{place}]" for place in range(len(own))
    )
    state.restore(generators=own)
    assert RNGState.capture(generators=own) == state
    others = own_generators()
    state.restore(generators=iter(others))
    assert [draw_own(item) for item in own] == [draw_own(item) for item in others]


def test_a_scope_replays_generators_and_puts_them_back(path, unchanged):
    """rng_scope(state, generators=...) continues each of them from the state."""
    own = own_generators()
    state = RNGState.capture(generators=own)
    first = [draw_own(item) for item in own]
    second = [draw_own(item) for item in own_generators()] and RNGState.capture(generators=own)
    for _ in range(2):
        with rng_scope(state, generators=own):
            assert [draw_own(item) for item in own] == first
        assert RNGState.capture(generators=own) == second


def test_one_that_cannot_be_restored_leaves_all_as_they_were(unchanged):
    """A wrong type in the second place is found before the first is touched."""
    state = RNGState.capture(generators=[random.Random(1), random.Random(2)])
    if "numpy" not in NAMES:
        pytest.skip("needs numpy")
    import numpy as np

    first = random.Random(9)
    with pytest.raises(ValueError, match=r"generators\[1\] is a numpy.random.RandomState"):
        state.restore(generators=[first, np.random.RandomState(1)])
    assert first.getstate() == random.Random(9).getstate()


@pytest.mark.skipif("torch" not in NAMES, reason="needs torch")
def test_the_state_of_a_generator_on_another_kind_of_device_is_refused(unchanged):
    """It can be loaded anywhere, and restored where it comes from."""
    import torch

    plain = RNGState.capture(sources=[], generators=[torch.Generator()]).state_dict()
    plain["generators"][0].update(device="cuda:0", state="00" * 16)
    state = RNGState.from_state_dict(resealed(plain))
    assert state.state_dict() == resealed(plain)
    generator = torch.Generator().manual_seed(5)
    with pytest.raises(ValueError, match=r"generators\[0\] runs on 'cpu', but the state is one of"):
        state.restore(generators=[generator])
    assert generator.initial_seed() == 5


def test_the_state_of_a_gpu_that_is_not_there_is_left_out(unchanged):
    """A checkpoint from a machine with GPUs, on one without."""
    with rng_scope(42):
        plain = RNGState.capture(sources=["python"]).state_dict()
    states = {"0": "01" * 8 + "04" + "00" * 7}
    plain["sources"]["cuda"] = {"count": 1, "states": states}
    state = RNGState.from_state_dict(resealed(plain))
    if "cuda" in RNGState.capture().fingerprints():
        pytest.skip("needs a machine without a started CUDA GPU")
    before = unchanged()
    with rng_scope():
        with pytest.warns(RuntimeWarning, match="not restored: .*'cuda'"):
            state.restore(strict=False)
        assert draw("python") == expected("python", 42)[0]
    assert unchanged() == before


def test_a_body_that_ends_while_states_are_captured_is_left_then(unchanged):
    """Its scope waits for the capture, and no longer."""
    before, opened = unchanged(), len(_order.lives)

    def undecorated():
        with rng_scope(1):
            yield

    bodies = [undecorated()]
    next(bodies[0])

    class Last(random.Random):
        def getstate(self):
            bodies.clear()
            return super().getstate()

    with rng_scope(2):
        with warnings.catch_warnings():
            # It is left below another one.
            warnings.simplefilter("ignore", RuntimeWarning)
            RNGState.capture(sources=[], generators=[Last(1)])
        assert _order.deferred == [] and len(_order.lives) == opened + 1
    assert unchanged() == before


# Plain form -------------------------------------------------------------------------------


def only_plain(value):
    if isinstance(value, dict):
        return all(type(key) is str and only_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(only_plain, value))
    return value is None or type(value) in (str, int, float)


@pytest.fixture
def states(unchanged):
    """Return states of every kind: fresh, with cached Gaussians, under each bit generator."""
    states = [RNGState.capture(), RNGState.capture(generators=own_generators())]
    with rng_scope(42):
        states.append(RNGState.capture())
        random.setstate((*random.getstate()[:2], 5e-324))
        states.append(RNGState.capture(sources=["python"]))
    states.append(RNGState.capture(sources=[]))
    if "numpy" in NAMES:
        import numpy as np

        for kind, gaussians in itertools.product(BIT_GENERATORS, (0, 1)):
            with rng_scope():
                np.random.set_bit_generator(getattr(np.random, kind)(2**100))
                np.random.random_sample(gaussians)
                if gaussians:
                    np.random.standard_normal()
                states.append(RNGState.capture())
    return states


def loads(state):
    """Return the state after each way in which it can be written and read."""
    plain = state.state_dict()
    assert only_plain(plain)
    yield RNGState.from_state_dict(plain)
    yield RNGState.from_state_dict(json.loads(json.dumps(plain)))
    yield RNGState.from_state_dict(json.loads(json.dumps(plain, allow_nan=False, indent=1)))
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield pickle.loads(pickle.dumps(state, protocol))
    yield copy.copy(state)
    yield copy.deepcopy(state)
    if "torch" in NAMES:
        import torch

        file = io.BytesIO()
        torch.save(plain, file)
        file.seek(0)
        yield RNGState.from_state_dict(torch.load(file, weights_only=True))


def test_states_survive_being_written_exactly(states, path):
    """json, pickle, copy, and torch.save with torch.load(weights_only=True)."""
    for state in states:
        for loaded in loads(state):
            assert loaded == state and hash(loaded) == hash(state)
            assert loaded.differs_from(state) == [] and loaded.state_dict() == state.state_dict()


def test_loaded_states_draw_what_captured_ones_draw(states, path, unchanged):
    """Equality is kept in the draws, after restore and in a replay."""
    for state in states:
        own = own_generators() if state._generators else []
        with rng_scope(generators=own):
            state.restore(generators=own)
            wanted = [draw(name) for name in NAMES] + [draw_own(item) for item in own]
        loaded = RNGState.from_state_dict(json.loads(json.dumps(state.state_dict())))
        for _ in range(2):
            with rng_scope(loaded, generators=own):
                found = [draw(name) for name in NAMES] + [draw_own(item) for item in own]
                assert found == wanted
            with rng_scope(generators=own):
                loaded.restore(generators=own)
                assert RNGState.capture(sources=list(state._sources), generators=own) == state


def test_a_state_from_another_process_is_replayed_here(unchanged):
    """Written to a file there, read and restored here."""
    code = f"""
    import json
    for module in {NAMES!r}:
        if module != "python":
            __import__(module)
    from rngscope import RNGState, rng_scope
    with rng_scope(42):
        print(json.dumps(RNGState.capture().state_dict()))
    """
    state = RNGState.from_state_dict(json.loads(run(code)))
    held = set(state.fingerprints())
    with rng_scope(state):
        for name in held:
            assert draw(name) == expected(name, 42)[0]


def test_a_process_without_the_libraries_can_hold_the_state(unchanged):
    """It loads, compares and writes what it cannot restore; nothing is imported for it."""
    state = RNGState.capture()
    code = """
    import json, sys
    from rngscope import RNGState, rng_scope
    plain = json.load(sys.stdin)
    state = RNGState.from_state_dict(plain)
    assert {k: v for k, v in state.state_dict().items() if k not in ("versions", "checksum")} == {
        k: v for k, v in plain.items() if k not in ("versions", "checksum")
    }
    with rng_scope(state):
        print(state.fingerprint())
    assert "torch" not in sys.modules and "numpy" not in sys.modules
    """
    assert run(code, input=json.dumps(state.state_dict())).strip() == state.fingerprint()


def test_a_state_that_was_loaded_early_is_replayed_when_its_library_appears(unchanged):
    """Loaded before torch and NumPy are there, used after."""
    with rng_scope(42):
        state = RNGState.capture()
    code = f"""
    import json, sys
    sys.path.insert(0, {str(ROOT / "tests")!r})
    from rngscope import RNGState, rng_scope
    state = RNGState.from_state_dict(json.load(sys.stdin))
    from by_hand import NAMES, draw, expected
    for name in NAMES:
        draw(name)
    for _ in range(2):
        with rng_scope(state):
            for name in NAMES:
                assert draw(name) == expected(name, 42)[0]
    state.restore()
    assert RNGState.capture() == state
    """
    run(code, input=json.dumps(state.state_dict()))


def test_a_state_dict_carries_format_versions_and_checksum(unchanged):
    """What wrote it is written down."""
    plain = RNGState.capture().state_dict()
    assert plain["rngscope"] == "RNGState" and plain["format"] == 1
    assert plain["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    for name in NAMES[1:]:
        assert plain["versions"][name] == sys.modules[name].__version__
    assert len(plain["checksum"]) == 32


@pytest.mark.parametrize("library", NAMES)
def test_a_state_of_another_version_loads_with_a_warning(library, unchanged):
    """Its layout checks out, so it is taken; streams may differ, so it is said."""
    state = RNGState.capture()
    plain = state.state_dict()
    plain["versions"][library] = "1.0.0"
    with pytest.warns(RuntimeWarning, match=f"written under {library} 1.0.0") as caught:
        assert RNGState.from_state_dict(resealed(plain)) == state
    assert caught[0].filename == __file__
    # Another build of the same version is no other version.
    plain = state.state_dict()
    plain["versions"][library] = plain["versions"][library].partition("+")[0] + "+cu130"
    assert RNGState.from_state_dict(resealed(plain)) == state
    # Nor is a library that was not there.
    plain = state.state_dict()
    del plain["versions"][library]
    assert RNGState.from_state_dict(resealed(plain)) == state


def test_a_changed_field_does_not_pass_the_checksum(unchanged):
    """Damage that no layout shows is found all the same."""
    plain = RNGState.capture().state_dict()
    plain["sources"]["python"]["position"] = 17
    with pytest.raises(ValueError, match="^checksum does not match"):
        RNGState.from_state_dict(plain)
    assert RNGState.from_state_dict(resealed(plain)) != RNGState.capture()


# Foreign bit generators -------------------------------------------------------------------


@pytest.fixture
def foreign():
    """Install a bit generator that is not NumPy's own, and take it out again."""
    np = pytest.importorskip("numpy")

    class Foreign(np.random.PCG64):
        """A bit generator of another package."""

    before, state = np.random.get_bit_generator(), np.random.get_state(legacy=False)
    np.random.set_bit_generator(Foreign(5))
    yield np.random.get_bit_generator()
    np.random.set_bit_generator(before)
    np.random.set_state(state)


def test_a_foreign_bit_generator_is_compared_but_not_written(foreign, path, public_states):
    """state_dict() and pickle are a TypeError that names it; the rest works."""
    import numpy as np

    np.random.standard_normal()
    state, same = RNGState.capture(), RNGState.capture()
    assert state == same and hash(state) == hash(same)
    with pytest.raises(TypeError, match="Foreign' is not NumPy's own.*choose from 'MT19937'"):
        state.state_dict()
    with pytest.raises(TypeError, match="Foreign"):
        pickle.dumps(state)
    before = public_states()
    first = [np.random.standard_normal() for _ in range(2)]
    assert state.differs_from(RNGState.capture()) == ["numpy"]
    state.restore()
    assert public_states() == before and np.random.get_bit_generator() is foreign
    with rng_scope(42):
        np.random.standard_normal()
        with rng_scope(state):
            assert [np.random.standard_normal() for _ in range(2)] == first
    assert public_states() == before
    own = np.random.Generator(type(foreign)(6))
    state = RNGState.capture(sources=[], generators=[own])
    with pytest.raises(TypeError, match="Foreign"):
        state.state_dict()
    with rng_scope(7, generators=[own]):
        assert own.random() == np.random.Generator(type(foreign)(7)).random()
    assert state == RNGState.capture(sources=[], generators=[own])


def test_a_scope_under_a_foreign_bit_generator_seeds_and_keeps_it(foreign, path, public_states):
    """As numpy.random.seed does: a new one of its type with that seed."""
    import numpy as np

    np.random.standard_normal()
    before = public_states()
    with rng_scope(42):
        wanted = np.random.RandomState(type(foreign)(42)).standard_normal(3).tolist()
        assert [np.random.standard_normal() for _ in range(3)] == wanted
    assert public_states() == before


# Corrupted state dictionaries -------------------------------------------------------------

MUTATE = r"""
import copy, json, random, sys, warnings
sys.path[:0] = [ROOT, ROOT + "/tests"]
from by_hand import NAMES, cache_gaussians, load_libraries, public_states
load_libraries()
from hypothesis import HealthCheck, given, settings, strategies as st
from rngscope import RNGState, RNGStream, rng_scope
from rngscope._state_dict import _checksum
from test_state import BIT_GENERATORS, draw_own, own_generators

bases = [RNGState.capture(generators=own_generators()).state_dict()]
cache_gaussians()
bases.append(RNGState.capture().state_dict())
if "numpy" in NAMES:
    import numpy as np

    for kind in BIT_GENERATORS:
        with rng_scope():
            np.random.set_bit_generator(getattr(np.random, kind)(5))
            bases.append(RNGState.capture(sources=["numpy"]).state_dict())
if "torch" in NAMES:
    # A state of two GPUs, which this machine need not have.
    bases.append(RNGState.capture(sources=["python"]).state_dict())
    states = {"0": "01" * 8 + "04" + "00" * 7, "1": "00" * 16}
    bases[-1]["sources"]["cuda"] = {"count": 2, "states": states}
    bases[-1]["checksum"] = _checksum(bases[-1])
    assert RNGState.from_state_dict(bases[-1]).state_dict() == bases[-1]


def places(value, path=()):
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    if isinstance(value, list):
        for index in range(len(value)):
            yield from places(value[index], (*path, index))


junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(0, 700),
    st.integers(-2, 2**129),
    st.floats(),
    st.text(max_size=20),
    st.text("0123456789abcdef", max_size=40),
    st.sampled_from([10**6, 2**31, 2**64, -1, 1e300, "9" * 5000, "\ud800", "٣", "1_0", " 1", b"",
                     b"bytes", 1j, (), object(), float("nan"), float("inf"), "MT19937", "cuda:0"]),
    st.recursive(st.none(), lambda inner: st.lists(inner, max_size=2)
                 | st.dictionaries(st.text(max_size=3), inner, max_size=2), max_leaves=4),
)


def hex_changes(text):
    count = len(text)
    return st.one_of(
        st.just("0" * count),
        st.just("f" * count),
        st.just("00000000" + "0" * (count - 8)),
        st.just("00000080" + "0" * (count - 8)),
        st.just(text[:-1]),
        st.just(text[:-2]),
        st.just(text + "00"),
        st.just(text + text),
        st.just(text.upper()),
        st.just(" " + text[1:]),
        st.just(text[:-2] + "zz"),
        st.just(text[:-2] + "\u0663\u0663"),
        st.tuples(st.integers(0, max(count - 8, 0)), st.text("0123456789abcdef", min_size=1,
                  max_size=8)).map(lambda t: text[: t[0]] + t[1] + text[t[0] + len(t[1]):]),
    )


@st.composite
def mutated(draw):
    plain = copy.deepcopy(draw(st.sampled_from(bases)))
    path = draw(st.sampled_from([path for path in places(plain) if path]))
    where = plain
    for key in path[:-1]:
        where = where[key]
    key = path[-1]
    old = where[key]
    ways = ["junk", "delete", "add"]
    if isinstance(old, str) and len(old) > 8:
        ways += ["hex"] * 3
    if isinstance(old, int):
        ways += ["number"] * 3
    way = draw(st.sampled_from(ways))
    if way == "junk":
        where[key] = draw(junk)
    elif way == "delete":
        del where[key]
    elif way == "add":
        extra = draw(st.text(max_size=5) | st.integers() | st.none())
        if isinstance(where, list):
            where.append(draw(junk))
        else:
            where[extra] = draw(junk)
    elif way == "hex":
        where[key] = draw(hex_changes(old))
    elif way == "number":
        where[key] = old + draw(st.sampled_from([-1, 1, 2, 624, 625, 2**32, 2**64, -(2**31), 0.5]))
    if draw(st.booleans()):
        try:
            plain["checksum"] = _checksum(plain)
        except (TypeError, ValueError, RecursionError):
            pass
    return Case((plain, path))


class Case(tuple):
    def __repr__(self):
        plain, path = self
        try:
            for key in path:
                plain = plain[key]
        except LookupError:
            plain = "(deleted)"
        return f"<at {path}: {plain!r:.200}>"


counts = {"refused": 0, "same": 0, "other": 0}


@settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=True,
          suppress_health_check=list(HealthCheck))
@given(mutated())
def check(case):
    plain, path = case
    before = public_states()
    try:
        with warnings.catch_warnings():
            if path[0] == "versions":
                warnings.simplefilter("ignore", RuntimeWarning)
            state = RNGState.from_state_dict(plain)
    except ValueError as error:
        counts["refused"] += 1
        text = str(error)
        assert type(error) is ValueError, repr(error)
        assert text[0].islower() and len(text) < 600, text
        names = [*map(str, path), "checksum", "state_dict"]
        assert any(name in text for name in names), (path, text)
        assert public_states() == before
        return
    assert public_states() == before
    written = state.state_dict()
    own = [item for item in own_generators()] if state._generators else []
    if written["sources"] == plain["sources"] and written["generators"] == plain["generators"]:
        counts["same"] += 1
    else:
        counts["other"] += 1
    # Whatever loads can be used: it draws, and comes back as it was.
    sources = [name for name in written["sources"] if name in NAMES]
    try:
        scope = rng_scope(state, generators=own)
    except ValueError as error:
        assert "generator" in str(error), error
    else:
        with scope:
            RNGState.capture(sources=sources, generators=own) == state
            for _ in range(3):
                random.gauss(0, 1)
                if "numpy" in NAMES:
                    np.random.standard_normal(), np.random.randint(0, 9)
                if "torch" in NAMES:
                    import torch

                    torch.randn(3), torch.randn(1)
                for item in own:
                    draw_own(item)
    assert public_states() == before


@settings(max_examples=EXAMPLES // 10, deadline=None, database=None, derandomize=True)
@given(junk)
def check_junk(plain):
    for load in (RNGState.from_state_dict, RNGStream(42).load_state_dict):
        try:
            load(plain)
        except ValueError as error:
            assert str(error)[0].islower(), error
        else:
            raise AssertionError(plain)


def check_deep():
    # Nesting that no recursion gets to the end of, in every place.
    deep = []
    for _ in range(5000):
        deep = [deep]
    for base in bases:
        for path in places(base):
            plain = where = {"": copy.deepcopy(base)}
            for key in ("", *path)[:-1]:
                where = where[key]
            where[("", *path)[-1]] = deep
            try:
                RNGState.from_state_dict(plain[""])
            except ValueError as error:
                assert str(error)[0].islower(), error
            else:
                raise AssertionError(path)


check()
check_junk()
check_deep()
print(json.dumps(counts))
"""


def test_a_corrupted_state_dict_is_refused_and_touches_nothing():
    """Every mutation is a ValueError that names the field, or a state that can be used.

    In a process of its own with a time limit: an unchecked state can crash NumPy or hang.
    """
    pytest.importorskip("hypothesis")
    code = f"ROOT, EXAMPLES = {str(ROOT)!r}, 1500\n" + MUTATE
    counts = json.loads(run(code))
    assert counts["refused"] > 500 and counts["same"] and counts["other"], counts


def test_what_numpy_would_crash_or_hang_on_is_refused(unchanged):
    """pos=10**6 reads foreign memory, and from all-zero words no Gaussian ever comes."""
    if "numpy" not in NAMES:
        pytest.skip("needs numpy")
    plain = RNGState.capture(sources=["numpy"]).state_dict()
    words = plain["sources"]["numpy"]["bit_generator"]["words"]
    for field, value in [
        ("position", 10**6),
        ("position", 625),
        ("position", -1),
        ("words", "00" * 2496),
        # The low 31 bits of the first word do not count.
        ("words", "ffffff7f" + "00" * 2492),
        ("words", words[:-8]),
    ]:
        broken = copy.deepcopy(plain)
        broken["sources"]["numpy"]["bit_generator"][field] = value
        with pytest.raises(ValueError, match=rf"^numpy\.bit_generator\.{field} must "):
            RNGState.from_state_dict(resealed(broken))


# derive_seed ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, derived",
    [
        ((0,), 8690548859098795756),
        ((42,), 13548158486095918056),
        ((42, "dropout"), 4448808384939452910),
        ((42, "dropout", 3, 0), 18263887373807765252),
        ((42, 1), 8386538692560951792),
        ((42, "1"), 3124220847132516598),
        ((42, ""), 9159663551254505581),
        ((2**64 - 1, "é", -1, 2**100), 16889585552477191971),
    ],
)
def test_derived_seeds_never_change(arguments, derived, unchanged):
    """The same in every process, on every platform and in every version."""
    assert derive_seed(*arguments) == derived


def test_paths_that_differ_give_seeds_that_differ():
    """No two paths share an encoding, however their parts are cut."""
    parts = ["a", "b", "ab", "", "1", 1, -1, 11, "a;sb", "a;i1", "s1:a", "1:a;s1:b", "é"]
    paths = [
        path for length in range(4) for path in itertools.product(parts, repeat=length)
    ]
    assert len({derive_seed(42, *path) for path in paths}) == len(paths)
    assert len({derive_seed(seed) for seed in range(1000)}) == 1000
    assert derive_seed(4, 2) != derive_seed(42) != derive_seed(42, "")
    # A path is no sum of its parts either: deriving twice is something else.
    assert derive_seed(derive_seed(42, "a"), "b") != derive_seed(42, "a", "b")


def test_derived_seeds_fill_all_64_bits_evenly():
    """torch's CPU generator reads the low 32 bits only: they are as well mixed as the rest."""
    count = 4096
    seeds = [derive_seed(42, "epoch", index) for index in range(count)]
    assert all(0 <= seed < 2**64 for seed in seeds)
    for bit in range(64):
        ones = sum(seed >> bit & 1 for seed in seeds)
        # Six standard deviations of a fair coin.
        assert abs(ones - count / 2) < 6 * (count / 4) ** 0.5, bit
    assert len({seed & 0xFFFFFFFF for seed in seeds}) > count - 10
    changed = [one ^ two for one, two in zip(seeds, seeds[1:])]
    for half in (0xFFFFFFFF, 0xFFFFFFFF << 32):
        flips = sum(bin(change & half).count("1") for change in changed) / len(changed)
        assert 15 < flips < 17


def test_equal_parts_of_other_types_derive_the_same_seed():
    """An integer is an integer, from whatever library, and a str subclass a str."""

    class Name(str):
        pass

    assert derive_seed(42, Name("a")) == derive_seed(42, "a")
    if "numpy" in NAMES:
        import numpy as np

        assert derive_seed(np.uint64(42), np.int8(3)) == derive_seed(42, 3)
        assert derive_seed(42, np.str_("a")) == derive_seed(42, "a")
    if "torch" in NAMES:
        import torch

        assert derive_seed(torch.tensor(42), torch.tensor(3)) == derive_seed(42, 3)


# seed_all ---------------------------------------------------------------------------------


@each_source
@pytest.mark.parametrize("seed", [0, 42, 2**32, 2**64 - 1])
def test_seed_all_seeds_without_a_scope(name, seed, path):
    """The rules are those of a scope; nothing is put back."""
    for _ in range(3):
        cache_gaussians()
        seed_all(seed)
        assert [draw(name), draw(name)] == expected(name, seed, 2)
    seed_all(seed, independent=True)
    assert draw(name) == expected(name, derive_seed(seed, name))[0]


@each_source
def test_seed_all_seeds_only_its_sources(name, path, public_states):
    """The others are left alone."""
    cache_gaussians()
    before = public_states()
    seed_all(42, sources=[name])
    after = public_states()
    assert [other for other in NAMES if before[other] != after[other]] == [name]


@each_source
def test_a_seed_all_that_fails_puts_everything_back(name, path, unchanged, monkeypatch):
    """Nothing by halves."""
    source = {source.name: source for source in SOURCES}[name]

    def fail(seed):
        raise OSError("broken")

    monkeypatch.setattr(source, "seed", fail)
    before = unchanged()
    with pytest.raises(OSError, match="broken"):
        seed_all(2**31 + 13)
    assert unchanged() == before


def test_seed_all_inside_a_scope_ends_with_it(path, unchanged):
    """A scope puts back whatever its body did."""
    with rng_scope():
        seed_all(42)
        for name in NAMES:
            assert draw(name) == expected(name, 42)[0]


@pytest.mark.skipif("numpy" not in NAMES, reason="needs numpy")
@pytest.mark.parametrize("kind", BIT_GENERATORS)
def test_seed_all_seeds_the_bit_generator_that_is_installed(kind, path, unchanged):
    """As numpy.random.seed does."""
    import numpy as np

    with rng_scope():
        make = getattr(np.random, kind)
        np.random.set_bit_generator(make(1))
        np.random.standard_normal()
        seed_all(2**32 + 5)
        fresh = np.random.RandomState(make(words(2**32 + 5)))
        if kind == "MT19937":
            fresh = np.random.RandomState(words(2**32 + 5))
        assert np.random.standard_normal() == fresh.standard_normal()


# assert_rng_unchanged ---------------------------------------------------------------------


@each_source
def test_what_moved_in_the_block_is_named(name, path, public_states):
    """AssertionError, naming the sources that moved, and no other."""
    with pytest.raises(AssertionError) as caught:
        with assert_rng_unchanged():
            draw(name)
    assert f"moved the global RNG of {name!r};" in str(caught.value)
    assert not any(repr(other) in str(caught.value) for other in NAMES if other != name)
    with assert_rng_unchanged(sources=[other for other in NAMES if other != name]):
        draw(name)


def test_a_block_that_moves_nothing_passes(path, unchanged):
    """Scopes and generators of one's own are no change; nor is moving back."""
    with assert_rng_unchanged():
        with rng_scope(42):
            for name in NAMES:
                draw(name)
        random.Random(1).random()
        state = RNGState.capture()
        random.random()
        state.restore()


def test_an_error_of_the_block_comes_first(unchanged):
    """What the body raises says more than that an RNG moved."""
    with rng_scope():
        with pytest.raises(KeyError), assert_rng_unchanged():
            random.random()
            raise KeyError


def test_a_check_can_be_nested_and_used_again(unchanged):
    """One object, many blocks."""
    check = assert_rng_unchanged()
    with rng_scope():
        for _ in range(2):
            with pytest.raises(AssertionError), check:
                with check:
                    pass
                random.random()


def test_a_check_decorates_functions(unchanged):
    """Each call is checked, and returns what it returns."""

    @assert_rng_unchanged()
    def body(draws):
        for _ in range(draws):
            random.random()
        return draws

    with rng_scope():
        assert body(0) == 0
        for _ in range(2):
            with pytest.raises(AssertionError, match="'python'"):
                body(1)
        assert body(0) == 0


def test_options_that_can_be_read_once_are_read_once(unchanged):
    """An iterator of sources is as good as a list."""
    with rng_scope(42, sources=iter(["python"]), generators=iter([own := random.Random(3)])):
        assert own.random() == random.random() == random.Random(42).random()
        check = assert_rng_unchanged(sources=iter(["python"]), devices=iter([0]))
        for _ in range(2):
            with pytest.raises(AssertionError, match="'python'"), check:
                random.random()
    assert own.random() == random.Random(3).random()


def test_the_check_leaves_no_trace(path, unchanged):
    """Looking is not touching."""
    before = unchanged()
    with assert_rng_unchanged() as check:
        assert unchanged() == before
    assert isinstance(check, assert_rng_unchanged)


BEFORE_TORCH = """
import json, sys, warnings

from rngscope import RNGState, rng_scope

plain = json.loads(sys.argv[1])
state = RNGState.from_state_dict(plain)
import torch

for act in (state.restore, rng_scope(state).__enter__):
    before = torch.get_rng_state().tolist()
    try:
        act()
    except ValueError as error:
        assert "its words cannot be" in str(error), error
    else:
        raise AssertionError("it was taken")
    assert torch.get_rng_state().tolist() == before
"""


@pytest.mark.skipif("torch" not in NAMES, reason="needs torch")
def test_a_state_that_was_loaded_before_its_library_is_checked_when_it_is_used(unchanged):
    """Restored or replayed: words of which every draw is zero are refused."""
    plain = RNGState.capture(sources=["torch"]).state_dict()
    state = plain["sources"]["torch"]["state"]
    plain["sources"]["torch"]["state"] = state[:48] + "00" * (624 * 8) + state[48 + 624 * 16 :]
    program = [sys.executable, "-c", BEFORE_TORCH, json.dumps(resealed(plain))]
    done = subprocess.run(
        program, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
