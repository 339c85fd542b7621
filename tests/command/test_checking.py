"""--check --compose: the site is loaded in a child process, and nothing is started."""

import os
import re
import signal

import pytest

from tests.kit import Site, eventually, run

FILES = {
    'site.ini': """
        [wspbus:main]
        plugins = pool
        start_timeout = %(limit)s

        [plugin:pool]
        use = call:webapp:pool

        [pipeline:main]
        pipeline = slow one

        [filter:slow]
        use = call:webapp:slow

        [app:one]
        use = call:webapp:make
        what = %(what)s

        [server:main]
        use = egg:waitress
        port = %(port)s
        """,
    'webapp.py': """
        import os
        import signal
        import stat
        import sys
        import time

        from paste_wspbus import get_bus


        def pool(bus, global_conf):
            print('the pool was opened')
            yield


        def slow(global_conf):
            time.sleep(0.06)
            return lambda app: app


        def wait():
            time.sleep(99)


        def is_socket(fd):
            try:
                return stat.S_ISSOCK(os.fstat(fd).st_mode)
            except OSError:
                return False


        def no_server(global_conf):
            pass


        def make(global_conf, what):
            exec(what)
            return lambda environ, start_response: []
        """,
}


def check(folder, what='', limit=20, **kwargs):
    words = ['--check', '--compose', 'site.ini', f'what={what}', f'limit={limit}']
    return run(folder, *words, 'port=1', files=FILES, **kwargs)


def test_each_section_has_its_times_and_nothing_starts(tmp_path):
    what = "get_bus(global_conf).subscribe('start', lambda: print('it was started'))"
    process = check(tmp_path, what)
    assert process.code == 0, process.report()
    assert process.err.text == ''
    assert 'opened' not in process.out.text and 'started' not in process.out.text
    *_, last = process.out.text.splitlines()
    assert re.fullmatch(
        r'site\.ini: can be served; the site was loaded in \d+ ms', last
    )
    rows = re.findall(r'^\[(\S+)\] +(\d+) ms +(\d+) ms$', process.out.text, re.M)
    times = {section: int(factory) for section, _, factory in rows}
    assert [*times] == [
        *('server:main', 'plugin:pool', 'pipeline:main', 'app:one', 'filter:slow')
    ]
    assert times['filter:slow'] >= 60 > times['pipeline:main']


@pytest.mark.parametrize(
    ('what', 'line'),
    [
        ("raise KeyError('dsn')", r"\[app:one\]: make failed: KeyError: 'dsn', at .+"),
        (
            "sys.exit('no licence')",
            r"\[app:one\]: make called sys\.exit\('no licence'\).+",
        ),
        ('wait()', r'it was not loaded within 1 s, now at .+ in wait'),
        ('os._exit(0)', 'the process that loaded it ended with exit code 0'),
        (
            r'[os.write(fd, b"no report\n") for fd in range(3, 9) if is_socket(fd)]',
            'it was not checked: its code writes to descriptors that are not its own '
            r"\('no report'\)",
        ),
        ('os.abort()', 'the process that loaded it ended with signal SIGABRT'),
    ],
)
def test_code_that_fails_ends_in_one_line_with_1(tmp_path, what, line):
    process = check(tmp_path, what, limit=1 if 'wait' in what else 20)
    assert process.code == 1, process.report()
    (said,) = process.err.text.splitlines()
    assert re.fullmatch(f'site\\.ini:? {line}', said)


def test_a_mistake_in_the_ini_ends_with_2(tmp_path):
    ini = FILES['site.ini'].replace('call:webapp:make', 'call:webapp:mak')
    process = run(
        tmp_path,
        *('--check', '--compose', 'site.ini', 'what=', 'limit=20', 'port=1'),
        files={**FILES, 'site.ini': ini},
    )
    assert process.code == 2, process.report()
    assert "'mak'; did you mean 'make'?" in process.err.text


SERVER = 'use = egg:waitress\n        port = %(port)s'


@pytest.mark.parametrize(
    'old, new, code, said',
    [
        (SERVER, 'use = call:webapp:no_server', 1, 'no_server returned None instead'),
        ('[server:main]', '[serve:main]', 2, '[server:main], and not [serve:main]?'),
        ('plugins = pool', 'pid_file = none/a.pid', 2, 'there is no folder none'),
        (SERVER, f'{SERVER}\n{{logging}}', 2, 'there is no folder '),
    ],
)
def test_what_cannot_be_served_does_not_pass(tmp_path, old, new, code, said):
    logging = """
        [loggers]
        keys = root
        [handlers]
        keys = file
        [formatters]
        keys =
        [logger_root]
        handlers = file
        [handler_file]
        class = FileHandler
        args = ('%(here)s/none/site.log',)
        """
    ini = FILES['site.ini'].replace(old, new.replace('{logging}', logging))
    process = run(
        tmp_path,
        *('--check', '--compose', 'site.ini', 'what=', 'limit=20', 'port=1'),
        files={**FILES, 'site.ini': ini},
    )
    assert process.code == code, process.report()
    assert said in process.err.text
    assert len(process.err.text.splitlines()) == 1


def test_a_site_without_a_server_is_loaded_too(tmp_path):
    ini = FILES['site.ini'].partition('[server:main]')[0]
    process = run(
        tmp_path,
        *('--check', '--compose', 'site.ini', 'what=', 'limit=20'),
        files={**FILES, 'site.ini': ini},
    )
    assert process.code == 0, process.report()
    assert 'warning: there is no section [server:main]' in process.out.text
    assert 'can be served; the site was loaded in' in process.out.text


def test_ctrl_c_ends_it_in_one_line_with_its_child(tmp_path):
    what = "open('pid', 'w').write(str(os.getpid())); time.sleep(99)"
    args = ['--check', '--compose', f'what={what}', 'limit=90', 'port=1']
    ini = FILES['site.ini']
    with Site(tmp_path, ini, *args, files=FILES, wait=False) as process:
        pid = tmp_path / 'pid'
        eventually(lambda: pid.exists() and pid.read_text())
        process.send(signal.SIGINT)
        assert process.wait() == 130, process.report()
    assert process.err.text == 'Interrupted.\n'
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_compose_needs_check(tmp_path):
    process = run(tmp_path, '--compose', 'site.ini', files=FILES)
    assert process.code == 2
    assert process.err.text == '--compose works only together with --check\n'
