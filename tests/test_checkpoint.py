"""States and streams through every kind of checkpoint, and back to the bit."""

import copy
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from by_hand import NAMES, cache_gaussians, draw, public_states

import rngscope
from rngscope import RNGState, RNGStream, rng_scope
from rngscope._state import seal
from rngscope.distributed import PerRank

# Roads -------------------------------------------------------------------------------------


def through_json(plain, folder):
    return json.loads(json.dumps(plain))


def through_sorted_json(plain, folder):
    return json.loads(json.dumps(plain, sort_keys=True, indent=1, ensure_ascii=False))


def through_torch(plain, folder):
    torch = pytest.importorskip("torch")
    torch.save({"step": 3, "rng": plain}, folder / "file.pt")
    return torch.load(folder / "file.pt", weights_only=True)["rng"]


def through_safetensors(plain, folder):
    torch = pytest.importorskip("torch")
    files = pytest.importorskip("safetensors.torch")
    safetensors = pytest.importorskip("safetensors")
    path = folder / "file.safetensors"
    files.save_file({"weight": torch.zeros(2)}, path, metadata={"rng": json.dumps(plain)})
    with safetensors.safe_open(path, "pt") as file:
        return json.loads(file.metadata()["rng"])


ROADS = [through_json, through_sorted_json, through_torch, through_safetensors]
each_road = pytest.mark.parametrize("road_taken", ROADS, ids=lambda path: path.__name__)


@each_road
def test_a_state_comes_back_to_the_bit(road_taken, tmp_path, unchanged):
    """Restored in place of another state, every source is byte for byte what it was."""
    with rng_scope():
        cache_gaussians()
        state, before = RNGState.capture(), public_states()
        again = RNGState.from_state_dict(road_taken(state.state_dict(), tmp_path))
        assert again == state and again.state_dict() == state.state_dict()
        rngscope.seed_all(5)
        again.restore()
        assert public_states() == before


@each_road
@pytest.mark.parametrize("seed", [0, 42, 2**53 + 1, 2**64 - 1])
def test_a_stream_comes_back_to_the_bit(road_taken, seed, tmp_path, unchanged):
    """Seed and position, whatever integers the file format can hold."""
    stream, again = RNGStream(seed, independent=True), RNGStream(1, independent=True)
    with stream:
        [draw(name) for name in NAMES]
        cache_gaussians()
    again.load_state_dict(road_taken(stream.state_dict(), tmp_path))
    drawn = []
    for each in (stream, again):
        with each:
            drawn.append([draw(name) for name in NAMES])
    assert drawn[0] == drawn[1] and again.seed == seed
    assert again.state_dict() == stream.state_dict()


@each_road
def test_every_bit_generator_of_numpy_comes_back(road_taken, tmp_path, unchanged):
    """Their states hold integers of 128 bits, which few formats know."""
    np = pytest.importorskip("numpy")
    for kind in ("PCG64", "PCG64DXSM", "Philox", "SFC64"):
        with rng_scope():
            np.random.set_bit_generator(getattr(np.random, kind)(3))
            np.random.standard_normal()
            state = RNGState.capture(sources=["numpy"])
            following = np.random.rand(3).tolist()
        with rng_scope(RNGState.from_state_dict(road_taken(state.state_dict(), tmp_path))):
            assert np.random.rand(3).tolist() == following


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized")
def test_a_distributed_checkpoint_of_one_process_comes_back(tmp_path, unchanged):
    """torch.distributed.checkpoint, its Stateful protocol; more ranks: test_distributed.py."""
    torch = pytest.importorskip("torch")
    if not torch.distributed.is_available():
        pytest.skip("needs a torch with torch.distributed")
    checkpoint = pytest.importorskip("torch.distributed.checkpoint")
    stream, again = RNGStream(42), RNGStream(1)
    with stream:
        draw("python")
    before = public_states()
    weight = torch.arange(3.0)
    state = {"weight": weight, "rng": PerRank(), "stream": PerRank(stream)}
    checkpoint.save(state, checkpoint_id=tmp_path / "checkpoint")
    assert public_states() == before
    random.random()
    state = {"weight": torch.zeros(3), "rng": PerRank(), "stream": PerRank(again)}
    checkpoint.load(state, checkpoint_id=tmp_path / "checkpoint")
    assert public_states() == before and torch.equal(state["weight"], weight)
    assert again.state_dict() == stream.state_dict()


# A run that is killed --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def train():
    """Return a function that runs ``training_program.py`` and returns its result, if any."""
    for library in ("torch", "numpy", "sklearn"):
        pytest.importorskip(library)
    package = str(Path(rngscope.__file__).parents[1])
    paths = os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": "random"}

    def run(folder, workers, *killed_at):
        folder.mkdir(exist_ok=True)
        program = Path(__file__).parent / "training_program.py"
        command = [sys.executable, "-W", "ignore", program, folder, workers, *killed_at]
        # Not to a pipe: the workers of a killed process hold it open for some seconds.
        with open(folder / "said.txt", "w") as said:
            done = subprocess.run(
                list(map(str, command)), env=environment, stdout=said, stderr=said, timeout=240
            )
        assert done.returncode == (-signal.SIGKILL if killed_at else 0), (
            folder / "said.txt"
        ).read_text()
        result = folder / "result.json"
        return json.loads(result.read_text()) if result.exists() else None

    return run


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
    """Return the result of the run that is never killed."""
    return train(tmp_path_factory.mktemp("whole") / "run", 2)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("killed_at, resumed_from", [(13, 10), (23, 20)])
