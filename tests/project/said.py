"""The messages of the code that a user can meet, as patterns: … stands for what varies.

They are the texts of all errors of the package (`WSPBusError` and its subclasses, and what
makes them), and of all log records at ERROR.
"""

import ast
import functools
import itertools
import re
from typing import NamedTuple

from tests.kit.places import ROOT

PACKAGE = ROOT / 'paste_wspbus'

#: What varies.
ANY = '…'

#: Methods and local functions that make an error of a problem.
MAKERS = {'wrong', 'error', 'exception', '_wrong', 'mistake'}

#: Keyword arguments of errors that are texts for people.
TEXTS = {'problem', 'reason', 'why', 'line'}


class Said(NamedTuple):
    """A message, and where the code has it."""

    pattern: str
    place: str


@functools.cache
def modules():
    """{path: tree} of the package, without the templates."""
    paths = (
        path for path in sorted(PACKAGE.rglob('*.py')) if 'templates' not in path.parts
    )
    return {path: ast.parse(path.read_text()) for path in paths}


@functools.cache
def errors():
    """The names of the subclasses of WSPBusError."""
    classes = [
        node
        for tree in modules().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    ]
    found, before = {'WSPBusError'}, set()
    while found != before:
        before = set(found)
        found |= {
            one.name
            for one in classes
            if any(ast.unparse(base).rpartition('.')[2] in found for base in one.bases)
        }
    return found


def patterns(node, names):
    """The texts that an expression may be; none if it is not a text of the code."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        fields = [
            [part.value]
            if isinstance(part, ast.Constant)
            else patterns(part.value, names) or [ANY]
            for part in node.values
        ]
        return [''.join(texts) for texts in itertools.product(*fields)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = [patterns(one, names) for one in (node.left, node.right)]
        if not any(sides):
            return []
        return [a + b for a in sides[0] or [ANY] for b in sides[1] or [ANY]]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        return [re.sub(r'%[rsdg]', ANY, one) for one in patterns(node.left, names)]
    if isinstance(node, ast.IfExp):
        return [*patterns(node.body, names), *patterns(node.orelse, names)]
    if isinstance(node, ast.Name):
        return [text for one in names.get(node.id, ()) for text in patterns(one, {})]
    return []


@functools.cache
def assigned(scope):
    """{name: the expressions that a function or a module gives it}."""
    found = {}
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    found.setdefault(target.id, []).append(node.value)
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            values = found.setdefault(node.target.id, [])
            for index, value in enumerate(values):
                if value.end_lineno == node.lineno - 1:  # the text goes on
                    values[index] = ast.copy_location(
                        ast.BinOp(value, ast.Add(), node.value), node
                    )
                    break
            else:
                values.append(node.value)
    return found


def is_message(call):
    """Whether a call makes an error, or logs at ERROR."""
    name = getattr(call.func, 'attr', getattr(call.func, 'id', ''))
    levels = [one.value for one in call.keywords if one.arg == 'level']
    levels += call.args[1:2] if name in ('log', '_log') else []
    if any(isinstance(one, ast.Constant) and one.value in (40, 50) for one in levels):
        return True
    return name in errors() or name in MAKERS


@functools.cache
def messages():
    """All messages of the code."""
    found = set()
    for path, tree in modules().items():
        place = path.relative_to(PACKAGE).as_posix()
        globals_ = assigned(
            ast.Module([n for n in tree.body if isinstance(n, ast.Assign)], [])
        )
        for scope in ast.walk(tree):
            if isinstance(scope, ast.ClassDef) and scope.name in errors():
                own = supers(scope)
            elif isinstance(scope, (ast.FunctionDef, ast.AsyncFunctionDef)):
                own = (
                    (argument, scope)
                    for node in ast.walk(scope)
                    if isinstance(node, ast.Call) and is_message(node)
                    for argument in arguments(node)
                )
            else:
                continue
            for argument, function in own:
                for text in patterns(argument, {**globals_, **assigned(function)}):
                    text = re.sub(r'%[rsdg]', ANY, ' '.join(text.split()))
                    if is_sentence(text):
                        found.add(Said(text, place))
    return found


def arguments(call):
    return [*call.args, *(one.value for one in call.keywords if one.arg in TEXTS)]


def supers(error):
    """The texts that the class of an error gives to Exception."""
    for function in error.body:
        if isinstance(function, ast.FunctionDef) and function.name == '__init__':
            for node in ast.walk(function):
                is_call = isinstance(node, ast.Call)
                if is_call and ast.unparse(node.func) == 'super().__init__':
                    for argument in node.args:
                        yield argument, function


def is_sentence(text):
    """Whether a text is more than a key, a word or an option."""
    return len(re.findall(r'[^\W\d_]+', text)) > 1 and ' ' in text.strip()
