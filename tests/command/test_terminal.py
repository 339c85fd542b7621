"""What the command prints, whatever the site puts in the place of the standard streams."""

import io
import os
import signal
import subprocess
import sys

import pytest

from paste_wspbus.command.terminal import flush, one_line, print_line, without_folder
from tests.kit import BIN, Site, eventually, run, write
from tests.kit.sites import APP, SERVED, ask

REPLACED = {
    'none': 'None',
    'no flush': 'Wrapped(stream)',
    'write raises': 'Broken(stream)',
    'flush raises': 'Unflushable(stream)',
    'closed': 'closed()',
    'detached': 'detached()',
    'write and flush exit': 'Raising(SystemExit)',
    'all interrupts': 'Raising(KeyboardInterrupt)',
    'write is sys.exit': 'Exits()',
    'nothing can be read of it': 'Closed()',
}
DELETED = 'del sys.stdout, sys.stderr'

PARTS = """
import sys


class Wrapped:
    def __init__(self, stream):
        self.stream = stream

    def write(self, text):
        self.stream.write(text)


class Unflushable(Wrapped):
    def flush(self):
        raise LookupError('flush')


class Broken(Unflushable):
    def write(self, text):
        raise LookupError('write')


def closed():
    file = open(os.devnull, 'w')
    file.close()
    return file


def detached():
    file = open(os.devnull, 'w')
    file.detach()
    return file


class Raising:
    def __init__(self, error):
        self.error = error

    def write(self, text):
        raise self.error

    def __getattr__(self, name):
        raise self.error


class Exits:
    write = flush = isatty = staticmethod(sys.exit)


class Closed:
    def __getattribute__(self, name):
        raise BaseException(name)


"""
REPLACING = '[sys.stdout, sys.stderr] = [%s for stream in (sys.stdout, sys.stderr)]\n'

CODES = {
    **{name: REPLACING % made for name, made in REPLACED.items()},
    'deleted': DELETED,
}

MODES = {
    'one process': [],
    'workers': ['--workers', '2'],
    'preload': ['--workers', '1'],
    'fork': ['--reload', '--reloader', 'fork'],
    'execv': ['--reload', '--reloader', 'execv'],
}


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('code', CODES.values(), ids=CODES)
def test_a_site_that_replaces_the_standard_streams_is_served_and_stops(
    tmp_path, mode, code
):
    ini = SERVED + '[wspbus:main]\npreload = true\n' * (mode == 'preload')
    files = {'webapp.py': APP + PARTS + code}
    with Site(tmp_path, ini, *MODES[mode], files=files) as site:
        first = ask(site)['pid']
        if 'reload' in ''.join(MODES[mode]):
            (tmp_path / 'webapp.py').write_text(files['webapp.py'] + '\n# edited\n')
            site.expect('served in')
            ask(site)
        elif mode != 'one process':
            assert run(tmp_path, 'site.ini', 'graceful').code == 0
            assert ask(site)['pid'] != first
        site.send(signal.SIGQUIT)
        site.expect('Stacks of process')
        assert site.stop()[0] == 0, site.report()
    assert 'Traceback' not in site.err.text
    eventually(site.has_left_nothing)


@pytest.mark.parametrize('mode', ['one process', 'workers', 'fork', 'execv'])
def test_the_first_request_deletes_the_standard_streams(tmp_path, mode):
    """Python starts no thread then; the main thread may not have started its own."""
    deleting = f"""
def make(global_conf):
    def deleting(environ, start_response):
        if hasattr(sys, 'stderr'):
            {DELETED}
        return app(environ, start_response)
    return deleting
"""
    files = {'webapp.py': APP + PARTS + deleting}
    with Site(tmp_path, SERVED, *MODES[mode], files=files) as site:
        first = ask(site)['pid']
        if mode in ('one process', 'workers'):
            done = run(tmp_path, 'site.ini', 'graceful')
            assert done.code == 0, site.report()
            assert mode == 'one process' or ask(site)['pid'] != first
        assert site.stop()[0] == 0, site.report()
    eventually(site.has_left_nothing)


def test_a_line_goes_to_the_stream_before_if_the_sites_own_fails(monkeypatch):
    class Broken(io.StringIO):
        def write(self, text):
            raise LookupError('write')

    original = io.StringIO()
    monkeypatch.setattr(sys, '__stdout__', original)
    monkeypatch.setattr(sys, 'stdout', Broken())
    print_line('Serving')
    assert original.getvalue() == 'Serving\n'


def test_at_the_end_a_stream_that_cannot_be_flushed_gives_way(monkeypatch):
    """Python flushes the streams when it ends, and exits with 120 if that fails."""
    original = io.StringIO()
    monkeypatch.setattr(sys, '__stdout__', original)
    monkeypatch.setattr(sys, 'stdout', object())
    flush()
    assert sys.stdout is original


def test_paths_are_relative_to_the_working_folder_and_urls_stay_whole(monkeypatch):
    monkeypatch.chdir('/usr')
    said = 'http://x /usr/lib: /home/usr/lib (/usr/bin)'
    assert without_folder(said) == 'http://x lib: /home/usr/lib (bin)'
    assert one_line(Exception(said)) == said
    monkeypatch.chdir('/')
    assert without_folder('http://x /usr') == 'http://x /usr'


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='this needs /dev/full')
@pytest.mark.parametrize(
    'args, code',
    [
        (['--from', 'uwsgi.ini'], 1),
        (['--completion', 'bash'], 1),
        (['site.ini', 'status', '--json'], 3),
        (['site.ini', 'status'], 3),
        (['site.ini', '--check', '--compose'], 0),
        (['plugins'], 0),
        (['ps'], 0),
    ],
)
def test_output_that_cannot_be_written_is_told_once(tmp_path, args, code):
    """A document that is all that the command is for: then the command has failed."""
    files = {'webapp.py': APP, 'site.ini': SERVED}
    files['uwsgi.ini'] = '[uwsgi]\nmodule = shop:app\nhttp = :8080\n'
    write(tmp_path, files)
    with open('/dev/full', 'w') as full:
        done = subprocess.run(
            [BIN / 'wspserve', *args],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.stderr == 'The output is not complete: No space left on device\n'
    assert done.returncode == code


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='this needs /dev/full')
def test_the_version_and_help_make_no_traceback_where_they_cannot_be_written():
    for option in '--version', '--help':
        with open('/dev/full', 'w') as full:
            done = subprocess.run(
                [BIN / 'wspserve', option],
                stdout=full,
                stderr=subprocess.PIPE,
                timeout=60,
            )
        assert (done.returncode, done.stderr) == (0, b'')
