"""Whose code runs in a stack: the site's, that of a package, or this package's."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_MAIN = os.path.join(_PACKAGE, '__main__.py')
_STDLIB = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
_PROGRAMS = os.path.dirname(os.path.abspath(sys.executable or '')) + os.sep
_PACKAGES = (f'{os.sep}site-packages{os.sep}', f'{os.sep}dist-packages{os.sep}')
_PASTE_DEPLOY = os.sep + os.path.join('paste', 'deploy') + os.sep


def place_in_site(frame: FrameType | None) -> str:
    """Return the innermost line of the site's own code in a stack, as 'FILE:LINE in NAME'.

    :returns: if the stack has no code of the site, the innermost line of a package, or else
        of all; '' if there is no frame.
    """
    innermost, package = frame, None
    while frame is not None:
        file = frame.f_code.co_filename
        if is_of_site(file) and not file.startswith('<'):
            break
        if package is None and any(folder in file for folder in _PACKAGES):
            package = None if is_composer(file) else frame
        # The script that calls main() may stand anywhere.
        frame = frame.f_back if file != _MAIN else None
    frame = frame or package or innermost
    if frame is None:
        return ''
    code = frame.f_code
    return f'{code.co_filename}:{frame.f_lineno} in {code.co_qualname}'


def place_of_error(error: BaseException) -> str:
    """Return where an exception comes from, as 'FILE:LINE in NAME'.

    :returns: the innermost line of the site's own code in its traceback, or else that of
        another package; '' if only wspserve, PasteDeploy and Python's imports have run.
    """
    places, own = [''], ['']
    for frame, line in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        place = f'{code.co_filename}:{line} in {code.co_qualname}'
        if is_composer(code.co_filename):  # wspserve itself may be in site-packages
            continue
        if any(folder in code.co_filename for folder in _PACKAGES):
            places.append(place)
        elif is_of_site(code.co_filename) and not code.co_filename.startswith('<'):
            own.append(place)
    if isinstance(error, SyntaxError) and os.path.isfile(error.filename or ''):
        own.append(f'{error.filename}:{error.lineno}')
    return own[-1] or places[-1]


def trace_of(error: BaseException | None) -> str:
    """Return the traceback of an exception, without the frames before the site's code.

    If there are no other frames, all remain: then wspserve itself has failed. If Python cannot
    read the sources, nor what it needs for that (no descriptor is free), only the
    error is returned.
    """
    if error is None:
        return 'NoneType: None\n'
    try:
        told = traceback.TracebackException.from_exception(error, compact=True)
        shorten(told, keeps_last=True)
        return ''.join(told.format())
    except (OSError, ImportError):
        return f'{type(error).__name__}: {error}\n'


def shorten(told: traceback.TracebackException, keeps_last: bool = False) -> None:
    """Remove the frames before the site's code from an exception and its causes.

    :param keeps_last: whether to keep all frames of an exception that has no others.
    """
    todo = [told]
    while todo:
        one = todo.pop()
        files = [frame.filename for frame in one.stack]
        own = next((at for at, file in enumerate(files) if not is_composer(file)), None)
        if own is None:
            own = 0 if keeps_last else len(files)
        del one.stack[:own]
        todo += filter(None, (one.__cause__, one.__context__, *(one.exceptions or ())))


def is_composer(file: str) -> bool:
    """Whether a file belongs to the code that runs before the site's code."""
    ours = file.startswith((_PACKAGE, '<frozen')) or _PASTE_DEPLOY in file
    return ours or file == contextlib.__file__


def is_of_site(file: str) -> bool:
    """Whether a source file belongs to the site, not to Python, a package or wspserve."""
    return not (
        file.startswith(('<frozen', _PACKAGE, _STDLIB, _PROGRAMS))
        or any(folder in file for folder in _PACKAGES)
    )


def is_at_prompt(frame: FrameType | None) -> bool:
    """Whether pdb, or a debugger that is made of it, waits for a command in a stack."""
    while frame is not None:
        is_loop = frame.f_code.co_name == 'cmdloop'
        if is_loop and is_debugger(frame.f_locals.get('self')):
            return True
        frame = frame.f_back
    return False


def is_debugger(found: object) -> bool:
    """Whether an object is pdb, or a debugger that is made of it."""
    bdb = sys.modules.get('bdb')
    return bdb is not None and issubclass(type(found), bdb.Bdb)


def is_of_this_package(handler: object) -> bool:
    """Whether a signal handler is part of this package."""
    return str(getattr(handler, '__module__', '')).startswith('paste_wspbus.')
