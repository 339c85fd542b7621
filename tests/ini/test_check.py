"""--check finds what is wrong, and what has no effect, without importing the site."""

import pytest

from tests.ini import test_bad_input
from tests.ini.test_bad_input import LOGGED
from tests.kit import run

GOOD = test_bad_input.GOOD.replace('%(free)s', '0')

WEBAPP = """
raise SystemExit('imported')

def make(global_conf): ...
def first(bus, global_conf): ...
"""

PLUG = """
from paste_wspbus import Plugin, on

class Refresh(Plugin):
    {channels}

    def __init__(self, bus, global_conf):
        super().__init__(bus)

    @on('refresh')
    def refresh(self): ...
"""

PLUGIN = """
[wspbus:main]
plugins = plug, first
{more}
[plugin:plug]
use = call:plug:Refresh
"""


def check(folder, ini, *args, **files):
    """Return the exit code, the warnings or the error, and nothing else that was printed."""
    files = {f'{name}.py': text for name, text in files.items()}
    files = {'webapp.py': WEBAPP, **files, 'site.ini': ini}
    done = run(folder, 'site.ini', '--check', *args, files=files)
    if done.code:
        assert done.out.text == ''
        return done.code, done.err.text.splitlines()
    assert done.err.text == ''
    *warnings, last = done.out.text.splitlines()
    assert last == f'site.ini: {"can be served" if warnings else "no mistakes found"}'
    return 0, [line.removeprefix('site.ini: warning: ') for line in warnings]


USED = '[wspbus:main]\nplugins = first\n'
WARNINGS = {
    'a composite without an application': (
        USED
        + '[composite:map]\nuse = egg:Paste#urlmap\nset debug = true\n[app:a]\nnext = map\n',
        '[composite:map] names no application, so each request is answered with 404: '
        'write / = NAME',
    ),
    'a cascade without an application': (
        USED + '[composit:x]\nuse = egg:Paste#cascade\ncatch = 404\n[app:a]\nuse = x\n',
        '[composit:x] names no application, so each request fails: write app1 = NAME',
    ),
    'a composite that gets its applications elsewhere': (
        USED + '[composite:map]\nuse = egg:Paste#urlmap\n'
        '[composite:more]\nuse = map\n/x = main\n',
    ),
    'a composite that only says what is not found': (
        USED + '[composite:map]\nuse = egg:Paste#urlmap\nnot_found_app = main\n',
    ),
    'a section with a typo': (
        USED + '[plugn:x]\n',
        '[plugn:x] is not used: did you mean [plugin:x]?',
    ),
    'keys for workers': (
        f'{USED}max_age = 1h\nmax_requests = 5\npreload = true\nsoak = 5\n'
        'hung_after = 9\nrequest_deadline = off\n  /x 5s\n',
        '[wspbus:main] preload does nothing without workers',
        '[wspbus:main] soak does nothing without workers or --monitor-restart',
        '[wspbus:main] max_requests does nothing without workers or --monitor-restart',
        '[wspbus:main] max_age does nothing without workers or --monitor-restart',
        '[wspbus:main] hung_after does nothing without workers or --monitor-restart',
        '[wspbus:main] request_deadline only logs without workers or --monitor-restart',
    ),
    'a cluster without workers': (
        f'{USED}[cluster:main]\nname = shop\n',
        '[cluster:main] does nothing without workers: this site is no machine of a cluster',
    ),
    'a server with a typo': (
        USED + '[servr:main]\n',
        '[servr:main] is not used: did you mean [server:main]?',
    ),
    'logging with a typo': (
        USED + '[logers]\nkeys = root\n',
        '[logers] is not used: did you mean [loggers]?',
    ),
    'a section for uWSGI': (
        USED + '[uwsgi]\nprocesses = 2\n',
        '[uwsgi] is for uWSGI alone: "wspserve --from site.ini" prints what says the same '
        'here',
    ),
    'settings with a typo': (
        '[wspbus:mian]\nplugins = first\n',
        '[plugin:first] is not used: write plugins = first in [wspbus:main]',
        '[wspbus:mian] is not used: did you mean [wspbus:main]?',
    ),
    'another cluster': (
        USED + '[cluster:two]\nname = shop\n',
        '[cluster:two] is not used: did you mean [cluster:main]?',
    ),
    'a plugin that is not listed': (
        '',
        '[plugin:first] is not used: write plugins = first in [wspbus:main]',
    ),
    'a signal plugin with workers': (
        USED + 'workers = 2\nsignals = call:webapp:make\n',
        '[wspbus:main] signals: with workers nothing uses it, because the supervisor '
        'handles the signals',
    ),
    'a channel with a typo': (
        USED + 'signal.SIGUSR1 = reopen_log\n',
        '[wspbus:main] signal.SIGUSR1: no module that this .ini names has the channel '
        "'reopen_log'; did you mean 'reopen_logs'?",
    ),
    'a field of log records with a typo': (
        USED + LOGGED.replace('%(message)s', '%(asctim)s'),
        "[formatter_plain] format: log records have no 'asctim'; did you mean 'asctime'?",
    ),
    'a field of log records that is no name': (
        USED + LOGGED.replace('%(message)s', '%(message)s %(x y)s'),
        "[formatter_plain] format: log records have no 'x y'",
    ),
}


