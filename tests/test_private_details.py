"""The private details of other libraries: each is in one table, and none is needed."""

import ast
import ctypes
import functools
import importlib
import inspect
import json
import multiprocessing.context
import os
import pickle
import random
import re
import subprocess
import sys
import textwrap
import types
import warnings
from pathlib import Path

import pytest
from by_hand import NAMES, expected

import rngscope
from rngscope import RNGState, RNGStream, _details, _lookup, data, rng_scope, seeded
from rngscope._state import seal
from rngscope.distributed.calls import ranks_of
from rngscope.sources import drivers, mersenne

PACKAGE = Path(rngscope.__file__).parent
TESTS = Path(__file__).parent
CUDA, ROCM = _details.CUDA_DEVICES, _details.ROCM_DEVICES
GROUPS = _details.alternatives()
ROWS = [row for rows in GROUPS for row in rows]
needs_torch = pytest.mark.skipif("torch" not in NAMES, reason="needs torch")
needs_numpy = pytest.mark.skipif("numpy" not in NAMES, reason="needs NumPy")


def python(*arguments):
    """Run a program in which the rngscope under test and the tests' own modules are found."""
    path = [str(PACKAGE.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
        capture_output=True,
        text=True,
        timeout=280,
    )


def program(text):
    result = python("-c", textwrap.dedent(text))
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def gone(monkeypatch):
    """Return a function that makes a row of the table name something that does not exist."""

    def misspell(row):
        monkeypatch.setattr(row, "name", row.name + "_that_is_gone")

    monkeypatch.setattr(_lookup, "not_found", {})
    return misspell


# The table ------------------------------------------------------------------------------------


def sources_of(folder):
    return {path: path.read_text() for path in sorted(folder.rglob("*.py"))}


def test_every_row_is_used():
    """A row that nothing uses any more goes."""
    texts = "\n".join(t for p, t in sources_of(PACKAGE).items() if p.name != "_details.py")
    names = [name for name, value in vars(_details).items() if isinstance(value, _details.Detail)]
    assert len(names) == len(ROWS) > 40
    assert [name for name in names if not re.search(rf"_details\.{name}\b", texts)] == []


def test_every_row_says_what_is_done_without_it():
    for row in ROWS:
        assert row.library and row.name and row.purpose and row.without, row
    assert len({row.path for row in ROWS}) == len(ROWS)


def test_a_row_shows_its_path():
    assert repr(_details.QUEUE.on("cuda")) == "<Detail torch.cuda._queued_calls of torch>"


def is_there(rows):
    absent = object()
    return _details.find(*rows, default=absent) is not absent


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(rows, id=rows[0].path)
        for rows in GROUPS
        if rows[0].module and (len(rows) > 1 or not rows[0].versions)
    ],
)
def test_the_installed_version_has_it(rows):
    """Of rows that stand in for each other, it has one."""
    pytest.importorskip(rows[0].module.partition(".")[0])
    if "{}" not in rows[0].path:
        importlib.import_module(rows[0].module)
        assert is_there(rows)
        return
    torch = importlib.import_module("torch")
    for name in importlib.import_module("simulated_cuda").ACCELERATORS:
        on = [row.on(name) for row in rows]
        if rows[0] is _details.IS_BUILT:
            # What no build for the CPU has.
            version = any(getattr(torch.version, n, None) for n in ("cuda", "hip"))
            assert name != "cuda" or is_there(on) == version
            continue
        assert is_there(on)


def test_the_installed_version_has_what_not_every_version_has():
    """These depend on the version of Python, and on how far torch was imported."""
    assert is_there([_details.HAS_GIL]) == (sys.version_info >= (3, 13))
    assert _details.INDUCTOR_DETERMINISTIC.module == "torch._inductor.config"


def test_the_memory_of_pythons_generator_is_as_known():
    assert mersenne.layout_is_known()
    assert _details.RANDOM_LAYOUT not in _details.missing()


