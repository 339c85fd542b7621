"""The option ``--completion``: a shell's completion of the command, made from the parser."""

from __future__ import annotations

import shlex
from typing import NamedTuple

from paste_wspbus.command.answer import print_document
from paste_wspbus.command.arguments import SUBCOMMANDS, WITHOUT_FILE
from paste_wspbus.command.new import KINDS
from paste_wspbus.command.parser import make_parser
from paste_wspbus.command.subcommand_help import OF, options_of
from paste_wspbus.command.without_file import HELP, NEW
from paste_wspbus.exits import DONE
from paste_wspbus.templates.copying import samples

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from paste_wspbus.process.options import Options

#: From the name of a value in `--help` to its kind.
VALUES = {
    'FILE': 'file',
    'FILE|MACHINE': 'sample',
    'FILENAME': 'file',
    'LOG_FILE': 'file',
    'USERNAME': 'user',
    'GROUP': 'group',
}

#: The subcommand that a path follows.
TIMELINE = 'timeline'


class Option(NamedTuple):
    """An option of the parser, for a shell."""

    names: list[str]
    #: What it does, in one line.
    help: str
    #: The name of its value; '' if it has none.
    metavar: str
    #: 'file', 'user', 'group', 'sample' (after `new`, else a file), or '' for another value.
    kind: str
    #: The values from which one is chosen.
    choices: list[str]
    repeats: bool


def completion(options: Options) -> int:
    """Print the script for the shell that ``--completion`` names.

    :returns: 0.
    """
    script = SCRIPTS[str(options.completion)]()
    print_document(script.removesuffix('\n'))
    return DONE


def known_options() -> list[Option]:
    """Return the options that the parser knows."""
    made = (_option(action) for action in make_parser('wspserve')._actions)
    return [option for option in made if option.names]


def _option(action: argparse.Action) -> Option:
    choices = [str(choice) for choice in action.choices or ()]
    has_value = action.nargs != 0
    metavar = str(action.metavar or action.dest.upper()) if has_value else ''
    return Option(
        list(action.option_strings),
        (action.help or '') % {},
        metavar,
        VALUES.get(metavar, '') if has_value else '',
        choices,
        repeats=type(action).__name__
        in ('_AppendAction', '_CountAction', '_ExtendAction'),
    )


def _words(words: Iterable[str]) -> str:
    return ' '.join(words)


def _either(words: Iterable[str]) -> str:
    return '|'.join(words)


def _names(kind: str | None = None) -> list[str]:
    """Return the names of the options that take a value: of all, or of one kind."""
    return [
        name
        for option in known_options()
        for name in option.names
        if option.metavar and (kind is None or kind == option.kind)
    ]


def _own_names(subcommand: str) -> list[str]:
    """Return the names of the options that a subcommand takes."""
    own = options_of(subcommand)
    return [name for one in known_options() if own & {*one.names} for name in one.names]


def _filled(script: str, **more: str) -> str:
    """Put what all scripts need into the place of each @NAME@."""
    found = {
        'NEEDS_VALUE': _either(_names()),
        'SUBCOMMANDS': _words(SUBCOMMANDS),
        'WITHOUT_FILE': _words(WITHOUT_FILE),
        'KINDS': _words(KINDS),
        'NEW': NEW,
        'SAMPLES': _words(samples()),
        'TIMELINE': TIMELINE,
        'WITH_OPTIONS': _words(OF),
        **more,
    }
    for name, text in found.items():
        script = script.replace(f'@{name}@', text)
    return script


# -- bash ----------------------------------------------------------------------------

#: Bash 3.2 and newer. In it, `=` and `:` are words of their own.
BASH = r"""# bash completion of wspserve, made by: wspserve --completion bash

_wspserve_add() {
    local one
    while IFS= read -r one; do COMPREPLY+=("$one"); done
}

_wspserve_paths() {
    compopt -o filenames 2>/dev/null
    _wspserve_add < <(compgen -d -- "$1"; compgen -f -X "$2" -- "$1" |
        while IFS= read -r one; do [[ -d $one ]] || printf '%s\n' "$one"; done)
}

_wspserve_sample() {
    if [[ $2 == @NEW@ ]]; then
        _wspserve_add < <(compgen -W '@SAMPLES@' -- "$1")
    else
        _wspserve_paths "$1" ''
    fi
}

_wspserve() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local i word file='' sub='' last='' options='@OPTIONS@'
    COMPREPLY=()
    if [[ $cur == = ]]; then
        cur=''
    elif [[ $prev == = ]]; then
        prev=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        case $word in
            @NEEDS_VALUE@)
                [[ ${COMP_WORDS[i + 1]} == = ]] && ((i++))
                ((i++)) ;;
            -*) ;;
            *)
                if [[ -z $file ]]; then
                    file=$word
                elif [[ " @SUBCOMMANDS@ " == *" $word "* ]]; then
                    sub=$word
                fi
                last=$word ;;
        esac
    done
    case $prev in
@CASES@
    esac
    case ${sub:-$file} in
@OWN@
    esac
    case $cur in
        -*) _wspserve_add < <(compgen -W "$options" -- "$cur"); return ;;
    esac
    if [[ -z $file ]]; then
        _wspserve_paths "$cur" '!*.ini'
        _wspserve_add < <(compgen -W '@WITHOUT_FILE@' -- "$cur")
    elif [[ $file == @NEW@ && $last == @NEW@ ]]; then
        _wspserve_add < <(compgen -W '@KINDS@' -- "$cur")
    elif [[ $sub == @TIMELINE@ ]]; then
        _wspserve_paths "$cur" ''
    elif [[ -z $sub && " @WITHOUT_FILE@ " != *" $file "* ]]; then
        _wspserve_add < <(compgen -W '@SUBCOMMANDS@' -- "$cur")
    fi
}

complete -F _wspserve wspserve
"""


