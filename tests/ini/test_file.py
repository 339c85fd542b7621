"""`paste_wspbus.ini.file`: how the loader finds sections."""

import pytest
from paste.deploy import loadwsgi

from paste_wspbus.errors import ConfigError
from paste_wspbus.ini.config import Config
from paste_wspbus.ini.file import ConfigLoader
from paste_wspbus.process.names import ini_paths

ODD = """
[app]
use = call:x:y
[app:]
use = call:x:y
[app: spaced ]
use = call:x:y
[app:two:colons]
use = call:x:y
[application:other]
use = call:x:y
[composite:spaced]
use = call:x:y
[pipeline:twice]
pipeline = spaced
[app:twice]
use = call:x:y
[filter-app:main2]
use = call:x:y
[filter:main]
use = call:x:y
"""

NAMES = [None, '', 'main', 'main2', 'spaced', ' spaced ', 'two:colons', 'two', 'other']


@pytest.mark.parametrize('kind', [loadwsgi.APP, loadwsgi.FILTER, loadwsgi.SERVER])
@pytest.mark.parametrize('name', [*NAMES, 'twice', 'missing'])
def test_sections_are_found_as_pastedeploy_finds_them(tmp_path, kind, name):
    (tmp_path / 'site.ini').write_text(ODD)

    def found(loader, failure):
        try:
            return loader.find_config_section(kind, name)
        except failure:
            return None

    path = str(tmp_path / 'site.ini')
    plain = found(loadwsgi.ConfigLoader(path), LookupError)
    assert found(ConfigLoader(path, {}), ConfigError) == plain


def test_a_folder_may_have_the_sign_before_a_section_in_its_name(tmp_path):
    folder = tmp_path / 'c#'
    folder.mkdir()
    (folder / 'site.ini').write_text(
        '[app:main]\nuse = config:%(here)s/more.ini#shop\n'
    )
    (folder / 'more.ini').write_text(
        '[app:shop]\nuse = egg:paste_wspbus#hello\n[app:wiki]\nuse = shop\n'
    )
    for uri in (f'{folder}/site.ini', f'config:{folder}/site.ini#main'):
        config = Config(uri, {}, '/')
        assert config.file == f'{folder}/site.ini'
        assert config.files == [f'{folder}/site.ini', f'{folder}/more.ini']
        assert (
            config.loader.get_context(loadwsgi.APP, 'main').object.__name__
            == 'make_app'
        )
    assert Config(f'{folder}/more.ini#wiki', {}, '/').app_name == 'wiki'
    assert ini_paths(f'{folder}/more.ini#wiki')[0] == f'{folder}/more.ini'
