"""The section [pserve] of an .ini says to wspserve what it says to pserve."""

import re

import pytest

from paste_wspbus.errors import SettingError
from paste_wspbus.ini.pserve import reload_settings
from tests.kit import write

PSERVE = """
    [pserve]
    watch_files =
        pyramid:scaffolds/*.txt
        pyramid.scripts:pserve.py
        conf/*.yaml
        ../with space.ini
        {absolute}
    ignore_files =
        */cache/*
        *.log
    open_url = http://127.0.0.1:{port}/start
"""


@pytest.mark.filterwarnings('ignore')  # pkg_resources
def test_the_section_of_pserve_says_what_it_says_to_pserve(tmp_path):
    from plaster import PlasterURL
    from plaster_pastedeploy import Loader
    from pyramid.scripts.pserve import PServeCommand

    text = PSERVE.format(absolute=tmp_path / 'absolute', port='%(port)s')
    write(tmp_path, {'site.ini': text})
    loader = Loader(PlasterURL('file', str(tmp_path / 'site.ini')))
    command = PServeCommand(['pserve', 'site.ini'])
    command.pserve_file_config(loader, {'port': '6543'})
    settings = loader.get_settings('pserve', {'port': '6543'})
    ours = reload_settings(settings, str(tmp_path))
    assert set(ours.watch) == command.watch_files
    assert set(ours.ignore) == command.ignore_files
    assert ours.open_url == command.open_url == 'http://127.0.0.1:6543/start'


def test_without_a_section_of_pserve_there_is_nothing():
    assert reload_settings({}, '/site') == ([], [], None, None)


def test_the_package_of_an_asset_is_found_and_not_imported(tmp_path, monkeypatch):
    write(tmp_path, {'unread/__init__.py': '1 / 0', 'unread_module.py': '1 / 0'})
    monkeypatch.syspath_prepend(tmp_path)
    lines = 'unread.sub:x.pt\nunread_module:y.pt'
    assert reload_settings({'watch_files': lines}, '/site').watch == [
        str(tmp_path / 'unread' / 'sub' / 'x.pt'),
        str(tmp_path / 'y.pt'),
    ]


@pytest.mark.parametrize('name', ['no_such_package', '', 'sys', '..'])
def test_an_asset_of_no_package_is_an_error_that_names_it(name):
    with pytest.raises(SettingError, match=re.escape(f'{name}:x: there is no package')):
        reload_settings({'watch_files': f'{name}:x'}, '/site')
