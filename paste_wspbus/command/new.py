"""The subcommand ``new``: a package of a plugin or of a site, or an .ini, to begin with."""

from __future__ import annotations

from paste_wspbus.command.answer import print_answer
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

#: A sample that messages name.
SHOP = 'shop'


def new(options: Options) -> int:
    """Make what the command line names, in the working folder.

    :returns: 0.
    :raises UsageError: if the name is wrong, or it exists.
    """
    kind, *names = options.args[1:] or ['']
    if options.from_file is not None and kind != 'ini':
        raise UsageError(f'--from copies a sample: write new ini --from {SHOP}')
    if kind not in KINDS:
        hint = nearest(kind, KINDS) if kind else ''
        raise UsageError(
            f'new makes a plugin, a site or an ini, as in: new plugin acme-cache{hint}'
        )
    if len(names) > 1:
        raise UsageError(f'new {kind} takes one name: leave out {" ".join(names[1:])}')
    if kind == 'ini':
        path = names[0] if names else None
        if options.from_file is None:
            return _new_ini(path or INI)
        return _copy_sample(options.from_file, path) if options.from_file else _list()
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


def _copy_sample(name: str, path: str | None) -> int:
    from paste_wspbus.templates.copying import copy_sample, no_sample, samples

    known = samples()
    if name not in known:
        raise no_sample(name, known)
    sample = known[name]
    made = copy_sample(sample, path)
    following = sample.command.replace(sample.files[0].name, made[0])
    if sample.is_folder:
        folder, _, _ = made[0].rpartition('/')
        following = f'cd {folder}; {sample.command}'
    print_answer(f'Made {", ".join(made)}. Next: {following}')
    return DONE


def _list() -> int:
    """Print the samples."""
    from paste_wspbus.templates.copying import samples

    known = samples()
    width = max(map(len, known))
    print_answer(
        '\n'.join(f'{name:{width}}  {one.summary}' for name, one in known.items())
    )
    return DONE
