"""``rngscope.distributed``: on real process groups of 1, 2 and 4 ranks, and on a rank alone.

What holds on every rank stands in ``rank_program.py``.
"""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from by_hand import NAMES
from rank_program import LAWS

import rngscope
from rngscope import RNGState, RNGStream, derive_seed
from rngscope.distributed import PerRank, assert_in_sync, rank_seed, sync
from rngscope.distributed.differences import differences, digests_of
from rngscope.sources import SOURCES

# The checkpoint of two ranks comes first: the others must refuse it.
WORLDS = [2, 1, 4]
needs_torch = pytest.mark.skipif("torch" not in NAMES, reason="needs torch")


def torchrun(ranks, folder, *arguments):
    """Run ``rank_program.py`` and return what torchrun said."""
    if "numpy" not in NAMES or not __import__("torch.distributed").distributed.is_available():
        pytest.skip("needs NumPy and a torch with torch.distributed")
    package = str(Path(rngscope.__file__).parents[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([package, environment.get("PYTHONPATH", "")])
    environment.pop("RANK", None)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(ranks), str(Path(__file__).parent / "rank_program.py")]
    done = subprocess.run(
        [*command, str(folder), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """Return what each rank of each world has to say about each law, and torchrun about all."""
    folder = tmp_path_factory.mktemp("ranks")
    texts = {world: torchrun(world, folder) for world in WORLDS}
    files = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    return texts, files


@needs_torch
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_on_every_rank(law, world, said):
    """Each law of ``rank_program.py`` holds on each rank."""
    texts, files = said
    for rank in range(world):
        name = f"{world}-{rank}-{law.__name__}"
        assert name in files, texts[world]
        assert files[name] == "ok", f"{law.__doc__}\n{files[name]}"


@needs_torch
def test_a_rank_that_dies_is_a_clear_error_on_the_others(tmp_path):
    """Killed in the middle: the other three say that one was lost, long before the time-out."""
    text = torchrun(4, tmp_path, "die")
    assert sorted(path.stem for path in tmp_path.glob("*.json")) == [
        "4-0-die",
        "4-1-die",
        "4-2-die",
    ], text


# On a rank alone ------------------------------------------------------------------------------


@pytest.fixture
def alone(monkeypatch):
    """Make this process one that no launcher has started."""
    monkeypatch.delenv("RANK", raising=False)


def test_without_a_group_the_variable_of_torchrun_says_the_rank(alone, monkeypatch):
    """RANK, else 0; the seed of rank 3 is the same in a world of any size."""
    assert rank_seed(42, "a", 1) == derive_seed(42, "rank", 0, "a", 1)
    seeds = set()
    for world in ("4", "4096"):
        monkeypatch.setenv("RANK", "3")
        monkeypatch.setenv("WORLD_SIZE", world)
        seeds.add(rank_seed(42, "a", 1))
    assert seeds == {derive_seed(42, "rank", 3, "a", 1)}


@pytest.mark.parametrize("text", ["", "three", "-1", "1.0", "٣", " 1"])
def test_a_variable_that_is_no_rank_is_refused(text, alone, monkeypatch):
    """ValueError that names the variable and its value, never a silent rank 0."""
    monkeypatch.setenv("RANK", text)
    with pytest.raises(ValueError, match="RANK must be a number, not"):
        rank_seed(42)


def test_a_seed_of_the_wrong_type_is_refused(alone):
    """As by derive_seed."""
    with pytest.raises(TypeError, match="seed"):
        rank_seed(4.2)
    with pytest.raises(TypeError, match="path"):
        rank_seed(42, 1.5)


@pytest.mark.parametrize("call", [assert_in_sync, sync])
def test_without_a_group_nothing_is_said_to_be_in_sync(call, alone, unchanged):
    """RuntimeError that says how to make one: a check that checks nothing would be a trap."""
    with pytest.raises(RuntimeError, match="init_process_group"):
        call()


@pytest.mark.parametrize("sources", ["torch", ["jax"], [1]])
def test_unknown_sources_are_refused_as_by_a_scope(sources, alone):
    """Before anything is sent."""
    with pytest.raises((TypeError, ValueError), match="sources|unknown source 'jax'"):
        assert_in_sync(sources=sources)


def test_without_a_group_a_checkpoint_is_that_of_one_rank(alone, unchanged):
    """PerRank works in a program that runs on its own."""
    stream, again = RNGStream(42), RNGStream(1)
    with stream:
        pass
    saved = PerRank(stream).state_dict()
    assert type(saved["ranks"]) is str
    PerRank(again).load_state_dict(saved)
    assert again.state_dict() == stream.state_dict()
    before = RNGState.capture()
    saved = PerRank().state_dict()
    rngscope.seed_all(5)
    PerRank().load_state_dict(saved)
    assert RNGState.capture() == before


def test_without_a_group_a_checkpoint_of_two_ranks_is_refused(alone, unchanged):
    """Both numbers and the way out; the stream is unchanged."""
    stream = RNGStream(42)
    two = {"ranks": json.dumps([json.dumps(stream.state_dict())] * 2)}
    with pytest.raises(ValueError, match="of 2 rank.* has 1; .*derive the seeds anew"):
        PerRank(stream).load_state_dict(two)
    for damaged in ({}, {"ranks": 3}, {"ranks": "[]"}, {"ranks": "{"}, {"ranks": "[3]"}):
        with pytest.raises(ValueError, match="ranks must be a JSON list"):
            PerRank(stream).load_state_dict(damaged)
    assert stream.state_dict() == RNGStream(42).state_dict()


@pytest.mark.parametrize("thing", [42, "stream", object(), RNGStream])
def test_what_has_no_state_dict_is_refused(thing):
    """TypeError that says what is needed."""
    if thing is RNGStream:
        return
    with pytest.raises(TypeError, match="state_dict and load_state_dict, such as an RNGStream"):
        PerRank(thing)


@needs_torch
def test_torch_knows_them_as_stateful():
    """Its checkpoints ask with isinstance."""
    from torch.distributed.checkpoint.stateful import Stateful

    assert isinstance(PerRank(), Stateful) and isinstance(RNGStream(42), Stateful)


def test_what_is_sent_is_a_few_bytes():
    """Eight bytes for each kind of source, whatever is loaded."""
    sizes = {len(digests_of(RNGState.capture(sources=s))) for s in (None, [])}
    assert sizes == {8 * len(SOURCES)}
    assert 8 * len(SOURCES) < 300


def test_the_error_of_thousands_of_ranks_can_be_read():
    """Runs of ranks are ranges, the largest party comes first, and the rest is counted."""
    kinds = len(SOURCES)
    ranks = list(range(5000))
    alike = bytes([7]) * 8 * kinds
    digests = [alike] * 5000
    assert differences(digests, ranks) == []
    digests[17] = bytes([9]) * 8 + alike[8:]
    (line,) = differences(digests, ranks)
    assert line == f"  cuda: {'07' * 8} on ranks 0-16, 18-4999; {'09' * 8} on rank 17"
    digests = [rank.to_bytes(8 * kinds, "big") for rank in range(1, 5001)]
    (line,) = differences(digests, ranks)
    assert len(line) < 500 and line.endswith("; 4992 more on other ranks")
    digests = [bytes([1 + rank % 2]) * 8 * kinds for rank in ranks]
    lines = differences(digests, ranks)
    assert len(lines) == kinds and max(map(len, lines)) < 300
    assert ", 12, 14, ...; " in lines[0]


def test_importing_it_imports_no_torch():
    """Nor does rank_seed, without torch."""
    code = """
        import sys
        import rngscope.distributed
        assert rngscope.distributed.rank_seed(42) == rngscope.derive_seed(42, "rank", 0)
        assert not {"torch", "numpy"} & set(sys.modules)
    """
    environment = {key: value for key, value in os.environ.items() if key != "RANK"}
    environment["PYTHONPATH"] = str(Path(rngscope.__file__).parents[1])
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment, check=True)
