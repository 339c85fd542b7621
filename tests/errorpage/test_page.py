"""The page in the place of a site that does not start: what it says, and to whom."""

import html
import importlib.util
import io
import json
import os
import re
import traceback
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from paste_wspbus.errorpage import page as errorpage
from paste_wspbus.errorpage import problem as problems
from paste_wspbus.errors import ConfigError, FactoryError
from tests.kit import Site, write

# -- in this process ----------------------------------------------------------------


def request(problem, accept='text/html', method='GET'):
    """Ask the application: (status, headers, body as text)."""
    environ = {'REQUEST_METHOD': method, 'wsgi.input': io.BytesIO(), 'QUERY_STRING': ''}
    setup_testing_defaults(environ)
    if accept is not None:
        environ['HTTP_ACCEPT'] = accept
    answer = []

    def start_response(status, headers, exc_info=None):
        answer.extend([status, dict(headers)])
        return answer.append

    body = validator(errorpage.make_app(problem))(environ, start_response)
    text = b''.join(body).decode()
    body.close()
    return *answer, text


def page(problem):
    """The page, without its style and script."""
    return without_style(request(problem)[2])


def without_style(text):
    return re.sub(r'<(style|script)>.*?</\1>', '', text, flags=re.DOTALL)


def text_of(fragment):
    """What a reader sees of it."""
    return html.unescape(re.sub(r'<[^>]*>', '', fragment))


def raised_by(call, *args):
    try:
        call(*args)
    except BaseException as error:
        return error
    raise AssertionError('It raises nothing')


def failed(cause, problem='make failed'):
    """A factory's failure, as the loader tells of it."""

    def fail():
        raise FactoryError('site.ini', problem, section='app:main') from cause

    return raised_by(fail)


def problem(cause, line='site.ini [app:main]: make failed'):
    return problems.problem_of(failed(cause), line)


@pytest.fixture
def load(tmp_path, monkeypatch):
    """``load(source)``: import it as the site's own module ``shop``."""
    monkeypatch.chdir(tmp_path)

    def load(source, name='shop'):
        file = tmp_path / f'{name}.py'
        if isinstance(source, bytes):
            file.write_bytes(source)
        else:
            write(tmp_path, {file.name: source})
        spec = importlib.util.spec_from_file_location(name, file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


CHAIN = """
    def connect(url):
        try:
            return {}[url]
        except KeyError as error:
            raise RuntimeError(f'no engine for {url}') from error


    def make():
        connect('sqlite')
"""


def test_the_type_and_the_message_are_on_top(load):
    shown = page(problem(raised_by(load(CHAIN).make)))
    assert '<p class="kind">RuntimeError</p><h1>no engine for sqlite</h1>' in shown
    assert '<title>RuntimeError: no engine for sqlite</title>' in shown


def test_file_section_and_key_of_the_ini_are_named_with_what_stands_there(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    ini = '[DEFAULT]\npassword = x\n[app:other]\ndebug = 1\n[app:main]\ndebug = maybe\n'
    write(tmp_path, {'site.ini': ini})
    error = ConfigError('site.ini', 'not a yes', section='app:main', key='debug')
    shown = page(problems.problem_of(error, str(error)))
    assert '<h1>not a yes</h1>' in shown
    for name, value in (
        ('file', 'site.ini'),
        ('section', 'app:main'),
        ('key', 'debug'),
    ):
        assert f'<dt>{name}</dt><dd>{value}</dd>' in shown
    lines = re.findall(r'<span(?: class="(\w+)")? data-line="(\d+)">(.*)', shown)
    assert lines == [('', '5', '[app:main]'), ('meant', '6', 'debug = maybe')]
    assert 'password' not in shown


def test_a_line_of_the_ini_that_is_named_is_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {'site.ini': '[app:main]\n\nnonsense\nsecret = 1\n'})
    shown = page("site.ini, line 3: 'nonsense' is neither a [section] nor KEY = VALUE")
    assert re.findall(r'data-line="(\d+)">(.*)', shown) == [('3', 'nonsense')]


def test_no_file_of_that_name_elsewhere_on_sys_path_is_shown(tmp_path, monkeypatch):
    for folder, line in (('elsewhere', 'other = 1'), ('site', 'own = 1')):
        write(tmp_path, {f'{folder}/site.ini': line})
    monkeypatch.syspath_prepend(tmp_path / 'elsewhere')
    monkeypatch.chdir(tmp_path)
    said = 'site.ini, line 1: it is neither a [section] nor KEY = VALUE'
    page(said)
    monkeypatch.chdir(tmp_path / 'site')
    assert re.findall(r'data-line="1">(.*)', page(said)) == ['own = 1']


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='a platform without named pipes')
def test_nobody_waits_for_a_pipe_in_the_place_of_a_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo('site.ini')
    assert 'data-line' not in page('site.ini: it is a pipe')