@needs_numpy
def test_the_memory_of_numpys_generator_is_as_known():
    from numpy.random import RandomState

    from rngscope.sources.numpy_memory import find_gauss

    assert find_gauss(RandomState(0)) is not False
    assert _details.NUMPY_LAYOUT not in _details.missing()


@needs_torch
def test_the_bytes_of_torchs_cpu_generator_are_as_known(monkeypatch):
    """Where they are not, torch checks alone, and a report of leaks does not say how it moved."""
    import torch

    from rngscope.pytest_plugin import leaks
    from rngscope.sources import torch as torch_source

    monkeypatch.setattr(_lookup, "not_found", {})
    data = torch_source.tensor_bytes(torch.Generator().get_state())
    torch_source.check_torch_state(data, "state")
    assert _details.missing() == []
    assert leaks._verb("torch", b"1" * 9, b"2" * 9) == "moved"
    monkeypatch.setattr(torch_source, "STATE_BYTES", 9)
    torch_source.check_torch_state(data, "state")
    assert _details.missing() == [_details.CPU_STATE_LAYOUT]


@needs_torch
def test_torch_knows_the_attribute_that_keeps_functions_out_of_graphs():
    """What the public decorator sets."""
    out = program("""
        import torch
        def function(): pass
        print(*vars(torch.compiler.disable(function)))
    """)
    assert _details.KEEP_OUT_OF_GRAPHS.name in out.split()


@needs_torch
def test_what_waits_for_a_start_is_a_pair_whose_call_has_a_known_name():
    """Calls and stacks; each call about RNGs has the name of the function that queued it."""
    import torch
    from simulated_cuda import simulated_cuda

    with simulated_cuda(2) as accelerator:
        cuda = torch.cuda
        cuda.seed()
        cuda.seed_all()
        cuda.set_rng_state(torch.Generator().get_state(), 0)
        cuda.manual_seed(1)
        cuda.manual_seed_all(2)
        queue = getattr(cuda, _details.QUEUE.name)
        parts = [*queue, *[entry for entry in cuda._lazy_seed_tracker.call_order if entry]]
        names = [call.__qualname__.partition(".")[0] for call, stack in parts]
        assert set(names) - _details.RNG_FUNCTIONS == {"_recorder"}
        assert {"set_rng_state", "manual_seed", "manual_seed_all"} <= set(names)
        accelerator.start()


def test_find_returns_the_first_that_is_there(monkeypatch):
    """And what was missed is known until it is found; of rows in each other's place, the first."""
    monkeypatch.setattr(_lookup, "not_found", {})
    module = types.ModuleType("a_library")
    new = _details.Detail("a", "a_library", "new.inner", "to count", "nothing")
    old = _details.Detail("a", "a_library", "old", "to count", "nothing")
    assert _details.find(new, old) is None and _details.missing() == []
    monkeypatch.setitem(sys.modules, "a_library", module)
    assert _details.find(new, old, default=5) == 5 and _details.missing() == [new]
    module.old = 1
    assert _details.find(new, old) == 1 and _details.missing() == []
    assert _details.find(new) is None and _details.missing() == [new]
    module.new = types.SimpleNamespace(inner=2)
    assert _details.find(new, old) == 2 and _details.missing() == []
    assert not _details.proved(new, False) and _details.missing() == [new]
    assert _details.proved(new, True) and _details.missing() == []


# Nothing is named elsewhere ---------------------------------------------------------------------


def own_names(trees):
    """Return the names with an underscore that the package gives to things of its own."""
    names = set()
    for path, tree in trees.items():
        names.add(path.stem)
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                if isinstance(node.value, ast.Name) and node.value.id == "self":
                    names.add(node.attr)
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__slots__":
                names |= set(ast.literal_eval(node.value))
    return names


def is_private(name):
    return name.startswith("_") and not name.endswith("__")


