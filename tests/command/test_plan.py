"""`plan` and `blame --load`: the site is loaded in another process, and nothing starts."""

import json
import re

from paste_wspbus.command.import_times import (
    PYTHON,
    SITE,
    by_distribution,
    distribution_of,
)
from paste_wspbus.command.plan import MAX_ROWS, lines_of, processes_of
from paste_wspbus.ini.import_times import ImportTimes, package_of
from tests.kit import run

FILES = {
    'site.ini': """
        [wspbus:main]
        plugins = cache database
        site_plugins = cron
        stop_timeout = 10

        [plugin:cache]
        use = call:shop:cache
        needs = database

        [plugin:database]
        use = call:shop:database

        [plugin:cron]
        use = call:shop:Cron

        [app:main]
        use = call:shop:make

        [server:main]
        use = egg:waitress
        listen = 127.0.0.1:1
        """,
    'shop.py': """
        import wave

        from paste_wspbus import Plugin, get_bus, on

        print('the module was imported')


        def cache(bus, global_conf):
            open('started', 'w')
            yield


        def database(bus, global_conf):
            yield


        class Cron(Plugin):
            def __init__(self, bus, global_conf):
                super().__init__(bus)

            @on('start', priority=20)
            def begin(self):
                open('started', 'w')

            @on('stop')
            def end(self):
                pass


        def make(global_conf):
            bus = get_bus(global_conf)
            bus.subscribe('start', say, priority=60)

            @bus.lifespan()
            def search():
                yield

            bus.subscribe('stop', say, priority=1)
            bus.subscribe('stop', bye, priority=99)
            return lambda environ, start_response: []


        def say():
            pass


        def bye():
            pass
        """,
}


def line_of(text):
    lines = run_lines()
    return next(n for n, line in enumerate(lines, 1) if text in line)


def run_lines():
    import textwrap

    return textwrap.dedent(FILES['shop.py']).lstrip('\n').splitlines()


def test_a_plan_has_the_order_of_the_starts_and_of_the_stops(tmp_path):
    told = run(tmp_path, 'site.ini', 'plan', '--json', files=FILES)
    assert told.code == 0, told.report()
    said = json.loads(told.out.text)
    rows = {
        row['name']: row
        for row in said['rows']
        if row['section'] and not row['name'].startswith('paste_wspbus.plugins')
    }
    server = 'paste_wspbus.servers.waitress.WaitressServer'
    ordered = sorted((row['start'], name) for name, row in rows.items() if row['start'])
    assert [name for _, name in ordered] == [
        'shop.Cron.begin',
        'database',
        'cache',
        'search',
        'shop.say',
        server,
    ]
    stops = sorted((row['stop'], row['name']) for row in said['rows'] if row['stop'])
    names = [name for _, name in stops if 'ThreadManager' not in name]
    assert names == [
        'shop.say',
        server,
        'search',
        'cache',
        'database',
        'shop.Cron.begin',
        'shop.bye',
    ]
    assert rows['shop.bye']['section'] == 'app:main'
    shop = str(tmp_path / 'shop.py')
    assert rows['cache']['needs'] == ['database']
    assert rows['cache']['section'] == 'plugin:cache'
    places = {name: (row['file'], row['line']) for name, row in rows.items()}
    assert places['cache'] == (shop, line_of('def cache'))
    assert places['search'] == (shop, line_of('@bus.lifespan()'))
    assert places['shop.say'] == (shop, line_of("subscribe('start', say"))
    assert places['shop.Cron.begin'] == (shop, line_of('def begin') - 1)
    assert places[server] == (None, None)
    assert rows['shop.Cron.begin']['priority'] == 20
    assert said['processes'] == 'One process runs the site.'
    assert {path.name for path in tmp_path.iterdir()} == {*FILES}  # no __pycache__
    # What the site prints is no part of the answer.
    assert 'the module was imported' in told.err.text


def test_a_plan_for_people_is_a_table(tmp_path):
    told = run(tmp_path, 'site.ini', 'plan', '--workers', '2', files=FILES)
    assert told.code == 0, told.report()
    lines = told.out.text.splitlines()
    assert lines[0] == (
        '2 workers: each starts and stops what follows, without the plugins that run '
        'once. The site plugins (cron) run once, in a process of their own.'
    )
    assert lines[2].split() == [
        'START',
        'PRIORITY',
        'NAME',
        'FROM',
        'ADDED',
        'AT',
        'STOP',
    ]
    (row,) = [line for line in lines if ' cache ' in line]
    place = rf'shop\.py:{line_of("def cache")}'
    assert re.fullmatch(
        rf'3 +50 +cache \(needs database\) +\[plugin:cache\] +{place} +\d', row
    )
    assert lines[-1] == (
        'A stop may take 10 s (stop_timeout): the last 2 s are for what stops after '
        'the server.'
    )