@pytest.mark.parametrize('name', WARNINGS)
def test_what_has_no_effect_is_a_warning(tmp_path, name):
    more, *warnings = WARNINGS[name]
    assert check(tmp_path, GOOD + more) == (0, warnings)


def test_the_command_line_says_whether_there_are_workers(tmp_path):
    ini = f'{GOOD}{USED}max_age = 1h\npreload = true\nhung_after = 5\n'
    assert check(tmp_path, ini, '--workers', '2') == (0, [])
    (preload,) = check(tmp_path, ini, '--monitor-restart')[1]
    assert preload == '[wspbus:main] preload does nothing without workers'
    off = f'{GOOD}{USED}soak = 0\nhung_after = 0\nrequest_deadline = off\n'
    assert check(tmp_path, off) == (0, [])
    assert check(tmp_path, f'{off}workers = 2\n', '--workers', '0') == (0, [])


OTHERS = """
[alembic]
script_location = x
[celery:beat]
x = 1
[pserve]
[exe]
[handler]
[composite:shop]
use = egg:Paste#urlmap
[signals]
"""


def test_sections_of_other_programs_are_none_of_our_business(tmp_path):
    assert check(tmp_path, GOOD + USED + OTHERS + LOGGED) == (0, [])


@pytest.mark.parametrize(
    'broken', ['def make(:\n', 'x = 1\n  y = 2\n', 'x = "\n', '\0']
)
@pytest.mark.parametrize('section', ['app', 'plugin'])
def test_a_module_that_is_not_python(tmp_path, section, broken):
    ini = GOOD.replace(
        'call:webapp:make' if section == 'app' else 'call:webapp:first',
        'call:broken:make',
    )
    code, lines = check(tmp_path, ini + USED, broken=broken)
    (line,) = lines
    name = 'app:main' if section == 'app' else 'plugin:first'
    assert line.startswith(f'site.ini [{name}] use: call:broken:make: ')
    assert 'broken.py' in line
    assert code in (1, 2)


def test_a_name_that_the_module_has_not(tmp_path):
    code, lines = check(tmp_path, GOOD.replace(':make', ':mkae') + USED)
    assert code == 2
    assert lines == [
        "site.ini [app:main] use: call:webapp:mkae: webapp.py has no 'mkae'; did you mean "
        "'make'?"
    ]


def test_a_key_that_get_names_may_come_from_set_or_the_command_line(tmp_path):
    base = 'use = base\nset db = 1\n[app:base]\nuse = call'
    ini = GOOD.replace('use = call', base, 1)
    ini = ini.replace('make\n', 'make\nget a = db\nget b = wspbus\nget c = more\n')
    assert check(tmp_path, ini + USED, 'more=1') == (0, [])
    code, (line,) = check(tmp_path, ini + USED)
    assert code == 2
    assert line.startswith("site.ini [app:base] get c: [DEFAULT] has no key 'more'")


def test_a_unix_socket_in_a_folder_that_is_not_there(tmp_path):
    reason = 'there is no such folder'
    for where in ('unix_socket = {}', 'listen = unix:{}'):
        ini = GOOD.replace('host = 127.0.0.1\nport = 0', where.format('/no/such/s'))
        code, lines = check(tmp_path, ini + USED)
        assert (code, lines) == (1, [f'cannot listen on unix:/no/such/s: {reason}'])
        ini = ini.replace('/no/such', '/run/no/such')
        line = f'cannot listen on unix:/run/no/such/s: {reason}'
        assert check(tmp_path, ini + USED) == (0, [line])
        ini = ini.replace('/run/no/such/s', 's')
        assert check(tmp_path, ini + USED) == (0, [])


TYPED = """
def make(bus, global_conf, size: int = 3, name: str = ''): ...
"""


