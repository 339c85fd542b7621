"""A small WebOb application that shows the bus it rides on: ``use = egg:paste_wspbus#hello``."""

from __future__ import annotations

import html
import os
import time

from webob import Request, Response

from paste_wspbus.handoff import get_bus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from paste_wspbus.bus import Bus, Call

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{greeting}</title>
<style>
:root {{ color-scheme: light dark; --line: #8883; --soft: #8889; --accent: #0a7d5a; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 3rem auto;
  padding: 0 1.5rem; }}
h1 {{ margin: 0 0 .2rem; font-size: 2rem; }}
p.lead {{ margin: 0 0 2rem; color: #888; }}
dl {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: 1rem;
  margin: 0 0 2.5rem; }}
dl div {{ border: 1px solid var(--line); border-radius: .6rem; padding: .7rem 1rem; }}
dt {{ font-size: .8rem; color: #888; }}
dd {{ margin: 0; font-size: 1.3rem; font-weight: 600; }}
dd.state {{ color: var(--accent); }}
h2 {{ font-size: 1.1rem; margin: 0 0 .6rem; }}
table {{ border-collapse: collapse; width: 100%; font-size: .92rem; }}
th, td {{ text-align: left; padding: .35rem .8rem .35rem 0; border-top: 1px solid var(--line); }}
th {{ color: #888; font-weight: 500; border-top: 0; }}
td.n {{ font-variant-numeric: tabular-nums; text-align: right; padding-right: 1.5rem; }}
td code {{ font-size: .9em; }}
.failed {{ color: #c0392b; }}
footer {{ margin-top: 2.5rem; color: #888; font-size: .85rem; }}
</style>
</head>
<body>
<h1>{greeting}</h1>
<p class="lead">A WSGI application on a Web Site Process Bus.</p>
<dl>
<div><dt>Bus state</dt><dd class="state">{state}</dd></div>
<div><dt>Requests in flight</dt><dd>{in_flight}</dd></div>
<div><dt>Process</dt><dd>{pid}</dd></div>
<div><dt>Resources</dt><dd>{resources}</dd></div>
</dl>
<h2>Timeline</h2>
<table>
<thead><tr><th>At</th><th>Channel</th><th>Listener</th><th>Took</th><th>Thread</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
<footer>Stop it with Ctrl-C and see the log: what started last stops first.</footer>
</body>
</html>
"""

_ROW = (
    '<tr class="{outcome}"><td>{at}</td><td>{channel}</td><td><code>{name}</code></td>'
    '<td class="n">{took:.1f} ms</td><td>{thread}</td></tr>'
)


def make_app(
    global_conf: dict[str, Any], greeting: str = 'Hello'
) -> Callable[[dict[str, Any], Callable[..., Any]], Iterator[bytes]]:
    """A page with the bus's state, its timeline and the requests in flight.

    :param greeting: the headline.
    """
    bus = get_bus(global_conf)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        response = Response(_page(environ.get('wspbus', bus), greeting))
        return response(Request(environ).environ, start_response)

    return app


def _page(bus: Bus, greeting: str) -> str:
    return _PAGE.format(
        greeting=html.escape(greeting),
        state=bus.state.name,
        in_flight=len(bus.plugins.get('requests', ())),
        pid=os.getpid(),
        resources=html.escape(', '.join(bus.resources)) or 'none',
        rows='\n'.join(map(_row, bus.timeline)),
    )


def _row(call: Call) -> str:
    return _ROW.format(
        at=time.strftime('%H:%M:%S', time.localtime(call.start)),
        channel=call.channel,
        name=html.escape(call.name),
        took=call.duration * 1000,
        thread=html.escape(call.thread),
        outcome='' if call.outcome == 'ok' else 'failed',
    )