def foreign_names(trees):
    """Yield where the package names private details of other libraries."""
    own = own_names(trees)
    in_table = {part for row in ROWS for part in row.name.split(".") if is_private(part)}
    for path, tree in trees.items():
        for node in ast.walk(tree):
            found = ()
            if isinstance(node, ast.Attribute):
                found = [node.attr]
            elif isinstance(node, ast.ImportFrom):
                is_ours = (node.module or "").partition(".")[0] == "rngscope"
                found = [] if is_ours else [alias.name for alias in node.names]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if node.func.id in ("getattr", "hasattr", "setattr", "delattr"):
                    name = node.args[1]
                    found = [name.value] if isinstance(name, ast.Constant) else []
            for name in found:
                if is_private(name) and name not in own:
                    yield f"{path.name}:{node.lineno}: {name}"
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for name in in_table & set(re.findall(r"\w+", node.value)):
                    yield f"{path.name}:{node.lineno}: {name!r}"


def trees_of(texts):
    return {path: ast.parse(text) for path, text in texts.items() if path.name != "_details.py"}


def test_no_other_module_names_a_private_detail():
    """Neither as an attribute nor in a string."""
    assert list(foreign_names(trees_of(sources_of(PACKAGE)))) == []


@pytest.mark.parametrize(
    "line",
    [
        "torch._C.manual",
        "from torch.cuda import _lazy_call",
        "getattr(module, '_tls', None)",
        "names.get('_queued_calls')",
        "hasattr(thing, '_somewhere_else')",
    ],
)
def test_that_test_can_fail(line):
    assert list(foreign_names({Path("planted.py"): ast.parse(line)}))


# Without them -----------------------------------------------------------------------------------

CASES = {row.path: [row.path] for row in ROWS}
CASES |= {
    f"{rows[0].path} and what stands in for it": [row.path for row in rows]
    for rows in GROUPS
    if len(rows) > 1
}
#: Of whose absence nothing can be seen: attributes that one sets on objects or reads from any.
UNSEEN = {
    _details.KEEP_OUT_OF_GRAPHS.path,
    _details.KEEP_OUT_OF_GRAPHS_REASON.path,
    _details.IS_BEING_IMPORTED.path,
    _details.STARTING.path,
}
#: What the program below does not come to: see the tests at the end.
ELSEWHERE = {
    row.path
    for row in (
        _details.RUN_MODULE,
        _details.RUN_DIRECTORY,
        _details.SPAWNING,
        _details.IMPORT_CALL,
        _details.CHECKPOINT_IS_COMPILING,
        _details.INDUCTOR_DETERMINISTIC,
        _details.MPS_GENERATOR,
        _details.CUDA_DEVICES,
        _details.ROCM_DEVICES,
        _details.HYPOTHESIS_SEED,
    )
}


@pytest.fixture(scope="module")
def ran():
    """Run the laws without each detail in turn; nothing at all is missing in the case ''."""
    cases = {"": [], **CASES}
    result = python(str(TESTS / "missing_detail_program.py"), json.dumps(cases))
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("case", ["", *CASES])
def test_without_it_the_laws_hold(case, ran):
    """Entered without an error, exact, and equal to what the libraries draw."""
    assert ran[case]["wrong"] == {}, "\n".join(ran[case]["wrong"].values())


def test_what_is_missing_is_known(ran):
    """A row that stood in for another is enough; nothing else is said to be missing."""
    libraries = {"Python", *({"NumPy"} if "numpy" in NAMES else ())}
    libraries |= {"torch"} if "torch" in NAMES else set()
    assert ran[""]["missing"] == []
    for rows in GROUPS:
        together = len(rows) > 1
        case = f"{rows[0].path} and what stands in for it" if together else rows[0].path
        if rows[0].library not in libraries or {case} & (UNSEEN | ELSEWHERE):
            continue
        if rows[0] is _details.HAS_GIL and sys.version_info < (3, 13):
            assert ran[case]["missing"] == []
            continue
        missing = set(ran[case]["missing"])
        on = {rows[0].on(name).path for name in ("cuda", "xpu", "mtia")}
        if rows[0] in (_details.RANDOM_INSTANCE,):
            # The module that does it in place of the instance does not show it.
            missing.discard(_details.RANDOM_GAUSS.path)
        assert missing and missing <= on, case
    for row in (_details.RANDOM_INSTANCE, _details.RANDOM_INSTANCE_OF_METHOD):
        assert ran[row.path]["missing"] == []


