"""``wspserve setup-app site.ini``: what paster setup-app does, without pkg_resources."""

import os

import pytest

from tests.kit import run

SITE = """
[DEFAULT]
made = %(here)s/made

[app:main]
use = egg:acme
filter-with = bus
greeting = Hello

[app:own]
use = call:lone:make_app

[app:pack]
use = call:pack.app:make_app

[composite:both]
use = egg:Paste#urlmap
/ = main

[filter:bus]
use = egg:paste_wspbus#bus
"""

SETUP = """
def setup_app(command, conf, vars):
    with open(conf.global_conf['made'], 'a') as file:
        file.write(f'{__name__} {conf.local_conf} {command.verbose}\\n')
"""

FILES = {
    'site.ini': SITE,
    'lone.py': 'def make_app(global_conf):\n    return print\n',
    'pack/__init__.py': '',
    'pack/app.py': 'def make_app(global_conf):\n    return print\n',
    'pack/websetup.py': SETUP,
    'installed/acme/__init__.py': 'def make_app(global_conf, **settings):\n    return print\n',
    'installed/acme/websetup.py': SETUP,
    'installed/acme/own.py': (
        'class Own:\n'
        '    def __init__(self, *args):\n        self.args = args\n'
        '    def setup_config(self, command, file, section, vars):\n'
        '        print("own", *self.args[1:], section)\n'
    ),
    'installed/acme-1.0.dist-info/METADATA': 'Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n',
    'installed/acme-1.0.dist-info/top_level.txt': 'acme\n',
    'installed/acme-1.0.dist-info/entry_points.txt': (
        '[paste.app_factory]\nmain = acme:make_app\nother = acme:make_app\n'
        '[paste.app_install]\nmain = paste.script.appinstall:Installer\n'
        'other = acme.own:Own\n'
    ),
}


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    blocked = tmp_path / 'blocked'
    blocked.mkdir()
    (blocked / 'pkg_resources.py').write_text(
        "raise ImportError('it is not installed')"
    )
    return tmp_path


def setup(folder, *words):
    path = os.pathsep.join([str(folder / 'blocked'), str(folder / 'installed')])
    return run(folder, *words, env={'PYTHONPATH': path})


def test_it_calls_setup_app_of_the_package_without_pkg_resources(folder):
    process = setup(folder, 'setup-app', 'site.ini')
    assert process.code == 0, process.report()
    assert process.out.text == 'site.ini [app:main]: acme.websetup has prepared it\n'
    said = "acme.websetup {'greeting': 'Hello'} 1\n"
    assert (folder / 'made').read_text() == said


def test_vars_and_other_applications(folder):
    process = setup(folder, 'site.ini', 'setup-app', '-n', 'pack', f'made={folder}/x')
    assert process.out.text == 'site.ini [app:pack]: pack.websetup has prepared it\n'
    assert (folder / 'x').read_text() == 'pack.websetup {} 1\n'


def test_an_installer_of_its_own_is_called(folder):
    (folder / 'site.ini').write_text('[app:main]\nuse = egg:acme#other\n')
    process = setup(folder, 'setup-app', 'site.ini')
    assert process.out.text.splitlines()[0] == 'own paste.app_factory other app:main'


def test_nothing_to_do_is_said(folder):
    process = setup(folder, 'setup-app', 'site.ini', '-n', 'own')
    assert process.code == 0
    assert 'its package has no websetup, so there is nothing to do' in process.out.text


@pytest.mark.parametrize(
    'words, code, said',
    [
        (
            ['site.ini', '-n', 'both'],
            2,
            '[composite:both]: it has several applications',
        ),
        (['gone.ini'], 2, 'gone.ini: there is no such file'),
        (
            ['site.ini', 'made=/gone/x'],
            1,
            'acme.websetup.setup_app failed: FileNotFound',
        ),
    ],
)
def test_mistakes_are_one_line(folder, words, code, said):
    process = setup(folder, 'setup-app', *words)
    assert process.code == code, process.report()
    assert said in process.err.text
    assert process.err.text.count('\n') == 1


def test_a_websetup_that_cannot_be_imported_is_one_line(folder):
    (folder / 'installed/acme/websetup.py').write_text('import gone\n')
    process = setup(folder, 'setup-app', 'site.ini')
    assert process.code == 1
    assert 'acme.websetup cannot be imported: ModuleNotFoundError' in process.err.text
