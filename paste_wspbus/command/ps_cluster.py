"""The subcommand ``ps --cluster``: all machines of the clusters of the running sites."""

from __future__ import annotations

import json

from paste_wspbus.command.answer import in_columns, print_answer
from paste_wspbus.command.cluster_text import COLUMNS, machines_of, rows
from paste_wspbus.command.ps import FORBIDDEN, SILENT
from paste_wspbus.control.status import text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


#: The state that is shown for a site that does not report its own.
SAID = {SILENT: SILENT, FORBIDDEN: 'does not answer this user: permission denied'}


def show(sites: list[dict[str, Any]], as_json: bool) -> None:
    """Print each cluster once, though several sites here may belong to it.

    :param sites: what `ps` knows of the sites, with ``cluster``, which may be nonsense.
    """
    clusters: dict[tuple[str, str], dict[str, Any]] = {}
    for site in sites:
        one = site['cluster']
        if isinstance(one, dict):
            key = text(one.get('name')), text(one.get('engine'))
            known = clusters.setdefault(key, one)
            if machines_of(known) is None and machines_of(one) is not None:
                clusters[key] = one
    found = [clusters[key] for key in sorted(clusters)]
    if as_json:
        print_answer(json.dumps(found, indent=2), absolute=True)
        return
    lines = [
        (text(one.get('name')), *row)
        for one in found
        for row in rows(machines_of(one) or [])
    ]
    print_answer('\n'.join(in_columns([('CLUSTER', *COLUMNS), *lines])), absolute=True)
    for one in found:
        if machines_of(one) is None:
            why = text(one.get('problem') or 'it has not answered yet')
            name, engine = text(one.get('name')), text(one.get('engine'))
            print_answer(
                f'The machines of {name} are not known: there is no word from {engine}: '
                f'{why}.',
                absolute=True,
            )
    silent = [site for site in sites if site['state'] in SAID]
    for site in silent:
        print_answer(f'{site["ini"]} {SAID[site["state"]]}.', absolute=True)
    if not found and not silent:
        print_answer('No site that runs here belongs to a cluster.')