def test_no_line_is_shown_of_a_file_that_takes_seconds_to_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {'site.ini': '[app:main]\nnonsense\n'})
    said = "site.ini, line 2: 'nonsense' is neither a [section] nor KEY = VALUE"
    assert 'data-line' in page(said)
    os.truncate('site.ini', errorpage.MAX_LENGTH + 1)
    assert 'data-line' not in page(said)


def test_a_failing_factorys_section_shows_who_was_called(load, tmp_path):
    write(tmp_path, {'site.ini': '[app:main]\nuse = call:shop:make\nother = 1\n'})
    error = raised_by(load, 'a = 1\nb = 2\nc = (\n')
    line = 'site.ini [app:main]: make failed: SyntaxError: no (shop.py, line 3)'
    header = page(problem(error, line)).partition('</header>')[0]
    assert re.findall(r'data-line="(\d+)">(.*)', header) == [
        ('1', '[app:main]'),
        ('2', 'use = call:shop:make'),
    ]


def test_the_failing_line_is_marked_among_those_around_it(load):
    shown = page(problem(raised_by(load(CHAIN).make)))
    assert '<h3><b title=' in shown
    assert 'shop.py</b>, line 9, in make' in shown
    assert (
        '<span class="meant" data-line="3">        return '
        '<mark>{}[url]</mark>\n</span>' in shown
    )
    assert '<span data-line="4">    except KeyError as error:' in shown


def test_frames_of_other_packages_are_folded(load):
    shop = load("""
        import json


        def make():
            json.loads('nonsense')
    """)
    shown = page(problem(raised_by(shop.make)))
    folded = re.findall(r'<details><summary>(.*?)</summary>(.*?)</details>', shown)
    assert [summary for summary, _ in folded] == ['3 frames of json']
    assert 'json/decoder.py' in folded[0][1]
    assert 'shop.py' not in folded[0][1]
    assert 'json.loads(' in shown.partition('<details>')[0]


def test_where_no_frame_is_the_sites_the_last_one_is_shown():
    error = raised_by(json.loads, 'nonsense')
    error.__traceback__ = error.__traceback__.tb_next  # without this file
    shown = page(problem(error))
    assert re.search(r'[23] frames of json', shown)  # Python 3.14.8 has one more
    assert 'json/decoder.py</b>, line ' in shown.partition('</details>')[2]


def test_exceptions_of_a_chain_are_shown_in_the_order_in_which_they_came(load):
    shown = text_of(page(problem(raised_by(load(CHAIN).make))).partition('<main>')[2])
    order = ["KeyError 'sqlite'", problems.CAUSE, 'RuntimeError no engine for sqlite']
    places = [shown.index(part) for part in order]
    assert places == sorted(places)


def test_an_exception_while_another_was_handled_is_told_of_as_such(load):
    shop = load("""
        def make():
            try:
                1 / 0
            except ZeroDivisionError:
                {}['x']
    """)
    assert problems.CONTEXT in page(problem(raised_by(shop.make)))


