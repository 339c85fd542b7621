"""What the reference has from the code: tables and lines, as Markdown.

    python docs/from_code.py NAME

prints one of them. `conf.py` puts each into the page that has ``<!-- from the code: NAME -->``
when the site is built, so nothing of it can be out of date. The package must be installed.
"""

import argparse
import ast
import json
import re
import sys
from pathlib import Path

from paste_wspbus import exits
from paste_wspbus.cluster import settings as cluster
from paste_wspbus.command import parser, plugins
from paste_wspbus.ini import typed
from paste_wspbus.ini.settings import SETTINGS
from paste_wspbus.metrics.families import FAMILIES
from paste_wspbus.plugins.signals import DEFAULTS
from paste_wspbus.process.rereading import _STAYS, OF_THE_SUPERVISOR

DOCS = Path(__file__).resolve().parent

MARK = re.compile(r'^<!-- from the code: (\w+) -->\n', re.M)

#: The pages of ready-made plugins that have no page in docs/ready/.
PAGES = {'accesslog': 'logging.md', 'otel': 'otel.md'}


def table(head, rows):
    """Return a table of Markdown."""
    lines = [head, ['---'] * len(head), *rows]
    return ''.join(f'| {" | ".join(cells)} |\n' for cells in lines)


def cell(text):
    """Return a text for a cell: Markdown would take a | for its end."""
    return ' '.join(text.replace('|', '\\|').split())


def code(text):
    """Return a text in code font."""
    return f'`{cell(text)}`'


# -- [wspbus:main] -------------------------------------------------------------------


def in_ini(value):
    """Return a default as an .ini writes it; '' if there is none."""
    if value in (None, ()):
        return ''
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ' '.join(value)
    return f'{value:g}' if isinstance(value, float) else str(value)


def facts(key):
    """Return the line that the code says of a key of [wspbus:main]."""
    setting = SETTINGS[key]
    default = in_ini(setting.default)
    parts = [
        f'*Takes* {cell(setting.takes)}',
        f'*default* `{default}`' if default else '*no default*',
    ]
    if key in _STAYS or key in OF_THE_SUPERVISOR or key == 'listen':
        parts.append('*a change* takes a stop and a start')
    return ' · '.join(parts)


def with_facts(page):
    """Return the page of the settings: the line of each key follows its heading."""

    def filled(found):
        key = found[1]
        return f'{found[0]}\n{facts(key)}\n' if key in SETTINGS else found[0]

    return re.sub(r'^### (\S+)\n', filled, page, flags=re.M)


# -- other sections ------------------------------------------------------------------


def meanings(page):
    """Return {key: what a page of the docs says of it}, from its table of keys.

    Links in it begin in the folder of the reference.
    """
    folder = (DOCS / page).parent.relative_to(DOCS).as_posix()
    folder = '..' if folder == '.' else f'../{folder}'

    def moved(found):
        if found[1].startswith('#'):
            return f']({folder}/{Path(page).name}{found[1]})'
        return f']({folder}/{found[1]})'

    rows = re.findall(r'^\| (`.*?) \| .*? \| (.*) \|$', (DOCS / page).read_text(), re.M)
    return {
        key: re.sub(r'\]\((?!\w+:)([^)]*)\)', moved, text)
        for keys, text in rows
        for key in re.findall(r'`(\w+)`', keys)
    }


def rows_of(settings, page):
    """Return the rows of a section: key, type, default, meaning."""
    said = meanings(page)
    for setting in settings.known.values():
        default = plugins._default(setting)
        is_word = default in ('required', 'none', 'see the code', '')
        yield [
            code(setting.name),
            cell(plugins._type(setting)),
            (default or 'empty') if is_word else code(default),
            said.get(setting.name, ''),
        ]


KEYS = ['key', 'type', 'default', 'meaning']


def page_of(plugin):
    """Return the page of a ready-made plugin, relative to docs/."""
    return PAGES.get(plugin, f'ready/{plugin}.md')


def ready():
    """Yield the entry point and the settings of each ready-made plugin."""
    for one in plugins.installed():
        if one.module.startswith('paste_wspbus.'):
            yield one, plugins._settings(one)


def plugin_sections():
    """Return a section of Markdown for each ready-made plugin."""
    parts = []
    for one, settings in ready():
        more = 'It takes other keys, too: see its page.\n\n' * settings.takes_more
        page = page_of(one.name)
        parts.append(
            f'### egg:paste_wspbus#{one.name}\n\n{plugins._summary(one)} '
            f'See [{page}](../{page}).\n\n{more}{table(KEYS, rows_of(settings, page))}'
        )
    return '\n'.join(parts)


def cluster_section():
    """Return the table of [cluster:main]."""
    settings = typed.settings_of(cluster._keys)
    return table(KEYS, rows_of(settings, 'many-machines.md'))


