"""Which scopes are open, and what each of them found when it was entered.

For every source, the open scopes that cover it stand in a pile. Each keeps in ``saved`` the
state that it found, which is the position of the stream below it; the state of the source
itself is the position of the stream on top. To enter is to put a stream on top. To leave is
to take one out, wherever it is: what it found goes to the next scope above that covers the
source, or, if there is none, back to the source. So scopes may be left in any order, and
once all are closed the first state found is back.
"""

from __future__ import annotations

import os
import sys
import warnings

# Not threading, which costs more to import than the whole package.
from _thread import get_ident

from rngscope import _details, _late_import, _turns
from rngscope._errors import find_frame, raise_together, warn_caller
from rngscope._interrupts import no_signal_at_start
from rngscope._late_import import pending
from rngscope._not_covered import warn_at_end
from rngscope._sources import present

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Self

    from rngscope._sources import Source

#: Held while a scope is entered or left, never while its body runs.
lock, is_owned = _turns.lock, _turns.is_owned

#: The open scopes, in the order in which they were entered.
scopes = _turns.scopes

#: Scopes that were to be left in the middle of another one's entry or exit.
_deferred: list[OpenScope] = []


def keep_out_of_graphs(function: Any) -> None:
    """Have ``torch.compile`` break the graph here, which needs no import of torch.

    TorchDynamo must not trace these: it would draw ``numpy.random`` from torch. With
    ``fullgraph=True`` its error names the reason.
    """
    setattr(function, _details.KEEP_OUT_OF_GRAPHS.name, True)
    setattr(
        function,
        _details.KEEP_OUT_OF_GRAPHS_REASON.name,
        "an RNG scope cannot be part of a graph: without fullgraph=True the graph breaks here; "
        "otherwise enter the scope around the call of the compiled function",
    )