def test_a_suppressed_context_is_not_shown(load):
    shop = load("""
        def make():
            try:
                1 / 0
            except ZeroDivisionError:
                raise LookupError('x') from None
    """)
    shown = page(problem(raised_by(shop.make)))
    assert '<b>LookupError</b>' not in shown  # it is the only one: on top
    assert problems.CONTEXT not in shown


def test_the_whole_traceback_is_there_as_text(load):
    error = raised_by(load(CHAIN).make)
    shown = page(problem(error))
    whole = html.unescape(re.search(r'<pre id="text">(.*?)</pre>', shown, re.S)[1])
    assert whole.startswith(''.join(traceback.format_exception(error)))
    assert whole.endswith('\nsite.ini [app:main]: make failed')


@pytest.mark.parametrize('accept', ['*/*', None, 'application/json', 'text/html;q=0'])
def test_who_does_not_ask_for_html_gets_the_traceback_as_text(load, accept):
    error = raised_by(load(CHAIN).make)
    status, headers, text = request(problem(error), accept)
    assert status.startswith('500 ')
    assert headers['Content-Type'] == 'text/plain; charset=utf-8'
    assert text == (
        f'{"".join(traceback.format_exception(error))}'
        f'site.ini [app:main]: make failed\n\n{errorpage.FOOTER}\n'
    )


def test_a_browser_gets_the_page():
    accept = 'application/json;q=0.1, Text/HTML;q=0.9, */*;q=0.8'
    _, headers, text = request('It fails', accept)
    assert headers['Content-Type'] == 'text/html; charset=utf-8'
    assert text.startswith('<!DOCTYPE html>')
    assert errorpage.FOOTER in text


@pytest.mark.parametrize('accept', ['text/html', '*/*'])
@pytest.mark.parametrize('method', ['GET', 'HEAD', 'POST', 'DELETE'])
def test_every_method_gets_500_that_is_never_stored(method, accept):
    status, headers, text = request('It fails', accept, method)
    assert status == '500 Internal Server Error'
    assert headers['Cache-Control'] == 'no-store'
    assert headers['X-WSPBus-Problem'] == '1'
    assert (text == '') == (method == 'HEAD')
    if text:
        assert headers['Content-Length'] == str(len(text.encode()))


def test_what_was_posted_is_not_posted_again():
    assert 'data-asks="yes"' in request('It fails')[2]
    assert 'data-asks="no"' in request('It fails', method='POST')[2]


def test_another_problem_has_another_tag_and_each_worker_has_the_same():
    def tag(problem):
        return request(problem, method='HEAD')[1]['X-WSPBus-Problem-Tag']

    assert tag('line 3') != tag('line 4')
    assert tag('<object at 0x7f12ab>') == tag('<object at 0x7fabcd>')
    assert f'data-tag="{tag("line 3")}"' in request('line 3')[2]


def test_nothing_is_loaded_from_elsewhere_and_no_other_script_runs():
    _, headers, text = request('It fails')
    script = re.findall(r'<script>(.*?)</script>', text, re.DOTALL)
    assert script == [errorpage._element('page.js')]
    assert "default-src 'none'" in headers['Content-Security-Policy']
    assert not re.search(r'\b(src|href|https?|url\()', text.replace(script[0], ''))


NASTY = '</pre></title><script>alert(1)</script>"\'&'


def test_everything_is_escaped(load, tmp_path):
    load(f'def make():\n    raise ValueError({NASTY!r})  # {NASTY}\n')
    source = compile(f'raise ValueError({NASTY!r})', NASTY, 'exec')
    error = raised_by(exec, source)
    error.add_note(NASTY)
    group = ExceptionGroup(
        NASTY,
        [
            error,
            raised_by(
                load(f'def make():\n    raise ValueError({NASTY!r})  # {NASTY}\n').make
            ),
        ],
    )
    line = f'{NASTY} [{NASTY}] {NASTY}: {NASTY}'
    for one in (problem(group, line), line, f'a\n{NASTY}\n{NASTY}'):
        shown = request(one)[2]
        assert shown.count('<script>') == shown.count('</script>') == 1
        assert shown.count('</title>') == 1
        assert NASTY in text_of(page(one))


