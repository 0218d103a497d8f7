"""Faults that a hostile reading found, one test or more for each: what happens instead.

That no interrupt leaves anything behind is shown in ``test_interrupts.py`` for every point; here
are the same faults one by one, without signals.
"""

import asyncio
import gc
import os
import random
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
from by_hand import NAMES, public_states
from every_interrupt import is_held

from rngscope import RNGState, RNGStream, _interrupts, _life, _order, rng_scope, seed_all, seeded
from rngscope._interrupts import TimedLock
from rngscope.data import per_item
from rngscope.distributed import PerRank
from rngscope.sources import SOURCES

BY_NAME = {source.name: source for source in SOURCES}

needs_numpy = pytest.mark.skipif("numpy" not in NAMES, reason="needs numpy")
needs_torch = pytest.mark.skipif("torch" not in NAMES, reason="needs torch")


class Interrupt(BaseException):
    """What a signal handler raises: no Exception."""


class Mine(random.Random):
    """A generator of the program whose state cannot be read at times, or whose verbs do more."""

    is_broken = False
    hook = None

    def run(self):
        hook, self.hook = self.hook, None
        if hook is not None:
            hook()

    def getstate(self):
        self.run()
        if self.is_broken:
            raise OSError("cannot be read now")
        return super().getstate()

    def setstate(self, state):
        self.run()
        super().setstate(state)


def run(code, *arguments):
    """Run a program of its own, in which nothing is imported yet."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path))),
        capture_output=True,
        text=True,
        timeout=120,
    )


# Locks of libraries ----------------------------------------------------------------------------


def test_a_lock_that_is_not_had_in_time_is_not_released(monkeypatch):
    """It is held by another thread, which still needs it."""
    monkeypatch.setattr(_interrupts, "PATIENCE", 0.01)
    lock = threading.Lock()
    lock.acquire()
    with TimedLock(lock):
        assert lock.locked()
    assert lock.locked()


@pytest.mark.parametrize("error", [OSError, Interrupt])
def test_a_lock_that_is_had_is_released(error):
    lock = threading.Lock()
    with pytest.raises(error), TimedLock(lock):
        assert lock.locked()
        raise error
    assert not lock.locked()


def test_no_signal_is_looked_for_where_a_function_that_undoes_something_starts():
    """The operand of RESUME is that after an await, wherever RESUME stands."""
    import dis

    from rngscope._scope import rng_scope as scope
    from rngscope._stream import RNGStream as stream

    functions = [
        *(_life.Life.leave, _life.Life.suspend, _life.Life.__exit__),
        *(scope.__exit__, stream.__exit__, TimedLock.__exit__),
    ]
    assert _interrupts.RESUME == dis.opmap["RESUME"]
    for function in functions:
        (first, *_) = [i for i in dis.get_instructions(function) if i.opname == "RESUME"]
        assert first.arg == 3, function


def test_the_instruction_is_found_behind_those_that_prepare_variables():
    import dis

    def function():
        return lambda: function

    def with_cell(argument):
        return lambda: argument

    for each in (function, with_cell):
        changed = _interrupts.no_signal_at_start(each)
        (first, *_) = [i for i in dis.get_instructions(changed) if i.opname == "RESUME"]
        assert first.arg == 3
    assert with_cell(5)() == 5 and function()() is function


# Bodies that suspend ---------------------------------------------------------------------------


def bodies(mine):
    """Yield, for each kind of body that suspends, a function that runs it to its end."""
    @seeded(42)
    def generator():
        with rng_scope(4, generators=[mine]):
            mine.is_broken = True
            yield 1

    @seeded(42)
    async def coroutine():
        with rng_scope(4, generators=[mine]):
            mine.is_broken = True
            await asyncio.sleep(0)

    @seeded(42)
    async def async_generator():
        with rng_scope(4, generators=[mine]):
            mine.is_broken = True
            yield 1

    async def consume():
        async for _ in async_generator():
            pass

    yield "generator", lambda: list(generator())
    yield "coroutine", lambda: asyncio.run(coroutine())
    yield "async generator", lambda: asyncio.run(consume())


@pytest.mark.parametrize("kind", ["generator", "coroutine", "async generator"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_body_whose_suspending_fails_leaves_nothing(kind, unchanged):
    act = dict(bodies(Mine(1)))[kind]
    with pytest.raises(OSError, match="cannot be read now"):
        act()
    gc.collect()


def test_what_a_thread_opens_above_a_body_is_not_suspended_with_it(unchanged):
    """It belongs to the thread, whose stream goes on while the body is suspended."""
    opened, go_on = threading.Event(), threading.Event()
    drawn = []

    def other():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with rng_scope(7, sources=["python"]):
                drawn.append(random.random())
                opened.set()
                go_on.wait(60)
                drawn.append(random.random())

    @seeded(42, sources=["python"])
    def body():
        random.random()
        thread.start()
        opened.wait(60)
        yield 1

    thread = threading.Thread(target=other)
    steps = body()
    next(steps)
    assert len(_order.lives) == 1
    go_on.set()
    thread.join()
    own = random.Random(7)
    assert drawn == [own.random(), own.random()]
    steps.close()


# Leaving -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["scope", "stream"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_an_interrupt_as_an_exit_out_of_order_begins_leaves_nothing(kind, unchanged, monkeypatch):
    """The question whether it is this scope's turn is asked under the guard."""
    lower = rng_scope(1) if kind == "scope" else RNGStream(1)
    upper = rng_scope(2)
    with pytest.raises(Interrupt), lower:
        upper.__enter__()

        def interrupted(life):
            monkeypatch.undo()
            raise Interrupt

        monkeypatch.setattr(_life, "defer_exit", interrupted)
    upper.__exit__(None, None, None)


