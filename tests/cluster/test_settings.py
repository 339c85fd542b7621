"""[cluster:main]: its keys, and what is said of wrong ones."""

import importlib.util

import pytest

from paste_wspbus.cluster.settings import find_maker, machine_name, read
from paste_wspbus.errors import ConfigError
from paste_wspbus.ini.file import ConfigLoader


def settings(tmp_path, text, name='site.ini'):
    path = tmp_path / name
    path.write_text(f'[app:main]\nuse = egg:paste_wspbus#hello\n{text}')
    return read(ConfigLoader(str(path), {}), str(path))


def test_without_the_section_it_is_this_machine_under_a_name_of_its_own(tmp_path):
    one, two = settings(tmp_path, ''), settings(tmp_path, '', 'other.ini')
    assert (one.use, one.machine) == ('', machine_name())
    assert one.name.startswith('site-') and two.name.startswith('other-')
    (tmp_path / 'sub').mkdir()
    assert settings(tmp_path / 'sub', '').name != one.name


def test_all_keys_of_the_section_are_read(tmp_path):
    text = (
        '[cluster:main]\nuse = redis://:word@10.0.0.5/0\nname = shop\nmachine = web3\n'
    )
    text += 'ttl = 20s\nsecret = sesame\nrequire = true\nkeep = 2m\n'
    read = settings(tmp_path, text)
    assert (read.name, read.machine, read.ttl) == ('shop', 'web3', 20)
    assert (read.secret, read.require) == ('sesame', True)
    assert read.shown == 'redis://10.0.0.5/0'
    assert read.keep == 120


WRONG = {
    'unknown scheme': (
        'use = rediz://h/0\nname = a',
        "rediz://; did you mean 'redis'?",
    ),
    'no url': ('use = 10.0.0.5\nname = a', "'10.0.0.5' is not a URL"),
    'empty': ('use =', 'leave this key out: then it is this machine'),
    'comment': (
        'use = redis://h/0 ; ours\nname = a',
        'a URL has no spaces; a comment needs a line of its own',
    ),
    'no TLS': (
        'use = redis://h/0?ssl_ca_certs=a.pem\nname = a',
        'ssl_ca_certs needs TLS: write rediss://',
    ),
    'certificates': (
        'use = rediss://h/0?ssl_cert_reqs=maybe\nname = a',
        "ssl_cert_reqs is none or optional or required, not 'maybe'",
    ),
    'other TLS': (
        'use = rediss://h/0?ssl_foo=1\nname = a',
        'ssl_foo cannot be set here: only ssl_ca_certs, ',
    ),
    'database behind': (
        'use = redis://h/?db=x\nname = a',
        "'x' is not the number of a database",
    ),
    'two hosts': ('use = redis://h,i/0\nname = a', 'write redis://HOST:6379/0'),
    'high port': (
        'use = redis://h:70000/0\nname = a',
        'its port is not a number from 1 to 65535',
    ),
    'relative path': ('use = unix://a/b\nname = a', 'write unix:///PATH'),
    'IPv6': ('use = redis://[::1/0\nname = a', 'stands in brackets, as [::1]'),
    'sentinel': (
        'use = sentinel://h/n/0?db=1\nname = a',
        'sentinel:// takes nothing behind a ?',
    ),
    'local': ('use = local\nname = a', 'leave this key out: then it is this machine'),
    'database': ('use = redis://h/x\nname = a', "'x' is not the number of a database"),
    'parameter': (
        'use = redis://h/0?timeout=3\nname = a',
        'timeout cannot be set here',
    ),
    'port': ('use = sentinel://h:x/n\nname = a', "'x' is not the number of a port"),
    'no name': ('use = redis://h/0', 'name: this key is missing'),
    'name': ('name = my shop', "name: 'my shop' is not a name"),
    'path': ('name = ../shop', "'../shop' is not a name"),
    'machine': ('machine = a/b', "machine: 'a/b' is not a name"),
    'short': ('ttl = 500ms', 'ttl: 0.5 s is not from 1 s to 1 h'),
    'kept too long': ('keep = 2d', 'keep: 172800 s is not from 1 s to 24 h'),
    'number': ('ttl = soon', "ttl: 'soon' is not"),
    'key': ('tll = 5', "tll: unknown key; did you mean 'ttl'?"),
    'require': ('require = perhaps', "'perhaps' is not true or false"),
}


@pytest.mark.parametrize('case', WRONG)
def test_what_is_wrong_is_one_line_that_names_the_key(tmp_path, case):
    text, told = WRONG[case]
    with pytest.raises(ConfigError) as failed:
        settings(tmp_path, f'[cluster:main]\n{text}\n')
    line = str(failed.value)
    assert told in line
    assert 'site.ini [cluster:main] ' in line
    assert '\n' not in line


@pytest.mark.parametrize(
    'url',
    [
        'redis://:sesame@h/x',
        'redis://:sesame',
        'redis://:sesame/a@h/0',
        'redis://u:7/sesame@h/0',
        'redis://u:7?sesame@h/0',
        'redis://u:sesame#a@h/0',
        'sentinel://:sesame/a@h/n/0',
        'rediss://:sesame@h/0?ssl_foo=1',
    ],
)
def test_a_password_is_in_no_message(tmp_path, url):
    with pytest.raises(ConfigError) as failed:
        settings(tmp_path, f'[cluster:main]\nname = a\nuse = {url}\n')
    assert 'sesame' not in str(failed.value)


def test_the_library_is_named_that_is_missing(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    missing = lambda name: None if name == 'redis' else find(name)  # noqa: E731
    monkeypatch.setattr(importlib.util, 'find_spec', missing)
    with pytest.raises(ConfigError) as failed:
        settings(tmp_path, '[cluster:main]\nname = a\nuse = redis://h/0\n')
    assert "needs redis: pip install 'paste_wspbus[cluster]'" in str(failed.value)


def test_an_engine_of_another_distribution_is_found_by_its_scheme(
    tmp_path, monkeypatch
):
    from importlib import metadata

    class Entry:
        name = 'etcd'

        def load(self):
            return 'made'

    monkeypatch.setattr(metadata, 'entry_points', lambda group: [Entry()])
    read = settings(tmp_path, '[cluster:main]\nname = a\nuse = etcd://h\n')
    assert find_maker(read, ConfigError) == 'made'
