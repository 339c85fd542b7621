"""A wheel, installed where nothing of the checkout is, serves."""

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
import venv
import zipfile
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from tests.kit.places import ROOT, SAMPLES
from tests.kit.processes import PASTER_WARNINGS

SITE = """
[app:main]
use = egg:paste_wspbus#hello
[server:main]
use = egg:waitress
host = 127.0.0.1
port = 0
"""


def pip(python, *args):
    command = [python, '-m', 'pip', '--quiet', '--disable-pip-version-check', *args]
    subprocess.run(command, check=True, timeout=300)


def serves(command, cwd):
    """Whether a command serves the site, stops at SIGTERM, and says no more than it should."""
    env = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    env['PYTHONWARNINGS'] = PASTER_WARNINGS
    with subprocess.Popen(
        command,
        cwd=cwd,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout.readline().startswith('Starting server in PID')
            url = process.stdout.readline().removeprefix('Serving on ').strip()
            with urllib.request.urlopen(url, timeout=60) as response:
                assert 'Bus state' in response.read().decode()
            process.send_signal(signal.SIGTERM)
            rest = process.communicate(timeout=60)
        finally:
            process.kill()
    # waitress warns of a queue while its threads are on their way to it.
    err = [line for line in rest[1].splitlines() if 'Task queue depth' not in line]
    stops = ['INFO  [paste_wspbus] Stopping: SIGTERM']
    return (process.returncode, rest[0], err) == (0, '', stops)


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp('wheel')
    # A copy: another process of the tests may build in the checkout at the same time.
    source = folder / 'source'
    (source / 'docs').mkdir(parents=True)
    for name in ('setup.py', 'setup.cfg', 'pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, source)
    shutil.copy(ROOT / 'docs/wspserve.1', source / 'docs')
    shutil.copytree(ROOT / 'paste_wspbus', source / 'paste_wspbus')
    pip(sys.executable, 'wheel', '--no-deps', '--wheel-dir', folder, source)
    (made,) = folder.glob('paste_wspbus-*.whl')
    return made


def test_a_built_wheel_serves_from_an_empty_environment(wheel, tmp_path):
    venv.create(tmp_path / 'venv', with_pip=True)
    bin = tmp_path / 'venv/bin'
    pip(bin / 'python', 'install', wheel)
    page = (ROOT / 'docs/wspserve.1').read_text()
    assert (tmp_path / 'venv/share/man/man1/wspserve.1').read_text() == page
    (tmp_path / 'site.ini').write_text(SITE)
    assert serves([bin / 'wspserve', 'site.ini'], tmp_path)
    assert serves([bin / 'python', '-m', 'paste_wspbus', 'site.ini'], tmp_path)
    assert serves([bin / 'paster', 'wspserve', 'site.ini'], tmp_path)
    subprocess.run([bin / 'wspserve', 'new', 'site', 'acme'], cwd=tmp_path, check=True)
    assert (tmp_path / 'acme/.github/workflows/tests.yml').exists()
    copy = ['new', 'ini', '--from', 'shop']
    subprocess.run([bin / 'wspserve', *copy], cwd=tmp_path, check=True)
    assert (tmp_path / 'pool.py').read_text() == (SAMPLES / 'pool.py').read_text()
    # Its own files are in site-packages, and still no code of the site.
    (tmp_path / 'site.ini').write_text(
        SITE.replace('egg:paste_wspbus#hello', 'call:x:y')
    )
    done = subprocess.run(
        [bin / 'wspserve', 'site.ini'], cwd=tmp_path, capture_output=True, text=True
    )
    why = "site.ini [app:main] use: call:x:y: there is no module 'x'\n"
    assert (done.returncode, done.stderr) == (2, why)


def test_each_link_of_the_description_leads_to_a_file_of_the_repository(wheel):
    with zipfile.ZipFile(wheel) as opened:
        (name,) = (one for one in opened.namelist() if one.endswith('/METADATA'))
        made = metadata.PathDistribution(zipfile.Path(opened, name).parent).metadata
        text = made.get_payload()
    urls = dict(one.split(', ') for one in made.get_all('Project-URL'))
    assert set(urls) == {'Changes', 'Documentation', 'Issues', 'Source'}
    links = re.findall(r'\]\(([^)]+)\)', text)
    assert len(links) > 20
    for link in links:
        path = re.sub(f'^{urls["Source"]}/(blob|raw)/main/', '', link).partition('#')[0]
        assert path != link and (ROOT / path).exists(), link


PAGES = """
import paste_wspbus
from paste_wspbus.bus import Bus
from paste_wspbus.errorpage.page import make_app
from paste_wspbus.ops.pages import PAGES
from paste_wspbus.reference import BusRef
from paste_wspbus import hello
from paste_wspbus.templates.copying import copy_sample, samples
from paste_wspbus.templates.making import make_package

def page_of(app):
    environ = {'REQUEST_METHOD': 'GET', 'HTTP_ACCEPT': 'text/html'}
    return b''.join(app(environ, lambda status, headers: None)).decode()

assert '.whl' in paste_wspbus.__file__
assert 'setup.cfg' in make_package('plugin', 'acme', 'acme', 'acme')
assert 'cluster/nightly.py' in copy_sample(samples()['cluster'], None)
assert 'docker/Dockerfile' in copy_sample(samples()['docker'], None)
for name in ('', 'console.css', 'console.js', 'console.svg'):
    assert PAGES['/' + name].make(None).body
print(page_of(make_app('The site cannot be served')))
print(page_of(hello.make_app({'wspbus': BusRef(Bus())})))
"""


def test_the_pages_are_served_out_of_a_zip_file(wheel, tmp_path):
    done = subprocess.run(
        [sys.executable, '-c', PAGES],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(wheel)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stderr == ''
    assert done.stdout.count('</html>') == 2
    assert done.stdout.count('color-scheme: light dark') == 2


def test_the_newest_setuptools_with_pkg_resources_is_allowed():
    (asked,) = (
        asked
        for asked in map(Requirement, metadata.requires('paste_wspbus'))
        if asked.name == 'setuptools'
    )
    assert '81.0.0' in asked.specifier
    assert '82.0.0' not in asked.specifier


def test_wspserve_does_not_need_setuptools(tmp_path):
    blocked = tmp_path / 'blocked'
    blocked.mkdir()
    for name in ('setuptools', 'pkg_resources'):
        (blocked / f'{name}.py').write_text("raise ImportError('it is not installed')")
    (tmp_path / 'site.ini').write_text(SITE)
    path = 'import sys; sys.path.insert(0, "blocked"); '
    main = 'from paste_wspbus.__main__ import main; sys.exit(main())'
    assert serves([sys.executable, '-c', path + main, 'site.ini'], tmp_path)
