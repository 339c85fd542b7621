"""The names that a page of the documentation uses and the package does not have."""

import configparser
import re
import signal

from paste_wspbus import exits
from paste_wspbus.bus.messages import RESERVED
from paste_wspbus.command.arguments import SUBCOMMANDS, WITHOUT_FILE
from paste_wspbus.metrics.families import FAMILIES
from paste_wspbus.plugins import CHANNELS
from tests.kit.places import ROOT
from tests.project.pages import FENCE, PAGES
from tests.project.said import PACKAGE

SOURCES = [path.read_text() for path in sorted(PACKAGE.rglob('*.py'))]

#: The ends of the names under which Prometheus has a metric of each type.
ENDS = {
    'counter': ['_total'],
    'gauge': [''],
    'histogram': ['', '_bucket', '_sum', '_count'],
}

METRICS = {f'wspbus_{one.name}{end}' for one in FAMILIES for end in ENDS[one.kind]}

#: What else begins like a metric: fixtures for pytest, and templates for paster.
ALIKE = {name for text in SOURCES for name in re.findall(r'\bdef (wspbus_\w+)', text)}

#: Keys of environ, and attributes of spans.
KEYS = {name for text in SOURCES for name in re.findall(r"'(wspbus\.\w+)'", text)}

#: 128 and the number of a signal is what a shell has for a process that the signal ended.
CODES = {value for value in vars(exits).values() if isinstance(value, int)} | {
    exits.of_signal(one) for one in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
}

#: Exit codes of other programs, which the same paragraph names. uWSGI: FAILED_APP_CODE.
OF_OTHERS = {22: 'uWSGI'}


def entry_points():
    """{group: the names of its entry points}, as setup.cfg has them."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / 'setup.cfg')
    return {
        group: set(re.findall(r'^([\w.-]+) *=', names, re.M))
        for group, names in setup['options.entry_points'].items()
    }


GROUPS = entry_points()

#: The groups in which other packages have entry points for this one.
FOREIGN = {
    name
    for text in SOURCES
    for name in re.findall(r"'(paste_wspbus\.\w+_factory)'", text)
}

#: How a page, or a sample, uses a channel, and how it hears of it.
USES = re.compile(r"""\b(?:publish|post|broadcast|ask)\(\s*['"]([\w.]+)""")
HEARS = re.compile(r"""(?:\b(?:subscribe|accept)\(|@(?:\w+\.)?on\()\s*['"]([\w.]+)""")
SAID = re.compile(
    r"'([a-z_.]+)'(?= (?:listener|channel|subscriber|is published))|publishes '([a-z_.]+)'"
)


def own_channels():
    """The channels of the sites in the documentation: used in one place, heard in one."""
    texts = [one.read_text() for one in (*PAGES, *ROOT.glob('sample_ini/**/*.py'))]
    used, heard = (
        {name for text in texts for name in found.findall(text)}
        for found in (USES, HEARS)
    )
    return used & heard


ALL_CHANNELS = {
    *(*CHANNELS, *RESERVED, *own_channels()),
    *(name for text in SOURCES for name in USES.findall(text)),
}


#: A command in code: at its beginning, after a prompt or another command, or as a path.
COMMAND = re.compile(
    r'(?:^|[$;&/] ?|paster |sudo )wspserve +([^|;&#\n]+)', re.MULTILINE
)

EXITS = re.compile(r'\bexit(?:s|ed)?\s(?:with\s|codes?\s)+`?(\d+)')


def wrong_metrics(text):
    """A name that ends with _ stands for all that begin with it."""
    known = METRICS | ALIKE | GROUPS['paste.paster_create_template']
    for name in re.findall(r'(?<![\w./-])wspbus_\w+', text):
        is_begin = name.endswith('_') and any(one.startswith(name) for one in METRICS)
        if name not in known and not is_begin:
            yield name


def wrong_keys(text):
    for name in re.findall(r'(?<![\w./-])wspbus\.[a-z]\w*', text):
        if name not in KEYS:
            yield name


def wrong_entry_points(text):
    """Those of `egg:paste_wspbus#NAME`."""
    known = {'NAME'}.union(*GROUPS.values())  # NAME stands for any
    for name in re.findall(r'\begg:paste_wspbus#([\w-]+)', text):
        if name not in known:
            yield f'egg:paste_wspbus#{name}'


def wrong_paths(text):
    """Names of groups and loggers, and of modules and what is in them."""
    for name in re.findall(r'(?<![\w./-])paste_wspbus(?:[.:][a-zA-Z]\w*)+', text):
        if name in {*GROUPS, *FOREIGN} or re.fullmatch(r'paste_wspbus\.worker\d', name):
            continue
        if not is_there(re.split('[.:]', name)[1:]):
            yield name


def is_there(names):
    """Whether the package has a module, or a module that has a name."""
    at = PACKAGE
    while names and (at / names[0]).is_dir():
        at /= names.pop(0)
    if names and (at / f'{names[0]}.py').exists():
        at /= f'{names.pop(0)}.py'
    else:
        at /= '__init__.py'
    return at.exists() and (not names or re.search(rf'\b{names[0]}\b', at.read_text()))


def wrong_subcommands(text):
    """In code: the word that follows an .ini, or that stands in its place."""
    known = {*SUBCOMMANDS, *WITHOUT_FILE, 'help'}
    fences = [code for _, language, code in FENCE.findall(text) if language != 'text']
    for code in (*fences, *re.findall(r'`([^`\n]+)`', FENCE.sub('', text))):
        for command in COMMAND.findall(code):
            words = command.split()
            for before, word in zip(['', *words], words, strict=False):
                is_place = not before or before.endswith('.ini')
                is_word = re.fullmatch(r'[a-z][a-z-]+', word)
                if is_place and is_word and word not in known:
                    yield f'wspserve {command.strip()}'


def wrong_channels(text):
    used, heard = set(USES.findall(text)), set(HEARS.findall(text))
    said = {one or other for one, other in SAID.findall(text)}
    return (used | heard | said) - ALL_CHANNELS - (used & heard)


def wrong_exit_codes(text):
    for paragraph in re.split(r'\n\s*\n', text):
        for number in map(int, EXITS.findall(paragraph)):
            if number not in CODES and OF_OTHERS.get(number, '\0') not in paragraph:
                yield f'exit code {number}'


FINDERS = (
    wrong_metrics,
    wrong_keys,
    wrong_entry_points,
    wrong_paths,
    wrong_subcommands,
    wrong_channels,
    wrong_exit_codes,
)


def wrong_names(text):
    """All names of a text that the package does not have."""
    return [name for find in FINDERS for name in find(text)]
