"""The pages of the ops listener: one table of paths, who may see each, and what it needs."""

from __future__ import annotations

import json
import os
import pkgutil
from typing import NamedTuple

from webob import Response

from paste_wspbus.control import picture
from paste_wspbus.control.panels import panels
from paste_wspbus.ops import health
from paste_wspbus.unix.processes import memory_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from paste_wspbus.control.panels import Panel
    from paste_wspbus.ops.requests import Request
    from paste_wspbus.ops.snapshot import Snapshot

#: Seconds for which a supervisor may leave a question open before it counts as hanging.
HANGS_AFTER = 10.0

#: The media type of an event stream (the HTML standard, section 9.2).
EVENTS = 'text/event-stream'

#: The media types of the files of the console.
TYPES = {
    'html': 'text/html',
    'css': 'text/css',
    'js': 'text/javascript',
    'svg': 'image/svg+xml',
}

#: The console consists of files of the package, and makes no HTML from text.
POLICY_OF_CONSOLE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)

#: The picture has its style in it, and nothing else that a browser would carry out.
POLICY_OF_PICTURE = (
    "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
)


class Asked(NamedTuple):
    """What a page is made from: the request, what is known, and whether the client sees all."""

    request: Request
    snapshot: Snapshot
    sees_all: bool


class Page(NamedTuple):
    """One page.

    ``make`` returns the response at once, from the snapshot alone: it must not wait. If
    ``is_open``, everybody who reaches the listener sees it; else see `Access.sees_all`.
    ``needs`` is the kind of answer that the listener gets from the site before it calls
    ``make``; if none comes in time, ``make`` gets an older one, or none. It only asks for
    the kind ``asks``, and does not wait: so it learns whether the site answers at all. One
    that ``takes_long`` is made in a thread: the listener answers others meanwhile.

    If the response is of the type EVENTS, it is only a head: see `Streams`.
    """

    make: Callable[[Asked], Response]
    is_open: bool = False
    needs: str = ''
    asks: str = ''
    takes_long: bool = False


def as_json(body: dict[str, Any], status: int = 200) -> Response:
    """Return a response with a JSON object."""
    text = json.dumps(body, indent=2) + '\n'
    return Response(
        text, status=status, content_type='application/json', charset='UTF-8'
    )


def live(asked: Asked) -> Response:
    """Whether the processes work; what the site depends on does not count."""
    waits_for = asked.snapshot.waits_for
    if waits_for < HANGS_AFTER:
        return as_json({'live': True})
    why = f'the supervisor has not answered for {waits_for:.0f} s'
    return as_json({'live': False, 'why': why}, 503)


def startup(asked: Asked) -> Response:
    """Whether the site has been started."""
    was_started = asked.snapshot.state.was_started
    return as_json({'started': was_started}, 200 if was_started else 503)


def ready(asked: Asked) -> Response:
    """Whether the site wants new requests."""
    why = why_not_ready(asked.snapshot)
    body = {'ready': not why, 'state': asked.snapshot.state.name}
    if why:
        body['why'] = why
    return as_json(body, 503 if why else 200)


def why_not_ready(snapshot: Snapshot) -> str:
    """Return why the site wants no new requests; '' if it wants them."""
    state = snapshot.state
    if state.drained:
        return 'an operator has drained the site'
    if state.is_stopping:
        return 'the site stops'
    if not state.is_serving:
        return 'no worker serves' if state.was_started else 'the site starts'
    failed = health.why_not_ready(snapshot.checked)
    return f'these health checks fail: {failed}' if failed else ''


def healthy(asked: Asked) -> Response:
    """The health checks of all processes, as they were in the background."""
    rows = health.rows(asked.snapshot.checked)
    body = health.summary(rows, with_texts=asked.sees_all)
    return as_json(body, 200 if body['healthy'] else 503)


def status(asked: Asked) -> Response:
    """What `wspserve site.ini status --json` prints, with paths that are cut."""
    return _told(asked, 'status')


def stacks(asked: Asked) -> Response:
    """What `wspserve site.ini stacks --json` prints."""
    return _told(asked, 'stacks')


def timeline(asked: Asked) -> Response:
    """What has run in each process while it started and stopped."""
    return _told(asked, 'timeline')


def _told(asked: Asked, kind: str) -> Response:
    told = asked.snapshot.told.get(kind)
    if told is None:
        return as_json({'error': 'the site has not answered yet'}, 503)
    return as_json({'age_of_answer': told.age, kind: told.value})


def metrics(asked: Asked) -> Response:
    """What Prometheus reads: the metrics of the bus, and those of the site itself."""
    from paste_wspbus.metrics.page import metrics_page  # few listeners are asked for it

    snapshot, numbers = asked.snapshot, asked.snapshot.numbers
    told = snapshot.told.get('numbers')
    is_known = told is not None and told.age < HANGS_AFTER
    page = metrics_page(
        {} if numbers is None else numbers.read(),
        {'rss': memory_of(os.getpid()), **told.value} if told and is_known else {},
        None if numbers is None else numbers.folder,
        asked.request.accept,
    )
    response = Response(page.body, status=page.status)
    response.headers['Content-Type'] = page.content_type
    return response


def events(asked: Asked) -> Response:
    """The head of an event stream: see `Streams`."""
    response = Response(content_type=EVENTS, charset='UTF-8')
    del response.content_length
    response.headers['X-Accel-Buffering'] = 'no'  # nginx passes each event on at once
    return response


def console_file(name: str) -> Callable[[Asked], Response]:
    """Return a page with a file of the package, which has nothing of the site."""

    def page(asked: Asked) -> Response:
        body = pkgutil.get_data('paste_wspbus.ops', name)
        response = Response(body, content_type=TYPES[name.rpartition('.')[2]])
        response.charset = 'UTF-8'
        response.headers['Content-Security-Policy'] = POLICY_OF_CONSOLE
        return response

    return page


def timeline_picture(asked: Asked) -> Response:
    """The timeline as a picture: the console shows it."""
    return _drawn(asked, picture.draw, 'image/svg+xml')


def timeline_page(asked: Asked) -> Response:
    """The timeline as a page with a picture and a table."""
    return _drawn(asked, picture.page, 'text/html')


def _drawn(
    asked: Asked, draw: Callable[[list[Panel]], str], content_type: str
) -> Response:
    told = asked.snapshot.told.get('timeline')
    answer = told.value if told is not None and isinstance(told.value, dict) else {}
    body = draw(panels(answer))
    response = Response(body, content_type=content_type, charset='UTF-8')
    response.headers['Content-Security-Policy'] = POLICY_OF_PICTURE
    return response


#: The pages. Everything that an operator's program or browser may ask for stands here.
PAGES: dict[str, Page] = {
    '/live': Page(live, is_open=True, asks='state'),
    '/startup': Page(startup, is_open=True),
    '/ready': Page(ready, is_open=True, asks='state'),
    '/health': Page(healthy, is_open=True),
    '/status': Page(status, needs='status'),
    '/stacks': Page(stacks, needs='stacks'),
    '/timeline': Page(timeline, needs='timeline'),
    '/': Page(console_file('console.html')),
    '/console.css': Page(console_file('console.css')),
    '/console.js': Page(console_file('console.js')),
    '/console.svg': Page(console_file('console.svg')),
    '/events': Page(events),
    '/timeline.svg': Page(timeline_picture, needs='timeline'),
    '/timeline.html': Page(timeline_page, needs='timeline'),
    '/metrics': Page(metrics, is_open=True, needs='numbers', takes_long=True),
}
