"""The stacks of a site's processes: as data, which the control socket sends, and as text."""

from __future__ import annotations

from paste_wspbus.bus.places import is_of_site
from paste_wspbus.control.status import number, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from paste_wspbus.requests.stacks import Frame

#: The number of frames that an answer has at most, and of characters of each name.
MAX_FRAMES, MAX_TEXT = 20_000, 1000


def describe_threads(
    stacks: Mapping[int, list[Frame]],
    requests: Iterable[tuple[int, dict[str, Any]]],
    names: Mapping[int, str] | None = None,
) -> list[dict[str, Any]]:
    """Return the threads of a process as data.

    :param stacks: {ident of a thread: its frames, the innermost first}.
    :param requests: idents of threads and their requests, the oldest first; ``method``,
        ``path``, ``age`` and ``id`` of each are shown.
    :param names: {ident of a thread: its name}, as far as they are known.
    :returns: dictionaries of ``ident``, ``name``, ``request`` and ``frames``: first the
        threads with a request, the oldest request first; then those that run the site's
        own code. A request whose thread is not known, or has another one by now because
        the server sends the response, has no frames.
    """
    threads: list[dict[str, Any]] = []
    of_thread: dict[int, dict[str, Any]] = {}
    for ident, request in requests:
        if ident in of_thread:
            threads.append(_thread(None, None, of_thread[ident], ()))
        of_thread[ident] = request
    for ident in {**of_thread, **stacks}:
        name, frames = (names or {}).get(ident), stacks.get(ident, ())
        threads.append(_thread(ident, name, of_thread.get(ident), frames))
    return sorted(threads, key=_rank)


def _thread(
    ident: int | None,
    name: str | None,
    request: dict[str, Any] | None,
    frames: Iterable[Frame],
) -> dict[str, Any]:
    if request is not None:
        request = {key: request.get(key) for key in ('method', 'path', 'age', 'id')}
    return {
        'ident': ident,
        'name': name,
        'request': request,
        'frames': [
            {
                'file': frame.file[:MAX_TEXT],
                'line': frame.line,
                'name': frame.name[:MAX_TEXT],
                'of_site': is_of_site(frame.file),
            }
            for frame in frames
        ],
    }


def _rank(thread: dict[str, Any]) -> tuple[int, float]:
    request = thread['request']
    if request is not None:
        return 0, -request['age']
    return (1 if _own(thread['frames']) else 2), 0.0


def limited(
    processes: list[dict[str, Any]], room: int = MAX_FRAMES
) -> list[dict[str, Any]]:
    """Leave out the last threads of an answer that would be too long.

    ``left_out`` of each process says how many these are.

    :param room: the number of frames that it has at most.
    """
    for process in processes:
        kept = []
        for thread in process['threads']:
            room -= len(thread['frames']) + 1
            if room >= 0:
                kept.append(thread)
        process['left_out'] = len(process['threads']) - len(kept)
        process['threads'] = kept
    return processes


# -- as text ------------------------------------------------------------------------------


def where_it_starts(answer: dict[str, Any]) -> str:
    """Return the innermost line of the site's own code in a process that starts, or ''.

    :param answer: that of a supervisor to 'stacks'.
    """
    processes = answer.get('processes')
    for process in processes if isinstance(processes, list) else ():
        if not isinstance(process, dict) or process.get('state') != 'starting':
            continue
        threads = process.get('threads')
        for thread in threads if isinstance(threads, list) else ():
            if isinstance(thread, dict) and (own := _own(_frames(thread))):
                place = f'{text(own[0].get("file"))}:{text(own[0].get("line"))}'
                return f'{place} in {text(own[0].get("name"))}'
    return ''


def process_lines(process: dict[str, Any], full: bool) -> list[str]:
    """Return the lines on a process, which may be described by another version.

    :param full: whether to show all threads and all frames; else the threads that have
        a request or run the site's own code, and of each the innermost frame and those of
        the site's own code.
    """
    threads = process.get('threads')
    threads = [one for one in threads if isinstance(one, dict)] if threads else []
    shown = threads if full else of_site(threads)
    lines = [f'{_title(process)}:']
    lines += [f'  {line}' for line in thread_lines(shown, full)]
    if process.get('problem'):
        lines.append(f'  {text(process["problem"])}')
    if hidden := len(threads) - len(shown):
        lines.append(f'  {hidden_line(hidden)} (-v shows all)')
    if more := number(process, 'left_out'):
        lines.append(f'  {more:.0f} more threads are left out')
    return lines


def of_site(threads: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the threads that have a request, or run the site's own code."""
    return [one for one in threads if one.get('request') or _own(_frames(one))]


def hidden_line(count: int) -> str:
    """Return what is said of threads that are not shown."""
    have = 'threads have' if count > 1 else 'thread has'
    return f'{count} {have} no request and no code of the site'


def thread_lines(threads: Iterable[dict[str, Any]], full: bool = True) -> list[str]:
    """Return the lines on threads; those without a request and with one stack stand together."""
    groups: dict[object, tuple[list[str], list[str]]] = {}
    for thread in threads:
        lines, request = _frame_lines(thread, full), thread.get('request')
        key = id(thread) if isinstance(request, dict) else tuple(lines)
        groups.setdefault(key, ([], lines))[0].append(_heading(thread))
    return [
        line
        for headings, lines in groups.values()
        for line in (f'{", ".join(headings)}:', *(f'  {one}' for one in lines))
    ]


def _title(process: dict[str, Any]) -> str:
    details = [f'process {text(process.get("pid", "?"))}']
    generation = number(process, 'generation')
    if generation is not None:
        details.append(f'generation {generation:.0f}')
    if process.get('state'):
        details.append(text(process['state']))
    name = text(process.get('name', 'site'))
    name = 'the site' if name == 'site' else name
    return f'{name[:1].upper()}{name[1:]} ({", ".join(details)})'


def _heading(thread: dict[str, Any]) -> str:
    name, request = thread.get('name') or thread.get('ident'), thread.get('request')
    words = [f'Thread {text(name) if name else "?"}']
    if isinstance(request, dict):
        words.append(request_words(request))
    return ', '.join(words)


def request_words(request: dict[str, Any]) -> str:
    """Return a request as words, such as 'GET /report for 3.2 s (request 6b1-7)'."""
    what = f'{text(request.get("method"))} {text(request.get("path"))}'
    age, name = number(request, 'age'), request.get('id')
    since = '' if age is None else f' for {age:.1f} s'
    return f'{what}{since}{f" (request {text(name)})" if name else ""}'


def _frames(thread: dict[str, Any]) -> list[dict[str, Any]]:
    frames = thread.get('frames')
    if not isinstance(frames, list):
        return []
    return [frame for frame in frames if isinstance(frame, dict)]


def _own(frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [frame for frame in frames if frame.get('of_site') is True]


def _frame_lines(thread: dict[str, Any], full: bool) -> list[str]:
    frames = _frames(thread)
    if not frames:
        has_thread = thread.get('ident') is not None
        return ['(its stack is not known)' if has_thread else '(the server sends it)']
    if not full:
        own = _own(frames)
        frames = own if own[:1] == frames[:1] else [*frames[:1], *own]
    return [
        f'{text(frame.get("file"))} line {text(frame.get("line"))} in '
        f'{text(frame.get("name"))}'
        for frame in frames
    ]
