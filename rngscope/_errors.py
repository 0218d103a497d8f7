"""Report several failures as one error."""


def raise_together(message: str, errors: list[BaseException]) -> None:
    """Raise one error as itself and several as a group; none is no error."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        # Of Exceptions only, this makes an ExceptionGroup.
        raise BaseExceptionGroup(message, errors)