@pytest.mark.parametrize(
    'base, own, problem',
    [
        ('size = 4', 'size = x', "[plugin:b] size: 'x' is not a whole number"),
        ('size = x', 'name = y', "[plugin:a] size: 'x' is not a whole number"),
        ('size = 4', 'siz = 5', "[plugin:b] siz: unknown key; did you mean 'size'?"),
        ('size = x', 'size = 5', None),
    ],
)
def test_a_plugin_that_uses_another_section_has_its_types(tmp_path, base, own, problem):
    """And the section that it uses is no section that nothing uses."""
    ini = (
        f'{GOOD}\n[wspbus:main]\nplugins = b first\n'
        f'[plugin:a]\nuse = call:typed:make\n{base}\n[plugin:b]\nuse = a\n{own}\n'
    )
    found = check(tmp_path, ini, typed=TYPED)
    assert found == ((2, [f'site.ini {problem}']) if problem else (0, []))
    if problem:
        started = run(tmp_path, 'site.ini', files={'webapp.py': TYPED})
        assert (started.code, started.err.text) == (2, f'site.ini {problem}\n')


@pytest.mark.parametrize(
    'ready, problem',
    [
        ('statsd\nport = 99999', 'port: 99999 is not from 1 to 65535'),
        (
            'redis\nurl = redis://:s3cr3t@db:x/0',
            "url: Port could not be cast to integer value as 'x'",
        ),
        ('redis\nurl = http://db/0', 'url: Redis URL must specify one of the'),
        ('redis\nurl = redis://db/x', "url: 'x' is not the number of a database"),
        ('cron\nwhen = @daily\nrun = jobs', "run: 'jobs' is not a function: write"),
        ('service\nrun = jobs:', "run: 'jobs:' is not a function: write"),
    ],
)
def test_what_the_types_of_a_ready_made_plugin_do_not_say(tmp_path, ready, problem):
    more = f'{USED}, x\n[plugin:x]\nuse = egg:paste_wspbus#{ready}\n'
    code, (line,) = check(tmp_path, GOOD + more.replace('first\n,', 'first,'))
    assert code == 2
    assert line.startswith(f'site.ini [plugin:x] {problem}')
    assert 's3cr3t' not in line


@pytest.mark.parametrize(
    'point, problem',
    [
        ('webapp:mkae', "webapp has no 'mkae'; did you mean 'make'?"),
        ('nowhere.shop:make', "there is no module 'nowhere.shop'"),
        ('webapp:make', None),
    ],
)
def test_an_entry_point_whose_attribute_is_missing(tmp_path, point, problem):
    files = {
        'shop-1.dist-info/METADATA': 'Metadata-Version: 2.1\nName: shop\nVersion: 1\n',
        'shop-1.dist-info/entry_points.txt': f'[paste.app_factory]\nmain = {point}\n',
        'webapp.py': WEBAPP,
        'site.ini': GOOD.replace('call:webapp:make', 'egg:shop') + USED,
    }
    told = run(tmp_path, 'site.ini', '--check', files=files)
    line = f'site.ini [app:main] use: egg:shop: {problem}\n' if problem else ''
    assert (told.code, told.err.text) == (2 if problem else 0, line)


@pytest.mark.parametrize(
    'text',
    [
        'from elsewhere import *',
        "globals()['mkae'] = 1",
        'def __getattr__(name): ...',
        'try:\n    import mkae\nexcept ImportError: ...',
        'with open(__file__) as mkae: ...',
        'import elsewhere as mkae',
        'if True:\n    class mkae: ...',
    ],
)
def test_a_name_that_the_module_may_have(tmp_path, text):
    ini = GOOD.replace('webapp:make', 'other:mkae') + USED
    assert check(tmp_path, ini, other=text) == (0, [])


def test_a_module_in_a_package_is_found_without_its_import(tmp_path):
    (tmp_path / 'shop').mkdir()
    (tmp_path / 'shop/__init__.py').write_text('raise SystemExit("imported")')
    (tmp_path / 'shop/wsgi.py').write_text('def make(:\n')
    ini = GOOD.replace('webapp:make', 'shop.wsgi:make') + USED
    code, lines = check(tmp_path, ini)
    assert (code, len(lines)) == (1, 1)
    assert lines[0].endswith('SyntaxError: invalid syntax, at shop/wsgi.py:1')