def test_a_scope_that_is_entered_again_begins_anew(unchanged):
    scope = rng_scope(42)
    drawn = []
    for _ in range(3):
        with scope:
            drawn.append(random.random())
    assert drawn == [random.Random(42).random()] * 3


def test_a_scope_that_failed_begins_anew(unchanged):
    """Neither a failed entry nor a failed exit leaves a stream to go on with."""
    mine = Mine(1)
    scope = rng_scope(42, generators=[mine])
    first = []
    for _ in range(2):
        mine.is_broken = True
        with pytest.raises(OSError), scope:
            pass
        mine.is_broken = False

        def fail():
            raise OSError("cannot be set now")

        with pytest.raises(OSError), scope:
            first.append(random.random())
            mine.hook = fail
    assert first == [random.Random(42).random()] * 2


# A scope that a finalizer ends in the middle of another one's entry or exit ----------------------


def undecorated():
    with rng_scope(11):
        yield random.random()


@pytest.fixture
def ended_by_finalizer():
    """A body that waits in a scope of its own; ``close`` ends it, as the collector might."""
    body = undecorated()
    next(body)
    yield body


def test_a_deferred_exit_that_warns_does_not_break_an_entry(unchanged, ended_by_finalizer):
    """Under -W error too: who ended the scope is gone, so the warning cannot be raised."""
    mine, seen = Mine(1), []
    mine.hook = ended_by_finalizer.close
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "unraisablehook", seen.append)
        with rng_scope(22, generators=[mine]):
            drawn = random.random()
    assert drawn == random.Random(22).random()
    assert [type(one.exc_value) for one in seen] in ([], [RuntimeWarning])


def test_an_entry_that_fails_leaves_a_scope_that_ended_in_it(unchanged, ended_by_finalizer):
    def close_and_fail():
        ended_by_finalizer.close()
        raise OSError("cannot be read now")

    mine = Mine(1)
    mine.hook = close_and_fail
    with pytest.raises(OSError), rng_scope(22, generators=[mine]):
        pass
    assert _order.lives == [] and _order.deferred == []


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("verb", ["resume", "suspend"])
def test_a_scope_that_ends_while_a_body_is_suspended_is_left(verb, unchanged, ended_by_finalizer):
    mine = Mine(1)

    @seeded(5, generators=[mine])
    def steps():
        if verb == "suspend":
            mine.hook = ended_by_finalizer.close
        yield 1

    if verb == "resume":
        mine.hook = ended_by_finalizer.close
    body = steps()
    next(body)
    assert _order.lives == [] and _order.deferred == []
    body.close()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("verb", ["state_dict", "capture", "seed_all", "restore"])