def server_sections():
    """Return the keys of the servers of this package."""
    from paste_wspbus.servers.cheroot import CherootServer
    from paste_wspbus.servers.paste_http import PasteServer
    from paste_wspbus.servers.wsgiref import WsgirefServer

    rows = [
        [f'`{use}`', ', '.join(map(code, adapter.known))]
        for use, adapter in (
            ('egg:paste_wspbus#cheroot', CherootServer),
            ('egg:paste_wspbus#wsgiref', WsgirefServer),
            ('egg:Paste#http', PasteServer),
        )
    ]
    return table(['server', 'keys'], rows)


# -- the command line ----------------------------------------------------------------


def command_line():
    """Return the groups of `--help`, a table each."""
    made = parser.make_parser('wspserve')
    parts = [f'```\n{made.format_usage().rstrip()}\n```\n']
    for group in made._action_groups:
        shown = [one for one in group._group_actions if one.help != argparse.SUPPRESS]
        if not shown:
            continue
        rows = []
        for action in shown:
            names = action.option_strings or [action.dest]
            value = ''
            if action.choices:
                value = ' ' + '|'.join(action.choices)
            elif action.option_strings and action.nargs != 0:
                value = f' {action.metavar or action.dest.upper()}'
            said = ', '.join(code(f'{name}{value}') for name in names)
            rows.append([said, f'{cell(action.help % {})}.'])
        title = group.title[0].upper() + group.title[1:]
        parts.append(f'## {title}\n\n{table(["word or option", "what it does"], rows)}')
    return '\n'.join(parts)


def comments(module):
    """Yield (names, comment above them) of the constants of a module."""
    lines = Path(module.__file__).read_text().splitlines()
    for node in ast.parse('\n'.join(lines)).body:
        if isinstance(node, ast.Assign):
            above, number = [], node.lineno - 2
            while lines[number].startswith('#:'):
                above.insert(0, lines[number].removeprefix('#:').strip())
                number -= 1
            target = node.targets[0]
            names = [one.id for one in getattr(target, 'elts', [target])]
            yield names, ' '.join(above)


def exit_codes():
    """Return the table of the exit codes, with what exits.py says of each."""
    rows = []
    for names, text in comments(exits):
        numbers = [str(getattr(exits, name)) for name in names]
        if len(numbers) == 1:
            rows.append([numbers[0], cell(text)])
            continue
        # `status`: one comment, which has the meaning of each in order.
        of, _, meant = text.partition(': ')
        for number, each in zip(numbers, meant.rstrip('.').split('; '), strict=True):
            rows.append([number, f'{of}: {cell(each)}.'])
    return table(['exit code', 'meaning'], rows)


def signals():
    """Return the table of the default targets of signals."""
    rows = [[f'`{name}`', f'`{target}`'] for name, target in DEFAULTS.items()]
    return table(['signal', '`signal.NAME` by default'], rows)


# -- what a running site says --------------------------------------------------------


def metrics():
    """Return the table of the metrics of the bus."""
    rows = []
    for one in FAMILIES:
        name = f'wspbus_{one.name}{"_total" * (one.kind == "counter")}'
        labels = ', '.join(map(code, one.labels)) or 'none'
        rows.append([code(name), one.kind, labels, cell(one.help)])
    return table(['metric', 'type', 'labels', 'what it is'], rows)


def type_in_words(schema, parts):
    """Return the type of a key of the JSON schema, in a few words.

    :param parts: the objects of the schema, by name.
    """
    if '$ref' in schema:
        name = schema['$ref'].rpartition('/')[2]
        is_optional = 'null' in parts[name].get('type', ())
        return f'[{name}](#{name}){" or null" * is_optional}'
    if 'enum' in schema:
        return ', '.join(code(str(one)) for one in schema['enum'])
    types = schema['type']
    said = ' or '.join([types] if isinstance(types, str) else types)
    items = schema.get('items', {})
    return f'{said} of {type_in_words(items, parts)}' if '$ref' in items else said


def meaning_of(schema, parts):
    """Return the description of a key, or that of the object that it has."""
    if '$ref' in schema:
        schema = {**parts[schema['$ref'].rpartition('/')[2]], **schema}
    return cell(schema['description'])


def status():
    """Return a section for each object of docs/status.schema.json."""
    parts = json.loads((DOCS / 'status.schema.json').read_text())['$defs']
    sections = []
    for name, one in parts.items():
        rows = [
            [code(key), type_in_words(value, parts), meaning_of(value, parts)]
            for key, value in one['properties'].items()
        ]
        heading = f'## {name}\n\n{one["description"]}\n\n'
        sections.append(heading + table(['key', 'type', 'meaning'], rows))
    return '\n'.join(sections)


PARTS = {
    'metrics': metrics,
    'status': status,
    'plugins': plugin_sections,
    'cluster': cluster_section,
    'servers': server_sections,
    'command': command_line,
    'exits': exit_codes,
    'signals': signals,
}


def filled(page):
    """Return a page with what the code says in the place of each mark."""
    if '<!-- from the code: settings -->' in page:
        page = with_facts(MARK.sub('', page))
    return MARK.sub(lambda found: PARTS[found[1]](), page)


if __name__ == '__main__':
    print(PARTS[sys.argv[1]]())
