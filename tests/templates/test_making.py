"""Packages and files that are made from templates: whole, or not at all."""

import os
import subprocess
import sys

import pytest

from paste_wspbus.errors import UsageError
from paste_wspbus.ini.config import Config
from paste_wspbus.ini.settings import SETTINGS, SIGNAL
from paste_wspbus.templates import making
from paste_wspbus.templates.making import make_ini, make_package

INFO = 'from setuptools import setup; setup(script_args=["-q", "egg_info"])'


@pytest.mark.parametrize(
    'kind, name, plugin',
    [
        ('plugin', 'acme-cache', 'egg:acme-cache#acme_cache'),
        ('site', 'Acme.Shop', 'egg:Acme.Shop#acme_shop_database'),
    ],
)
def test_a_package_passes_its_own_tests_as_made(tmp_path, kind, name, plugin):
    folder = tmp_path / name
    made = make_package(
        kind, name, name.lower().replace('-', '_').replace('.', '_'), folder
    )
    assert '.github/workflows/tests.yml' in made
    text = ''.join((folder / one).read_text() for one in made)
    assert '${' not in text.replace('${{ matrix.python }}', '')
    env = {**os.environ, 'PYTHONPATH': str(folder)}

    def run(*args):
        done = subprocess.run(
            [sys.executable, *args], cwd=folder, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run('-c', INFO)  # what `pip install -e .` would leave, without its seconds
    assert ' passed' in run('-m', 'pytest', '-q', '-p', 'no:cacheprovider')
    wspserve = '-m', 'paste_wspbus'
    assert plugin in run(*wspserve, 'plugins')
    assert 'no mistakes found' in run(*wspserve, '--check', 'development.ini')


@pytest.mark.parametrize('kind', ['plugin', 'site'])
def test_an_interrupt_leaves_nothing(tmp_path, kind, monkeypatch):
    rendered = making._rendered

    def interrupted(*args):
        yield next(rendered(*args))
        raise KeyboardInterrupt

    monkeypatch.setattr(making, '_rendered', interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_package(kind, 'acme', 'acme', str(tmp_path / 'acme'))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('there', ['a folder', 'a file', 'a link that leads nowhere'])
def test_what_exists_is_not_touched(tmp_path, there):
    place = tmp_path / 'acme'
    if there == 'a folder':
        place.mkdir()
    elif there == 'a file':
        place.write_text('mine')
    else:
        place.symlink_to('nowhere')
    for make in (
        lambda: make_package('site', 'acme', 'acme', str(place)),
        lambda: make_ini(str(place)),
    ):
        with pytest.raises(UsageError, match='exists: nothing was written'):
            make()
    assert os.listdir(tmp_path) == ['acme']


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(UsageError, match='cannot be made: no such file or directory'):
        make_package('site', 'acme', 'acme', str(tmp_path / 'gone' / 'acme'))
    with pytest.raises(UsageError, match='cannot be made: no such file or directory'):
        make_ini(str(tmp_path / 'gone' / 'site.ini'))


def test_modes_are_those_of_the_umask(tmp_path):
    mask = os.umask(0o027)
    try:
        make_package('plugin', 'acme', 'acme', str(tmp_path / 'acme'))
    finally:
        os.umask(mask)
    assert (tmp_path / 'acme').stat().st_mode & 0o777 == 0o750


def test_each_key_of_the_commented_ini_is_a_key_with_a_value_that_counts(tmp_path):
    path = tmp_path / 'site.ini'
    make_ini(str(path))
    text = path.read_text()
    own = text[text.index('[wspbus:main]') : text.index('#[plugin:db]')]
    keys = [
        line.lstrip('#').partition(' = ')[0]
        for line in own.splitlines()
        if ' = ' in line and not line.startswith('# ')
    ]
    assert {key for key in keys if not key.startswith(SIGNAL)} <= SETTINGS.keys()
    assert len(keys) > 20
    lines = [
        line.removeprefix('#') if not line.startswith('# ') else line
        for line in text.splitlines()
    ]
    lines = [
        '#site_plugins' if one.startswith('site_plugins') else one for one in lines
    ]
    path.write_text('\n'.join(lines))
    settings = Config(str(path), {}, str(tmp_path)).settings
    assert settings['plugins'] == ['db']
    # What stands there as a default is the default.
    examples = {
        'plugins',
        'cluster_plugins',
        'ops',
        'ops_pages',
        'reports',
        'warm_up',
        'smoke',
        'slow_request',
        'request_deadline',
    }
    examples |= {'pid_file', 'log_file', 'hung_after', 'stop_reserve', 'stop_timeout'}
    for key in keys:
        if key in SETTINGS and key not in examples | {'site_plugins'}:
            default = SETTINGS[key].default
            assert settings[key] == default or tuple(settings[key]) == default, key