def test_a_scope_that_ends_while_states_are_read_or_set_is_left(
    verb, unchanged, ended_by_finalizer, monkeypatch
):
    stream = RNGStream(3)
    with stream:
        pass
    before = RNGState.capture()
    source = BY_NAME["python"]
    name = "setstate" if verb == "restore" else "seed" if verb == "seed_all" else "getstate"
    works = getattr(source, name)

    def closing(*arguments):
        ended_by_finalizer.close()
        return works(*arguments)

    with rng_scope():
        with monkeypatch.context() as patch:
            patch.setattr(source, name, closing)
            if verb == "state_dict":
                with stream:
                    stream.state_dict()
            elif verb == "capture":
                RNGState.capture()
            elif verb == "seed_all":
                seed_all(987654321)
            else:
                before.restore()
        assert len(_order.lives) == 1 and _order.deferred == []


# Roll-back ---------------------------------------------------------------------------------------


@needs_torch
@pytest.mark.parametrize("verb", ["restore", "seed_all"])
def test_an_interrupt_while_a_change_is_undone_leaves_no_half_of_it(
    verb, unchanged, monkeypatch
):
    with rng_scope(3):
        state = RNGState.capture()
    python, torch = BY_NAME["python"], BY_NAME["torch"]
    works, calls = python.setstate, []

    def interrupted_the_second_time(value):
        calls.append(value)
        if len(calls) == (2 if verb == "restore" else 1):
            raise Interrupt
        works(value)

    def fails(value):
        raise OSError("torch cannot be set")

    with monkeypatch.context() as patch:
        patch.setattr(python, "setstate", interrupted_the_second_time)
        patch.setattr(torch, "setstate" if verb == "restore" else "seed", fails)
        with pytest.raises(BaseExceptionGroup) as caught:
            state.restore() if verb == "restore" else seed_all(123456)
    assert {type(error) for error in caught.value.exceptions} == {OSError, Interrupt}


# Late imports ------------------------------------------------------------------------------------

INTERRUPTED_IMPORT = """
import random, sys
from rngscope import _arrival, _life, rng_scope

class Interrupt(BaseException):
    pass

def interrupt(take_up, is_late):
    def interrupted(library):
        if is_late:
            take_up(library)
        raise Interrupt
    return interrupted

import numpy
if "numpy.random" in sys.modules:
    print("imported with numpy")
    raise SystemExit
before = random.getstate()
take_up = _arrival.take_up
try:
    with rng_scope(1):
        _arrival.take_up = interrupt(take_up, sys.argv[1] == "late")
        import numpy.random
except Interrupt:
    _arrival.take_up = take_up
else:
    raise AssertionError("not interrupted")
assert "numpy.random" not in sys.modules
with rng_scope(7):
    import numpy.random as again
    drawn = again.random_sample()
    before_scope = None
outside = again.get_state()[1].tobytes()
assert drawn == again.RandomState(7).random_sample(), "not seeded"
with rng_scope(8):
    assert again.random_sample() == again.RandomState(8).random_sample()
assert again.get_state()[1].tobytes() == outside, "not put back"
assert random.getstate() == before
assert not _arrival.is_watching and _arrival.FINDER not in sys.meta_path
assert _arrival.pending == {"torch"}, _arrival.pending
print("done")
"""


