"""The page that shows an error in the place of a site that does not start."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import html
import itertools
import linecache
import os
import pkgutil
import re
import stat

from paste_wspbus.bus.places import is_composer
from paste_wspbus.errorpage.problem import Frame, read
from paste_wspbus.watching.files import is_installed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from paste_wspbus.errorpage.problem import Told

#: The number of lines that are shown before and after the line of the error; and the number
#: of characters of each line.
AROUND, WIDTH = 3, 400

#: The number of bytes of a source at most: to read more takes seconds, and much memory.
MAX_LENGTH = 10_000_000

FOOTER = 'Served by wspserve --reload; it tries again when a file changes.'

#: The Content-Security-Policy of `loading_page`, which has neither a script nor a source.
LOADING_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'"

_STDLIB = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
_SITE_PACKAGES = re.compile(r'.*[\\/](?:site|dist)-packages[\\/]')


def make_app(problem: str) -> Callable[..., Iterable[bytes]]:
    """Return a WSGI application that answers every request with 500 and shows the error.

    ``problem`` is the text of `problem_of`, or any other text. A browser gets HTML, which
    checks every second whether the site serves something else now.
    """
    _lines.cache_clear()
    told = read(problem)
    plain = _encode(_plain(told))
    # Make the pages now: later, the sources may have changed.
    tag = _tag(problem)
    pages = {asks: _encode(_page(told, asks, tag)) for asks in (True, False)}
    policy = _policy()

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method = environ['REQUEST_METHOD']
        is_html = accepts_html(environ.get('HTTP_ACCEPT', ''))
        body = pages[method in ('GET', 'HEAD')] if is_html else plain
        headers = [
            ('Content-Type', f'text/{"html" if is_html else "plain"}; charset=utf-8'),
            ('Content-Length', str(len(body))),
            ('Content-Security-Policy', policy),
            ('X-Content-Type-Options', 'nosniff'),
            ('Cache-Control', 'no-store'),
            ('Vary', 'Accept'),
            ('X-WSPBus-Problem', '1'),
            ('X-WSPBus-Problem-Tag', tag),
        ]
        start_response('500 Internal Server Error', headers)
        return [] if method == 'HEAD' else [body]

    return app


def loading_page(seconds: float, place: str) -> bytes:
    """Return HTML that shows for how long the site has been loading, and where it is.

    The page asks again every second.

    :param place: 'FILE:LINE in NAME', or ''.
    """
    _lines.cache_clear()
    found = re.fullmatch(r'(?s)(?P<file>.+):(?P<line>\d+) in (?P<name>.+)', place)
    text, body = 'The process that loads it does not say where it is.', ''
    if found is not None:
        frame = Frame(found['file'], int(found['line']), found['name'])
        body = _shown(frame)
        text = f'It is at {_short(frame.file)}, line {frame.line}.'
    return _encode(
        _LOADING.format(
            style=_element('page.css'), seconds=int(seconds), text=_e(text), body=body
        )
    )


def _tag(problem: str) -> str:
    """Return a text that differs for each problem."""
    # Addresses in memory and process IDs differ in each worker.
    same = re.sub(r'0x[0-9A-Fa-f]+|process \d+', '', problem)
    return hashlib.sha256(_encode(same)).hexdigest()[:16]


def accepts_html(accept: str) -> bool:
    """Whether a client names HTML (RFC 9110, 12.5.1): browsers do, curl does not."""
    for one in accept.lower().split(','):
        kind, *parameters = (part.strip() for part in one.split(';'))
        if kind in ('text/html', 'application/xhtml+xml'):
            return not any(re.fullmatch(r'q=0(\.0*)?', each) for each in parameters)
    return False


def _plain(told: Told) -> str:
    said = f'{told["text"].rstrip()}\n{told["line"]}'.strip()
    return f'{_printable(said)}\n\n{FOOTER}\n'


def _encode(text: str) -> bytes:
    # File names may contain surrogates, which UTF-8 cannot encode.
    return text.encode('utf-8', 'backslashreplace')


_CONTROLS = re.compile(r'[\x00-\x08\x0b-\x1f\x7f-\x9f]')


def _printable(text: str) -> str:
    """Return text without control characters, which could change the terminal."""
    return _CONTROLS.sub(lambda found: f'\\x{ord(found[0]):02x}', text)


def _e(text: object) -> str:
    return html.escape(_printable(str(text)))


# -- the page ----------------------------------------------------------------------------


def _asset(name: str) -> str:
    """Return the text of a file beside this module; this also works in a zipped egg."""
    data = pkgutil.get_data(str(__package__), name)
    assert data is not None
    # A checkout on Windows may have \r\n. A browser converts it to \n, so the digest of a
    # script with \r\n would be wrong.
    return data.decode('utf-8').replace('\r\n', '\n')


def _element(name: str) -> str:
    """Return the content of a style or script element: a file, which begins on a new line."""
    return f'\n{_asset(name)}'


def _policy() -> str:
    """Return a Content-Security-Policy: no other sources, and only the script of this page.

    So the page is safe, whatever a message contains.
    """
    digest = hashlib.sha256(_element('page.js').encode()).digest()
    return (
        "default-src 'none'; style-src 'unsafe-inline'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; "
        f"script-src 'sha256-{base64.b64encode(digest).decode()}'"
    )


def _page(told: Told, asks: bool, tag: str) -> str:
    """Return the HTML. ``asks`` says whether the page may repeat its request."""
    place = _PLACE.match(told['line'])
    if told['errors']:
        last = told['errors'][-1]
        kind, message = last['type'], last['message']
        text = place['problem'] if place else told['line']
    else:
        kind, text = 'The site cannot be served', '' if place else _NOTHING
        message = place['problem'] if place else told['line']
    title = _first(message) or kind
    whole = _plain(told).removesuffix(f'\n\n{FOOTER}\n')
    top = f'<p class="kind">{_e(kind)}</p><h1>{_e(title)}</h1>'
    top += f'<p class="line">{_e(text)}</p>' if text else ''
    top += _place(place, bool(told['errors'])) if place else ''
    body = _told(told['errors'], title)
    body += _WHOLE.format(_e(whole)) if told['text'] else ''
    return _asset('page.html').format(
        title=_e(f'{kind}: {title}' if title != kind else kind),
        style=_element('page.css'),
        header=f'<header>{top}</header>',
        body=body,
        footer=_e(FOOTER),
        asks='yes' if asks else 'no',
        tag=tag,
        script=_element('page.js'),
    )


#: The text for a process that crashed, or called os._exit.
_NOTHING = 'There is no traceback. The terminal may show more.'


def _first(message: str) -> str:
    """Return the part of a message that fits into a heading."""
    line = message.strip().partition('\n')[0]
    return line if len(line) <= 300 else f'{line[:300]}…'


#: The beginning of a message of this package: a file, and perhaps a line, a section and a key.
_PLACE = re.compile(
    r'(?P<file>(?:(?!: ).)+?)'
    r'(?:, line (?P<line>\d+)|(?= \[)|(?<=\.ini))'
    r'(?: \[(?P<section>[^\]]+)\](?: (?P<key>(?:(?!: ).)+))?)?'
    r': (?P<problem>.*)',
    re.DOTALL,
)


def _place(place: re.Match[str], is_code: bool) -> str:
    """Return HTML with the file, section and key, and with their lines of the .ini."""
    found = [(name, place[name]) for name in ('file', 'section', 'key') if place[name]]
    rows = ''.join(f'<dt>{name}</dt><dd>{_e(text)}</dd>' for name, text in found)
    wanted = _ini_lines(place, is_code)
    lines = ''.join(
        _line(number, line, is_meant=number == max(wanted))
        for number, line in enumerate(_lines(place['file']), 1)
        if number in wanted
    )
    return f'<dl>{rows}</dl>' + (f'<pre class="source">{lines}</pre>' if lines else '')


def _ini_lines(place: re.Match[str], is_code: bool) -> set[int]:
    """Return the numbers of the lines of the section and of the key.

    ``is_code`` says whether the site's code failed: then a line number in the message is
    one of its source, not of the .ini.
    """
    named = None if is_code else re.search(r'\bline +(\d+)\b', place['problem'])
    number = place['line'] or (named[1] if named else None)
    if number:
        return {int(number)}
    key = place['key'] or 'use'  # this key names the factory
    section, wanted = None, set()
    for number, line in enumerate(_lines(place['file']), 1):
        if line.startswith('['):
            section = line.strip().strip('[]')
        elif re.split('[=:]', line)[0].strip() != key:
            continue
        if section == place['section']:
            wanted.add(number)
    return wanted


def _told(chain: list[Told], title: str) -> str:
    """Return the HTML of exceptions, the first one first; omit the message of the title."""
    parts = []
    for told in chain:
        message = told['message'].strip()
        if len(chain) > 1 or _first(message) != title:
            heading = f'<b>{_e(told["type"])}</b> {_e(_first(message))}'
            parts.append(f'<h2>{heading}</h2>')
        if _first(message) != message:
            parts.append(f'<pre class="said">{_e(message)}</pre>')
        if told['notes'].strip():
            parts.append(f'<pre class="said">{_e(told["notes"].rstrip())}</pre>')
        parts.append(_frames_of(told['frames']))
        for number, part in enumerate(told['parts'], 1):
            name = f'{number} of {len(told["parts"])}'
            parts.append(f'<div class="part"><p>{name}</p>{_told(part, "")}</div>')
        if told['link']:
            parts.append(f'<p class="link">{_e(told["link"])}</p>')
    return '\n'.join(parts)


def _frames_of(frames: Sequence[Any]) -> str:
    """Return the HTML of frames: those of the site with their sources, the others folded."""
    known = [one if isinstance(one, int) else Frame(*one) for one in frames]
    if known and not any(map(_is_own, known)):
        *known, last = known
        return _fold(known) + _shown(last)
    return ''.join(
        ''.join(map(_shown, some)) if is_own else _fold(list(some))
        for is_own, some in itertools.groupby(known, _is_own)
    )


def _is_own(frame: Frame | int) -> bool:
    if isinstance(frame, int) or frame.file.startswith('<'):
        return False
    folder = os.path.dirname(os.path.abspath(frame.file))
    return not is_composer(frame.file) and not is_installed(folder)


def _fold(frames: list[Frame | int]) -> str:
    if not frames:
        return ''
    count = sum(one if isinstance(one, int) else one.times for one in frames)
    names = dict.fromkeys(_package(one) for one in frames if isinstance(one, Frame))
    what = f'{count} frame{"s" * (count > 1)} of {", ".join(names)}'
    rows = ''.join(
        f'<li>{one} frames are left out</li>'
        if isinstance(one, int)
        else f'<li>{_where(one)}{_source(one)}</li>'
        for one in frames
    )
    return f'<details><summary>{_e(what)}</summary><ul>{rows}</ul></details>'


def _shown(frame: Frame | int) -> str:
    """Return the HTML of a frame with the lines around it."""
    assert isinstance(frame, Frame)
    lines = _lines(frame.file)
    first = max(frame.line - AROUND, 1)
    shown = ''.join(
        _line(number, line, number == frame.line, frame)
        for number, line in enumerate(lines[first - 1 : frame.line + AROUND], first)
    )
    source = f'<pre class="source">{shown}</pre>' if shown else ''
    return f'<section><h3>{_where(frame)}</h3>{source}</section>'


def _where(frame: Frame) -> str:
    file = f'<b title="{_e(frame.file)}">{_e(_short(frame.file))}</b>'
    name = '' if frame.name in ('', '<module>') else f', in {_e(frame.name)}'
    times = f', {frame.times:,} times in a row' if frame.times > 1 else ''
    return f'{file}, line {frame.line}{name}{times}'


def _source(frame: Frame) -> str:
    lines = _lines(frame.file)[frame.line - 1 : frame.line] if frame.line else []
    return ''.join(f'<pre>{_e(line.strip()[:WIDTH])}</pre>' for line in lines)


def _line(number: int, line: str, is_meant: bool, frame: Frame | None = None) -> str:
    """Return the HTML of a source line; ``is_meant`` marks the columns of the error."""
    text = _e(line[:WIDTH])
    if is_meant and frame is not None and frame.start is not None:
        encoded = line.encode('utf-8', 'replace')
        cuts = (
            slice(frame.start),
            slice(frame.start, frame.end),
            slice(frame.end, None),
        )
        before, marked, after = (
            encoded[cut].decode('utf-8', 'replace') for cut in cuts
        )
        if (before + after).strip() and len(line) <= WIDTH:
            text = f'{_e(before)}<mark>{_e(marked) or " "}</mark>{_e(after)}'
    kind = ' class="meant"' if is_meant else ''
    return f'<span{kind} data-line="{number}">{text}\n</span>'


@functools.cache
def _lines(file: str) -> list[str]:
    """Return the lines of a source, as far as they can be read; [] if there is none."""
    with contextlib.suppress(OSError, ValueError):  # such as of a module in an archive
        status = os.stat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_LENGTH:
            return []  # a pipe: reading would wait for somebody who writes there
    if os.path.isfile(file):
        # linecache looks for a relative one on sys.path, too.
        file = os.path.abspath(file)
    with contextlib.suppress(Exception):  # this may call a loader of the site
        linecache.checkcache(file)
        lines = linecache.getlines(file)
        if not lines and os.path.isfile(file):
            with open(file, encoding='utf-8', errors='replace') as source:
                lines = source.readlines()
        return [line.rstrip('\r\n\f') for line in lines]
    return []


def _short(file: str) -> str:
    """Return a path relative to the working folder, site-packages or the standard library."""
    installed = _SITE_PACKAGES.sub('', file).removeprefix(_STDLIB)
    if installed != file:  # perhaps below the working folder, in a virtual environment
        return installed
    with contextlib.suppress(OSError):
        file = file.removeprefix(os.getcwd() + os.sep)
    return file


def _package(frame: Frame) -> str:
    """Return the name of the package that a frame belongs to."""
    if frame.file.startswith('<'):
        return frame.file.strip('<>').removeprefix('frozen ')
    return re.split(r'[\\/]', _short(frame.file).lstrip(os.sep))[0].removesuffix('.py')


_WHOLE = """\
<details class="whole"><summary>The whole traceback, as text</summary>
<button type="button" id="copy" hidden>Copy</button>
<pre id="text">{}</pre></details>"""

_LOADING = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="1">
<link rel="icon" href="data:,">
<title>The site is loading</title>
<style>{style}
body {{ --bad: var(--soft); --badbox: var(--box); }}</style>
</head>
<body>
<header><p class="kind">wspserve --reload</p><h1>The site has been loading for {seconds} s</h1>
<p class="line">{text}</p></header>
<main>
{body}
</main>
<footer><p>This page asks again every second. The terminal may show more.</p></footer>
</body>
</html>
"""