def test_what_would_command_a_terminal_is_escaped():
    for accept in ('text/html', '*/*'):
        text = request('Traceback\n\x1b[31mred\x00\x9b', accept)[2]
        assert '\\x1b[31mred\\x00\\x9b' in text
        assert '\x1b' not in text


def test_values_of_variables_and_of_the_environment_are_not_shown(load, monkeypatch):
    monkeypatch.setenv('SECRET_OF_ENVIRONMENT', 'hush-environment')
    shop = load("""
        import os


        def make():
            password = os.environ['SECRET_OF_ENVIRONMENT'] + '-local'
            raise ValueError('no')
    """)
    one = problem(raised_by(shop.make))
    for accept in ('text/html', '*/*'):
        assert 'hush' not in request(one, accept)[2]


def test_a_syntax_error_shows_its_place(load):
    error = raised_by(load, 'x = 1\n\ndef f(:\n    pass\n')
    shown = page(problem(error))
    assert '<p class="kind">SyntaxError</p>' in shown
    assert 'shop.py</b>, line 3</h3>' in shown
    assert '<span class="meant" data-line="3">def f(<mark>:</mark>\n' in shown
    assert problems.trace_of(failed(error))[1].endswith('shop.py')


def test_a_syntax_error_of_no_file_shows_what_python_knows():
    error = raised_by(compile, 'x = (', '<template>', 'exec')
    assert 'x = (\n        ^' in text_of(page(problem(error)))


def test_a_source_that_is_not_utf_8_is_shown_as_well_as_may_be(load):
    error = raised_by(load, b'x = 1\ny = "caf\xe9"\n')
    assert 'x = 1' in page(problem(error))
    assert '�' in page(problem(error))


def test_a_source_of_another_encoding_is_shown_as_it_is_meant(load):
    shop = load('# coding: latin-1\ndef make():\n    "é" + 1\n'.encode('latin-1'))
    assert '&quot;é&quot; + 1\n' in page(problem(raised_by(shop.make)))


def test_a_deep_recursion_is_one_place(load):
    shop = load('def make():\n    make()\n')
    shown = page(problem(raised_by(shop.make)))
    assert re.search(r'in make, \d{3} times in a row', shown)
    assert len(shown) < 20_000


def test_of_many_frames_the_first_and_the_last_are_kept(load):
    shop = load('def make():\n    again()\n\n\ndef again():\n    make()\n')
    shown = page(problem(raised_by(shop.make)))
    assert re.search(r'<li>\d{3} frames are left out</li>', shown)
    assert shown.count('<h3>') == problems.FIRST + problems.LAST


def test_a_groups_exceptions_are_shown_each_in_its_place(load):
    chained = raised_by(load(CHAIN).make)
    error = ExceptionGroup('two failed', [ValueError('a'), chained])
    shown = text_of(page(problem(error)).partition('<main>')[2])
    for part in ('1 of 2', 'ValueError a', '2 of 2', 'KeyError', 'RuntimeError'):
        assert part in shown


def test_notes_are_shown(load):
    error = ValueError('no')
    error.add_note('the second pump\nof three')
    assert 'the second pump\nof three' in text_of(page(problem(error)))


class Silent(Exception):
    def __str__(self):
        raise RuntimeError('not even this')


class Hostile(Exception):
    @property
    def __notes__(self):
        raise RuntimeError('not even this')


