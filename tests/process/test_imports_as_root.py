"""What root imports before the user has changed: nothing from the folder of the site."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from paste_wspbus.unix.importing import give_back, hold_back
from tests.kit import Site, run
from tests.kit.sites import APP
from tests.kit.users import AS_NOBODY, NOBODY, is_for_everybody

#: A module that writes down who imports it; it is in the way of another one's import.
TRAP = """
import os

with open({path!r}, 'a') as file:
    file.write(f'{{__name__}} {{os.geteuid()}}\\n')
raise ImportError
"""

#: Modules that the servers and the standard library try to import, where there are any,
#: and those of the standard library that a start imports late.
NAMES = [
    'winreg.py',
    'nt.py',
    '_winapi.py',
    'org/__init__.py',
    'java/__init__.py',
    'OpenSSL/__init__.py',
    'sitecustomise.py',
    'cgi.py',
    'jaraco.py',
    'pytest_cov.py',
    'uvloop.py',
    'simplejson.py',
]

INI = """
[app:main]
use = call:webapp:make

[server:main]
use = {server}
host = 127.0.0.1
port = 0
"""

SERVERS = {
    'waitress': 'egg:waitress',
    'Paste#http': 'egg:Paste#http',
    'cheroot': 'egg:paste_wspbus#cheroot',
    'wsgiref': 'egg:paste_wspbus#wsgiref',
    'unknown': 'call:serving:make',
}
# What CherryPy needs depends on the Python for which it was installed. The system's
# Python 3.11 takes the place of one that only root can read.
if sys.version_info < (3, 12) or is_for_everybody(os.__file__):
    SERVERS['cherrypy'] = 'egg:paste_wspbus#cherrypy'

SERVING = """
import os
from wsgiref.simple_server import make_server

with open({path!r}, 'a') as file:
    file.write(f'{{__name__}} {{os.geteuid()}}\\n')


def make(global_conf, host, port):
    def serve(app):
        server = make_server(host, int(port), app)
        print(f'Serving on http://{{host}}:{{server.server_port}}', flush=True)
        server.serve_forever()
    return serve