@needs_numpy
@pytest.mark.parametrize("moment", ["early", "late"])
def test_a_library_whose_import_was_interrupted_is_seeded_when_it_comes(moment):
    """Law 3, whether the interrupt came before its RNGs were seen or after."""
    done = run(INTERRUPTED_IMPORT, moment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("done", "imported with numpy")


def test_an_entry_that_fails_takes_its_finder_with_it():
    code = """
import random, sys
from rngscope import _arrival, rng_scope

class Mine(random.Random):
    def getstate(self):
        assert _arrival.FINDER in sys.meta_path
        raise OSError

try:
    with rng_scope(1, generators=[Mine(1)]):
        pass
except OSError:
    assert not _arrival.is_watching and _arrival.FINDER not in sys.meta_path
    print("done")
"""
    done = run(code)
    assert done.stdout.strip() == "done", done.stderr


# Interpreters and bit generators -----------------------------------------------------------------


@pytest.mark.parametrize("library", ["random", pytest.param("numpy.random", marks=needs_numpy)])
def test_a_python_without_ctypes_is_enough(library):
    """The API path is always there."""
    code = f"""
import sys
sys.modules["_ctypes"] = None
import random
import {library} as library
from rngscope import RNGState, RNGStream, rng_scope, seed_all

draw = getattr(library, "random_sample", random.random)
before = RNGState.capture()
seed_all(1)
first = draw()
with rng_scope(1):
    assert draw() == first
    with RNGStream(1):
        assert draw() == first
    seed_all(1)
    assert draw() == first
before.restore()
assert RNGState.capture() == before
assert RNGState.from_state_dict(before.state_dict()).fingerprint() == before.fingerprint()
print("done")
"""
    done = run(code)
    assert done.stdout.strip() == "done", done.stderr


@needs_numpy
def test_a_subclass_of_numpys_bit_generator_can_be_global(path, unchanged):
    """It is seeded as numpy.random.seed seeds it."""
    import numpy

    class Sub(numpy.random.MT19937):
        pass

    with rng_scope():
        numpy.random.set_bit_generator(Sub(3))
        numpy.random.seed(42)
        expected = numpy.random.random_sample(3).tolist()
        numpy.random.seed(5)
        numpy.random.standard_normal()
        before = public_states()
        for _ in range(3):
            with rng_scope(42):
                assert numpy.random.random_sample(3).tolist() == expected
            assert public_states() == before
        with rng_scope(), RNGStream(42):
            assert numpy.random.random_sample(3).tolist() == expected
        assert public_states() == before
        seed_all(42)
        assert numpy.random.random_sample(3).tolist() == expected


# Accelerators ------------------------------------------------------------------------------------


@pytest.fixture
def cuda():
    pytest.importorskip("torch")
    from simulated_cuda import simulated_cuda

    with simulated_cuda(2) as cuda:
        yield cuda


@pytest.mark.parametrize("is_put", [False, True], ids=["before the mark", "after the mark"])
def test_an_interrupted_look_at_a_queue_changes_nothing(cuda, unchanged, monkeypatch, is_put):
    import torch

    from rngscope.sources.marks import Point

    torch.cuda.manual_seed_all(5)
    before, works = cuda.queue(), Point.put_into

    def interrupted(point, module):
        if is_put:
            works(point, module)
        raise Interrupt

    with monkeypatch.context() as patch:
        patch.setattr(Point, "put_into", interrupted)
        with pytest.raises(Interrupt), rng_scope(1):
            pass
    assert cuda.queue() == before
    torch.cuda.set_rng_state(torch.Generator().manual_seed(77).get_state())
    cuda.start()
    # What waits in torch's tracker comes last.
    assert [generator.initial_seed() for generator in cuda.generators] == [5, 5]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("forks", [False, True])
def test_scopes_of_two_threads_over_two_devices_outlive_a_fork(cuda, unchanged, forks):
    """The child's devices start as the program seeded them, and so do the parent's."""
    import torch

    torch.cuda.manual_seed_all(7)
    ready, go_on = threading.Event(), threading.Event()

    def other():
        with rng_scope(1, devices=[0]):
            ready.set()
            go_on.wait(60)

    thread = threading.Thread(target=other)
    thread.start()
    ready.wait(60)
    upper = rng_scope(2, devices=[1])
    upper.__enter__()
    child = os.fork() if forks else None
    if child == 0:
        upper.__exit__(None, None, None)
        cuda.start()
        os._exit([g.initial_seed() for g in cuda.generators] != [7, 7] or len(_order.lives))
    go_on.set()
    thread.join()
    upper.__exit__(None, None, None)
    cuda.start()
    assert [generator.initial_seed() for generator in cuda.generators] == [7, 7]
    if forks:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_change_that_waits_keeps_that_of_other_devices(cuda, unchanged):
    with rng_scope():
        seed_all(1, devices=[0])
        seed_all(2, devices=[1])
        seed_all(3, devices=[0])
        cuda.start()
        assert [generator.initial_seed() for generator in cuda.generators] == [3, 2]


def test_a_device_that_does_not_exist_is_told_at_the_start_and_the_others_are_seeded(
    cuda, unchanged
):
    import torch

    torch.cuda.manual_seed_all(7)
    with rng_scope(1, devices=[0, 2]):
        with pytest.warns(RuntimeWarning) as warned:
            cuda.start()
        assert {str(each.message) for each in warned} == {
            "unknown device 'cuda:2'; this process has 2 cuda device(s), counted from 0"
        }
        assert [generator.initial_seed() for generator in cuda.generators] == [1, 7]
    assert [generator.initial_seed() for generator in cuda.generators] == [7, 7]


# Near the recursion limit ------------------------------------------------------------------------


def recursive():
    """Return, by name, functions that open scopes without end."""
    stream = RNGStream(3)

    @seeded(4)
    def function(count):
        random.random()
        return function(count + 1)

    def block(count):
        with rng_scope(count):
            return block(count + 1)

    def preserving(count):
        with rng_scope():
            return preserving(count + 1)

    @stream
    def of_stream(count):
        random.random()
        return of_stream(count + 1)

    @seeded(5)
    def generator(count):
        yield random.random()
        yield from generator(count + 1)

    return {
        "function": function,
        "block": block,
        "preserving": preserving,
        "stream": of_stream,
        "generator": lambda count: list(generator(count)),
    }


@pytest.mark.parametrize("name", recursive())
@pytest.mark.parametrize("alignment", range(12))
def test_a_recursion_without_end_leaves_nothing(name, alignment, unchanged):
    """However the frames of the scopes lie to the limit; the error comes out as itself."""
    function, limit = recursive()[name], sys.getrecursionlimit()

    def pad(frames):
        return pad(frames - 1) if frames else function(0)

    try:
        sys.setrecursionlimit(400)
        with pytest.raises(RecursionError):
            pad(alignment)
        assert sys.getrecursionlimit() == 400
    finally:
        sys.setrecursionlimit(limit)
    assert not is_held(_order.lock)


def test_a_stream_whose_state_cannot_be_read_does_not_repeat_itself(unchanged):
    """A use that cannot say where it stands, because of the recursion limit, is asked again."""
    stream, drawn = RNGStream(3, sources=["python"]), []
    count = _depth()

    def deep(frames):
        if frames:
            deep(frames - 1)
        else:
            with stream:
                drawn.append(random.random())

    for left in range(1, 40):
        try:
            deep(sys.getrecursionlimit() - count - left)
        except RecursionError:
            pass
    own = random.Random(3)
    assert drawn == [own.random() for _ in drawn] and len(drawn) > 20


def _depth():
    count, frame = 0, sys._getframe()
    while frame is not None:
        count, frame = count + 1, frame.f_back
    return count


def test_a_use_inside_another_whose_state_cannot_be_read_is_refused(unchanged):
    """It would begin anew, and repeat the numbers."""
    mine = Mine(1)
    stream = RNGStream(3, generators=[mine])
    with stream:
        mine.random()
        with rng_scope(4):
            mine.is_broken = True
            with pytest.raises(OSError), stream:
                pass
            with pytest.raises(OSError):
                stream.state_dict()
            mine.is_broken = False


# Arguments ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [[], None, 5, "ranks", [("ranks", "[]")]])
def test_a_checkpoint_that_is_no_dict_is_a_value_error(state):
    with pytest.raises(ValueError, match="ranks must be a JSON list"):
        PerRank().load_state_dict(state)


@needs_torch
def test_a_meta_tensor_is_no_epoch_and_no_index():
    import torch

    items = per_item([1, 2], 3)
    meta = torch.ones((), dtype=torch.int64, device="meta")
    with pytest.raises(TypeError, match="epoch must be an integer, not Tensor"):
        items.set_epoch(meta)
    with pytest.raises(TypeError, match="by an int or a str, not by Tensor"):
        items.item_seed(meta)


def test_a_message_shows_a_line_of_what_was_passed_at_most():
    long = "x" * 5000
    several = list(range(5000))
    items = per_item([1], 2)
    for act in (
        lambda: items.set_epoch(several),
        lambda: items.set_epoch(10**6000),
        lambda: items.item_seed(several),
        lambda: rng_scope(several),
        lambda: rng_scope(1, independent=several),
        lambda: rng_scope(1, deterministic=several),
        lambda: rng_scope(1, sources=long),
        lambda: rng_scope(1, sources=[long]),
        lambda: rng_scope(1, devices=[-(10**6000)]),
        lambda: RNGStream(1, independent=several),
        lambda: seed_all(1, independent=several),
        lambda: seeded(several, seed_from=several),
        lambda: seeded(1)(several),
    ):
        with pytest.raises((TypeError, ValueError)) as caught:
            act()
        assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


@pytest.mark.skipif(sys.platform == "win32", reason="needs the module resource")
@pytest.mark.parametrize("library", ["random", pytest.param("numpy", marks=needs_numpy)])
def test_a_program_that_has_used_up_its_file_descriptors_is_reported(tmp_path, library):
    program = tmp_path / "program.py"
    program.write_text(
        f"import os, resource, {library}\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "held = []\n"
        "try:\n"
        "    while True: held.append(open(os.devnull))\n"
        "except OSError:\n"
        "    print('used up')\n"
    )
    # Coverage would want a descriptor for what it has measured.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
    done = subprocess.run(
        [sys.executable, "-m", "rngscope", "run", "--seed", "3", str(program)],
        env=dict(environment, PYTHONPATH=os.pathsep.join(filter(None, sys.path))),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "used up")
    assert "Traceback" not in done.stderr and done.stderr.startswith("rngscope: seed 3")


def test_a_program_that_cannot_be_run_leaves_no_scope(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "rngscope", "run", "--seed", "3", "-m", "no_such_module_here"],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path))),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr


