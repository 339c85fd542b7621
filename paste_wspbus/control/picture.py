"""The picture of a timeline, as SVG or as a page of HTML; both need no other file."""

from __future__ import annotations

import html
import time

from paste_wspbus.control.panels import Scale
from paste_wspbus.control.timeline import Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from paste_wspbus.control.panels import Panel
    from paste_wspbus.control.timeline import Life

#: It stands at the beginning of each picture: a file with it may be replaced.
MARK = '<!-- a timeline of wspserve -->'

#: The number of calls of a process, and of processes, that a part of a picture has at most.
MAX_ROWS, MAX_LIVES = 60, 40

#: Listeners of wspserve itself are drawn only if they took at least SMALL seconds.
OURS, SMALL = 'paste_wspbus.', 0.001

#: Lengths in pixels: the time axis, the margins beside it, a row, the letters.
WIDTH, LEFT, RIGHT, ROW, LETTER = 960.0, 24.0, 300.0, 19.0, 7.0

#: The width of the narrowest bar: a shorter call can be seen, too.
NARROW = 1.5

#: The number of characters of a label.
LABEL = 60

#: No variables: some programs that show SVG do not know them.
STYLE = """
.timeline .back { fill: #ffffff } .timeline line { stroke: #dddddd }
.timeline text { font: 12px system-ui, sans-serif; fill: #1a1a1a }
.timeline .soft { fill: #666666 } .timeline text.before { text-anchor: end }
.timeline .title { font-size: 16px; font-weight: 600 } .timeline .life { font-weight: 600 }
.timeline .starts { fill: #c3d3ea } .timeline .serves { fill: #c6e7cb }
.timeline .leaves { fill: #f4d9b4 }
.timeline .import { fill: #3f6fb5 } .timeline .factory { fill: #2a9d9d }
.timeline .start { fill: #3c9a4b } .timeline .stop { fill: #d07a1f }
.timeline .request { fill: #8457b8 } .timeline .other { fill: #808080 }
.timeline .failed { fill: #c62f2f }
@media (prefers-color-scheme: dark) {
  .timeline .back { fill: #15181c } .timeline line { stroke: #343a40 }
  .timeline text { fill: #e6e6e6 } .timeline .soft { fill: #9aa0a6 }
  .timeline .starts { fill: #2d456b } .timeline .serves { fill: #264d2d }
  .timeline .leaves { fill: #5e4420 }
}
.timeline text.inside { fill: #ffffff }
"""

#: From a channel to the class of its bars; others are 'other'.
KINDS = {
    'import': 'import',
    'module': 'import',
    'factory': 'factory',
    'start': 'start',
    'request': 'request',
    'drain': 'stop',
    'stop': 'stop',
    'exit': 'stop',
}


def draw(panels: Iterable[Panel]) -> str:
    """Return a picture of several parts, one below the other, each with a scale of its own."""
    parts, top = [], 10.0
    for panel in panels:
        lines, height = _Part(panel, top).draw()
        parts += lines
        top += height + 24
    width = LEFT + WIDTH + RIGHT
    return '\n'.join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="timeline" role="img" '
            f'width="{width:.0f}" height="{top:.0f}" viewBox="0 0 {width:.0f} {top:.0f}">',
            MARK,
            '<title>Timeline of a site</title>',
            f'<style>{STYLE}</style>',
            '<rect class="back" width="100%" height="100%"/>',
            *parts,
            '</svg>',
        ]
    )


def page(panels: list[Panel]) -> str:
    """Return a page with the picture, and with a table of the same calls."""
    rows = [
        f'<tr><td>{_escape(panel.title)}</td><td>{_escape(life.title)}</td>'
        f'<td>{_escape(row.channel)}</td><td>{_escape(row.name)}</td>'
        f'<td>{(row.since - panel.begin) * 1000:.1f}</td>'
        f'<td>{row.seconds * 1000:.1f}</td><td>{_escape(row.outcome)}</td></tr>'
        for panel in panels
        for life in panel.lives[:MAX_LIVES]
        for row in _longest(panel.rows(life))[0]
    ]
    head = (
        'Part',
        'Process',
        'Channel',
        'Name',
        'Begins (ms)',
        'Takes (ms)',
        'Outcome',
    )
    return '\n'.join(
        [
            '<!doctype html>',
            MARK,
            '<html lang="en"><meta charset="utf-8"><title>Timeline of a site</title>',
            '<meta name="color-scheme" content="light dark">',
            '<style>body { margin: 1rem; font: 14px system-ui, sans-serif }',
            'td, th { padding: 0 1rem 0 0; text-align: left }</style>',
            draw(panels),
            '<details><summary>As a table</summary><table><tr>',
            *(f'<th>{one}</th>' for one in head),
            '</tr>',
            *rows,
            '</table></details>',
            '</html>',
        ]
    )


