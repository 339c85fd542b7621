"""ini/typed.py: the annotations of a plugin's factory say what its section may have."""

import ast
import inspect
import pathlib
import sys
from typing import Literal, Optional

import pytest

from paste_wspbus.errors import ConfigError, FactoryError
from paste_wspbus.ini.typed import (
    COMPUTED,
    convert,
    is_typed,
    kind_of,
    settings_in_source,
    settings_of,
)
from paste_wspbus.plugins.kinds import Bytes, CronLine, Seconds, Url
from paste_wspbus.testing import composed
from tests.kit import run


def typed(
    bus,
    global_conf,
    url: Url,
    size: Bytes = 10 * 2**20,
    expires: Seconds | None = None,
    count: int = 3,
    ratio: float = 1,
    strict: bool = False,
    names: list[str] = (),
    numbers: list[int] = (),
    folder: pathlib.Path = 'data',
    mode: Literal['fast', 'safe', 3] = 'safe',
    old: Optional[int] = None,  # noqa: UP045
    more='anything',
    when: CronLine | None = None,
):
    """A cache."""


class Typed:
    def __init__(self, bus, global_conf, size: Bytes, name: str = 'x'):
        self.size = size


def in_source(factory):
    return settings_in_source(ast.parse(inspect.getsource(factory)).body[0])


BOTH = pytest.mark.parametrize('read', [settings_of, in_source])


@BOTH
def test_each_type_converts_its_text(read):
    conf = {
        'url': ' redis://localhost/0',
        'size': '300M',
        'expires': '10m',
        'count': '-7',
        'ratio': '0.5',
        'strict': 'on',
        'names': 'a, b c',
        'numbers': '1 2',
        'folder': 'files',
        'mode': '3',
        'old': '1',
        'more': '5',
    }
    assert convert(read(typed), conf, '/srv/shop/site.ini', 'plugin:cache') == {
        'url': 'redis://localhost/0',
        'size': 300 * 2**20,
        'expires': 600.0,
        'count': -7,
        'ratio': 0.5,
        'strict': True,
        'names': ['a', 'b', 'c'],
        'numbers': [1, 2],
        'folder': pathlib.Path('/srv/shop/files'),
        'mode': 3,
        'old': 1,
        'more': '5',
    }


@BOTH
@pytest.mark.parametrize(
    ('key', 'text', 'problem'),
    [
        ('url', 'localhost', "'localhost' is not a URL, as redis://localhost/0"),
        ('url', 'localhost:6379', "'localhost:6379' is not a URL, as redis://"),
        ('url', 'redis:/localhost/0', 'is not a URL, as redis://'),
        ('url', 'redis://', 'is not a URL, as redis://'),
        ('count', '1_000', "'1_000' is not a whole number"),
        ('ratio', 'nan', "'nan' is not a number"),
        ('need', 'db', "unknown key; did you mean 'needs'?"),
        ('size', '3 megabytes', 'is not a size in bytes, as 300M'),
        ('expires', '800X', "'800X' is not a duration, as 500ms"),
        ('count', '1.5', "'1.5' is not a whole number"),
        ('strict', 'maybe', "'maybe' is not true or false"),
        ('numbers', '1 x', 'is not a list, with spaces or commas between: each is a'),
        ('folder', '', "'' is not a path"),
        ('mode', 'slow', "'slow' is not fast, safe or 3"),
        ('count', '3 ; three', "'3 ; three' is not a whole number; a comment needs"),
        ('szie', '3', "unknown key; did you mean 'size'?"),
        ('zzz', '3', 'unknown key; it takes url, size, expires'),
        ('when', '* * * * * ; x', 'no cron line (wrong number of fields): write'),
        ('when', '* * * * * ; x', '; a comment needs a line of its own'),
    ],
)
def test_a_wrong_value_is_one_line_with_section_and_key(read, key, text, problem):
    conf = {'url': 'a://b', key: text}
    with pytest.raises(ConfigError) as refused:
        convert(read(typed), conf, 'site.ini', 'plugin:cache')
    assert str(refused.value).startswith(f'site.ini [plugin:cache] {key}: ')
    assert problem in str(refused.value)


