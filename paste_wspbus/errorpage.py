"""What is served under ``--reload`` in the place of a site that does not start: why."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import html
import itertools
import json
import linecache
import os
import re
import traceback
from typing import NamedTuple

from paste_wspbus.errors import WSPBusError
from paste_wspbus.sources import is_installed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from traceback import TracebackException
    from typing import Any

    #: Plain data, for JSON: an exception's ``type`` and ``message``; ``notes``:
    #: what else Python prints; ``link``: how the next one came of it, or '';
    #: ``frames``: each a `Frame`, or how many are left out there; ``parts``: the
    #: exceptions of a group, each a list of these.
    Told = dict[str, Any]

#: Characters of a traceback that are kept: of its beginning a half, of its end a half.
MOST = 40_000

#: Bytes that a problem may be: a variable of the environment holds 128 KiB
#: (MAX_ARG_STRLEN, execve(2)), with all else that a process inherits.
ROOM = 100_000

#: Characters of a message; exceptions of a chain and of a group; groups in groups;
#: frames of an exception's beginning, and of its end.
MESSAGE, CHAIN, GROUP, DEPTH, FIRST, LAST = 2_000, 8, 8, 3, 6, 20

#: Lines around the one that is meant, characters of each that are shown.
AROUND, WIDTH = 3, 400

FOOTER = 'Served by wspserve --reload; it tries again when a file changes.'

CAUSE = 'which was the direct cause of'
CONTEXT = 'and while that was handled'

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_PASTE_DEPLOY = os.sep + os.path.join('paste', 'deploy') + os.sep
_STDLIB = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
_SITE_PACKAGES = re.compile(r'.*[\\/](?:site|dist)-packages[\\/]')


class Frame(NamedTuple):
    """A place in a source. ``start``, ``end``: columns (bytes), if they are known.

    ``times``: how often it is there in a row.
    """

    file: str
    line: int
    name: str
    start: int | None = None
    end: int | None = None
    times: int = 1


# -- where it failed ------------------------------------------------------------------


def trace_of(error: BaseException) -> tuple[str, str | None]:
    """The traceback of why a site could not be served, and the file in which it ends.

    Without the frames of what composes sites, before it came to the site's code:
    '' where there are no others, for then the message says it all.
    """
    told, text = _tell(error)
    if _says_it_all(error, told):
        return '', getattr(error, 'file', None)
    file = getattr(told, 'filename', None)  # of a SyntaxError
    for frame in [] if file else told.stack:
        if not frame.filename.startswith('<frozen'):
            file = frame.filename
    return _cut(text, MOST), file


def problem_of(error: BaseException, line: str) -> str:
    """What `make_app` shows of it, as text that a process can hand to another one.

    ``line``: what the terminal says at last. The sources and the values of
    variables are not in it. At most 100,000 bytes.
    """
    told, text = _tell(error)
    errors = _chain(told)
    if _says_it_all(error, told):
        errors, text = [], ''
    line = _cut(line, MESSAGE)
    for most, shown in ((MOST, errors), (MOST // 10, errors), (MOST // 10, [])):
        kept = {'line': line, 'text': _cut(text, most), 'errors': shown}
        problem = json.dumps(kept, ensure_ascii=False)
        if len(json.dumps(problem)) < ROOM:  # in the JSON of a message
            break
    return problem


def _tell(error: BaseException) -> tuple[TracebackException, str]:
    """What Python knows to tell of it, and as text."""
    if isinstance(error, WSPBusError) and error.__cause__ is not None:
        error = error.__cause__
    try:
        told = traceback.TracebackException.from_exception(error, compact=True)
        _shorten(told)
        return told, ''.join(told.format())
    except Exception as why:  # whatever a site's exceptions do to whoever looks at them
        name = f'{type(error).__name__} (cannot be shown: {type(why).__name__})'
        kind = type(name, (Exception,), {'__module__': 'builtins'})
        told = traceback.TracebackException(kind, kind(), error.__traceback__)
        _shorten(told)
        return told, ''.join(told.format())


def _says_it_all(error: BaseException, told: TracebackException) -> bool:
    return isinstance(error, WSPBusError) and error.__cause__ is None and not told.stack


def _shorten(told: TracebackException) -> None:
    left = [told]
    while left:
        one = left.pop()
        while one.stack and _is_composer(one.stack[0].filename):
            del one.stack[0]
        left += filter(None, (one.__cause__, one.__context__, *(one.exceptions or ())))


def _is_composer(file: str) -> bool:
    """Whether it is of what comes before the site's code."""
    ours = file.startswith((_HERE, '<frozen')) or _PASTE_DEPLOY in file
    return ours or file == contextlib.__file__


