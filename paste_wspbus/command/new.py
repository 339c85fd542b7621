"""The subcommand ``new``: a package of a plugin or of a site, or an .ini, to begin with."""

from __future__ import annotations

from paste_wspbus.command.terminal import print_answer
from paste_wspbus.errors import UsageError
from paste_wspbus.exits import DONE
from paste_wspbus.templates.making import make_ini, make_package
from paste_wspbus.templates.names import package_of
from paste_wspbus.values import nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.process.options import Options

#: What can be made, and what to do with it.
KINDS = {
    'plugin': """
Next:
  cd {name}
  pip install -e '.[test]'
  pytest
  wspserve plugins {package}""",
    'site': """
Next:
  cd {name}
  pip install -e '.[test]'
  pytest
  wspserve setup-app development.ini
  wspserve development.ini --reload""",
    'ini': '',
}

#: The name of an .ini if none is given.
INI = 'site.ini'


def new(options: Options) -> int:
    """Make what the command line names, in the working folder.

    :returns: 0.
    :raises UsageError: if the name is wrong, or it exists.
    """
    kind, *names = options.args[1:] or ['']
    if kind not in KINDS:
        hint = nearest(kind, KINDS) if kind else ''
        raise UsageError(
            f'new makes a plugin, a site or an ini, as in: new plugin acme-cache{hint}'
        )
    if len(names) > 1:
        raise UsageError(f'new {kind} takes one name: leave out {" ".join(names[1:])}')
    if kind == 'ini':
        return _new_ini(names[0] if names else INI)
    if not names:
        raise UsageError(f'new {kind}: give it a name, as in: new {kind} acme-{kind}')
    (name,) = names
    package = package_of(name)
    made = make_package(kind, name, package, name)
    after = KINDS[kind].format(name=name, package=package)
    print_answer('\n'.join(['Made:', *(f'  {name}/{one}' for one in made), after]))
    return DONE


def _new_ini(path: str) -> int:
    make_ini(path)
    print_answer(f'Made {path}. Next: wspserve {path}')
    return DONE