def test_a_default_that_only_the_code_can_compute_is_no_mistake():
    text = 'def f(bus, global_conf, n: int = {[]: 1}, m: int = 3 + x): pass'
    known = settings_in_source(ast.parse(text).body[0]).known
    assert [one.default for one in known.values()] == [COMPUTED] * 2


@BOTH
def test_a_missing_key_is_named_with_what_it_takes(read):
    with pytest.raises(ConfigError) as refused:
        convert(read(typed), {}, 'site.ini', 'plugin:cache')
    assert str(refused.value) == (
        'site.ini [plugin:cache] url: this key is missing: a URL, as redis://localhost/0'
    )


@BOTH
def test_the_factory_may_be_a_class(read):
    settings = read(Typed)
    assert [*settings.known] == ['size', 'name']
    assert convert(settings, {'size': '1K'}, None, None) == {'size': 1024}


@BOTH
def test_a_default_of_another_type_is_a_mistake_of_the_code(read):
    def wrong(bus, global_conf, size: int = 'large'):
        pass

    source = 'def wrong(bus, global_conf, size: int = "large"):\n    pass'
    settings = settings_of(wrong)
    if read is in_source:
        settings = settings_in_source(ast.parse(source).body[0])
    with pytest.raises(FactoryError, match="default in the code, 'large', is not a wh"):
        convert(settings, {}, 'site.ini', 'plugin:x')


@pytest.mark.parametrize(
    ('annotation', 'default', 'problem'),
    [
        ('Seconds', "'10m'", "'10m', is not a number of seconds: write 600"),
        ('Bytes', "'300M'", "'300M', is not a whole number of bytes: write 314572800"),
        ('bool', "'yes'", "'yes', is not True or False: write True"),
        ('bool', '1', '1, is not True or False'),
        ('int', '1.5', '1.5, is not a whole number'),
        ('list[str]', "'a b'", "'a b', is not a list or a tuple: write ['a', 'b']"),
        ('float', "'much'", "'much', is not a number"),
    ],
)
def test_a_default_that_is_written_as_in_an_ini_is_told_as_code(
    annotation, default, problem
):
    source = f'def f(bus, global_conf, x: {annotation} = {default}): ...'
    settings = settings_in_source(ast.parse(source).body[0])
    with pytest.raises(FactoryError) as refused:
        convert(settings, {}, 'site.ini', 'plugin:x')
    assert str(refused.value).endswith(f'its default in the code, {problem}')


@pytest.mark.parametrize(
    'url',
    [
        'redis://localhost',
        'sqlite:////srv/a.db',
        'sqlite:///a.db',
        'unix:///run/x',
        'postgresql+psycopg://u:p@h/db',
    ],
)
def test_a_url_has_a_scheme_and_something_behind_its_slashes(url):
    assert kind_of('Url').convert(f' {url} ') == url


@pytest.mark.parametrize(
    'annotation',
    [
        'int',
        'float',
        'bool',
        'str',
        'Seconds',
        'Bytes',
        'Path',
        'Url',
        'list[int]',
        "Literal['a','b']",
    ],
)
def test_each_kind_accepts_its_own_sample(annotation):
    kind = kind_of(annotation)
    assert isinstance(kind.convert(kind.sample), kind.types)


def test_a_factory_without_annotations_gets_texts_as_before():
    def plain(bus, global_conf, size=3, **more):
        pass

    settings = settings_of(plain)
    assert not is_typed(settings)
    assert convert(settings, {'size': '5', 'x': 'y'}, None, None) == {
        'size': '5',
        'x': 'y',
    }


@pytest.mark.parametrize(
    ('annotation', 'name'),
    [
        ('int', 'int'),
        ('kinds.Seconds', 'seconds'),
        ("'Bytes'", 'bytes'),
        ('None | float', 'float'),
        ('typing.Optional[bool]', 'bool'),
        ('Annotated[int, Gt(3)]', 'int'),
        ('list', 'list of str'),
        ("Literal['a', 'b']", 'a|b'),
    ],
)
def test_annotations_are_understood_as_they_are_written(annotation, name):
    assert kind_of(annotation).name == name


@pytest.mark.parametrize(
    'annotation', ['Any', 'int | str', 'dict[str, int]', 'Callable[[], int]', '3 +']
)
def test_other_annotations_leave_the_text(annotation):
    assert kind_of(annotation) is None


