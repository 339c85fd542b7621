"""--reload --reloader execv: what is wrong is shown, and heals, in the one process that there is."""

import importlib
import socket
import sys
from html import escape

import pytest

from paste_wspbus.watching.imports import missing_modules
from tests.kit.reloading import Edited, stop
from tests.workers.test_reloading import SERVERS

WRONG = {
    'port': ('port = 0', 'port = 99999', 'is not a port'),
    'egg': ('egg:waitress', 'egg:waitres', "did you mean 'waitress'?"),
    'section': ('[app:main]', '[app:mian]', 'no section [app:main]'),
}


def test_execv_shows_a_mistake_of_an_ini_that_parses_and_heals(tmp_path):
    with Edited(tmp_path, '--reloader', 'execv') as site:
        for old, new, said in WRONG.values():
            site.save(SERVERS['waitress'].replace(old, new), 'site.ini')
            site.until_broken(escape(said))
        site.save(SERVERS['waitress'], 'site.ini')
        assert site.until('one')['pid'] == site.pid
        site.edit('two')
        stop(site)


def test_execv_stays_at_its_address_if_the_next_one_is_taken(tmp_path):
    with (
        socket.create_server(('127.0.0.1', 0)) as taken,
        Edited(tmp_path, '--reloader', 'execv') as site,
    ):
        port = f'port = {taken.getsockname()[1]}'
        site.save(SERVERS['waitress'].replace('port = 0', port), 'site.ini')
        site.expect(f'until then {site.url} stays')
        site.edit('two')
        stop(site)


def test_a_missing_module_may_be_in_each_folder_of_the_site(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, 'path', [str(tmp_path), *sys.path[-1:]])
    with pytest.raises(ImportError) as caught:
        importlib.import_module('nowhere')
    error = RuntimeError('it cannot be loaded')
    error.__cause__ = caught.value
    found = {str(tmp_path / 'nowhere.py'), str(tmp_path / 'nowhere' / '__init__.py')}
    assert found <= {*missing_modules(error)}
    assert missing_modules(ValueError()) == []