def _escape(text: str) -> str:
    # XML has no control characters, and UTF-8 has no surrogates.
    kept = (c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return html.escape(''.join(kept))


def _longest(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Return the rows to draw, in the order of their starts, and the others."""
    ordered = sorted(rows, key=lambda row: row.seconds, reverse=True)
    return sorted(ordered[:MAX_ROWS], key=lambda row: row.since), ordered[MAX_ROWS:]


def _is_small(row: Row) -> bool:
    return row.name.startswith(OURS) and row.seconds < SMALL and row.outcome == 'ok'


class _Part:
    """Draws one `Panel` at a height of the picture."""

    def __init__(self, panel: Panel, top: float) -> None:
        self.panel, self._top, self._y = panel, top, top
        self.scale = Scale(panel.seconds)

    def draw(self) -> tuple[list[str], float]:
        panel = self.panel
        at = time.strftime('%Y-%m-%d %H:%M:%S %z', time.localtime(panel.wall))
        title = f'{panel.title}: {self.scale.text(panel.seconds)}'
        lines = [self._text(LEFT, title, 'title')]
        said = f'{at}. Time in {self.scale.unit}: {self.scale.announcement}.'
        lines.append(self._text(LEFT, said, 'soft'))
        axis = self._y + ROW
        self._y += ROW + 6
        rows = [line for life in panel.lives[:MAX_LIVES] for line in self._life(life)]
        if (more := len(panel.lives) - MAX_LIVES) > 0:
            rows.append(
                self._text(LEFT, f'{more} more processes are not drawn.', 'soft')
            )
        for seconds, text in self.scale.ticks():
            x = self._x(panel.begin + seconds)
            lines.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{axis:.1f}" y2="{self._y:.1f}"/>'
            )
            lines.append(
                f'<text class="soft" text-anchor="middle" x="{x:.1f}" '
                f'y="{axis - 4:.1f}">{text}</text>'
            )
        return lines + rows, self._y - self._top

    def _x(self, moment: float) -> float:
        share = (moment - self.panel.begin) / self.panel.seconds
        return LEFT + WIDTH * min(max(share, 0.0), 1.0)

    def _text(self, x: float, text: str, kind: str) -> str:
        self._y += ROW
        return f'<text class="{kind}" x="{x:.1f}" y="{self._y - 5:.1f}">{_escape(text)}</text>'

    def _life(self, life: Life) -> Iterator[str]:
        """Yield the rows of one process: the first one is its life."""
        drawn, others = _longest(
            [row for row in self.panel.rows(life) if not _is_small(row)]
        )
        self._y += 4
        for kind, since, until in self._phases(life):
            yield self._bar(since, until, kind, f'{life.title}: {kind}')
        has_ended = life.ended is not None and self.panel.has(life.ended)
        ends = f', ended: {life.how}' if has_ended else ''
        why = f', {life.problem}' if life.problem else ''
        yield self._text(LEFT + 4, f'{life.title}{ends}{why}', 'life')
        for row in drawn:
            yield from self._call(row)
        left_out = life.left_out + len(others)
        if left_out:
            said = f'{left_out} more calls of it are not drawn.'
            yield self._text(LEFT + 4, said, 'soft')

    def _phases(self, life: Life) -> Iterator[tuple[str, float, float]]:
        end = life.ended if life.ended is not None else self.panel.end
        marks = [
            ('starts', life.began if life.began is not None else self.panel.begin),
            ('serves', life.ready),
            ('leaves', life.leaves),
        ]
        known = [(kind, at) for kind, at in marks if at is not None]
        for index, (kind, since) in enumerate(known):
            until = known[index + 1][1] if known[index + 1 :] else end
            if since < self.panel.end and until > self.panel.begin and until > since:
                yield kind, since, until

    def _bar(self, since: float, until: float, kind: str, tip: str) -> str:
        x, right = self._x(since), self._x(until)
        return (
            f'<rect class="{kind}" x="{x:.1f}" y="{self._y + 1:.1f}" rx="2" '
            f'width="{max(right - x, NARROW):.1f}" height="{ROW - 3:.1f}">'
            f'<title>{_escape(tip)}</title></rect>'
        )

    def _call(self, row: Row) -> Iterator[str]:
        failed = row.outcome != 'ok'
        kind = 'failed' if failed else KINDS.get(row.channel, 'other')
        name = row.name if len(row.name) <= LABEL else f'{row.name[:LABEL]}…'
        label = f'{row.channel} {name} ({self.scale.text(row.seconds)})'
        label += f', {row.outcome}' * failed
        tip = f'{row.channel} {row.name}: {row.seconds * 1000:.1f} ms, {row.outcome}, {row.thread}'
        yield self._bar(row.since, row.until, kind, tip)
        right = self._x(row.until) + 5
        room = LEFT + WIDTH + RIGHT - right
        x, where = max(right, self._x(row.since) + 6), 'after'
        if len(label) * LETTER > room:
            x, where = self._x(row.since) - 5, 'before'
            if x < len(label) * LETTER:
                x, where = self._x(row.since) + 5, 'inside'
        self._y += ROW
        yield (
            f'<text class="{where}" x="{x:.1f}" y="{self._y - 5:.1f}">{_escape(label)}</text>'
        )