def bash() -> str:
    """Return the script for bash."""
    lines = [
        f'{_either(option.names)}) _wspserve_add < '
        f'<(compgen -W {shlex.quote(_words(option.choices))} -- "$cur"); return ;;'
        for option in known_options()
        if option.choices
    ]
    add = '_wspserve_add < <(compgen {} -- "$cur"); return ;;'
    lines += [
        f'{_either(_names("file"))}) _wspserve_paths "$cur" \'\'; return ;;',
        f'{_either(_names("sample"))}) _wspserve_sample "$cur" "$file"; return ;;',
        f'{_either(_names("user"))}) {add.format("-u")}',
        f'{_either(_names("group"))}) {add.format("-g")}',
        f'{_either(_names())}) return ;;',
    ]
    names = [name for option in known_options() for name in option.names]
    return _filled(
        BASH,
        CASES='\n'.join(f'        {line}' for line in lines),
        OPTIONS=_words(names),
        OWN='\n'.join(
            f"        {one}) options='{_words(_own_names(one))}' ;;" for one in OF
        ),
    )


# -- zsh -----------------------------------------------------------------------------

ZSH = r"""#compdef wspserve
# zsh completion of wspserve, made by: wspserve --completion zsh

_wspserve_first() {
    local -a commands=(
@COMMANDS@
    )
    _alternative 'files:file:_files -g "*.ini"' \
        'commands:subcommand:{_describe -t commands subcommand commands}'
}

_wspserve_sample() {
    local -a before=(${words[1,CURRENT-1]})
    if (( ${before[(I)@NEW@]} )); then
        compadd -- @SAMPLES@
    else
        _files
    fi
}

_wspserve_more() {
    local -a subcommands=(
@SUBS@
    )
    local -a before=(${words[1,CURRENT-1]})
    local first=$line[1]
    if [[ $first == @NEW@ ]]; then
        [[ $before[-1] == @NEW@ ]] && compadd -- @KINDS@
    elif (( ${before[(I)@TIMELINE@]} )); then
        _files
    elif (( ! ${${(s: :)${:-@WITHOUT_FILE@}}[(I)$first]} )); then
        local name
        for name in ${subcommands%%:*}; do
            (( ${before[(I)$name]} )) && return
        done
        _describe -t subcommands subcommand subcommands
    fi
}

_wspserve() {
    local -a line own kept options=(
@OPTIONS@
    )
    local word one name
    for word in ${words[2,CURRENT-1]}; do
        case $word in
@OWN@
        esac
    done
    for one in $options; do
        name=${${${one#\(*\)}#\*}%%[=\[]*}
        (( ! $#own || ${own[(Ie)$name]} )) && kept+=("$one")
    done
    _arguments -s -S $kept \
        '1:file or subcommand:_wspserve_first' \
        '*:subcommand or variable:_wspserve_more'
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _wspserve "$@"
else
    compdef _wspserve wspserve
fi
"""

_ZSH_ACTIONS = {
    'file': '_files',
    'user': '_users',
    'group': '_groups',
    'sample': '_wspserve_sample',
    '': ' ',
}


def zsh() -> str:
    """Return the script for zsh."""
    return _filled(
        ZSH,
        OPTIONS='\n'.join(f'        {_zsh_option(one)}' for one in known_options()),
        OWN='\n'.join(
            f'            {one}) own=({_words(_own_names(one))}) ;;' for one in OF
        ),
        COMMANDS=_zsh_list({name: HELP[name] for name in WITHOUT_FILE}),
        SUBS=_zsh_list(SUBCOMMANDS),
    )


