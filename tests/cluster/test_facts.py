"""What a member says of itself: which code it runs, in few bytes, and how others read it."""

import json
import os

import pytest

from paste_wspbus.cluster.facts import MAX_FACTS, bounded, cut, folder_of, read
from paste_wspbus.cluster.facts import release_of as code_of
from paste_wspbus.ini.config import Config


@pytest.fixture
def place(tmp_path):
    """Folders and links, as deployment tools make them."""
    (tmp_path / 'shop/releases/42/etc').mkdir(parents=True)
    (tmp_path / 'shop/shared').mkdir()
    os.symlink('releases/42', tmp_path / 'shop/current')
    os.symlink(tmp_path / 'shop/current', tmp_path / 'shop/live')
    (tmp_path / 'data').mkdir()
    os.symlink(tmp_path / 'shop', tmp_path / 'data/srv')
    os.symlink(tmp_path / 'shop/shared', tmp_path / 'shop/releases/42/conf')
    return tmp_path


@pytest.mark.parametrize(
    ('path', 'release'),
    [
        ('shop/current/site.ini', '42'),
        ('shop/current/etc/site.ini', '42'),
        ('shop/live/site.ini', '42'),
        ('shop/current/conf/site.ini', '42'),
        ('data/srv/current/site.ini', '42'),
        ('shop/releases/42/site.ini', None),
    ],
)
def test_the_release_is_the_folder_to_which_the_link_leads(place, path, release):
    assert folder_of(str(place / path)) == release


def version_in(tmp_path, text):
    (tmp_path / 'site.ini').write_text(text)
    return code_of(Config(str(tmp_path / 'site.ini'), {}, ''), '/', 'main').version


def test_the_version_is_that_of_the_distribution_of_the_application(tmp_path):
    from importlib.metadata import version

    own = version('WebOb')
    for text in (
        '[app:main]\nuse = egg:WebOb\n',
        '[app:main]\nuse = egg:WebOb#main\n',
        '[app:main]\nuse = other\n[app:other]\nuse = call:webob.dec:make\n',
        '[app:main]\npaste.app_factory = webob:make\n',
        '[pipeline:main]\npipeline = one other\n[app:other]\nuse = egg:WebOb\n',
    ):
        assert version_in(tmp_path, text) == own


def test_a_version_that_nobody_can_know_is_not_known(tmp_path):
    for text in (
        '[app:main]\nuse = egg:paste_wspbus#hello\n',  # it says nothing of the site
        '[app:main]\nuse = egg:NoSuchThing\n',
        '[app:main]\nuse = call:no_such_thing:make\n',
        '[app:main]\nuse = main\n',
        '[app:main]\nuse = egg:%(nothing)s\n',
        '[composite:main]\nuse = egg:Paste#urlmap\n/ = home\n',
    ):
        assert version_in(tmp_path, text) is None


def test_facts_have_few_bytes():
    facts = {key: '\U0001f600' * 5000 for key in ('release', 'version', 'state')}
    facts['leads'] = [f'plugin-{number}' for number in range(1000)]
    kept = bounded(facts)
    assert len(json.dumps(kept)) <= MAX_FACTS
    assert kept['leads'][0] == 'plugin-0' and kept['leads'][-1] == '…'
    assert kept['release'].endswith('…')
    assert bounded({'release': '42', 'leads': ['a']}) == {
        'release': '42',
        'leads': ['a'],
    }
    assert cut('short') == 'short'


def test_what_another_member_says_may_be_nonsense():
    nothing = read(None)
    assert set(nothing.values()) == {None}
    for nonsense in ({}, [], 'x', {'release': 3, 'generation': '1', 'leads': {}}):
        assert read(nonsense) == nothing
    wild = {
        'generation': 10**400,
        'since': float('nan'),
        'ttl': True,
        'leads': [1, 'a'],
    }
    assert read(wild)['generation'] is None and read(wild)['ttl'] is None
    assert read(wild)['since'] is None
    assert read(wild)['leads'] == ['a']
    good = {'release': '42', 'generation': 3, 'drained': False, 'leads': []}
    assert {key: read(good)[key] for key in good} == good