def test_a_killed_run_that_is_resumed_ends_as_if_it_never_was(
    killed_at, resumed_from, train, whole, tmp_path
):
    """The same weights to the bit: shuffling, workers, dropout, NumPy and random augmentation.

    Killed in the middle of an epoch, between two checkpoints; the last one is in the middle
    of the epoch too. Resumed without workers: their number is no matter.
    """
    assert train(tmp_path / "run", 2, killed_at) is None
    resumed = train(tmp_path / "run", 0)
    assert resumed.pop("began_at") == resumed_from and resumed["done"] == 24
    wanted = {key: value for key, value in whole.items() if key != "began_at"}
    assert resumed["weights"] == wanted["weights"]
    assert resumed == wanted


# Bad input ------------------------------------------------------------------------------------


def used_stream():
    stream = RNGStream(42)
    with stream:
        [draw(name) for name in NAMES]
    return stream


def leaves(plain, path=()):
    """Return the path of every value in nested dicts and lists."""
    if isinstance(plain, dict):
        return [leaf for key in plain for leaf in leaves(plain[key], (*path, key))]
    return [path]


def changed(plain, path, value):
    """Return a copy in which one value is another; KeyError stands for none at all."""
    plain = copy.deepcopy(plain)
    *above, last = path
    inner = plain
    for key in above:
        inner = inner[key]
    if value is KeyError:
        del inner[last]
    else:
        inner[last] = value
    return plain


def value_at(plain, path):
    for key in path:
        plain = plain[key]
    return plain


def flips(value):
    """Return values that differ from one in a single bit."""
    if isinstance(value, str):
        places = {0, len(value) // 2, len(value) - 1} if value else set()
        bits = [(place, bit) for place in places for bit in (1, 2, 4, 16)]
        return [value[:p] + chr(ord(value[p]) ^ bit) + value[p + 1 :] for p, bit in bits]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value ^ 1, value ^ (1 << 20)]
    if isinstance(value, float):
        return [value * (1 + 2**-52)]
    return [0, 0.0, ""]


KINDS = {
    "RNGState": (lambda: RNGState.capture().state_dict(), RNGState.from_state_dict),
    "RNGStream": (lambda: used_stream().state_dict(), None),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def refused(kind, unchanged):
    """Return a function: the message of the ValueError that loading a dict must raise.

    Nothing may be touched: not the sources, and not the stream that was to load it.
    """
    stream = used_stream()
    load = KINDS[kind][1] or stream.load_state_dict
    position, before = stream.state_dict(), unchanged()

    def refuse(plain):
        with pytest.raises(ValueError) as caught:
            load(plain)
        assert unchanged() == before and stream.state_dict() == position
        return str(caught.value)

    return refuse


@pytest.fixture
def plain(kind):
    return KINDS[kind][0]()


def test_one_bit_that_is_flipped_is_noticed_anywhere(plain, refused):
    """In every value of the dict: ValueError."""
    paths = leaves(plain)
    assert len(paths) > 5
    for path in paths:
        for value in flips(value_at(plain, path)):
            message = refused(changed(plain, path, value))
            names = (*path, "checksum", "state_dict of", "another version")
            assert any(name in message for name in names), (path, message)


def test_what_is_cut_short_is_noticed_anywhere(plain, refused):
    """A field that is missing, or text that ends early: ValueError."""
    for path in leaves(plain):
        refused(changed(plain, path, KeyError))
        value = value_at(plain, path)
        for shorter in {value[:-1], value[:-2], value[: len(value) // 2], ""} - {value} if (
            isinstance(value, str)
        ) else ():
            refused(changed(plain, path, shorter))
    for key in plain:
        refused(changed(plain, (key,), KeyError))
        refused(changed(plain, (key,), None))
    text = json.dumps(plain)
    with pytest.raises(ValueError):
        json.loads(text[: len(text) // 2])


@pytest.mark.parametrize("version", [0, 2, "1", 1.0, True, None])
def test_another_format_version_is_named(version, plain, refused):
    """ValueError with both versions, even where the checksum fits."""
    message = refused(changed(plain, ("format",), version))
    assert f"format must be 1, not {version!r}" in message and "another version" in message


def test_the_dict_of_one_kind_is_refused_by_the_other(kind, refused):
    """A stream's by a state and a state's by a stream: the message names both kinds."""
    (other,) = KINDS.keys() - {kind}
    message = refused(KINDS[other][0]())
    assert f"must be the state_dict of an {kind}, not of '{other}'" in message


def test_something_that_fits_the_checksum_is_checked_all_the_same(kind, plain, refused):
    """Every field by itself: a checksum says what was written, not that it was right."""
    fields = {k: v for k, v in plain.items() if k not in ("rngscope", "format", "versions")}
    del fields["checksum"]
    inner = "sources" if kind == "RNGState" else "states"
    for path in leaves(fields[inner]):
        for value in (None, [], {}, -1, "zz", 10**9):
            if value == value_at(fields[inner], path) or (path[-1] == "gauss" and value is None):
                continue
            bad = {**fields, inner: changed(fields[inner], path, value)}
            assert path[-1] in refused(seal(kind, bad))
    assert "jax" in refused(seal(kind, {**fields, inner: {"jax": {}}}))