class OpenScope:
    """One stretch between entry and exit, over some sources.

    The stream of the scope begins with ``seed``, or with the states of ``replayed``, or
    goes on from what there is. It can be put aside and taken up again: between the steps
    of a body that suspends, scopes are closed.
    """

    #: Whether it stands around a whole test or program, and so belongs to no thread.
    is_of_process = False

    __slots__ = (
        "sources",
        "seed",
        "independent",
        "replayed",
        "begins_anyhow",
        "exclusive",
        "covered",
        "saved",
        "start",
        "position",
        "inner",
        "dropped",
        "function",
        "code",
        "instruction",
        "thread",
        "task",
    )

    def __init__(
        self,
        sources: tuple[Source, ...],
        seed: int | None,
        independent: bool = False,
        replayed: dict[str, Any] | None = None,
        begins_anyhow: bool = False,
        exclusive: bool | float = False,
        function: Any = None,
    ) -> None:
        self.sources = sources
        self.seed = seed
        self.independent = independent
        #: Source name -> state to begin with.
        self.replayed = replayed
        #: Whether sources begin although there is no seed, and only after all are saved.
        self.begins_anyhow = begins_anyhow
        #: Whether it keeps the scopes of other threads out; a number of seconds: so too, and
        #: for how long it waits for them.
        self.exclusive = exclusive
        if exclusive:
            # Here too: it may be the copy of a scope that another process made.
            _turns.expect_exclusive_scopes()
        #: Those of the sources that are there.
        self.covered: tuple[Source, ...] = ()
        #: What was found at entry, one state for each covered source; None while not open.
        self.saved: list[Any] | None = None
        #: Where the stream goes on at the next entry: identity of a source -> state.
        self.start: dict[Any, Any] | None = None
        #: Where it stopped, while the scope is put aside.
        self.position: dict[Any, Any] | None = None
        #: The scopes that were put aside with it.
        self.inner: tuple[OpenScope, ...] = ()
        #: Sources that a forked child does not put back, although their stream goes on.
        self.dropped: tuple[Source, ...] = ()
        #: The function whose calls run in it, if it was made by a decorator.
        self.function = function

    # Entering --------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Save every source and begin the stream, or go on where it was put aside.

        If that fails half way, everything is put back.
        """
        if self.saved is not None or self.position is not None:
            raise RuntimeError(
                "this scope is open already; make another one: with rng_scope(...)"
            )
        self.covered = ()
        saved: list[Any] = []
        self.saved = saved
        start = self.start
        first: Any
        try:
            # In here: CPython 3.11 takes an interrupt at the jump back of a loop for one at the
            # instruction before the loop.
            first = None
            while True:
                if first is not None:
                    first.wait()
                with lock:
                    if start is None and first is None:
                        caller = find_frame(1)
                        self.code = caller.f_code
                        self.instruction = caller.f_lasti
                    me = self.thread = get_ident()
                    self.task = running_loop() and _name_of_task()
                    if scopes and scopes[-1].thread != me or _turns.looks_closely:
                        needed = _turns.needed_before(self, first)
                        if needed is not None:
                            first = needed
                            continue
                    if pending:
                        _late_import.watch(take_up_what_appeared)
                    covered = self.covered = present(self.sources)
                    scopes.append(self)
                    seed = self.seed
                    if seed is not None and start is None and not self.begins_anyhow:
                        independent = self.independent
                        for source in covered:
                            source.save_and_seed(saved, seed, independent)
                    else:
                        # All before the first begins: generators of the user may share an RNG
                        # with each other, or be a global one.
                        for source in covered:
                            saved.append(source.save())
                        if self.begins_anyhow or start is not None:
                            self._go_on(start or {})
                break
            if first is not None:
                first.drop()
        except BaseException as error:
            self._close_after(error)
            raise
        if _deferred:
            leave_deferred()
        return self

    def take_up(self) -> None:
        """Enter again where the stream was put aside, with the scopes that were above it."""
        inner, self.inner = self.inner, ()
        position = self.start = self.position
        self.position = None
        try:
            self.__enter__()
        except BaseException:
            # It is put aside as before.
            self.position, self.inner = position, inner
            raise
        finally:
            self.start = None
        for scope in inner:
            # One that was left meanwhile has no position any more.
            if scope.position is not None:
                scope.take_up()

    def _go_on(self, start: dict[Any, Any]) -> None:
        for source in self.covered:
            state = start.get(source.identity)
            if state is None:
                self._begin(source)
            else:
                source.restore(state)

    def take_in(self, source: Source) -> None:
        """Cover one more source while the scope is open, as if it had been there at entry."""
        assert self.saved is not None
        self.saved.append(source.save())
        self.covered = (*self.covered, source)
        self._begin(source)

    def _begin(self, source: Source) -> None:
        """Give one source the state that the stream begins with."""
        if self.replayed is not None and source.name in self.replayed:
            # It may have been loaded before there was a library that could check it.
            source.check(self.replayed[source.name])
            source.replay(self.replayed[source.name])
        elif self.seed is not None:
            source.seed(self.seed, self.independent)
        elif source.is_switch:
            source.seed(0, False)

    # Leaving ---------------------------------------------------------------------------

    # Not *error: collecting it comes before the first line, where an interrupt is not caught.
    def leave(
        self, kind: object = None, error: object = None, traceback: object = None, /
    ) -> None:
        """Put every source back, or hand what was found to the scopes above.

        Raises:
            BaseException: whatever kept a source from being restored, after all others
                were; several in a group.
        """
        if scopes and scopes[-1] is not self and self.is_not_its_turn():
            return
        crossed = None
        try:
            with lock:
                saved = self.saved
                if saved is None:
                    # Put aside: there is nothing to put back, and nothing to go on with.
                    self.position = None
                    return
                if scopes[-1] is self:
                    for source, state in zip(self.covered, saved):
                        source.restore(state)
                    self.saved = None
                    del scopes[-1]
                else:
                    crossed = self._first_crossed()
                    for source, state in zip(self.covered, saved):
                        self.set_to(source, state)
                    self._close()
                if _late_import.is_watching and not scopes:
                    _late_import.stop_watching()
                if _turns.claims:
                    _turns.pass_turns()
        except BaseException as interruption:
            self._close_after(interruption)
            raise
        if crossed is not None:
            self._warn_of_order(crossed)
        if _deferred:
            leave_deferred()
        if type(self.sources) is not tuple:
            warn_at_end(self.sources, self.covered, kind)  # type: ignore[arg-type]

    no_signal_at_start(leave)
    __exit__ = leave

    keep_out_of_graphs(__enter__)
    keep_out_of_graphs(leave)

    def is_not_its_turn(self) -> bool:
        """Tell whether this thread is in the middle of another scope's entry or exit.

        So it is when a finalizer or a signal handler ends a scope just then. This one will be
        left after that.
        """
        if not scopes or scopes[-1] is self or not is_owned(lock):
            return False
        _deferred.append(self)
        return True

    def put_aside(self) -> None:
        """Leave, and remember in ``position`` where the stream stopped.

        The scopes that this thread has opened above it are put aside with it: they belong
        to the same body.
        """
        with lock:
            if scopes[-1] is not self:
                self._put_inner_aside()
            self._stop()

    def _stop(self) -> None:
        """Leave, and remember where the stream stopped."""
        try:
            with lock:
                found = list(zip(self.covered, self.saved or ()))
                if scopes[-1] is self:
                    self.position = {source.identity: source.save() for source in self.covered}
                    for source, state in found:
                        source.restore(state)
                else:
                    self.position = {s.identity: self.stands_at(s, state) for s, state in found}
                    for source, state in found:
                        self.set_to(source, state)
                self.position.update(self._take_dropped())
                self._close()
        except BaseException as error:
            self._close_after(error)
            raise

    def _take_dropped(self) -> dict[Any, Any]:
        dropped, self.dropped = self.dropped, ()
        return {source.identity: source.save() for source in dropped}

    def _put_inner_aside(self) -> None:
        above = scopes[scopes.index(self) + 1 :]
        self.inner = tuple(scope for scope in above if scope.thread == self.thread)
        for scope in reversed(self.inner):
            scope.put_aside()

    def stands_at(self, source: Source, state: Any) -> Any:
        """Return where the stream stands in one source.

        That is what the next scope above that covers the source has found, or, without
        one, the state of the source. ``state`` says which devices are meant. Other scopes may
        cover only some of them: then the answer is a tuple of parts.
        """
        parts: list[Any] = []
        for upper, place in self._above(source):
            if not hasattr(source, "pass_on"):
                return upper[place]
            _, part, state = source.pass_on(upper[place], state)
            if part is not None:
                parts.append(part)
            if state is None:
                break
        else:
            parts.insert(0, source.save())
        return parts[0] if len(parts) == 1 else tuple(parts)

    def set_to(self, source: Source, state: Any) -> None:
        """Set where the stream stands in one source. To do it twice is to do it once."""
        for upper, place in self._above(source):
            if not hasattr(source, "pass_on"):
                upper[place] = state
                return
            upper[place], _, state = source.pass_on(upper[place], state)
            if state is None:
                return
        source.restore(state)

    def _above(self, source: Source) -> Iterator[tuple[list[Any], int]]:
        """Yield where the scopes above keep what they found in this source."""
        for upper in scopes[scopes.index(self) + 1 :]:
            place = upper._place_of(source)
            if place is not None and upper.saved is not None:
                yield upper.saved, place

    def _place_of(self, source: Source) -> int | None:
        """Return where a source stands in ``covered``, if it does."""
        for place, mine in enumerate(self.covered):
            if mine.identity == source.identity:
                return place
        return None

    def _first_crossed(self) -> OpenScope | None:
        """Return the next open scope above that covers a source of this one."""
        for upper in scopes[scopes.index(self) + 1 :]:
            if any(upper._place_of(source) is not None for source in self.covered):
                return upper
        return None

    def _close(self) -> None:
        # In this order: what is not saved any more is not restored once more.
        self.saved = None
        scopes.remove(self)
        if _late_import.is_watching and not scopes:
            _late_import.stop_watching()
        if _turns.claims:
            _turns.pass_turns()

    def _close_after(self, error: BaseException) -> None:
        """Restore every source in spite of an error, and close.

        The error may come from a source or, as an interrupt, from anywhere between two
        instructions. So each source is restored once more, which changes nothing where it
        was done before, and a second time if that fails.

        Raises:
            BaseException: several errors in a group; a single one is the caller's to raise.
        """
        errors: list[BaseException] = []
        with lock:
            self._put_back(errors)
            if scopes and self in scopes:
                self._close()
            self.saved = None
            if _turns.looks_closely:
                _turns.drop_claims_of(self)
            if not scopes:
                _late_import.stop_watching()
        for index, again in enumerate(errors):
            # A source that failed before failed again just now: that is one error.
            if type(again) is type(error) and str(again) == str(error):
                del errors[index]
                break
        if errors:
            raise_together("several errors while a scope was left", [error, *errors])

    def _put_back(self, errors: list[BaseException]) -> None:
        """Restore every source, each a second time if that fails, and collect the errors.

        Apart from ``with lock``: where the compiler of CPython 3.12 and 3.13 makes one jump out
        of two in a loop, an interrupt at it would leave the lock locked.
        """
        found = list(zip(self.covered, self.saved or ()))
        index, first = 0, None
        while index < len(found):
            try:
                while index < len(found):
                    self.set_to(*found[index])
                    if first is not None and not isinstance(first, Exception):
                        # The second time it worked: that was an interrupt.
                        errors.append(first)
                    index, first = index + 1, None
            except BaseException as failure:
                if first is None:
                    first = failure
                else:
                    errors.append(failure)
                    index, first = index + 1, None

    def _warn_of_order(self, crossed: OpenScope) -> None:
        if sys.is_finalizing():
            # Bodies that are still suspended end in any order, and nobody draws any more.
            return
        warn_caller(
            f"{self.describe()} was left while another one was still open above it: "
            f"{crossed.describe()}; their "
            f"draws came from one stream. Leave scopes in the reverse order of their entry. In "
            f"a coroutine or generator, decorate the function with @seeded(...) instead of "
            f"opening a scope in it: the decorator puts the scope aside at each suspension"
        )

    def describe(self) -> str:
        """Tell where the scope was opened, and by whom."""
        return f"{self.what()} by {_turns.describe_actor(self.thread, self.task)}"

    def what(self) -> str:
        """Tell where the scope was opened, or of which function it is."""
        if self.function is not None:
            return f"the scope of {describe_function(self.function)}"
        import linecache

        line = next(
            (
                positions[0]
                for index, positions in enumerate(self.code.co_positions())
                if 2 * index == self.instruction
            ),
            self.code.co_firstlineno,
        )
        source_line = linecache.getline(self.code.co_filename, line or 0).strip()
        return f"the scope opened at {self.code.co_filename}:{line} ({source_line})"


def leave_deferred() -> None:
    """Leave the scopes whose turn has come."""
    while _deferred and not is_owned(lock):
        _deferred.pop(0).leave()


def change_together(
    changes: list[tuple[Source, Callable[..., None], tuple[Any, ...]]]
) -> None:
    """Change sources for good, each by one of its verbs; if one of them fails, none."""
    with lock:
        found = [(source.capture(), source, verb, args) for source, verb, args in changes]
        # What waits for a start cannot be taken back, but nor can it fail: that comes last.
        found.sort(key=lambda change: change[0] is None)
        try:
            for _, _, verb, args in found:
                verb(*args)
        except BaseException:
            for state, source, _, _ in found:
                if state is not None:
                    source.replay(state)
            raise
    leave_deferred()


def take_up_what_appeared(library: str) -> None:
    """Enter, for every open scope from the outermost on, the sources of a new library."""
    with lock:
        for scope in scopes:
            for source in scope.sources:
                if source.library != library or scope.saved is None:
                    continue
                if len(scope.saved) != len(scope.covered):
                    # It is just being entered: a generator of the user imports when asked.
                    continue
                try:
                    if source.is_present() and scope._place_of(source) is None:
                        scope.take_in(source)
                except Exception as error:
                    # To raise here would break the program's import.
                    message = f"{source.name} could not be seeded when it appeared: {error}"
                    warnings.warn(message, RuntimeWarning, stacklevel=2)


def running_loop() -> Any:
    """Return asyncio's loop in this thread; None while asyncio is not even imported."""
    global running_loop
    if "asyncio.events" not in sys.modules:
        return None
    find = _details.find(_details.RUNNING_LOOP)
    if find is None:
        return _running_loop_in_public()
    running_loop = find
    return find()


