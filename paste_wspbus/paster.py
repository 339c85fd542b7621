"""``paster wspserve``: the command as PasteScript's paster finds it."""

from __future__ import annotations

from paste_wspbus.arguments import SUMMARY
from paste_wspbus.serve import limit_the_end, main


class WspServeCommand:
    """A paster command (entry-point group paste.global_paster_command).

    paster itself asks for no more than ``run``, ``summary``, ``usage``,
    ``group_name``, ``description`` and ``hidden``.
    """

    summary = SUMMARY
    usage = 'CONFIG_FILE [var=value …]'
    group_name = ''
    description = None
    hidden = False

    def __init__(self, name: str) -> None:
        self.command_name = name

    def run(self, args: list[str]) -> int:
        """Serve; returns the exit code."""
        code = main(list(args), prog=f'paster {self.command_name}')
        limit_the_end()
        return code
