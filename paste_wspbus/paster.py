"""What PasteScript's paster finds: ``paster wspserve``, and templates of ``paster create``."""

from __future__ import annotations

import atexit
import os

from paste_wspbus.command.arguments import SUMMARY
from paste_wspbus.command.leaving import finish
from paste_wspbus.command.main import main
from paste_wspbus.errors import UsageError
from paste_wspbus.process.early_signals import ignore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class WspServeCommand:
    """A paster command (entry-point group paste.global_paster_command).

    paster uses only ``run``, ``summary``, ``usage``, ``group_name``, ``description`` and
    ``hidden``.
    """

    summary = SUMMARY
    usage = 'CONFIG_FILE [var=value …]'
    group_name = ''
    description = None
    hidden = False

    def __init__(self, name: str) -> None:
        self.command_name = name

    def run(self, args: list[str]) -> int:
        """Run the command, and return the exit code."""
        atexit.register(ignore)
        name = f'paster {self.command_name}'
        return finish(main(list(args), prog=name, owns_process=True))


class PluginTemplate:
    """``paster create -t wspbus_plugin`` (entry-point group paste.paster_create_template).

    It makes what ``wspserve new plugin`` makes. paster uses the attributes and methods here,
    and no others.
    """

    kind = 'plugin'
    summary = 'A plugin for sites on the Web Site Process Bus'
    egg_plugins: tuple[str, ...] = ()
    required_templates: tuple[str, ...] = ()

    def __init__(self, name: str) -> None:
        self.name = name

    def read_vars(self, command: Any = None) -> list[Any]:
        """Return the variables that paster asks for: there are none."""
        return []

    def check_vars(self, vars: dict[str, Any], command: Any) -> dict[str, Any]:
        """Take the variables of the command line as they are."""
        return vars

    def template_dir(self) -> str:
        """Return the folder of the template, for ``paster create --inspect-files``."""
        package = os.path.dirname(os.path.abspath(__file__))
        return os.path.join(package, 'templates', self.kind)

    def run(self, command: Any, output_dir: str, vars: dict[str, Any]) -> None:
        """Make the package.

        :raises BadCommand: paster's error, if the name is wrong or the folder exists.
        """
        from paste.script.command import BadCommand

        from paste_wspbus.templates.making import make_package, refuse_existing
        from paste_wspbus.templates.names import package_of

        try:
            package = package_of(vars['project'])
            if command.options.simulate:
                refuse_existing(output_dir)
                return
            for path in make_package(self.kind, vars['project'], package, output_dir):
                if command.verbose:
                    print(f'  {os.path.join(output_dir, path)}')
        except UsageError as error:
            raise BadCommand(str(error)) from None


class SiteTemplate(PluginTemplate):
    """``paster create -t wspbus_site``: it makes what ``wspserve new site`` makes."""

    kind = 'site'
    summary = 'A site on the Web Site Process Bus'
