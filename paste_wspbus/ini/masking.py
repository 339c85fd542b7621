"""Settings and messages as a report may show them: without passwords and other secrets."""

from __future__ import annotations

import contextlib
import json
import os
import re
from urllib.parse import quote, unquote

from paste_wspbus.errors import ConfigError
from paste_wspbus.ini.factories import SERVER
from paste_wspbus.ini.settings import section_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from paste_wspbus.ini.config import Config

#: The text that is shown in the place of a secret.
MASK = '***'

#: The key of a value that is not shown. The short words stand alone: ``smtp_pass`` is a
#: secret, ``bypass`` and ``mapping`` are none.
_SECRET_KEY = re.compile(
    r'dsn|passw|passphrase|pwd|secret|token|key|credential|auth|cookie|salt'
    r'|private|bearer|signature|webhook|licen[cs]e|otlp\w*headers'
    r'|(?<![a-z])(?:pass|pin|jwt|hmac|seed|otp)(?![a-z])',
    re.I,
)

#: What looks like a generated secret, whatever its key is: letters with figures among them
#: (AKIA…, sk_live_…, hexadecimal figures, the last part of a webhook).
_GENERATED = re.compile(r'(?=[a-z]*[0-9])(?=[0-9]*[a-z])[a-z0-9]{16,}', re.I)

#: What follows names such as password=, also in JSON and in Python's repr.
_NAMED = re.compile(
    r'((?:passw(?:or)?d|passphrase|(?<![a-z])pass|pwd|secret|token|api[-_]?key|dsn'
    r'|authorization)\w*["\']?\s*[=:]\s*)("[^"]*"|\'[^\']*\'|(?:(?:bearer|basic)\s+)?[^\s;,&]+)',
    re.I,
)

#: What is masked in other texts: the user and password of a URL, up to the last @ of the
#: word, because a password may have an @ in it; the query of a URL; what follows a name.
_SECRETS = (
    (re.compile(r'://\S*@'), f'://{MASK}@'),
    (re.compile(r'\?[^\s?]\S*'), f'?{MASK}'),
    (_NAMED, rf'\1{MASK}'),
)


#: The user and password of a URL in a line for people: what follows a / is a path.
_CREDENTIALS = re.compile(r'://[^\s/@]*@')

#: The password of a URL.
_PASSWORD = re.compile(r'://[^\s/@:]*:(\S+)@')

#: The values inside of a value such as authorization=…,x-team=….
_ASSIGNED = re.compile(r'=([^\s,;&=]+)')

#: What separates URLs in one value.
_NEXT_URL = re.compile(r'[\s,;|]+(?=[a-z][a-z0-9+.-]*://)', re.I)

#: The number of characters of a secret at least: shorter ones are parts of other words.
_SHORTEST = 4

#: The same of a variable of the environment: AUTH=false and TOKEN_TTL=3600 are no secrets.
_SHORTEST_VARIABLE = 6

#: Values of keys such as ``auth`` that are no secrets: their words are in many texts.
_SWITCHES = ('true', 'false', 'none', 'null', 'enabled', 'disabled')

#: Variables whose names only look like that of a password.
_FOLDERS = ('PWD', 'OLDPWD')

#: The sections of logging, whose keys are names of parts.
_LOGGING = re.compile(r'(loggers|handlers|formatters)$|(logger|handler|formatter)_')


def secrets_of(config: Config) -> list[str]:
    """Return the values of an .ini and of the environment that are secrets, the longest first.

    They are the values of keys such as password and token, the passwords of URLs, and
    what an .ini has that looks generated, as the site gets them: variables are replaced. Of
    a value of several lines, each line is a secret, too. Each is there in all forms in
    which libraries and Python show it (`_forms_of`). A value that the file also shows
    elsewhere is not a secret: ``beaker.session.key = shop`` hides neither egg:shop nor
    /srv/shop.
    """
    variables = {
        key: value for key, value in os.environ.items() if not _is_plain(key, value)
    }
    found, openly = _secrets_in(variables), [config.file or '']
    for section in config.loader.parser.sections() if config.file else ():
        if _LOGGING.match(section):
            continue
        openly.append(section)
        with contextlib.suppress(ConfigError):
            values = config.section(section)
            openly.append(values.get('use', ''))
            found |= _secrets_in(values) | _generated_in(values)
    forms = {form for one in found for form in _forms_of(one)}
    return sorted(
        (
            one
            for one in forms
            if len(one) >= _SHORTEST and not any(one in text for text in openly)
        ),
        key=len,
        reverse=True,
    )


