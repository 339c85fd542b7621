"""What is served under ``--reload`` in the place of a site that does not start: why."""

from __future__ import annotations

import os
import traceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

#: The folders of code that composes sites: where a traceback begins, but never ends.
_COMPOSERS = tuple(
    os.sep + os.path.join(*parts) + os.sep
    for parts in [('paste_wspbus',), ('paste', 'deploy')]
)

#: Characters of a traceback that are shown: its end says most.
MOST = 50_000


def trace_of(error: BaseException) -> tuple[str, str | None]:
    """The traceback of why a site could not be served, and the file in which it ends.

    Without the frames of what composes sites, before it came to the site's code.
    """
    cause = error.__cause__ or error
    told = traceback.TracebackException.from_exception(cause)
    one: traceback.TracebackException | None = told
    while one is not None:
        _shorten(one.stack)
        one = one.__cause__ or one.__context__
    file = None
    for frame in told.stack:
        if not frame.filename.startswith('<frozen'):
            file = frame.filename
    if isinstance(cause, SyntaxError):
        file = cause.filename
    return ''.join(told.format())[-MOST:], file


def _shorten(stack: traceback.StackSummary) -> None:
    while stack and _is_composer(stack[0].filename):
        del stack[0]
    while stack and stack[0].filename.startswith('<frozen'):
        del stack[0]


def _is_composer(file: str) -> bool:
    return any(part in file for part in _COMPOSERS) or file.startswith('<frozen')


def make_app(problem: str) -> Callable[..., Iterable[bytes]]:
    """A WSGI application that answers every request with 500 and a traceback."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        body = problem.encode('utf-8', 'backslashreplace')
        headers = [
            ('Content-Type', 'text/plain; charset=utf-8'),
            ('Content-Length', str(len(body))),
            ('Cache-Control', 'no-store'),
        ]
        start_response('500 Internal Server Error', headers)
        return [body]

    return app