# The self-check ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [[_details.RANDOM_BARE_SEED], [_details.RUN_MODULE]], ids=str)
def test_the_self_check_says_what_is_missing(rows):
    """One line each: the name, and what it costs. It is no failure."""
    paths = [row.path for row in rows]
    text = f"""
        from missing_detail_program import import_without
        import_without({paths})
        from rngscope.__main__ import main
        raise SystemExit(main(%s))
    """
    lines = program(text % "[]").splitlines()
    row = rows[0]
    assert lines[-2] == (
        f"missing: {row.path}_that_is_gone ({row.purpose}); without it: {row.without}"
    )
    assert lines[-1].startswith("verdict: exact")
    found = json.loads(program(text % '["--json"]'))
    assert found["missing_details"] == {f"{row.path}_that_is_gone": row.without}
    assert found["exact"] is True


def test_the_self_check_finds_all_of_them_here():
    """Those of libraries that it does not check itself, too."""
    result = python("-m", "rngscope", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["missing_details"] == {}


# CUDA that cannot start -------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch):
    """Return a function that says how many GPUs there are, and whether there is a driver."""
    import torch

    names = {hip: row.name for hip, row in ((False, CUDA), (True, ROCM))}

    def become(*, count=-1, has_driver=False, hip=None, visible=None):
        def load(name):
            assert name == drivers._DRIVER
            if not has_driver:
                raise OSError(name)

        def devices():
            warnings.warn("Can't initialize NVML")
            if isinstance(count, Exception):
                raise count
            return count

        monkeypatch.setattr(ctypes, "CDLL", load)
        monkeypatch.setattr(torch.version, "hip", hip)
        monkeypatch.setattr(torch.cuda, names[hip is not None], devices, raising=False)
        name = "HIP_VISIBLE_DEVICES" if hip else "CUDA_VISIBLE_DEVICES"
        monkeypatch.delenv(name, raising=False)
        if visible is not None:
            monkeypatch.setenv(name, visible)

    return become


@needs_torch
def test_it_is_known_why_cuda_cannot_start(machine):
    """No driver, or nothing visible. What is not known speaks against nothing."""
    why = drivers.why_it_cannot_start
    machine(count=-1, has_driver=False)
    assert why("cuda") == f"there is no NVIDIA driver on this machine: no {drivers._DRIVER}"
    machine(count=RuntimeError("contradiction"), has_driver=False)
    assert why("cuda") == f"there is no NVIDIA driver on this machine: no {drivers._DRIVER}"
    for count, has_driver in ((-1, True), (2, False), (2, True)):
        machine(count=count, has_driver=has_driver)
        assert why("cuda") is None
    machine(count=0, has_driver=True)
    assert why("cuda") == "no NVIDIA GPU is visible"
    machine(count=0, has_driver=True, visible="")
    assert why("cuda") == "no NVIDIA GPU is visible (CUDA_VISIBLE_DEVICES='')"
    machine(count=0, hip="6.0", visible="-1")
    assert why("cuda") == "no AMD GPU is visible (HIP_VISIBLE_DEVICES='-1')"
    for count in (-1, 1):
        machine(count=count, hip="6.0")
        assert why("cuda") is None
    machine(count=0)
    assert why("xpu") is None


@needs_torch
def test_without_torchs_count_the_driver_tells(machine, gone):
    machine(count=0, has_driver=True)
    gone(CUDA)
    assert drivers.why_it_cannot_start("cuda") is None
    machine(has_driver=False)
    assert "no NVIDIA driver" in drivers.why_it_cannot_start("cuda")
    assert [row.name for row in _details.missing()] == ["_device_count_nvml_that_is_gone"]


@pytest.fixture
def cuda_state():
    """A state of two GPUs, and of what else there is."""
    from simulated_cuda import simulated_cuda

    with simulated_cuda(2) as accelerator:
        accelerator.start()
        with rng_scope(5):
            state = RNGState.capture()
    assert "cuda" in state.fingerprints()
    return state


@needs_torch
def test_a_state_of_gpus_is_refused_where_cuda_cannot_start(cuda_state, machine, unchanged):
    """strict: an error that says what is missing, before anything is touched."""
    from simulated_cuda import simulated_cuda

    with simulated_cuda(2) as accelerator:
        machine(count=-1, has_driver=False)
        queue = accelerator.queue()
        with pytest.raises(ValueError) as caught:
            cuda_state.restore()
        assert str(caught.value) == (
            f"the state holds 'cuda', which cannot start in this process: there is no NVIDIA "
            f"driver on this machine: no {drivers._DRIVER}; leave it out with "
            f"restore(strict=False)"
        )
        assert accelerator.queue() == queue


@needs_torch
def test_not_strict_restores_the_rest_of_it(cuda_state, machine):
    """And warns with what is left out; nothing is left in the queue."""
    from simulated_cuda import simulated_cuda

    with simulated_cuda(2) as accelerator:
        machine(count=-1, has_driver=False)
        queue = accelerator.queue()
        with rng_scope():
            inside = accelerator.queue()
            with pytest.warns(RuntimeWarning, match="not restored: .* there is no NVIDIA driver"):
                cuda_state.restore(strict=False)
            assert accelerator.queue() == inside
            after = RNGState.capture()
            assert after.differs_from(cuda_state) == ["cuda"]
        assert accelerator.queue() == queue


@needs_torch
def test_a_state_that_cannot_be_known_to_be_wrong_waits(cuda_state, machine):
    """With a driver there, and a count or none, it gets its part when it starts."""
    from simulated_cuda import simulated_cuda

    for count in (-1, 1, 2):
        with simulated_cuda(2) as accelerator:
            machine(count=count, has_driver=True)
            with rng_scope(sources=["python", "numpy", "torch"]):
                cuda_state.restore()
            accelerator.start()
            assert RNGState.capture(sources=["cuda"]).differs_from(cuda_state) == [
                name for name in NAMES
            ]


@needs_torch
def test_scopes_and_streams_take_such_a_state(cuda_state, machine, unchanged):
    """No GPU can draw in them, so nothing is promised that does not hold; nothing is lost."""
    from simulated_cuda import simulated_cuda

    states = {"cuda": {"count": 1, "states": {"0": "07" + "00" * 15}}}
    plain = seal("RNGStream", {"seed": "5", "independent": False, "states": states})
    with simulated_cuda(2) as accelerator:
        machine(count=-1, has_driver=False)
        queue = accelerator.queue()
        with rng_scope(cuda_state):
            pass
        other = RNGStream(6)
        other.load_state_dict(plain)
        with other:
            pass
        assert accelerator.queue() == queue
        assert other.state_dict()["states"]["cuda"] == states["cuda"]


@needs_torch
def test_on_this_build_of_torch_a_state_of_gpus_never_seems_restored():
    """On the CPU build, and on the CUDA build without a driver; neither poisons a fork."""
    out = program("""
        import os, torch
        from rngscope import RNGState
        from simulated_cuda import simulated_cuda
        with simulated_cuda(1) as accelerator:
            accelerator.start()
            state = RNGState.capture(sources=["cuda"])
        try:
            state.restore()
            print("restored")
        except ValueError as error:
            print(error)
        print(torch.cuda.is_initialized(), flush=True)
        child = os.fork()
        if not child:
            os._exit(torch.cuda._is_in_bad_fork())
        print(os.waitpid(child, 0)[1], torch.cuda.is_available())
    """)
    said, is_started, status_and_available = out.splitlines()
    status, available = status_and_available.split()
    assert is_started == "False" and status == "0"
    if available == "False":
        assert said.startswith("the state holds 'cuda', which ")


# Other versions ---------------------------------------------------------------------------------


@needs_torch
def test_ranks_are_known_without_asking_for_those_of_no_group(tmp_path):
    """Up to torch 2.4 ``get_process_group_ranks(None)`` is a KeyError."""
    pytest.importorskip("torch.distributed")
    out = program(f"""
        import torch.distributed as torch_distributed
        from rngscope.distributed import PerRank, assert_in_sync, sync
        real = torch_distributed.get_process_group_ranks
        def ranks_of(group):
            if group is None:
                raise KeyError(None)
            return real(group)
        torch_distributed.get_process_group_ranks = ranks_of
        store = torch_distributed.FileStore({str(tmp_path / 'store')!r}, 1)
        torch_distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        assert_in_sync()
        sync()
        per_rank = PerRank()
        per_rank.load_state_dict(per_rank.state_dict())
        assert_in_sync(group=torch_distributed.group.WORLD)
        torch_distributed.destroy_process_group()
        print("all of them")
    """)
    assert out == "all of them\n"


def test_the_default_group_is_everybody(monkeypatch):
    fake = types.SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        get_rank=lambda group=None: 1,
        get_world_size=lambda: 3,
        get_process_group_ranks=lambda group: {"some": [1, 2]}[group],
    )
    monkeypatch.setitem(sys.modules, "torch.distributed", fake)
    assert ranks_of(None) == [0, 1, 2]
    assert ranks_of("some") == [1, 2]


