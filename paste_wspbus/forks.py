"""What a fork needs: the child closes descriptors of its parent."""

from __future__ import annotations

import contextlib
import os
import weakref

from paste_wspbus.errors import TooManyProcesses, WSPBusError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    T = TypeVar('T')

_functions: weakref.WeakKeyDictionary[Any, Callable[[Any], object]] = (
    weakref.WeakKeyDictionary()
)
_watching = False


def fork() -> int:
    """Fork, as os.fork does.

    :raises WSPBusError: if the system starts no more processes.
    """
    try:
        return os.fork()
    except BlockingIOError:
        raise TooManyProcesses from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise WSPBusError(f'no process can be started: {reason}') from None


def close_in_child(held: T, close: Callable[[T], object]) -> None:
    """Call ``close(held)`` in each child that this process forks from now on.

    It is for locks, pipes and sockets: a child that the site forks would keep them open
    after the end of its parent. On systems without fork(2) this does nothing.

    :param held: the object that holds the descriptor. Only a weak reference is kept, so
        this ends with the object.
    :param close: closes the descriptor. It must not refer to ``held`` (take a method of
        its class: ``Report.close``), and a second call of it must do no harm. If this
        function is called again for ``held``, the new ``close`` replaces the old one.
    """
    global _watching
    _functions[held] = close
    if not _watching and hasattr(os, 'register_at_fork'):
        _watching = True
        os.register_at_fork(after_in_child=_close_all)


def _close_all() -> None:
    # The stack calls all of them, even if one fails.
    with contextlib.ExitStack() as stack:
        for held, close in list(_functions.items()):
            stack.callback(close, held)
