"""The ends of a process, and a disk that fails, at any call that touches the disk."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st


class Killed(BaseException):
    """Stands for the end of a process."""


failures = st.builds(Killed) | st.builds(OSError, st.just(28), st.just("No space left on device"))


@contextmanager
def failing_at(moment: int, after: bool, failure: BaseException) -> Iterator[None]:
    """Let the call number `moment` that touches the disk fail; after a kill, all others fail too.

    A kill may come when the call has done its work.
    """
    calls, killed = 0, isinstance(failure, Killed)

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == moment and killed and after:
                function(*arguments, **options)
            if calls == moment or (killed and calls > moment):
                raise failure
            return function(*arguments, **options)

        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        names = ("open", "replace", "hardlink_to", "unlink", "touch", "mkdir", "rmdir")
        for owner, name in ((os, "fsync"), *((Path, name) for name in names)):
            patch.setattr(owner, name, wrap(getattr(owner, name)))
        yield