@pytest.mark.parametrize(
    'error',
    [
        Silent(),
        Hostile(),
        ValueError(),
        SyntaxError('no', ('file.py', 'x', 'y', 3)),
        SyntaxError('no', ('file.py', 10**9, -4, 'text')),
        SyntaxError('no', (None, 1, 1, None)),
        SyntaxError(),
        ValueError('\udce9 \x00'),
        ExceptionGroup('x', [Silent(), ExceptionGroup('y', [Hostile()])]),
        SystemExit(3),
    ],
    ids=lambda error: f'{type(error).__name__}{getattr(error, "args", "")}'[:30],
)
def test_whatever_is_raised_is_shown(error):
    trace, _ = problems.trace_of(failed(error))
    assert type(error).__name__ in trace
    assert type(error).__name__ in page(problem(error))


def test_a_problem_always_fits_into_a_variable_of_the_environment():
    error = None
    for _ in range(problems.CHAIN + 1):
        cause, error = (
            error,
            ExceptionGroup(
                'é"\n' * 5_000,
                [ValueError('é"\n' * 5_000) for _ in range(problems.GROUP + 1)],
            ),
        )
        error.__cause__ = cause
    one = problem(error, 'é"\n' * 5_000)
    assert len(json.dumps({'problem': one})) < 120_000
    assert 'ExceptionGroup' in request(one, '*/*')[2]


def test_of_a_long_traceback_the_beginning_and_the_end_are_kept(load):
    shop = load("def make():\n    raise ValueError('x' * 1_000_000 + 'the end')\n")
    trace, _ = problems.trace_of(failed(raised_by(shop.make)))
    assert trace.startswith('Traceback')
    assert 'shop.py' in trace
    assert 'characters are left out' in trace
    assert trace.endswith('the end\n')
    assert len(trace) < 50_000


def test_the_frames_that_compose_a_site_are_left_out(load):
    def compose(factory):  # as paste_wspbus does
        scope = {'factory': factory}
        exec(compile('factory()', errorpage.__file__, 'exec'), scope)

    error = raised_by(compose, load(CHAIN).make)
    error.__traceback__ = error.__traceback__.tb_next.tb_next  # without this file
    assert 'page.py' in ''.join(traceback.format_exception(error))
    trace, file = problems.trace_of(failed(error))
    assert 'page.py' not in trace
    assert file.endswith('shop.py')


def test_a_message_of_our_own_needs_no_traceback():
    def fail():
        raise ConfigError('/etc/site.ini', 'no', section='app:main')

    error = raised_by(fail)
    error.__traceback__ = None
    assert problems.trace_of(error) == ('', '/etc/site.ini')
    shown = page(problems.problem_of(error, str(error)))
    assert '<p class="kind">The site cannot be served</p><h1>no</h1>' in shown
    assert 'as text</summary>' not in shown


# -- wspserve --reload --------------------------------------------------------------

INI = """
[server:main]
use = egg:waitress#main
host = 127.0.0.1
port = 0
[app:main]
use = call:blog:make
[wspbus:main]
plugins = pool
[plugin:pool]
use = call:blog:pool
"""

BLOG = """
def make(global_conf, **settings):
    return app


def app(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [b'VERSION']


def pool(bus, global_conf):
    yield
"""

FAILING_POOL = """
def pool(bus, global_conf):
    raise OSError('the pool is closed')
    yield
"""

FAILING_FACTORY = """
def make(global_conf, **settings):
    raise ValueError('<i>no</i> shop')
"""