class BindingPartial(functools.partial):
    """What ``functools.partial`` is from Python 3.14 on: it binds as a method does."""

    def __get__(self, instance, owner=None):
        return self if instance is None else types.MethodType(self, instance)


@pytest.mark.parametrize("partial", [functools.partial, BindingPartial])
def test_a_partial_in_a_class_is_left_alone_in_every_version(partial):
    """Only methods are decorated."""

    class Tests:
        def test_method(self):
            return random.random()

        test_partial = partial(random.Random)

    # Python 3.13, where partial only warns that it will bind, says of both that they do not.
    assert sys.version_info[:2] == (3, 13) or inspect.isroutine(BindingPartial(random.Random))
    before = vars(Tests)["test_partial"]
    decorated = seeded(42)(Tests)
    assert vars(decorated)["test_partial"] is before
    assert decorated().test_method() == random.Random(42).random()


@pytest.mark.parametrize("partial", [functools.partial, BindingPartial])
def test_a_class_of_partials_only_has_no_methods(partial):
    with pytest.raises(TypeError, match="has no methods named test"):
        seeded(42)(type("Tests", (), {"test_partial": partial(random.Random)}))


# Features that are lost, by name ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "arguments"),
    [(_details.RUN_MODULE, ["-m", "this"]), (_details.RUN_DIRECTORY, ["."])],
    ids=["module", "directory"],
)
def test_run_without_runpys_own_functions_is_a_clear_error(row, arguments, tmp_path):
    (tmp_path / "__main__.py").write_text("")
    arguments = [str(tmp_path) if argument == "." else argument for argument in arguments]
    out = program(f"""
        import sys
        from missing_detail_program import import_without
        import_without([{row.path!r}])
        from rngscope.__main__ import main
        sys.stderr = sys.stdout
        print(main(["run", "--seed", "1", *{arguments}]))
    """)
    assert out == (
        f"python -m rngscope run: {row.purpose} needs {row.path}_that_is_gone, which this Python "
        f"does not have\n1\n"
    )