def _cut(text: str, most: int) -> str:
    """Without its middle, if it is too long."""
    if len(text) <= most:
        return text
    half = most // 2
    left_out = f'\n… {len(text) - 2 * half:,} characters are left out …\n'
    return text[:half] + left_out + text[-half:]


def _chain(told: TracebackException, depth: int = 0) -> list[Told]:
    """An exception and those that it came of, the first one first."""
    chain: list[Told] = []
    one: TracebackException | None = told
    link = ''
    while one is not None and len(chain) < CHAIN:
        chain.insert(0, {**_entry(one, depth), 'link': link})
        if one.__cause__ is not None:
            link, one = CAUSE, one.__cause__
        else:
            link, one = CONTEXT, None if one.__suppress_context__ else one.__context__
    return chain


def _entry(one: TracebackException, depth: int) -> Told:
    said = list(one.format_exception_only())
    # A SyntaxError's begins with its place, and with what stands there.
    at = next((i for i, part in enumerate(said) if part[:1] != ' '), 0)
    kind, _, message = said[at].strip().partition(': ')
    shows_source = not os.path.isfile(str(getattr(one, 'filename', None) or ''))
    frames: list[Frame | int] = list(_frames(one))
    if len(frames) > FIRST + LAST + 1:
        frames[FIRST:-LAST] = [len(frames) - FIRST - LAST]
    parts = (one.exceptions or [])[:GROUP] if depth < DEPTH else []
    return {
        'type': kind.removesuffix(':'),
        'message': _cut(message, MESSAGE),
        'notes': _cut(''.join(said[:at] * shows_source + said[at + 1 :]), MESSAGE),
        'frames': frames,
        'parts': [_chain(part, depth + 1) for part in parts],
    }


def _frames(one: TracebackException) -> Iterator[Frame]:
    for frame, same in itertools.groupby(map(_frame, one.stack)):
        yield frame._replace(times=len(list(same)))
    if hasattr(one, 'filename'):
        yield from _place_of_syntax(one)


def _place_of_syntax(one: TracebackException) -> Iterator[Frame]:
    """Where a SyntaxError is; anything may be in one that a site made."""
    if not one.filename or not str(one.lineno).isdecimal():
        return
    first, last = (
        at if isinstance(at, int) else 0 for at in (one.offset, one.end_offset)
    )
    text = str(one.text or '')
    start, end = (
        len(text[: max(at - 1, 0)].encode('utf-8', 'replace'))
        for at in (first, max(last, first + 1))
    )
    columns = (start, end) if first > 0 else ()
    yield Frame(str(one.filename), int(str(one.lineno)), '', *columns)


def _frame(frame: traceback.FrameSummary) -> Frame:
    start, end = frame.colno, frame.end_colno
    if frame.lineno != frame.end_lineno:
        start = end = None
    return Frame(frame.filename, frame.lineno or 0, frame.name, start, end)


# -- where it is shown ------------------------------------------------------------------


def make_app(problem: str) -> Callable[..., Iterable[bytes]]:
    """A WSGI application that answers every request with 500, and says why.

    ``problem``: `problem_of`'s text, or any other text. Those who ask for HTML
    get a page, which looks every second whether there is something else by now.
    """
    _lines.cache_clear()
    told = _read(problem)
    plain = _encode(_plain(told))
    # Now, while the sources are as they were; what is sent must not be sent again.
    tag = _tag(problem)
    pages = {asks: _encode(_page(told, asks, tag)) for asks in (True, False)}

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method = environ['REQUEST_METHOD']
        is_html = _accepts_html(environ.get('HTTP_ACCEPT', ''))
        body = pages[method in ('GET', 'HEAD')] if is_html else plain
        headers = [
            ('Content-Type', f'text/{"html" if is_html else "plain"}; charset=utf-8'),
            ('Content-Length', str(len(body))),
            ('Content-Security-Policy', _POLICY),
            ('X-Content-Type-Options', 'nosniff'),
            ('Cache-Control', 'no-store'),
            ('Vary', 'Accept'),
            ('X-WSPBus-Problem', '1'),
            ('X-WSPBus-Problem-Tag', tag),
        ]
        start_response('500 Internal Server Error', headers)
        return [] if method == 'HEAD' else [body]

    return app


def _tag(problem: str) -> str:
    """What tells one problem from the next."""
    # An address in memory is another one in each worker.
    same = re.sub(r'0x[0-9A-Fa-f]+|process \d+', '', problem)
    return hashlib.sha256(_encode(same)).hexdigest()[:16]