# Guards ------------------------------------------------------------------------------------------


def guarded_lines(path):
    """Return the lines of loops that are inside of ``try`` and ``with`` blocks of a file."""
    import ast

    loops = (ast.For, ast.While, ast.ListComp, ast.SetComp, ast.DictComp)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Try, ast.With)):
            for inner in (each for statement in node.body for each in ast.walk(statement)):
                if isinstance(inner, loops):
                    found |= set(range(inner.lineno, inner.end_lineno + 1))
    return found


def unguarded_jumps(path):
    """Return the functions and lines of backward jumps in such blocks that no handler covers."""
    import dis
    import types

    lines, codes, found = guarded_lines(path), [], []
    codes.append(compile(path.read_text(), str(path), "exec"))
    for code in codes:
        codes += [const for const in code.co_consts if isinstance(const, types.CodeType)]
        covered = {
            offset
            for entry in dis._parse_exception_table(code)
            for offset in range(entry.start, entry.end)
        }
        for instruction in dis.get_instructions(code):
            name, line = instruction.opname, instruction.positions.lineno
            if "JUMP_BACKWARD" in name and "NO_INTERRUPT" not in name and line in lines:
                if instruction.offset not in covered and not code.co_name.startswith("<"):
                    found.append((code.co_name, line))
    return found


GUARDED = [
    path
    for path in sorted(Path(_life.__file__).parent.rglob("*.py"))
    # The check of an installation, and pytest, hold no lock there.
    if path.name not in ("_self_check.py", "pytest_plugin.py")
]


@pytest.mark.parametrize("path", GUARDED, ids=lambda path: path.stem)
def test_no_backward_jump_in_a_guarded_block_is_outside_of_its_guard(path):
    """The compilers of CPython 3.12 and 3.13 copy such a jump and forget the handler: a loop that
    ends with an ``if``, or a ``while`` loop, in a ``try`` block is not all in it.
    """
    assert unguarded_jumps(path) == []
