"""A small WebOb application that shows its bus: ``use = egg:paste_wspbus#hello``."""

from __future__ import annotations

import functools
import html
import os
import time

from webob import Request, Response

from paste_wspbus.handoff import ENVIRON_KEY, get_bus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from paste_wspbus.bus import Bus, Call

_ROW = (
    '<tr class="{outcome}"><td>{at}</td><td>{channel}</td><td><code>{name}</code></td>'
    '<td class="n">{took:.1f} ms</td><td>{thread}</td></tr>'
)


def make_app(
    global_conf: dict[str, Any], greeting: str = 'Hello'
) -> Callable[[dict[str, Any], Callable[..., Any]], Iterator[bytes]]:
    """Make an application that shows the bus's state, its timeline and the requests in flight.

    :param greeting: the heading of the page.
    """
    bus = get_bus(global_conf)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        response = Response(_page(environ.get(ENVIRON_KEY, bus), greeting))
        return response(Request(environ).environ, start_response)

    return app


def _page(bus: Bus, greeting: str) -> str:
    return _asset('hello.html').format(
        style=_asset('hello.css'),
        greeting=html.escape(greeting),
        state=bus.state.name,
        in_flight=len(bus.plugins.get('requests', ())),
        pid=os.getpid(),
        resources=html.escape(', '.join(bus.resources)) or 'none',
        rows='\n'.join(map(_row, bus.timeline)),
    )


@functools.cache
def _asset(name: str) -> str:
    """Return the text of a file beside this module; this also works in a zipped egg."""
    import pkgutil  # imported here: the first request needs it, not the start

    data = pkgutil.get_data('paste_wspbus', name)
    assert data is not None
    return data.decode('utf-8').replace('\r\n', '\n')  # as a checkout on Windows has


def _row(call: Call) -> str:
    return _ROW.format(
        at=time.strftime('%H:%M:%S', time.localtime(call.start)),
        channel=call.channel,
        name=html.escape(call.name),
        took=call.duration * 1000,
        thread=html.escape(call.thread),
        outcome='' if call.outcome == 'ok' else 'failed',
    )
