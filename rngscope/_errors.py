"""Report several failures as one error, and warn where the program can see it."""

from __future__ import annotations

import warnings

from rngscope import _details

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    # To a type checker a class without a call is still no context manager.
    NeedsParentheses = type
else:

    class NeedsParentheses(type):
        """The type of context managers that are classes: one that is not called says so."""

        def __enter__(cls) -> NoReturn:
            raise TypeError(f"with {cls.__name__} needs parentheses: write with {cls._as_block}:")

        __exit__ = __enter__


class _NoFrame:
    """Stands in for every frame where frames cannot be had."""

    f_code = compile("", "<unknown>", "exec")
    f_lasti = 0
    f_back = None
    f_globals: dict[str, Any] = {}


def _no_frame(depth: int = 0) -> type[_NoFrame]:
    return _NoFrame


#: ``sys._getframe``.
find_frame: Any = _details.find(_details.FRAME, default=_no_frame)


def raise_together(message: str, errors: list[BaseException]) -> None:
    """Raise one error as itself and several as a group; none is no error."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        # Of Exceptions only, this makes an ExceptionGroup.
        raise BaseExceptionGroup(message, errors)


def raise_besides(error: BaseException, others: list[BaseException], message: str) -> None:
    """Raise an error that is being handled together with others; alone it is the caller's."""
    # What failed before and failed again just now is one error.
    told = (type(error), str(error))
    others = [other for other in others if (type(other), str(other)) != told]
    if others:
        group = BaseExceptionGroup(message, [error, *others])
        context = error.__context__
        try:
            raise group
        finally:
            group.__context__ = context


def warn_caller(message: str) -> None:
    """Warn with the line of the program that called the package, however deep we are."""
    level, frame = 1, find_frame()
    while frame.f_back is not None and _is_ours(frame.f_globals):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, RuntimeWarning, stacklevel=level)


def _is_ours(names: dict[str, object]) -> bool:
    return str(names.get("__name__", "")).startswith("rngscope.")
