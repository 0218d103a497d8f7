"""``python -m rngscope``, in processes of its own: the self-check, and ``run``."""

import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import zipfile
from contextlib import redirect_stdout
from pathlib import Path

import by_hand
import pytest

import rngscope
from rngscope import RNGState, rng_scope
from rngscope._run import _report
from rngscope._self_check import self_check

ACCELERATORS = ["cuda", "xpu", "mps", "mtia", "privateuseone"]
LINE = re.compile(
    r"rngscope: seed \d+( independent)? hash-seed (random|\d+)( \w+=[0-9a-f]{16})+ "
    r"all=[0-9a-f]{16}"
)


@pytest.fixture(autouse=True)
def no_hash_seed(monkeypatch):
    """What the shell has set is none of the tests' business."""
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)


@pytest.fixture(autouse=True)
def interrupts_are_heard():
    """A shell that starts the tests in the background has them ignored, by children too."""
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, old)


def start(command, **options):
    """Run a command in which python imports the rngscope under test."""
    path = [str(Path(rngscope.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, path)))
    # With it no output waits, and its order cannot be wrong.
    environment.pop("PYTHONUNBUFFERED", None)
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run(
        command,
        env=environment,
        text=True,
        timeout=200,
        **options,
    )


def python(*arguments, **options):
    return start([sys.executable, *arguments], **options)


def code(text):
    return python("-c", textwrap.dedent(text))


# The self-check ---------------------------------------------------------------------------


def test_the_self_check_has_a_line_for_every_source_and_a_verdict():
    result = python("-m", "rngscope")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    head, *lines, verdict = result.stdout.splitlines()
    assert head.startswith(f"rngscope {rngscope.__version__}, CPython {sys.version.split()[0]}, ")
    assert [line.partition(":")[0] for line in lines] == ["python", "numpy", "torch", *ACCELERATORS]
    assert verdict == f"verdict: exact: {', '.join(by_hand.NAMES)}"
    for name, line in zip(["python", "numpy", "torch"], lines):
        if name not in by_hand.NAMES:
            assert line == f"{name}: not installed"
            continue
        assert re.fullmatch(
            rf"{name}: \S.* [\d.]+\S*; \d+ bytes of state; outer state exact; seeded draws equal "
            r"to the library's own; save [\d.]+ us, seed [\d.]+ us, restore [\d.]+ us "
            r"\((fast|API) path\)",
            line,
        )