class Popen:
    """A process that is being started."""

    DupFd = duplicate_for_child = staticmethod(int)


@pytest.mark.parametrize("is_gone", [False, True])
def test_an_epoch_is_shared_with_workers_only(is_gone, gone, monkeypatch):
    """Without the question whether a worker is being started, the attempt to share it tells."""
    if is_gone:
        gone(_details.SPAWNING)
    items = data.per_item([0], seed=1)
    items.set_epoch(5)
    copy = pickle.loads(pickle.dumps(items))
    items.set_epoch(6)
    assert copy.epoch == 5
    # Only systems with fork pass memory by its descriptor.
    monkeypatch.setattr(multiprocessing.context._tls, "spawning_popen", Popen(), raising=False)
    assert items.__getstate__()["board"] is items._board


HYPOTHESIS_SUITE = """
from hypothesis import given, strategies as st

def test_before():
    pass

@given(st.integers())
def test_one(number):
    pass

@given(st.integers())
def test_two(number):
    pass
"""


def test_the_plugin_says_once_that_hypothesis_cannot_be_seeded(tmp_path):
    """--rng-seed: the tests pass, the first under @given has a warning."""
    pytest.importorskip("hypothesis")
    (tmp_path / "test_it.py").write_text(HYPOTHESIS_SUITE)
    out = program(f"""
        from missing_detail_program import import_without
        import_without([{_details.HYPOTHESIS_SEED.path!r}])
        import pytest, rngscope.pytest_plugin
        flags = ["-p", "rngscope.pytest_plugin", "-p", "no:cacheprovider", "--rng-seed=7"]
        import os
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        raise SystemExit(pytest.main([*flags, {str(tmp_path)!r}]))
    """)
    assert "3 passed" in out
    message = "this Hypothesis has no hypothesis.core.global_force_seed_that_is_gone"
    assert out.count(message) == 1
    assert "::test_one\n" in out.partition("warnings summary")[2].partition(message)[0]