MODULE = """
from paste_wspbus.plugins.kinds import Bytes, Seconds

seen = []


def cache(bus, global_conf, size: Bytes, expires: Seconds = 60.0):
    seen.append((size, expires))
    yield


class Cache:
    def __init__(self, bus, global_conf, size: Bytes, expires: Seconds = 60.0):
        seen.append((size, expires))


def make(global_conf):
    return str
"""

INI = """
[app:main]
use = call:typedsite:make
[server:main]
use = egg:waitress
port = 0
[wspbus:main]
plugins = cache
[plugin:cache]
use = call:typedsite:cache
after = db
{more}
"""


def site(folder, more):
    (folder / 'typedsite.py').write_text(MODULE)
    (folder / 'site.ini').write_text(INI.format(more=more))
    return str(folder / 'site.ini')


@pytest.mark.parametrize('factory', ['cache', 'Cache'])
def test_a_plugin_gets_what_its_factory_names(tmp_path, monkeypatch, factory):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'typedsite', raising=False)
    ini = pathlib.Path(site(tmp_path, 'size = 2K'))
    ini.write_text(ini.read_text().replace('typedsite:cache', f'typedsite:{factory}'))
    with composed(str(ini)):
        assert sys.modules['typedsite'].seen == [(2048, 60.0)]


@pytest.mark.parametrize(
    ('more', 'line'),
    [
        ('size = much', "[plugin:cache] size: 'much' is not a size in bytes"),
        ('', '[plugin:cache] size: this key is missing: a size in bytes'),
        ('size = 1\nexpries = 3', "expries: unknown key; did you mean 'expires'?"),
    ],
)
def test_a_wrong_setting_is_one_line_at_the_start_and_of_check(tmp_path, more, line):
    ini = site(tmp_path, more)
    for words in (['--check'], []):
        process = run(tmp_path, *words, ini)
        said = process.err.text
        assert (process.code, len(said.splitlines())) == (2, 1), said
        assert line in said


def test_keys_that_differ_in_case_are_two_keys(tmp_path):
    # The logging sections are read by a parser that lower-cases all keys.
    logging = '[loggers]\nkeys = root\n[handlers]\nkeys =\n[formatters]\nkeys =\n'
    ini = site(tmp_path, f'size = 1\nSize = 2\n{logging}[logger_root]\nhandlers =\n')
    for words in (['--check'], []):
        process = run(tmp_path, *words, ini)
        said = process.err.text
        assert (process.code, len(said.splitlines())) == (2, 1), said
        assert "[plugin:cache] Size: unknown key; did you mean 'size'?" in said


def test_needs_is_a_key_of_any_plugin(tmp_path):
    plain = (
        'def plain(bus, global_conf, size=3):\n    yield\ndef make(global_conf): ...\n'
    )
    ini = '[wspbus:main]\nplugins = x\n[plugin:x]\nuse = call:plain:plain\nneed = db\n'
    ini += '[app:main]\nuse = call:plain:make\n[server:main]\nuse = egg:waitress\nport = 0\n'
    done = run(tmp_path, 'site.ini', files={'site.ini': ini, 'plain.py': plain})
    assert done.code
    assert "unexpected keyword argument 'need'; did you mean 'needs'?" in done.err.text


def test_a_secret_of_the_wrong_type_is_not_shown():
    def with_secrets(bus, global_conf, api_token: int, dsn: Url):
        pass

    settings = settings_of(with_secrets)
    for conf in (
        {'api_token': 'hush', 'dsn': 'a://b'},
        {'api_token': '1', 'dsn': 'hush'},
    ):
        with pytest.raises(ConfigError) as refused:
            convert(settings, conf, 'site.ini', 'plugin:x')
        assert "'***' is not " in str(refused.value)
        assert 'hush' not in str(refused.value)


@pytest.mark.parametrize('body', ['    yield\n', ''])
def test_an_async_function_is_no_factory(tmp_path, body):
    ini = pathlib.Path(site(tmp_path, 'size = 1'))
    module = tmp_path / 'typedsite.py'
    module.write_text(module.read_text().replace('def cache', 'async def cache'))
    module.write_text(module.read_text().replace('    yield\n', body))
    process = run(tmp_path, str(ini))
    assert process.code == 1
    assert 'cache is an async function, which nothing would run' in process.err.text
