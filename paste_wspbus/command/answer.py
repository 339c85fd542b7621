"""How the result of a subcommand is printed."""

from __future__ import annotations

import contextlib
import functools
import sys

from paste_wspbus.command.terminal import encodable, print_line, without_folder
from paste_wspbus.errors import WSPBusError
from paste_wspbus.values import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class OutputLost(WSPBusError):
    """What the command prints cannot be written, such as on a full disk."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f'The output is not complete: {error.strerror}')


def print_answer(text: str, *, absolute: bool = False) -> None:
    """Print the result of a subcommand; if that fails, say so on standard error.

    The exit code stays that of the subcommand: scripts may need nothing else.

    :param absolute: whether paths stay as they are. If not, they are relative to the
        working folder.
    """
    try:
        print_document(text if absolute else without_folder(text))
    except OutputLost as error:
        _complain(str(error))


@functools.cache
def _complain(line: str) -> None:
    """Print a line once: a subcommand may print several answers."""
    print_line(line, 'stderr')


def print_document(text: str) -> None:
    """Print a text that is all that the command is for.

    :raises OutputLost: if it cannot be written. That its reader ends is no error.
    """
    text = encodable(printable(text, lines=True), sys.stdout)
    try:
        with contextlib.suppress(BrokenPipeError):
            print(text, flush=True)
    except OSError as error:
        raise OutputLost(error) from None


def in_columns(rows: Sequence[tuple[str, ...]], gap: int = 2) -> list[str]:
    """Return the rows of a table as lines, in aligned columns with ``gap`` spaces between."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        (' ' * gap)
        .join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        .rstrip()
        for row in rows
    ]
