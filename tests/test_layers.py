"""Imports point down only (the map in the design)."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / 'paste_wspbus'

#: From the top to the bottom; what stands on one line does not import its neighbours.
LAYERS = [
    ['paster', '__main__'],
    ['hosts.zdaemon'],
    ['hosts.zdrun'],
    ['serve'],
    ['hosts.handover'],
    ['testing'],
    ['process', 'subcommands'],
    ['arguments'],
    ['checking'],
    ['reloading'],
    ['supervisor', 'preload', 'stopping'],
    ['learning', 'errorpage'],
    ['packages'],
    ['children'],
    ['worker'],
    ['hosts.gunicorn', 'hosts.uwsgi', 'hosts.mod_wsgi'],
    ['hosts.embedded'],
    ['hosts.site'],
    ['loader'],
    ['hello', 'middleware'],
    ['frameworks'],
    ['frameworks.turbogears'],
    [
        'frameworks.cherrypy',
        'frameworks.django',
        'frameworks.flask',
        'frameworks.pylons',
        'frameworks.pyramid',
        'frameworks.zope',
    ],
    ['frameworks.guests'],
    ['servers.cherrypy'],
    ['servers.waitress', 'servers.paste_http', 'servers.cheroot', 'servers.wsgiref'],
    ['servers.socketserver'],
    ['servers'],
    ['plugins.autoreload'],
    ['control', 'plugins.daemon', 'imported', 'watching'],
    ['plugins.win32'],
    [
        'plugins.pidfile',
        'plugins.restart',
        'plugins.signals',
        'plugins.sitelog',
        'plugins.systemd',
        'plugins.threads',
    ],
    ['plugins', 'sockets', 'handoff'],
    ['hosts'],
    [
        'activation',
        'events',
        'inheritance',
        'pserve',
        'report',
        'settings',
        'sources',
    ],
    ['bus'],
    ['channels', 'deadlines', 'interrupts'],
    ['errors'],
]
LEVEL = {module: level for level, layer in enumerate(LAYERS) for module in layer}

#: The only files that import these.
RESERVED = {'paste.deploy': {'loader'}, 'paste.script': {'paster'}}


def module_name(path):
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    return '.'.join(part for part in parts if part != '__init__')


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


MODULES = [path for path in PACKAGE.rglob('*.py') if module_name(path)]


@pytest.mark.parametrize('path', MODULES, ids=module_name)
def test_imports_point_down(path):
    module = module_name(path)
    for name in imports(path):
        if name.startswith('paste_wspbus.'):
            imported = name.removeprefix('paste_wspbus.')
            assert LEVEL[module] < LEVEL[imported], f'{module} imports {imported}'


@pytest.mark.parametrize('path', MODULES, ids=module_name)
def test_only_one_file_knows_paste_deploy_and_one_paste_script(path):
    for name in imports(path):
        for reserved, allowed in RESERVED.items():
            if name == reserved or name.startswith(f'{reserved}.'):
                assert module_name(path) in allowed


def test_the_bus_is_made_of_the_standard_library_alone():
    import sys

    for module in ('bus', 'channels', 'deadlines', 'interrupts', 'errors'):
        for name in imports(PACKAGE / f'{module}.py'):
            top = name.partition('.')[0]
            assert top in sys.stdlib_module_names or top == 'paste_wspbus', name