def test_the_self_check_as_json_says_the_same():
    result = python("-m", "rngscope", "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads(result.stdout)
    assert found["exact"] is True and found["together"] == "exact"
    assert found["rngscope"] == rngscope.__version__ and found["platform"]
    rows = {row["source"]: row for row in found["sources"]}
    assert list(rows) == ["python", "numpy", "torch", *ACCELERATORS]
    for name in by_hand.NAMES:
        row = rows[name]
        assert row["outer_state_is_exact"] is True and row["draws_are_as_seeded"] is True
        assert row["not_there"] is None and row["error"] is None
        assert min(row["save_us"], row["seed_us"], row["restore_us"]) > 0
    # 624 words and a position; NumPy adds a flag and the cached Gaussian.
    sizes = {"python": 2500, "numpy": 2512, "torch": 5056}
    assert {name: rows[name]["state_bytes"] for name in by_hand.NAMES} == {
        name: sizes[name] for name in by_hand.NAMES
    }


def test_the_self_check_tells_the_road_of_each_source():
    paths = []
    for fast in (True, False):
        result = code(f"""
            from rngscope.__main__ import main
            from rngscope.sources import memory
            memory.fast_paths = {fast}
            raise SystemExit(main(["--json"]))
        """)
        assert result.returncode == 0, result.stdout + result.stderr
        paths.append({x["source"]: x["path"] for x in json.loads(result.stdout)["sources"]})
    assert paths[0]["python"] == "fast" and paths[1]["python"] == "API"
    if "numpy" in by_hand.NAMES:
        assert paths[0]["numpy"] == "fast" and paths[1]["numpy"] == "API"


def test_the_self_check_says_what_is_not_installed():
    result = code("""
        import sys
        sys.modules["numpy"] = sys.modules["torch"] = None
        from rngscope.__main__ import main
        raise SystemExit(main([]))
    """)
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert "numpy: not installed" in lines and "torch: not installed" in lines
    assert "cuda: torch is not installed" in lines
    assert lines[-1] == "verdict: exact: python"


def test_a_library_that_cannot_be_imported_is_a_failure(tmp_path):
    (tmp_path / "numpy.py").write_text("import a_module_that_is_missing")
    result = python("-m", "rngscope", cwd=tmp_path)
    assert result.returncode == 1
    assert "numpy: FAILED: ModuleNotFoundError: No module named 'a_module_that_is" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("verdict: NOT EXACT: numpy")


CLASSES = {"python": "PythonSource", "numpy": "NumpySource", "torch": "TorchSource"}
BREAKS = {
    "restore does nothing": "Source.setstate = lambda self, state: None",
    "seed does nothing": """
        Source.seed = lambda self, seed: None
        Source.seeded_state = lambda self, seed: self.getstate()
    """,
    "another seed": """
        seed, seeded_state = Source.seed, Source.seeded_state
        Source.seed = lambda self, s: seed(self, s + 1)
        Source.seeded_state = lambda self, s: seeded_state(self, s + 1)
    """,
    "restore fails": """
        def setstate(self, state):
            raise OSError("no way back")
        Source.setstate = setstate
    """,
}


@pytest.mark.parametrize("name", by_hand.NAMES)
@pytest.mark.parametrize("how", BREAKS)
def test_the_self_check_fails_when_a_source_is_broken(name, how):
    result = code(
        f"from rngscope.sources.{name} import {CLASSES[name]} as Source\n"
        # One that is not looked at is not imported, which takes seconds.
        + ("" if name == "torch" else "import sys; sys.modules['torch'] = None\n")
        + textwrap.dedent(BREAKS[how])
        + "\nfrom rngscope.__main__ import main\nraise SystemExit(main([]))"
    )
    assert result.returncode == 1, result.stdout + result.stderr
    assert result.stderr == ""
    lines = {line.partition(":")[0]: line for line in result.stdout.splitlines()}
    bad = {
        "restore does nothing": "outer state NOT EXACT",
        "seed does nothing": "outer state exact; seeded draws NOT EQUAL",
        "another seed": "outer state exact; seeded draws NOT EQUAL",
        "restore fails": "FAILED: OSError: no way back",
    }
    assert bad[how] in lines[name]
    # The others are found to be exact all the same.
    for other in set(by_hand.NAMES) - {name, "torch"}:
        assert "outer state exact; seeded draws equal" in lines[other]
    assert lines["verdict"].startswith(f"verdict: NOT EXACT: {name}; a scope over all sources ")


def test_the_self_check_sees_a_lost_gaussian():
    result = code("""
        from rngscope.sources.python import PythonSource
        restore = PythonSource.setstate
        PythonSource.setstate = lambda self, state: restore(self, (state[0], None))
        from rngscope.__main__ import main
        raise SystemExit(main([]))
    """)
    assert result.returncode == 1
    assert "outer state NOT EXACT" in result.stdout.splitlines()[1]


def test_the_self_check_sees_another_bit_generator_with_the_same_state():
    pytest.importorskip("numpy")
    result = code("""
        import sys
        sys.modules["torch"] = None
        import numpy.random
        from rngscope.sources.numpy import NumpySource
        restore = NumpySource.setstate

        def restore_onto_another_object(self, state):
            restore(self, state)
            state = numpy.random.get_state(legacy=False)
            numpy.random.set_bit_generator(numpy.random.MT19937())
            numpy.random.set_state(state)

        NumpySource.setstate = restore_onto_another_object
        from rngscope.__main__ import main
        raise SystemExit(main([]))
    """)
    assert result.returncode == 1
    assert "outer state NOT EXACT; seeded draws equal" in result.stdout.splitlines()[2]


def test_the_self_check_starts_no_accelerator():
    pytest.importorskip("torch")
    result = code("""
        from rngscope.__main__ import main
        import torch

        def fail(*args):
            raise AssertionError("an accelerator was asked for")

        for module in (torch.cuda, torch.xpu, torch.mtia):
            module._lazy_init = module.init = fail
            module.device_count = module.is_available = fail
        torch.accelerator.device_count = fail
        raise SystemExit(main([]))
    """)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture
def simulated(monkeypatch):
    """Stand in for CUDA, whose devices then draw from their CPU generators."""
    torch = pytest.importorskip("torch")
    from simulated_cuda import simulated_cuda

    def drawn_on(draw):
        def redirected(count, device=None):
            generator = device and torch.cuda.default_generators[int(device.partition(":")[2])]
            return draw(count, generator=generator)

        return redirected

    monkeypatch.setattr(torch, "rand", drawn_on(torch.rand))
    monkeypatch.setattr(torch, "randn", drawn_on(torch.randn))
    return simulated_cuda


def check_in_process(**options):
    with rng_scope(), redirect_stdout(io.StringIO()) as output:
        status = self_check(**options)
    return status, {line.partition(":")[0]: line for line in output.getvalue().splitlines()}


def test_devices_are_checked_when_they_are_started_or_may_be(simulated):
    with simulated(2) as cuda:
        status, lines = check_in_process()
        assert status == 0
        assert lines["cuda"] == "cuda: not started; --start-devices starts it"
        assert not cuda.module.is_initialized()

        status, lines = check_in_process(start_devices=True)
        assert status == 0
        assert ", 2 devices; " in lines["cuda"]
        assert "outer state exact; seeded draws equal" in lines["cuda"]

        # It has started by now.
        status, lines = check_in_process()
        assert status == 0
        assert ", 2 devices; " in lines["cuda"]


def test_a_device_that_does_not_come_back_is_seen(simulated, monkeypatch):
    from rngscope.sources.accelerators import Device

    setstate = Device.setstate
    monkeypatch.setattr(Device, "setstate", lambda self, x: self.index or setstate(self, x))
    with simulated(2):
        status, lines = check_in_process(start_devices=True)
    assert status == 1
    assert "outer state NOT EXACT; seeded draws equal" in lines["cuda"]
    assert lines["verdict"].startswith("verdict: NOT EXACT: cuda; ")


def test_an_accelerator_without_a_device_is_said_so(simulated):
    with simulated(0):
        status, lines = check_in_process(start_devices=True)
    assert status == 0
    assert lines["cuda"].startswith("cuda: could not be started: ")


# What is asked wrongly --------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--jsno"], "unrecognized arguments: --jsno"),
        (["walk"], "invalid choice: 'walk'"),
        (["run"], "run needs a script or -m and a module"),
        (["run", "-m"], "run needs a script or -m and a module"),
        (["run", "--seed", "3"], "run needs a script or -m and a module"),
        (["run", "--seed", "-1", "x.py"], "seed -1 is out of range; expected 0 <= seed < 2**64"),
        (["run", "--seed", str(2**64), "x.py"], f"seed {2**64} is out of range"),
        (["run", "--seed", "1.5", "x.py"], "'1.5' is not an integer in [0, 2**64)"),
        (["run", "--seed", "one", "x.py"], "'one' is not an integer in [0, 2**64)"),
        (["run", "--sed", "1", "x.py"], "unrecognized arguments: --sed"),
        (["run", "missing.py"], "missing.py': [Errno 2] No such file or directory"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(arguments, message, tmp_path):
    result = python("-m", "rngscope", *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert message in result.stderr


@pytest.mark.parametrize(
    "arguments, way_out",
    [
        (["--seed", "42", "x.py"], "run --seed 42 x.py"),
        (["--seed=42", "x.py", "--json"], "run --seed=42 x.py --json"),
        (["--seed", "42"], "run --seed 42"),
        (["x.py"], "run x.py"),
        (["x y.py", "$z"], "run 'x y.py' '$z'"),
        (["--independent", "-m", "pytest"], "run --independent -m pytest"),
        (["--deterministic", "-mpytest"], "run --deterministic -mpytest"),
        (["--hash-seed", "0", "x.py"], "run --hash-seed 0 x.py"),
        (["--seed", "42", "run", "x.py"], "run --seed 42 x.py"),
    ],
)
def test_a_program_without_run_shows_run(arguments, way_out, tmp_path):
    """The line that is shown does what was meant."""
    result = python("-m", "rngscope", *arguments, cwd=tmp_path)
    assert result.returncode == 2 and result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.endswith(f"; to run a program, write: python -m rngscope {way_out}\n")


def test_an_option_of_nobody_shows_the_usage_only():
    result = python("-m", "rngscope", "--jsno")
    assert "to run a program" not in result.stderr and "--help" in result.stderr


@pytest.mark.parametrize("arguments", [["-m", "missing"], ["-m", "sys"], ["-m", "p.q"], ["."]])
def test_what_cannot_be_run_is_one_line_and_the_status_of_python(arguments, tmp_path):
    plain = python(*arguments, cwd=tmp_path)
    result = python("-m", "rngscope", "run", "--seed", "1", *arguments, cwd=tmp_path)
    assert result.returncode == plain.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    # After the name of the program, what python says itself.
    assert result.stderr.partition(": ")[2] == plain.stderr.partition(": ")[2]


# run: a program in a scope ----------------------------------------------------------------


@pytest.fixture
def script(tmp_path):
    """Return a function that writes a program and gives its path."""

    def write(text, name="script.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return str(path)

    return write


def run(*arguments, **options):
    return python("-m", "rngscope", "run", *arguments, **options)


DRAW = """
    import importlib.util
    import random
    print([random.random(), random.gauss(0, 1)])
    if importlib.util.find_spec("numpy"):
        import numpy
        print(numpy.random.rand(3).tolist())
    if importlib.util.find_spec("torch"):
        import torch
        print(torch.rand(3).tolist())
"""


def drawn_by_hand(seed_of):
    """Return what the program above prints with these seeds."""
    own = by_hand.generator("python", seed_of("python"))
    lines = [[own.random(), own.gauss(0, 1)]]
    if "numpy" in by_hand.NAMES:
        lines.append(by_hand.generator("numpy", seed_of("numpy")).rand(3).tolist())
    if "torch" in by_hand.NAMES:
        import torch

        own = by_hand.generator("torch", seed_of("torch"))
        lines.append(torch.rand(3, generator=own).tolist())
    return "".join(f"{line}\n" for line in lines)


def test_a_program_draws_what_its_libraries_draw_when_seeded(script):
    result = run("--seed", "42", script(DRAW))
    assert result.returncode == 0, result.stderr
    assert result.stdout == drawn_by_hand(lambda name: 42)


def test_independent_gives_each_source_its_own_seed(script):
    result = run("--independent", "--seed", "42", script(DRAW))
    assert result.stdout == drawn_by_hand(lambda name: rngscope.derive_seed(42, name))
    assert result.stderr.startswith("rngscope: seed 42 independent hash-seed random python=")


def test_two_runs_end_with_the_same_line(script):
    first, second = (run("--seed", "42", script(DRAW)).stderr for _ in range(2))
    assert first == second
    assert LINE.fullmatch(first.rstrip("\n"))
    names = re.findall(r"(\w+)=", first)
    assert names == [name for name in RNGState.capture().fingerprints() if name in names] + ["all"]
    assert set(by_hand.NAMES) <= set(names)


def test_the_line_tells_two_runs_apart_that_drew_otherwise(script):
    once = run("--seed", "1", script("import random; random.random()")).stderr
    twice = run("--seed", "1", script("import random; random.random(); random.random()")).stderr
    other = run("--seed", "2", script("import random; random.random()")).stderr
    assert len({line.split("all=")[1] for line in (once, twice, other)}) == 3


def test_the_line_is_the_fingerprint_of_the_states_at_the_end(script):
    result = run(
        "--seed",
        "7",
        script("""
            import random
            random.random()
            from rngscope import RNGState
            state = RNGState.capture()
            print(" ".join(f"{name}={text}" for name, text in state.fingerprints().items()))
            print(f"all={state.fingerprint()}")
        """),
    )
    assert result.stderr == f"rngscope: seed 7 hash-seed random {' '.join(result.stdout.split())}\n"


def test_without_a_seed_one_is_picked_and_told_first(script):
    program = script("""
        import random, sys
        print("hello", file=sys.stderr)
        print(random.random())
    """)
    first = run(program)
    told, hello, last = first.stderr.splitlines()
    seed = re.match(r"rngscope: seed (\d+), picked by the operating system", told)[1]
    assert f"run --seed {seed} repeats this run" in told
    assert hello == "hello"
    assert LINE.fullmatch(last) and last.startswith(f"rngscope: seed {seed} ")
    again = run("--seed", seed, program)
    assert again.stdout == first.stdout
    assert again.stderr.splitlines() == [hello, last]
    assert run(program).stdout != first.stdout


def test_deterministic_switches_torch_over(script):
    pytest.importorskip("torch")
    program = script("""
        import os, torch
        print(torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic)
        print(os.environ.get("CUBLAS_WORKSPACE_CONFIG"))
    """)
    assert run("--seed", "1", "--deterministic", program).stdout == "True True\n:4096:8\n"
    assert run("--seed", "1", program).stdout == "False False\nNone\n"


def test_it_imports_none_of_the_libraries(script):
    program = script("import sys; print([m for m in ('numpy', 'torch') if m in sys.modules])")
    assert run("--seed", "1", program).stdout == "[]\n"


# run: as python itself would --------------------------------------------------------------

SHOW = """
    import sys
    names = {k: str(v) for k, v in globals().items() if k not in ("__builtins__", "sys")}
    names["__loader__"] = type(__loader__).__name__
    names["__spec__"] = None if __spec__ is None else (__spec__.name, __spec__.origin)
    print(*sorted(names.items()), sep="\\n")
    print(sys.argv, sys.path, sys.modules["__main__"].__dict__ is globals())
    print(__builtins__, __annotations__ if sys.version_info < (3, 14) else "")
"""
ARGUMENTS = ["a b", "--seed", "3", "-m", "--", "-x"]


def same_as_python(*arguments, flags=(), **options):
    """Run both ways and check that the output is the same; return that of run."""
    plain = python(*flags, *arguments, **options)
    result = python(*flags, "-m", "rngscope", "run", "--seed", "1", *arguments, **options)
    assert result.stdout == plain.stdout
    assert result.returncode == plain.returncode
    *others, line = result.stderr.splitlines()
    assert LINE.fullmatch(line)
    return plain, others


@pytest.mark.parametrize("flags", [(), ("-P",)])
@pytest.mark.parametrize("where", ["script.py", "sub/script.py", "link.py", "absolute"])
def test_a_script_finds_the_world_that_python_makes(where, flags, script, tmp_path):
    target = script(SHOW, "sub/script.py" if where in ("sub/script.py", "link.py") else "script.py")
    if where == "link.py":
        (tmp_path / where).symlink_to(target)
    same_as_python(target if where == "absolute" else where, *ARGUMENTS, flags=flags, cwd=tmp_path)


@pytest.mark.parametrize("flags", [(), ("-P",)])
def test_a_directory_and_a_zip_file_run_like_in_python(flags, script, tmp_path):
    script(SHOW, "program/__main__.py")
    same_as_python("program", *ARGUMENTS, flags=flags, cwd=tmp_path)
    with zipfile.ZipFile(tmp_path / "program.zip", "w") as archive:
        archive.write(tmp_path / "program" / "__main__.py", "__main__.py")
    same_as_python("program.zip", *ARGUMENTS, flags=flags, cwd=tmp_path)


def test_a_compiled_script_runs_like_in_python(script, tmp_path):
    import py_compile

    py_compile.compile(script(SHOW), tmp_path / "compiled.pyc", doraise=True)
    same_as_python("compiled.pyc", *ARGUMENTS, cwd=tmp_path)


def test_a_module_runs_like_in_python(script, tmp_path):
    script("import sys; print('package', sys.argv[0])", "package/__init__.py")
    script(SHOW, "package/module.py")
    script(SHOW, "package/__main__.py")
    same_as_python("-m", "package.module", *ARGUMENTS, cwd=tmp_path)
    same_as_python("-m", "package", *ARGUMENTS, cwd=tmp_path)
    same_as_python("-mpackage", *ARGUMENTS, cwd=tmp_path)


def test_the_package_of_a_module_is_imported_inside_the_scope(script, tmp_path):
    script("import random; print(random.random())", "package/__init__.py")
    script("import random; print(random.random())", "package/__main__.py")
    own = by_hand.generator("python", 42)
    result = run("--seed", "42", "-m", "package", cwd=tmp_path)
    assert result.stdout == f"{own.random()}\n{own.random()}\n"


@pytest.mark.parametrize(
    "end, status",
    [
        ("", 0),
        ("sys.exit()", 0),
        ("sys.exit(0)", 0),
        ("sys.exit(3)", 3),
        ("sys.exit(True)", 1),
        ("sys.exit('a message')", 1),
        ("raise SystemExit(300)", 300 % 256),
        ("raise ValueError('wrong')", 1),
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("import os, signal; os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT),
        ("import a_module_that_is_missing", 1),
        ("def f(x: a_name_that_is_missing): pass", 1),
        ("1 +", 1),
        ("def f():\n    g()\ndef g():\n    1 / 0\nf()", 1),
        ("try:\n    1 / 0\nexcept Exception as e:\n    raise OSError('no') from e", 1),
        ("raise ExceptionGroup('two', [ValueError(1), KeyError(2)])", 1),
        ("sys.excepthook = lambda *a: print('hooked', a[0], a[2].tb_lineno)\n1 / 0", 1),
    ],
)
def test_a_program_ends_as_under_python(end, status, script, tmp_path):
    """Exit status and traceback are the same, with none of our frames."""
    script("import sys, atexit\natexit.register(print, 'bye')\nprint('hello')\n" + end)
    plain, others = same_as_python("script.py", cwd=tmp_path)
    assert plain.returncode == status
    assert others == plain.stderr.splitlines()


def test_the_traceback_of_a_module_has_none_of_our_frames(script, tmp_path):
    script("1 / 0", "package/__init__.py")
    script("", "package/__main__.py")
    script("1 / 0", "module.py")
    for name in ("package", "module"):
        result = run("--seed", "1", "-m", name, cwd=tmp_path)
        assert result.returncode == 1
        first, frame, *_, error, line = result.stderr.splitlines()
        assert first == "Traceback (most recent call last):"
        assert error == "ZeroDivisionError: division by zero"
        assert str(Path(rngscope.__file__).parent) not in result.stderr
        assert LINE.fullmatch(line)


def test_the_line_comes_after_threads_and_exit_functions(script):
    result = run(
        "--seed",
        "1",
        script("""
            import atexit, random, sys, threading, time

            @atexit.register
            def draw_at_exit():
                print("exit", random.random(), file=sys.stderr)

            def draw_late():
                time.sleep(0.3)
                print("thread", random.random(), file=sys.stderr)

            threading.Thread(target=draw_late).start()
        """),
    )
    own = by_hand.generator("python", 1)
    thread, at_exit, line = result.stderr.splitlines()
    assert (thread, at_exit) == (f"thread {own.random()}", f"exit {own.random()}")
    assert LINE.fullmatch(line)
    with rng_scope(1, sources=["python"]):
        random.random(), random.random()
        expected = RNGState.capture(sources=["python"]).fingerprints()["python"]
    assert f"python={expected} " in line


def test_the_line_is_on_the_real_standard_error(script):
    program = script("import io, sys; sys.stdout.write('x'); sys.stderr = io.StringIO()")
    result = run("--seed", "1", program)
    assert result.stdout == "x"
    assert LINE.fullmatch(result.stderr.strip())
    merged = run("--seed", "1", program, stderr=subprocess.STDOUT)
    assert merged.stdout.startswith("xrngscope: seed 1 ")


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
def test_a_closed_standard_error_does_not_matter(script):
    program = script("print('hello')")
    command = f"'{sys.executable}' -m rngscope run --seed 1 '{program}' 2>&-"
    result = start(["sh", "-c", command])
    assert (result.returncode, result.stdout) == (0, "hello\n")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_write_the_line(script, capfd):
    result = run(
        "--seed",
        "1",
        script("""
            import os, sys
            pid = os.fork()
            if pid == 0:
                sys.exit(0)
            os.waitpid(pid, 0)
        """),
    )
    assert result.returncode == 0
    assert len(result.stderr.splitlines()) == 1
    _report(1, "", pid=os.getpid() + 1, deterministic=False)
    assert capfd.readouterr() == ("", "")


def test_spawned_processes_find_the_main_module(script, tmp_path):
    text = """
        import multiprocessing, pickle, random

        class Item:
            def __init__(self, value):
                self.value = value

        def double(item):
            return Item(2 * item.value), __name__

        if __name__ == "__main__":
            print(random.random())
            with multiprocessing.get_context("spawn").Pool(2) as pool:
                for item, name in pool.map(double, [Item(1), Item(2), Item(3)]):
                    print(type(item) is Item, item.value, name)
    """
    script(text)
    script(text, "package/module.py")
    own = by_hand.generator("python", 42)
    expected = f"{own.random()}\n" + "".join(f"True {n} __mp_main__\n" for n in (2, 4, 6))
    for arguments in (["script.py"], ["-m", "package.module"]):
        result = run("--seed", "42", *arguments, cwd=tmp_path)
        assert result.stdout == expected, result.stderr
        assert len(result.stderr.splitlines()) == 1, result.stderr
    # multiprocessing may be imported long before the program.
    early = "import multiprocessing, rngscope.__main__; rngscope.__main__.main()"
    result = python("-c", early, "run", "--seed", "42", "script.py", cwd=tmp_path)
    assert result.stdout == expected, result.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_data_loader_with_two_workers_works(script):
    pytest.importorskip("torch")
    program = script("""
        import sys
        import torch
        from torch.utils.data import DataLoader, Dataset

        class Noise(Dataset):
            def __len__(self):
                return 6

            def __getitem__(self, index):
                return index + torch.rand(1)

        if __name__ == "__main__":
            loader = DataLoader(
                Noise(), shuffle=True, num_workers=2, multiprocessing_context=sys.argv[1]
            )
            print([batch.item() for batch in loader])
    """)
    forked, spawned = (run("--seed", "42", program, how) for how in ("fork", "spawn"))
    assert forked.returncode == spawned.returncode == 0, forked.stderr + spawned.stderr
    assert forked.stdout == spawned.stdout and forked.stdout.count(",") == 5
    assert forked.stderr == spawned.stderr
    assert LINE.fullmatch(forked.stderr.strip())
    assert run("--seed", "43", program, "fork").stdout != forked.stdout


def test_pytest_runs_in_a_scope(script, tmp_path):
    script("import random\ndef test_draw():\n    print(random.random())\n", "test_it.py")
    first, second = (
        run("--seed", "5", "-m", "pytest", "-q", "-s", "-p", "no:randomly", cwd=tmp_path)
        for _ in range(2)
    )
    assert first.returncode == 0, first.stdout + first.stderr
    assert re.search(r"^0\.\d+", first.stdout, re.M)[0] in second.stdout
    assert first.stderr.splitlines()[-1] == second.stderr.splitlines()[-1]


def test_help_shows_both_uses():
    result = python("-m", "rngscope", "--help")
    assert result.returncode == 0
    assert "--start-devices" in result.stdout and "script.py" in result.stdout
    result = run("--help")
    assert result.returncode == 0
    assert "--independent" in result.stdout and "(script.py | -m module)" in result.stdout


def test_the_command_needs_no_library():
    """Neither torch nor NumPy are imported for the parser itself."""
    result = code("""
        import sys
        from rngscope.__main__ import main
        try:
            main(["--help"])
        except SystemExit:
            pass
        assert not {"torch", "numpy"} & set(sys.modules)
    """)
    assert result.returncode == 0, result.stderr