def _zsh_list(texts: dict[str, str]) -> str:
    rows = (shlex.quote(f'{name}:{text}') for name, text in texts.items())
    return '\n'.join(f'        {row}' for row in rows)


def _zsh_option(option: Option) -> str:
    text = option.help
    for special in '\\[]:':
        text = text.replace(special, f'\\{special}')
    spec = f'[{text}]'
    if option.metavar:
        action = _ZSH_ACTIONS[option.kind]
        if option.choices:
            action = f'({_words(option.choices)})'
        spec += f':{option.metavar}:{action}'
    first = '*' if option.repeats else f'({_words(option.names)})'
    # A long option has its value behind a space or an equals sign.
    names = [
        f'{name}=' if option.metavar and name.startswith('--') else name
        for name in option.names
    ]
    quoted = shlex.quote(spec)
    if len(names) == 1:
        return f'{shlex.quote(first + names[0])}{quoted}'
    return f'{shlex.quote(first)}{{{",".join(names)}}}{quoted}'


# -- fish ----------------------------------------------------------------------------

FISH = r"""# fish completion of wspserve, made by: wspserve --completion fish

# Print the words before the cursor that are neither options nor values of options.
function __wspserve_words
    set -l skip 0
    for word in (commandline -opc)[2..-1]
        if test $skip = 1
            set skip 0
        else if contains -- $word @VALUED@
            set skip 1
        else if not string match -q -- '-*' $word
            echo -- $word
        end
    end
end

function __wspserve_needs_file
    set -l words (__wspserve_words)
    test (count $words) = 0
end

function __wspserve_needs_subcommand
    set -l words (__wspserve_words)
    test (count $words) -ge 1
    and not contains -- $words[1] @WITHOUT_FILE@
    or return 1
    for word in $words[2..-1]
        contains -- $word @SUBCOMMANDS@
        and return 1
    end
    return 0
end

# Succeed if the line has no subcommand, or if its subcommand is an argument.
function __wspserve_takes
    for word in (__wspserve_words)
        if contains -- $word @WITH_OPTIONS@
            contains -- $word $argv
            return
        end
    end
    return 0
end

function __wspserve_needs_kind
    set -l words (__wspserve_words)
    test "$words" = @NEW@
end

function __wspserve_sample
    set -l words (__wspserve_words)
    if test "$words[1]" = @NEW@
        string split ' ' '@SAMPLES@'
    else
        __fish_complete_path (string replace -r '^--[^=]*=' '' -- (commandline -ct))
    end
end

function __wspserve_needs_picture
    set -l words (__wspserve_words)
    contains -- @TIMELINE@ $words[2..-1]
end

complete -c wspserve -f
complete -c wspserve -n __wspserve_needs_file -a '(__fish_complete_suffix .ini | string match -r ".*\.ini(?:\t.*)?\$|.*/(?:\t.*)?\$")'
complete -c wspserve -n __wspserve_needs_kind -a '@KINDS@'
complete -c wspserve -n __wspserve_needs_picture -F
@COMPLETES@
"""

_FISH_VALUES = {
    'file': '-r -F',
    'user': "-x -a '(__fish_complete_users)'",
    'group': "-x -a '(__fish_complete_groups)'",
    'sample': "-x -a '(__wspserve_sample)'",
    '': '-x',
}


def fish() -> str:
    """Return the script for fish."""
    named = [('__wspserve_needs_file', name, HELP[name]) for name in WITHOUT_FILE]
    named += [('__wspserve_needs_subcommand', *one) for one in SUBCOMMANDS.items()]
    lines = [
        f'complete -c wspserve -n {condition} -a {name} -d {_fish_quoted(text)}'
        for condition, name, text in named
    ]
    lines += [_fish_option(option) for option in known_options()]
    return _filled(FISH, COMPLETES='\n'.join(lines), VALUED=_words(_names()))


def _fish_option(option: Option) -> str:
    takers = [one for one in OF if options_of(one) & {*option.names}]
    parts = [f"complete -c wspserve -n '__wspserve_takes {_words(takers)}'"]
    for name in option.names:
        parts.append(f'-l {name[2:]}' if name.startswith('--') else f'-s {name[1:]}')
    if option.choices:
        parts.append(f'-x -a {_fish_quoted(_words(option.choices))}')
    elif option.metavar:
        parts.append(_FISH_VALUES[option.kind])
    return ' '.join([*parts, '-d', _fish_quoted(option.help)])


def _fish_quoted(text: str) -> str:
    text = text.replace('\\', '\\\\').replace("'", "\\'")
    return f"'{text}'"


#: The shells that it can be printed for.
SCRIPTS = {'bash': bash, 'zsh': zsh, 'fish': fish}