def test_a_channel_that_a_plugin_listens_on_and_nobody_publishes(tmp_path):
    plug = PLUG.format(channels='')
    code, warnings = check(tmp_path, GOOD + PLUGIN.format(more=''), plug=plug)
    assert code == 0
    assert warnings == [
        "[plugin:plug] Refresh.refresh listens on an unknown channel: 'refresh', at "
        "plug.py:9; a channel of one's own is known by channels = ('refresh',) in the class"
    ]


@pytest.mark.parametrize(
    ('more', 'count'),
    [
        ('class Other(Plugin): ...', 0),
        (
            'def Other(bus, conf): return make(bus)\ndef make(bus): return Refresh(bus, 1)',
            1,
        ),
        ('Other = Refresh', 1),
        ('class Other(Refresh): ...', 1),
    ],
)
def test_a_channel_of_a_class_that_the_section_does_not_use(tmp_path, more, count):
    plug = f'{PLUG.format(channels="")}\n{more}\n'
    ini = GOOD + PLUGIN.format(more='').replace('plug:Refresh', 'plug:Other')
    code, warnings = check(tmp_path, ini, plug=plug)
    assert (code, len(warnings)) == (0, count)


@pytest.mark.parametrize(
    ('channels', 'more'),
    [("channels = ('refresh',)", ''), ('', 'signal.SIGUSR2 = refresh')],
)
def test_a_channel_that_is_known(tmp_path, channels, more):
    plug = PLUG.format(channels=channels)
    assert check(tmp_path, GOOD + PLUGIN.format(more=more), plug=plug) == (0, [])


def test_a_channel_for_messages_is_known(tmp_path):
    plug = PLUG.format(channels='').replace("'refresh')", "'refresh', remote=True)")
    assert check(tmp_path, GOOD + PLUGIN.format(more=''), plug=plug) == (0, [])


def test_the_sections_of_other_programs_are_theirs(tmp_path):
    ini = (
        f'[DEFAULT]\nurl = sqlite://\n{GOOD}{USED}[alembic]\nname = %(rev)s-%d\n'
        'url = postgresql://app:50%@db\nown = 1\n'
    )
    assert check(tmp_path, ini, 'own=2', webapp=WEBAPP) == (0, [])


def test_an_ini_of_uwsgi_alone_is_named_as_one(tmp_path):
    ini = '[uwsgi]\nchdir = %d\nenv = A=1\nenv = B=2\nmodule = shop\n'
    assert check(tmp_path, ini) == (
        2,
        [
            'site.ini: it is for uWSGI alone: "wspserve --from site.ini" prints what '
            'says the same here'
        ],
    )


@pytest.mark.parametrize(
    'name, library, extra',
    [
        ('redis', 'redis', 'redis'),
        ('sqlalchemy', 'SQLAlchemy', 'sqlalchemy'),
        ('otel', 'OpenTelemetry', 'otel'),
    ],
)
def test_a_ready_made_plugin_whose_library_is_missing(tmp_path, name, library, extra):
    module = {'otel': 'opentelemetry.exporter'}.get(name, name)
    (tmp_path / 'sitecustomize.py').write_text(
        f'import sys\nsys.modules["{module}"] = None\n'
    )
    url = '' if name == 'otel' else 'url = redis://h/0\n'
    ini = f'{GOOD}[wspbus:main]\nplugins = it\n[plugin:it]\nuse = egg:paste_wspbus#{name}\n{url}'
    made = {'site.ini': ini, 'webapp.py': WEBAPP}
    told = run(
        tmp_path, 'site.ini', '--check', files=made, env={'PYTHONPATH': str(tmp_path)}
    )
    assert told.err.text == (
        f'site.ini [plugin:it] use: it needs {library}, which is not installed: '
        f"pip install 'paste_wspbus[{extra}]'\n"
    )


MAPPED = """
[composite:main]
use = egg:{use}
{key} = {name}

[app:wiki]
use = call:webapp:make

[server:main]
use = egg:waitress
"""


@pytest.mark.parametrize(
    ('use', 'key'),
    [
        ('Paste#urlmap', '/'),
        ('paste#urlmap', 'domain a.org /x'),
        ('Paste#cascade', 'app1'),
    ],
)
def test_the_parts_of_a_composite_of_paste_are_checked(tmp_path, use, key):
    assert check(tmp_path, MAPPED.format(use=use, key=key, name='wiki')) == (0, [])
    code, said = check(tmp_path, MAPPED.format(use=use, key=key, name='wikki'))
    assert code == 2
    assert said == [
        f'site.ini [composite:main] {key}: there is no section [app:wikki]; '
        "did you mean 'wiki'?"
    ]
