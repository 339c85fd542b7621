"""The entry point of ``paster wspserve``, a command of PasteScript's paster."""

from __future__ import annotations

import atexit

from paste_wspbus.command.arguments import SUMMARY
from paste_wspbus.command.leaving import finish
from paste_wspbus.command.main import main
from paste_wspbus.process.early_signals import ignore


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