def _is_plain(variable: str, value: str) -> bool:
    """Whether a variable of the environment is no secret, although its name looks like one."""
    return (
        len(value) < _SHORTEST_VARIABLE
        or variable in _FOLDERS
        or (os.path.isabs(value) and os.path.exists(value))  # SSH_AUTH_SOCK
    )


def _secrets_in(values: Mapping[str, str]) -> set[str]:
    found: set[str] = set()
    for key, value in values.items():
        for part in _NEXT_URL.split(value):
            found.update(_PASSWORD.findall(part))
        for named, secret in _NAMED.findall(value):
            is_factory = (
                named.endswith(':') and secret.isidentifier()
            )  # shop.token:make
            if not is_factory:
                found.add(secret.strip('"\''))
        # A DSN that is a URL without a password is the address of a database.
        is_address = '://' in value and '@' not in value and 'dsn' in key.lower()
        if _SECRET_KEY.search(key) and not is_address:
            found.update(map(str.strip, [value, *value.splitlines()]))
            found.update(_ASSIGNED.findall(value))
    return {one for one in found if one.lower() not in _SWITCHES}


def _generated_in(values: Mapping[str, str]) -> set[str]:
    """Return the parts of values that look like generated secrets; paths have none."""
    return {
        found
        for value in values.values()
        if not os.path.isabs(value)
        for found in _GENERATED.findall(value)
    }


def _forms_of(secret: str) -> set[str]:
    """Return a secret as texts may have it: as it is, in a URL, in Python's repr, in JSON."""
    if not secret:
        return set()
    written = (secret, repr(secret)[1:-1], ascii(secret)[1:-1])
    return {*written, unquote(secret), quote(secret, safe=''), json.dumps(secret)[1:-1]}


def masked_text(text: str, secrets: Iterable[str] = ()) -> str:
    """Return a text without the passwords of URLs, the queries of URLs, and `password=…`.

    :param secrets: further texts that are not shown: see `secrets_of`.
    """
    for secret in secrets:
        text = text.replace(secret, MASK)
    for pattern, mask in _SECRETS:
        text = pattern.sub(mask, text)
    return text


def without_secrets(text: str, config: Config) -> str:
    """Return a line for people without the secrets of an .ini, and the passwords of URLs.

    Its other words stay: ``[plugin:db] password: it is missing`` names no secret.
    """
    for secret in secrets_of(config):
        text = text.replace(secret, MASK)
    return _CREDENTIALS.sub(f'://{MASK}@', text)


def masked_value(key: str, value: str) -> str:
    """Return the value of a key; of a key that names a secret, only that there is one."""
    if _SECRET_KEY.search(key):
        return MASK if value.strip() else ''
    return masked_text(value, _generated_in({key: value}))


def masked_settings(
    config: Config, server_name: str | None = None
) -> dict[str, dict[str, str]]:
    """Return the sections that say how the site runs: [wspbus:main] and [server:NAME].

    The values are as the file has them: ``%(ENV_NAME)s`` is not replaced, so that no value
    of the environment and of the command line is shown. The sections of applications and
    plugins, in which most secrets are, are left out.

    :returns: {section: {key: value}}; {} if there is no file.
    """
    if config.file is None:
        return {}
    parser = config.loader.parser
    sections = [section_of(config.loader) or '']
    with contextlib.suppress(ConfigError):  # --listen says where the site serves
        sections.append(config.loader.find_config_section(SERVER, server_name))
    return {
        section: {
            key: masked_value(key, str(value))
            for key, value in parser._sections[section].items()
            if key != '__name__'
        }
        for section in sections
        if section in parser._sections
    }
