"""How the result of a subcommand is printed."""

from __future__ import annotations

import contextlib
import sys

from paste_wspbus.command.terminal import encodable, without_folder
from paste_wspbus.values import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def print_answer(text: str, *, absolute: bool = False) -> None:
    """Print the result of a subcommand.

    :param absolute: whether paths stay as they are. If not, they are relative to the
        working folder.
    """
    text = text if absolute else without_folder(text)
    text = encodable(printable(text, lines=True), sys.stdout)
    with contextlib.suppress(OSError):  # the reader may have ended
        print(text, flush=True)


def in_columns(rows: Sequence[tuple[str, ...]], gap: int = 2) -> list[str]:
    """Return the rows of a table as lines, in aligned columns with ``gap`` spaces between."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        (' ' * gap)
        .join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        .rstrip()
        for row in rows
    ]