def _accepts_html(accept: str) -> bool:
    """Whether a client names HTML (RFC 9110, 12.5.1): browsers do, curl does not."""
    for one in accept.lower().split(','):
        kind, *parameters = (part.strip() for part in one.split(';'))
        if kind in ('text/html', 'application/xhtml+xml'):
            return not any(re.fullmatch(r'q=0(\.0*)?', each) for each in parameters)
    return False


def _read(problem: str) -> Told:
    with contextlib.suppress(ValueError):
        told = json.loads(problem)
        if isinstance(told, dict) and told.keys() == {'line', 'text', 'errors'}:
            return told
    lines = problem.strip().splitlines() or ['The site cannot be served']
    return {
        'line': _cut(lines[-1], MESSAGE),
        'text': '\n'.join(lines[:-1]),
        'errors': [],
    }


def _plain(told: Told) -> str:
    said = f'{told["text"].rstrip()}\n{told["line"]}'.strip()
    return f'{_printable(said)}\n\n{FOOTER}\n'


def _encode(text: str) -> bytes:
    return text.encode('utf-8', 'backslashreplace')  # the surrogates of file names


_CONTROLS = re.compile(r'[\x00-\x08\x0b-\x1f\x7f-\x9f]')


def _printable(text: str) -> str:
    """Without what would command a terminal."""
    return _CONTROLS.sub(lambda found: f'\\x{ord(found[0]):02x}', text)


def _e(text: object) -> str:
    return html.escape(_printable(str(text)))


# -- the page ----------------------------------------------------------------------------


def _page(told: Told, asks: bool, tag: str) -> str:
    """``asks``: whether it is of a request that may be made again."""
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
    return _PAGE.format(
        title=_e(f'{kind}: {title}' if title != kind else kind),
        style=_STYLE,
        header=f'<header>{top}</header>',
        body=body,
        footer=_e(FOOTER),
        asks='yes' if asks else 'no',
        tag=tag,
        script=_SCRIPT,
    )


#: Of a process that died of a crash, or by os._exit.
_NOTHING = 'There is no more than that, but perhaps on the terminal.'


def _first(message: str) -> str:
    """As much of a message as a heading holds."""
    line = message.strip().partition('\n')[0]
    return line if len(line) <= 300 else f'{line[:300]}…'


#: How our own messages begin: a file, perhaps a section, perhaps a key.
_PLACE = re.compile(
    r'(?P<file>(?:(?!: ).)+?)'
    r'(?: \[(?P<section>[^\]]+)\](?: (?P<key>(?:(?!: ).)+))?|(?<=\.ini))'
    r': (?P<problem>.*)',
    re.DOTALL,
)


def _place(place: re.Match[str], is_code: bool) -> str:
    """The .ini's file, section and key, and what stands there, but nothing around it."""
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
    """The numbers of the lines that are meant: the section's, the key's.

    ``is_code``: whether it is the site's code that failed: then a number that is
    told is one of its sources'.
    """
    named = None if is_code else re.search(r'\bline +(\d+)\b', place['problem'])
    if named:
        return {int(named[1])}
    key = place['key'] or 'use'  # names the factory
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
    """Exceptions, the first one first. ``title``: what a heading says already."""
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
    """The site's own with their sources, others folded."""
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
    return not _is_composer(frame.file) and not is_installed(folder)


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
    """A place, with the lines around it."""
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
    """A line of a source; of the one that is meant, the columns are marked."""
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
    """The lines of a source, as well as they can be read; [] where there is none."""
    with contextlib.suppress(Exception):  # a loader of the site's may be asked
        linecache.checkcache(file)
        lines = linecache.getlines(file)
        if not lines and os.path.isfile(file):
            with open(file, encoding='utf-8', errors='replace') as source:
                lines = source.readlines()
        return [line.rstrip('\r\n\f') for line in lines]
    return []


def _short(file: str) -> str:
    """A path, as those who know the site name it."""
    with contextlib.suppress(OSError):
        file = file.removeprefix(os.getcwd() + os.sep)
    return _SITE_PACKAGES.sub('', file).removeprefix(_STDLIB)


def _package(frame: Frame) -> str:
    """Whose code it is."""
    if frame.file.startswith('<'):
        return frame.file.strip('<>').removeprefix('frozen ')
    return re.split(r'[\\/]', _short(frame.file).lstrip(os.sep))[0].removesuffix('.py')


_WHOLE = """\
<details class="whole"><summary>The whole traceback, as text</summary>
<button type="button" id="copy" hidden>Copy</button>
<pre id="text">{}</pre></details>"""

_STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1c2024; --soft: #5c6670;
  --line: #dde1e6; --box: #f6f7f9; --bad: #b3261e; --badbox: #fdeceb; --mark: #f7c9c5; }
