"""ini/needs.py: needs and after in [plugin:NAME], at a start and with --check."""

import sys

import pytest

from paste_wspbus.errors import ConfigError
from paste_wspbus.testing import composed
from tests.kit import run

MODULE = """
said = []


def lifespan(bus, global_conf, name):
    said.append(name)
    yield
    said.append(f'-{name}')


def silent(bus, global_conf, name):
    # A factory may subscribe what it wants, and return nothing.
    bus.subscribe('start', lambda: said.append(name), priority=90 - 50)
    bus.subscribe('stop', lambda: said.append(f'-{name}'), priority=60)


class Old:
    # As CherryPy's plugins: the priorities belong to its methods.
    def __init__(self, bus, global_conf, name):
        self.bus, self.name = bus, name

    def subscribe(self):
        self.bus.subscribe('start', self.start, priority=30)
        self.bus.subscribe('stop', self.stop, priority=80)

    def start(self):
        said.append(self.name)

    def stop(self):
        said.append(f'-{self.name}')


def make(global_conf):
    return str
"""

SECTION = """
[plugin:{name}]
use = call:needy:{kind}
name = {name}
{more}
"""


def site(folder, plugins, site_plugins='', listed=None):
    """Write an .ini; ``plugins``: {name: (kind, further lines)}."""
    sections = ''.join(
        SECTION.format(name=name, kind=kind, more=more)
        for name, (kind, more) in plugins.items()
    )
    names = plugins if listed is None else listed.split()
    names = ' '.join(one for one in names if one not in site_plugins.split())
    text = '[app:main]\nuse = call:needy:make\n[server:main]\nuse = egg:waitress\nport = 0\n'
    text += f'[wspbus:main]\nplugins = {names}\nsite_plugins = {site_plugins}\n'
    (folder / 'needy.py').write_text(MODULE)
    (folder / 'site.ini').write_text(text + sections)
    return str(folder / 'site.ini')


@pytest.mark.parametrize('kind', ['lifespan', 'silent', 'Old'])
@pytest.mark.parametrize('needed', ['lifespan', 'silent', 'Old'])
def test_a_plugin_of_each_kind_starts_after_what_it_needs(
    tmp_path, monkeypatch, kind, needed
):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'needy', raising=False)
    ini = site(
        tmp_path,
        {
            'cache': (kind, 'needs = db'),
            'db': (needed, 'after = metrics'),
            'metrics': ('lifespan', ''),
        },
    )
    with composed(ini):
        said = sys.modules['needy'].said
        assert said == ['metrics', 'db', 'cache']
    assert said[3:] == ['-cache', '-db', '-metrics']


@pytest.mark.parametrize(
    ('plugins', 'more', 'line'),
    [
        (
            {'cache': 'needs = dbb', 'db': ''},
            {},
            "[plugin:cache] needs: there is no section [plugin:dbb]; did you mean 'db'?",
        ),
        (
            {'cache': 'needs = db', 'db': ''},
            {'listed': 'cache'},
            '[plugin:cache] needs: [plugin:db] is not listed in plugins of [wspbus:main]',
        ),
        (
            {'cache': 'needs = db', 'db': ''},
            {'site_plugins': 'db'},
            '[plugin:cache] needs: [plugin:db] is in site_plugins, which another process',
        ),
        (
            {'cache': 'needs = cache'},
            {},
            '[plugin:cache] needs: it needs cache: nothing can need itself',
        ),
        (
            {'a': 'needs = c\nafter = b', 'b': 'needs = a', 'c': ''},
            {},
            '[plugin:a] after: it starts after b → a: this is a circle',
        ),
        (
            {'a': 'needs = b', 'b': 'needs = c', 'c': 'needs = d', 'd': 'needs = a'},
            {},
            'this is a circle',
        ),
    ],
)
def test_a_need_that_cannot_be_had_is_one_line(tmp_path, plugins, more, line):
    ini = site(
        tmp_path, {name: ('lifespan', needs) for name, needs in plugins.items()}, **more
    )
    for words in (['--check'], []):
        process = run(tmp_path, *words, ini)
        said = process.err.text
        assert (process.code, len(said.splitlines())) == (2, 1), said
        assert line in said
    with pytest.raises(ConfigError), composed(ini):
        pass


def test_a_need_that_crosses_the_server_is_one_line(tmp_path):
    site(tmp_path, {'early': ('Old', 'needs = late'), 'late': ('Late', '')})
    late = '\n\nclass Late(Old):\n    def subscribe(self):\n'
    late += "        self.bus.subscribe('start', self.start, priority=80)\n"
    (tmp_path / 'needy.py').write_text(MODULE + late)
    process = run(tmp_path, 'site.ini')
    line = '[plugin:early] needs: it needs late: it starts after the server\n'
    assert (process.code, process.err.text) == (2, f'site.ini {line}')