"""


@pytest.fixture
def folder():
    path = Path(tempfile.mkdtemp(prefix='wspbus-'))
    try:
        assert is_for_everybody(path.parent)
        path.chmod(0o755)
        (path / 'src').mkdir()
        (path / 'imported').touch()
        (path / 'imported').chmod(0o666)
        note = str(path / 'imported')
        for name in NAMES:
            for place in (path / name, path / 'src' / name):
                place.parent.mkdir(exist_ok=True)
                place.write_text(TRAP.format(path=note))
        (path / 'src/only_there.py').write_text('')
        (path / 'serving.py').write_text(SERVING.format(path=note))
        mine = f'\nwith open({note!r}, "a") as file:\n    file.write(f"webapp {{os.geteuid()}}\\n")\n'
        (path / 'webapp.py').write_text(APP + mine + '\nimport only_there\n')
        yield path
    finally:
        shutil.rmtree(path)


def importers(folder):
    """{module: {uid, …}}"""
    found = {}
    for line in (folder / 'imported').read_text().splitlines():
        module, uid = line.split()
        found.setdefault(module, set()).add(int(uid))
    return found


@pytest.fixture
def serve(folder, interpreter):
    program, path = interpreter

    def serve(server, *args):
        # The first is relative, and the second is in the folder of the site.
        env = {'PYTHONPATH': f'src:{folder}/src:{path}', 'PYTHONDONTWRITEBYTECODE': '1'}
        # Python's own start comes before wspserve: it imports what .pth files ask for.
        subprocess.run(
            [program, '-c', ''], cwd=folder, env=os.environ | env, check=True
        )
        for name in importers(folder):
            for place in (folder, folder / 'src'):
                (place / name).with_suffix('.py').unlink()
        (folder / 'imported').write_text('')
        command = [program, '-m', 'paste_wspbus']
        ini = INI.format(server=SERVERS[server])
        return Site(folder, ini, *args, command=command, env=env)

    return serve


@pytest.mark.parametrize('server', SERVERS)
def test_nothing_of_the_sites_folder_is_imported_by_root(folder, serve, server):
    with serve(server, *AS_NOBODY) as site:
        assert site.get('/').status == 200
    found = importers(folder)
    assert found['webapp'] == {NOBODY.pw_uid}
    assert set.union(*found.values()) == {NOBODY.pw_uid}, found


@pytest.mark.parametrize(
    'way',
    [['--workers', '2'], ['--reload'], ['--reload', '--reloader', 'child']],
    ids=' '.join,
)
def test_nor_is_it_by_a_supervisor(folder, serve, way):
    with serve('Paste#http', *AS_NOBODY, *way) as site:
        assert site.get('/').status == 200
    assert set.union(*importers(folder).values()) == {NOBODY.pw_uid}


def test_the_traps_are_where_root_would_have_searched(folder, serve):
    """Without another user, root imports the site, as ever: what it finds is its own."""
    with serve('Paste#http') as site:
        assert site.get('/').status == 200
    assert importers(folder)['webapp'] == {0}


@pytest.mark.parametrize('more', [(), ('--user', 'nobody')])
def test_a_check_by_root_finds_the_modules_of_the_site(folder, interpreter, more):
    program, path = interpreter
    (folder / 'site.ini').write_text(INI.format(server='egg:waitress'))
    check = run(
        folder,
        'site.ini',
        '--check',
        *more,
        command=[program, '-m', 'paste_wspbus'],
        env={'PYTHONPATH': path},
    )
    assert (check.code, check.out.text) == (0, 'site.ini: no mistakes found\n')


def test_what_is_held_back_comes_back_in_its_place(tmp_path, monkeypatch):
    site = tmp_path / 'site'
    (site / 'src').mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('PYTHONPATH', 'lib')
    installed = [one for one in sys.path if one]
    before = [
        str(tmp_path),
        str(tmp_path / 'lib'),
        str(site),
        *installed,
        '',
        str(site / 'eggs' / 'x.egg'),
        str(site / 'src'),
        '/elsewhere',
    ]
    monkeypatch.setattr(sys, 'path', list(before))
    hold_back()
    assert str(tmp_path) not in sys.path
    assert sys.path[0] == str(site)
    hold_back(str(site))
    assert sys.path == [*installed, str(site / 'eggs' / 'x.egg'), '/elsewhere']
    give_back()
    assert sys.path == before
    give_back()
    assert sys.path == before


def test_pythons_own_library_is_never_held_back(monkeypatch):
    before = [one for one in sys.path if one]
    monkeypatch.setattr(sys, 'path', list(before))
    monkeypatch.delenv('PYTHONPATH', raising=False)
    monkeypatch.chdir('/')
    hold_back('/')
    try:
        assert os.path.dirname(os.__file__) in sys.path
        assert any(one.endswith('site-packages') for one in sys.path)
    finally:
        give_back()


# -- what another user imports --------------------------------------------------------------


def as_nobody(folder, interpreter, path, **kwargs):
    """Serve by `python -m`, as another user than root, who starts in the folder of the site."""
    program, libraries = interpreter
    env = {'PYTHONPATH': os.pathsep.join(filter(None, [path, libraries]))}
    command = [program, '-m', 'paste_wspbus']
    ini = INI.format(server='egg:waitress')
    user = {'user': 'nobody', 'group': NOBODY.pw_gid, 'extra_groups': []}
    return Site(folder, ini, command=command, env=env, **user, **kwargs)


OF_PYTHON = ['signal', 'logging', 'queue', 'select', 'socket', 'json', 'token']


def test_modules_beside_the_ini_are_not_in_the_way_of_others(folder, interpreter):
    """As under `wspserve`: `python -m` searches the working folder first."""
    for place in NAMES:  # those of the PYTHONPATH count
        (folder / 'src' / place).unlink()
    for name in [*OF_PYTHON, 'waitress', 'webob']:
        (folder / f'{name}.py').write_text('raise ImportError(__file__)\n')
    with as_nobody(folder, interpreter, str(folder / 'src')) as site:
        assert site.get('/').status == 200
        assert site.stop()[0] == 0


@pytest.mark.parametrize('name', ['signal', 'logging', 'socket', 'token', 'paste'])
def test_a_module_of_pythonpath_that_is_in_the_way_is_one_line(
    folder, interpreter, name
):
    path = folder / 'first' / f'{name}.py'
    path.parent.mkdir()
    path.write_text('x = 1\n')
    with as_nobody(folder, interpreter, str(path.parent), wait=False) as site:
        assert site.wait() == 1
        problem = 'is in the way of a module that this program needs: rename it'
        assert site.err.text == f'wspserve: {path} {problem}\n'