@media (prefers-color-scheme: dark) { :root { --back: #16181c; --text: #e4e7eb;
  --soft: #9aa4af; --line: #31363d; --box: #1e2126; --bad: #ff8a80; --badbox: #3a2020;
  --mark: #7a302b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
main, footer { max-width: 62rem; margin: 0 auto; padding: 0 1.25rem; }
header { border-top: .3rem solid var(--bad); max-width: none; background: var(--badbox);
  padding: 1.5rem max(1.25rem, calc(50% - 29.75rem)) 1.25rem; }
h1 { font-size: 1.5rem; line-height: 1.3; font-weight: 600; margin: 0; }
h2 { font-size: 1.05rem; font-weight: 400; margin: 1.75rem 0 0; }
h3 { font-size: .95rem; font-weight: 400; margin: 1.25rem 0 .4rem; }
p { margin: 0; }
.kind, h2 b { color: var(--bad); font-weight: 600; }
.line { color: var(--soft); margin-top: .5rem; }
dl { display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; margin: .75rem 0 0; }
dt { color: var(--soft); } dd { margin: 0 0 0 -1rem; font-weight: 600; }
pre { font: .85rem/1.55 ui-monospace, Menlo, Consolas, monospace; margin: 0; tab-size: 4;
  background: var(--box); border: 1px solid var(--line); border-radius: 6px;
  padding: .5rem .75rem; overflow-x: auto; overflow-wrap: normal; }
.said, #text { white-space: pre-wrap; overflow-wrap: anywhere; }
.said { margin-top: .5rem; }
.source { padding: .35rem 0; }
.source span { display: block; width: max-content; min-width: 100%; padding-right: 1rem; }
.source span::before { content: attr(data-line); display: inline-block; width: 3.25rem;
  padding-right: .9rem; margin-right: .5rem; text-align: right; color: var(--soft); }
.meant { background: var(--badbox); box-shadow: inset 3px 0 var(--bad); }
mark { background: var(--mark); color: inherit; border-radius: 2px; }
header pre { margin-top: .75rem; }
details { margin: .9rem 0; }
summary { cursor: pointer; color: var(--soft); }
ul { list-style: none; margin: .4rem 0 0; padding: 0 0 0 1rem; font-size: .9rem;
  border-left: 2px solid var(--line); }
li { margin: .4rem 0; } li b { font-weight: 500; }
li pre { border: 0; background: none; padding: 0; color: var(--soft); }
.part { border-left: 2px solid var(--line); margin: 1.5rem 0; padding-left: 1.1rem; }
.part > p { color: var(--soft); }
.link { color: var(--soft); margin: 1.5rem 0 -1rem; }
.whole { margin-top: 2rem; } .whole pre { margin-top: .5rem; }
button { font: inherit; font-size: .85rem; margin-top: .5rem; padding: .15rem .8rem; }
footer { color: var(--soft); font-size: .9rem; margin: 2rem auto; }
@media (max-width: 40rem) { h1 { font-size: 1.25rem; }
  .source span::before { width: 2.5rem; padding-right: .5rem; margin-right: .25rem; } }
"""

_SCRIPT = """
(function () {
  var page = document.body, tag = page.dataset.tag, timer;
  function look() {
    clearTimeout(timer);
    if (document.hidden) return;
    fetch(location.href, {method: 'HEAD', cache: 'no-store', redirect: 'manual',
                          headers: {Accept: 'text/html'}}).then(function (answer) {
      if (!answer.headers.has('X-WSPBus-Problem')) return change();
      if (answer.headers.get('X-WSPBus-Problem-Tag') !== tag) return change();
      later();
    }, later);
  }
  function later() { timer = setTimeout(look, 1000); }
  function change() {
    if (page.dataset.asks === 'yes') location.reload();
    else document.getElementById('again').hidden = false;
  }
  document.addEventListener('visibilitychange', look);
  later();
  var copy = document.getElementById('copy'), text = document.getElementById('text');
  if (copy) {
    copy.hidden = false;
    copy.onclick = function () {
      getSelection().selectAllChildren(text);
      document.execCommand('copy');
      copy.textContent = 'Copied';
    };
  }
})();
"""

_DIGEST = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()

#: Nothing from elsewhere, and no script but ours, whatever a message says.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; connect-src 'self'; "
    f"base-uri 'none'; form-action 'none'; script-src 'sha256-{_DIGEST}'"
)

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body data-asks="{asks}" data-tag="{tag}">
{header}
<main>
{body}
</main>
<footer><p id="again" hidden><b>The site has changed: go back, and send the form again.</b></p>
<p>{footer}</p></footer>
<script>{script}</script>
</body>
</html>
"""
