"""``wspserve plugins``: what is installed, and what a section of it may have."""

import json

import pytest

from paste_wspbus.testing import composed
from tests.kit import run

CACHE = '''
from paste_wspbus.plugins.kinds import Bytes, Seconds, Url


def cache(bus, global_conf, url: Url, size: Bytes = 4096, expires: Seconds | None = None,
          strict: bool = False, form='a%b', names: list[str] = ('a', 'b'), odd=object()):
    """Keeps answers in a store.

    It empties the store at the stop.
    """
    yield


def plain(bus, global_conf, **more):
    yield


def make(global_conf):
    return str
'''

#: What pip leaves of an installed distribution.
INSTALLED = {
    'shopcache.py': CACHE,
    'shopcache-1.0.dist-info/METADATA': 'Metadata-Version: 2.1\nName: shopcache\nVersion: 1.0\n',
    'shopcache-1.0.dist-info/entry_points.txt': (
        '[paste_wspbus.plugin_factory]\n'
        'cache = shopcache:cache\nplain = shopcache:plain\nlost = gone:away\n'
        'broken = shopcache:plian\n'
    ),
}


BROKEN = "shopcache has no 'plian'; did you mean 'plain'?"


@pytest.fixture
def env(tmp_path):
    folder = tmp_path / 'installed'
    for name, text in INSTALLED.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return {'PYTHONPATH': str(folder)}


def said(folder, *words, env):
    process = run(folder, 'plugins', *words, env=env)
    assert process.code == 0, process.report()
    assert process.err.text == ''
    return process.out.text


def test_it_lists_what_is_installed(tmp_path, env):
    lines = [line.split() for line in said(tmp_path, env=env).splitlines()]
    assert lines[0][0] == 'PLUGIN'
    mine = [line for line in lines if 'shopcache' in ' '.join(line)]
    assert mine == [
        ['broken', 'egg:shopcache#broken', *BROKEN.split()],
        ['cache', 'egg:shopcache#cache', *['Keeps', 'answers', 'in', 'a', 'store.']],
        ['lost', 'egg:shopcache#lost', *['there', 'is', 'no', 'module', "'gone'"]],
        ['plain', 'egg:shopcache#plain'],
    ]


def test_it_shows_the_keys_of_one_and_a_section_to_copy(tmp_path, env):
    text = said(tmp_path, 'cache', env=env)
    rows = [line.split() for line in text.splitlines()]
    for row in (
        'url url required scheme://host/name',
        'size bytes 4096 300M',
        'expires seconds none 10m',
        'strict bool false true',
        'names list of str a b text text',
        'odd str see the code',
    ):
        assert row.split() in rows
    assert 'It empties the store at the stop.' in text
    section = text[text.index('[wspbus:main]') :]
    assert section.splitlines() == [
        '[wspbus:main]',
        'plugins = cache',
        '',
        '[plugin:cache]',
        'use = egg:shopcache#cache',
        'url = scheme://host/name',
        '# size = 4096',
        '# expires = 10m',
        '# strict = false',
        '# form = a%%b',
        '# names = a b',
        '# odd =',
    ]


def test_the_section_that_it_prints_can_be_served(tmp_path, env, monkeypatch):
    text = said(tmp_path, 'cache', env=env)
    section = text[text.index('[wspbus:main]') :].replace('# ', '')
    monkeypatch.syspath_prepend(env['PYTHONPATH'])
    with composed(
        f'[app:main]\nuse = call:shopcache:make\n{section}\n[app:x]\n'
    ) as site:
        assert 'cache' in site.bus.lifespans


def test_check_knows_its_keys(tmp_path, env):
    ini = '[app:main]\nuse = call:shopcache:make\n[server:main]\nuse = egg:waitress\n'
    ini += '[wspbus:main]\nplugins = cache\n[plugin:cache]\nuse = egg:shopcache#cache\n'
    (tmp_path / 'site.ini').write_text(f'{ini}url = a://b\nsize = much\n')
    process = run(tmp_path, 'site.ini', '--check', env=env)
    assert process.code == 2
    assert "[plugin:cache] size: 'much' is not a size in bytes" in process.err.text


def test_what_takes_any_key_and_what_cannot_be_read_say_so(tmp_path, env):
    assert 'It takes other keys, too.' in said(tmp_path, 'plain', env=env)
    lost = said(tmp_path, 'egg:shopcache#lost', env=env)
    cannot = 'Its keys cannot be read from the text of its factory'
    assert f"{cannot}: there is no module 'gone'" in lost
    assert f'{cannot}: {BROKEN}' in said(tmp_path, 'broken', env=env)


def test_json_has_all_of_it(tmp_path, env):
    (cache,) = json.loads(said(tmp_path, 'cache', '--json', env=env))
    assert cache['factory'] == 'shopcache:cache'
    assert cache['settings'][1] == {
        'key': 'size',
        'type': 'bytes',
        'required': False,
        'default': '4096',
    }
    assert cache['problem'] is None
    (broken,) = json.loads(said(tmp_path, 'broken', '--json', env=env))
    assert broken['problem'] == BROKEN


@pytest.mark.parametrize(
    ('words', 'line'),
    [
        (['plugins', 'cahce'], "a plugin 'cahce'; did you mean 'cache'?"),
        (['plugins', 'cache', 'more'], 'plugins takes one name: leave out more'),
        (
            ['site.ini', 'plugins'],
            'plugins lists what is installed: leave out the file',
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path, env, words, line):
    process = run(tmp_path, *words, env=env)
    assert (process.code, len(process.err.text.splitlines())) == (2, 1)
    assert line in process.err.text