#: Of each kind: the file, its new text, and what the page must show.
PROBLEMS = {
    'a syntax error': (
        'blog.py',
        f'{BLOG}\ndef broken(:\n',
        ['SyntaxError', 'blog.py, line 13', 'def broken(:', 'site.ini', 'plugin:pool'],
    ),
    'a missing module': (
        'blog.py',
        f'import not_there\n{BLOG}',
        ["No module named 'not_there'", 'blog.py, line 1', 'plugin:pool'],
    ),
    'a bad value in the .ini': (
        'site.ini',
        INI.replace('make\n', 'make\ndebug = %(nowhere)s\n'),
        ['has no value', 'debug = %(nowhere)s', 'site.ini', 'app:main', 'key'],
    ),
    'an .ini that cannot be read': (
        'site.ini',
        f'{INI}nonsense\n',
        ['is neither a [section] nor KEY = VALUE', 'site.ini', 'nonsense'],
    ),
    'a lifespan that fails': (
        'blog.py',
        BLOG + FAILING_POOL,
        ['OSError', 'the pool is closed', 'blog.py, line 14, in pool', 'plugin:pool'],
    ),
    'a factory that raises': (
        'blog.py',
        BLOG + FAILING_FACTORY,
        ['ValueError', '<i>no</i> shop', 'blog.py, line 14, in make', 'app:main'],
    ),
    'a crash': ('blog.py', f'import os\nos._exit(3)\n{BLOG}', ['exit code 3']),
}


def shows_and_heals(site, name, expected):
    """It shows a problem to whoever asks; the next save ends that."""
    for accept in ('text/html', '*/*'):
        response = site.get(accept=accept)
        assert response.status == 500, site.report()
        assert response.headers['x-wspbus-problem'] == '1'
        is_page = accept == 'text/html'
        shown = text_of(without_style(response.text)) if is_page else response.text
        for part in expected if is_page else expected[:1]:
            assert part in shown, shown
    good = INI if name == 'site.ini' else BLOG.replace('VERSION', 'healed')
    write(site.folder, {name: good})
    site.expect('served in ')
    response = site.get(accept='text/html')
    assert response.status == 200
    assert response.text == ('VERSION' if name == 'site.ini' else 'healed')


@pytest.mark.parametrize('kind', PROBLEMS)
def test_a_problem_is_shown_instead_of_the_site_until_the_next_save(tmp_path, kind):
    name, text, expected = PROBLEMS[kind]
    with Site(tmp_path, INI, '--reload', files={'blog.py': BLOG}) as site:
        assert site.get().text == 'VERSION'
        write(tmp_path, {name: text})
        site.expect('the site cannot be served')
        shows_and_heals(site, name, expected)


@pytest.mark.parametrize('kind', ['a syntax error', 'a crash'])
def test_a_problem_of_the_first_start_is_shown_too(tmp_path, kind):
    name, text, expected = PROBLEMS[kind]
    with Site(tmp_path, INI, '--reload', files={name: text}) as site:
        shows_and_heals(site, name, expected)


def test_a_process_that_reloads_itself_shows_its_problem_too(tmp_path):
    name, text, expected = PROBLEMS['a factory that raises']
    files = {'blog.py': BLOG}
    with Site(tmp_path, INI, '--reload', '--reloader=execv', files=files) as site:
        assert site.get().text == 'VERSION'
        write(tmp_path, {name: text})
        site.expect('the site cannot be served')
        response = site.get(accept='text/html')
        assert response.status == 500
        for part in expected:
            assert part in text_of(without_style(response.text))
        write(tmp_path, {name: BLOG.replace('VERSION', 'healed')})
        site.expect('served in ')
        assert site.get(accept='text/html').text == 'healed'


def test_a_process_that_reloads_itself_outlives_an_ini_that_cannot_be_read(tmp_path):
    options = ['--reload', '--reloader=execv']
    with Site(tmp_path, INI, *options, files={'blog.py': BLOG}) as site:
        for count in (1, 2):
            write(tmp_path, {'site.ini': f'{INI}nonsense\n'})
            site.expect('the site cannot be served', count)
            assert site.get().status == 500
            write(tmp_path, {'site.ini': INI})
            site.expect('served in', count)
            assert site.get().text == 'VERSION'
        # The log has one line for each save.
        assert site.err.text.count('site.ini has changed') == 4, site.report()
        assert site.err.text.count('the site cannot be served') == 2, site.report()
