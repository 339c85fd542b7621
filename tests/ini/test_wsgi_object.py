"""``egg:paste_wspbus#wsgi``: applications that a module has ready."""

import os
import sys

import pytest

from paste_wspbus.errors import ConfigError
from paste_wspbus.ini.wsgi_object import make_app
from tests.kit import run

CODE = """
import os
application = os.environ.get('WSPBUS_TEST_ENV', 'unset')
class api:
    app = 'of the class'
def create():
    return 'created'
"""


@pytest.fixture
def conf(tmp_path, monkeypatch):
    (tmp_path / 'lib').mkdir()
    (tmp_path / 'lib' / 'wsgi_of_a_test.py').write_text(CODE)
    (tmp_path / 'app-1.wsgi').write_text(CODE)
    monkeypatch.setattr(sys, 'path', sys.path[:])
    yield {'here': str(tmp_path), '__file__': 'site.ini'}
    for name in ('wsgi_of_a_test', 'wsgi_file_app_1'):
        sys.modules.pop(name, None)
    os.environ.pop('WSPBUS_TEST_ENV', None)


@pytest.mark.parametrize(
    'app, made',
    [
        ('wsgi_of_a_test', 'unset'),
        ('wsgi_of_a_test:application', 'unset'),
        ('wsgi_of_a_test:api.app', 'of the class'),
        ('wsgi_of_a_test:create()', 'created'),
    ],
)
def test_it_is_an_object_of_a_module(conf, app, made):
    assert make_app(conf, app=app, path='lib') == made


def test_it_may_be_in_a_file_of_any_name(conf):
    assert make_app(conf, file='app-1.wsgi') == 'unset'
    assert make_app(conf, file='app-1.wsgi', app='create()') == 'created'


def test_the_environment_is_set_before_the_import(conf):
    made = make_app(
        conf, app='wsgi_of_a_test', path='lib', **{'env.WSPBUS_TEST_ENV': 'x'}
    )
    assert made == 'x'


@pytest.mark.parametrize(
    'keys, why',
    [
        ({}, 'site.ini app: write app = MODULE:NAME'),
        ({'app': 'os:pth'}, "os has no 'pth'; did you mean 'path'"),
        ({'app': 'oss:path'}, "app: oss:path: there is no module 'oss'; did you mean"),
        ({'app': 'os', 'fiel': 'x'}, "site.ini fiel: unknown key; did you mean 'file'"),
        ({'app': 'os', 'env.': 'x'}, 'unknown key'),
    ],
)
def test_mistakes_name_the_key(conf, keys, why):
    with pytest.raises(ConfigError, match=why):
        make_app(conf, **keys)


def test_a_module_that_fails_itself_is_not_said_to_be_missing(conf, tmp_path):
    (tmp_path / 'lib' / 'wsgi_of_a_test.py').write_text('import nowhere_to_be_found')
    with pytest.raises(ModuleNotFoundError, match='nowhere_to_be_found'):
        make_app(conf, app='wsgi_of_a_test', path='lib')


def test_whoever_names_the_application_itself_is_sent_here(tmp_path):
    files = {
        'shop.py': 'def app(environ, start_response): ...',
        'site.ini': '[app:main]\nuse = call:shop:app\n',
        'typo.ini': '[app:main]\nuse = egg:paste_wspbus#wsgi\napp = shop:apq\n',
    }
    keys = 'use = egg:paste_wspbus#wsgi and app = shop:app'
    told = run(tmp_path, 'site.ini', '--listen=:0', files=files)
    assert f'it is an application and no factory: write {keys} (' in told.err.text
    # The class of an application may be in another module.
    flask = '\nfrom flask import Flask\nflasks = Flask(__name__)\n'
    files = {
        'flasks.py': flask,
        'site.ini': '[app:main]\nuse = one\n[app:one]\nuse = call:flasks:flasks\n',
    }
    told = run(tmp_path, 'site.ini', '--listen=:0', files=files)
    keys = 'use = egg:paste_wspbus#wsgi and app = flasks:flasks'
    assert f'it is an application and no factory: write {keys} (' in told.err.text
    for name, why in ('shop:app', 'name a file'), ('shop.w:app', 'no such file'):
        told = run(tmp_path, name, '--listen=:0')
        assert why in told.err.text
        keys = f'use = egg:paste_wspbus#wsgi and app = {name}'
        how = '; to serve an application, write an .ini whose [app:main] has '
        assert told.err.text.endswith(f'{how}{keys}\n')
    told = run(tmp_path, 'typo.ini', '--listen=:0')
    line = "typo.ini [app:main] app: shop has no 'apq'; did you mean 'app'?\n"
    assert told.err.text == line
