"""The option ``--from``: it prints an .ini that says what the file of uWSGI says."""

from __future__ import annotations

from paste_wspbus.command.answer import print_document
from paste_wspbus.exits import DONE
from paste_wspbus.migration.uwsgi import translate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from paste_wspbus.process.options import Options


def from_uwsgi(options: Options) -> int:
    """Print the .ini.

    :returns: 0.
    :raises ConfigError: if the file cannot be read, or is no .ini of uWSGI.
    """
    print_document(translate(str(options.from_file)))
    return DONE