@needs_torch
def test_apples_gpu_without_its_generator_is_exact(gone, monkeypatch):
    """Through the public functions, which take no index."""
    import torch

    from rngscope import _present

    generator = torch.Generator().manual_seed(5)
    monkeypatch.setattr(_present, "_kept", _present._Kept())
    monkeypatch.setattr(torch._C, "_has_mps", True)
    monkeypatch.setattr(torch.mps, "get_rng_state", generator.get_state)
    monkeypatch.setattr(torch.mps, "set_rng_state", generator.set_state)
    real, asked = torch.Generator, []
    monkeypatch.setattr(torch, "Generator", lambda device: asked.append(str(device)) or real())
    gone(_details.MPS_GENERATOR)
    with rng_scope(42, sources=["mps"]):
        drawn = torch.rand(1, generator=generator).item()
    assert asked == ["mps"]
    assert drawn == torch.rand(1, generator=real().manual_seed(42)).item()
    assert torch.rand(1, generator=generator) == torch.rand(1, generator=real().manual_seed(5))
    monkeypatch.setattr(_present, "_kept", _present._Kept())


@needs_numpy
def test_a_random_state_over_a_foreign_bit_generator_is_refused(gone):
    """Without the bit generator at hand, one that is not NumPy's own cannot be made anew."""
    import numpy.random as numpy_random

    class Mine(numpy_random.PCG64):
        pass

    own = numpy_random.RandomState(Mine(1))
    with rng_scope(42, generators=[own]):
        pass
    gone(_details.NUMPY_BIT_GENERATOR)
    with pytest.raises(TypeError) as caught:
        with rng_scope(42, generators=[own]):
            pass
    assert "a RandomState over Mine cannot be seeded: this NumPy has no " in str(caught.value)


def test_the_loop_is_found_without_asyncios_own_function(gone, monkeypatch):
    """Also while asyncio is only just being imported."""
    from rngscope import _origin

    gone(_details.RUNNING_LOOP)
    importlib.import_module("asyncio")
    assert _origin._running_loop_in_public() is None
    monkeypatch.setitem(sys.modules, "asyncio", types.ModuleType("asyncio"))
    assert _origin._running_loop_in_public() is None


def test_a_seed_is_drawn_from_alike_on_every_road():
    """The tests above compare with this."""
    assert expected("python", 42)[0][0] == random.Random(42).random()