def test_the_plan_of_a_site_that_does_not_load_is_the_error(tmp_path):
    files = {**FILES, 'shop.py': 'raise ValueError("broken")'}
    told = run(tmp_path, 'site.ini', 'plan', files=files)
    assert (told.code, told.out.text) == (1, '')
    assert 'ValueError: broken' in told.err.text
    assert run(tmp_path, 'site.ini', 'blame', '--load').code == 1
    assert run(tmp_path, 'nosite.ini', 'plan').code == 2


def test_a_plan_is_bounded():
    row = {
        'start': 1,
        'stop': 1,
        'priority': 50,
        'name': 'x',
        'section': '',
        'file': None,
        'line': None,
        'needs': [],
    }
    about = {
        'processes': '',
        'stop_timeout': 25.0,
        'stop_reserve': None,
        'drain_delay': 3.0,
    }
    lines = lines_of([row] * 10_000, about)
    assert f'{10_000 - MAX_ROWS} more are left out: --json shows all' in lines
    assert len(lines) < MAX_ROWS + 10
    assert lines[-1].endswith('It begins 3 s after the drain (drain_delay).')


def test_the_processes_of_a_plan_are_a_sentence():
    settings = {'site_plugins': [], 'preload': True}
    assert processes_of(1, settings) == (
        'One process loads the site, and forks 1 worker: it starts and stops what '
        'follows.'
    )
    assert processes_of(0, settings) == 'One process runs the site.'
    settings = {'site_plugins': ['a'], 'cluster_plugins': ['b'], 'preload': False}
    assert processes_of(3, settings) == (
        '3 workers: each starts and stops what follows, without the plugins that run '
        'once. The site plugins (a) run once, in a process of their own. The cluster '
        'plugins (b) run once for all machines.'
    )


def test_blame_loads_the_site_and_adds_up_its_imports(tmp_path):
    told = run(tmp_path, 'site.ini', 'blame', '--load', '-v', files=FILES)
    assert told.code == 0, told.report()
    assert re.match(r'The load of the site took \d+ ms:\n', told.out.text)
    assert re.search(rf' ms  import   {SITE} \(1 module\)\n', told.out.text)
    assert re.search(rf' ms  import   {PYTHON} \(\d+ modules\)\n', told.out.text)
    assert re.search(r' ms  factory  \[app:main\]\n', told.out.text)
    assert not (tmp_path / 'started').exists()
    answer = run(tmp_path, 'site.ini', 'blame', '--load', '--json').out.text
    said = json.loads(answer)
    times = [row['seconds'] for row in said['rows']]
    assert times == sorted(times, reverse=True)
    assert sum(times) <= said['total']


# -- imports ---------------------------------------------------------------------------


def test_an_import_inside_another_one_counts_once(tmp_path, monkeypatch):
    (tmp_path / 'outer_one.py').write_text('import inner_one, time\ntime.sleep(.01)')
    (tmp_path / 'inner_one.py').write_text('import time; time.sleep(.03)')
    monkeypatch.syspath_prepend(tmp_path)
    with ImportTimes() as times:
        import outer_one  # noqa: F401
    import paste_wspbus.errors  # noqa: F401

    assert times.own['inner_one'] >= 0.03 > 0.01 <= times.own['outer_one']
    (outermost,) = times.outermost
    name, _, seconds, *_ = outermost
    assert name == 'outer_one'
    assert seconds >= times.own['inner_one'] + times.own['outer_one'] - 1e-6


def test_an_import_that_fails_fails_as_before(tmp_path):
    try:
        with ImportTimes() as times:
            import no_such_module_anywhere  # noqa: F401
    except ModuleNotFoundError as error:
        assert error.name == 'no_such_module_anywhere'
    assert [*times.own] == ['no_such_module_anywhere']


def test_a_package_of_a_namespace_keeps_the_names_that_tell_distributions_apart():
    import webob.multidict  # noqa: F401
    import zope.deprecation  # noqa: F401

    for module, package in (
        ('webob.multidict', 'webob'),
        ('json.decoder', 'builtins'),
        ('no_such_module_anywhere', 'no_such_module_anywhere'),
        ('zope.deprecation.deprecation', 'zope.deprecation.deprecation'),
    ):
        assert package_of(module) == package


def test_a_module_belongs_to_the_distribution_of_its_name():
    known = {
        'sqlalchemy': ['SQLAlchemy'],
        'zope': ['zope.interface', 'zope.event', 'zope.schema'],
    }
    for module, name in (
        ('sqlalchemy.orm', 'SQLAlchemy'),
        ('zope.interface.declarations', 'zope.interface'),
        ('zope.other', 'zope.*'),
        ('json.decoder', PYTHON),
        ('shop', SITE),
    ):
        assert distribution_of(module, known) == name
    ((row, seconds),) = by_distribution(
        {'sqlalchemy': 1.0, 'sqlalchemy.orm': 2.0}, known
    )
    assert (row.name, seconds) == ('SQLAlchemy (2 modules)', 3.0)
