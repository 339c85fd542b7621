"""The ends of messages: what somebody may have meant."""

import pytest

from paste_wspbus.errors import SettingError
from paste_wspbus.ini import hints
from paste_wspbus.ini.settings import SETTINGS
from paste_wspbus.listening.addresses import parse_host


@pytest.mark.parametrize(
    'section', ['[app:main', 'app.main', 'app main', 'app-main', 'appmain']
)
def test_a_section_with_other_signs_between_its_words_is_the_one_that_is_meant(section):
    hint = hints.section_hint(['app', 'application'], 'main', [section])
    assert hint == f'; did you mean [app:main], and not [{section}]?'


def test_a_section_that_has_another_name_is_not_the_one_that_is_meant():
    assert 'not [' not in hints.section_hint(['app'], 'main', ['app:shop', 'map.main'])


@pytest.mark.parametrize(
    ('key', 'hint'),
    [
        ('user', '; write --user NAME on the command line'),
        ('port', '; it is a key of [server:main]'),
        ('workrs', "; did you mean 'workers'?"),
        ('zzz', ''),
    ],
)
def test_a_key_that_is_an_option_or_belongs_elsewhere_is_named_as_that(key, hint):
    assert hints.unknown_key(key, SETTINGS) == f'unknown key{hint}'


@pytest.mark.parametrize(
    ('name', 'hint'),
    [('SIGUSRR1', "; did you mean 'USR1'?"), ('kill', ''), ('SIGFOO', '')],
)
def test_a_signal_is_compared_without_the_letters_that_all_have(name, hint):
    assert hints.signal_hint(name) == hint


def test_an_ini_without_its_ending_is_found(tmp_path):
    (tmp_path / 'web.ini').touch()
    assert hints.file_hint('web', str(tmp_path)) == "; did you mean 'web.ini'?"


def test_an_ini_that_is_a_link_to_nothing_is_not_said_to_be_mistyped(tmp_path):
    (tmp_path / 'web.ini').symlink_to('../gone/web.ini')
    assert hints.file_hint('web.ini', str(tmp_path)) == ': it is a link to nothing'


def test_an_async_factory_is_called_so_and_warns_of_nothing():
    async def make():
        """Return nothing that a server could call."""

    assert 'make is an async function' in hints.no_application(make())
    assert hints.no_application(5) == '5 is not an application: it cannot be called'


@pytest.mark.parametrize(
    ('host', 'hint'),
    [
        ('127.0.0.1:8080', '; the port has a key of its own'),
        ('http://127.0.0.1', ''),
    ],
)
def test_a_host_with_a_port_is_none(host, hint):
    with pytest.raises(SettingError) as caught:
        parse_host(host)
    assert str(caught.value).endswith(f'is not a host name or address{hint}')


@pytest.mark.parametrize('host', ['::', '::1', 'fe80::1', 'localhost', ''])
def test_an_ipv6_address_is_a_host(host):
    assert parse_host(host) == host