def _running_loop_in_public() -> Any:
    try:
        return sys.modules["asyncio"].get_running_loop()
    except (AttributeError, RuntimeError):
        # asyncio is just being imported, or no loop runs.
        return None


def task_name() -> str | None:
    """Return the name of asyncio's task that runs in this thread, if one does."""
    return running_loop() and _name_of_task()


def _name_of_task() -> str | None:
    task = sys.modules["asyncio"].current_task()
    return None if task is None else task.get_name()


def describe_function(function: Any) -> str:
    """Tell a function's name and where it is defined."""
    import functools

    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", None) or repr(function)
    code = getattr(function, "__code__", None)
    return name if code is None else f"{name} at {code.co_filename}:{code.co_firstlineno}"


def _forget_other_threads() -> None:
    """In a forked child: forget the scopes of threads that do not exist here.

    What they found goes to the scopes above, as if they had been left; but nothing is
    restored, since a generator's lock may have been held at the fork.
    """
    me = get_ident()
    for scope in scopes[:]:
        found = list(zip(scope.covered, scope.saved or ()))
        if scope.thread == me:
            kept = [pair for pair in found if not pair[0].keeps_fresh_seed_after_fork]
            scope.dropped = tuple(s for s in scope.covered if s.keeps_fresh_seed_after_fork)
            scope.covered = tuple(source for source, _ in kept)
            scope.saved = [state for _, state in kept]
            continue
        for source, state in found:
            for upper in scopes[scopes.index(scope) + 1 :]:
                place = upper._place_of(source)
                if place is not None and upper.saved is not None:
                    upper.saved[place] = state
                    break
        scopes.remove(scope)
        scope.saved = None
    _turns.forget_other_threads(me)
    lock.release()


# With the lock held over the fork, the child sees no scope half entered. Windows has no fork.
getattr(os, "register_at_fork", dict)(
    before=lock.acquire, after_in_parent=lock.release, after_in_child=_forget_other_threads
)
