"""One small change of the code in each try; a test must fail: ``python -m tests.attacks.mutants``.

Each mutant is a module with one change: a comparison turned round, a number one larger, a
condition that always or never holds, ``and`` for ``or``, a statement left out. The unit tests of
the module run against it, in a fork of a process that has imported pytest. If all of them pass,
they do not notice this change. docs/proofs.md explains the mutants that survive.
"""

import argparse
import ast
import contextlib
import copy
import importlib.abc
import importlib.util
import os
import signal
import sys
import time

import pytest

from tests.kit.places import ROOT

#: From each module to the tests that must notice its changes.
MODULES = {
    'paste_wspbus.bus.turn': ['tests/bus/test_turn.py'],
    'paste_wspbus.bus.lifespan': ['tests/bus/test_lifespans.py'],
    'paste_wspbus.bus.lifespans': ['tests/bus/test_lifespans.py'],
    'paste_wspbus.workers.backoff': ['tests/workers/test_backoff.py'],
    'paste_wspbus.cluster.claim': ['tests/cluster/test_claim.py'],
}

#: The exit code of a fork in which pytest does not run.
FAILED_ITSELF = 99

#: Seconds after which a mutant counts as noticed: it runs for ever.
LIMIT = 60

OPPOSITES = {
    ast.Lt: ast.GtE,
    ast.LtE: ast.Gt,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Lt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
#: A comparison that differs from it only if both sides are equal.
EDGES = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}


# -- the mutants -----------------------------------------------------------------------


def changes_of(node):
    """Yield (what is changed, a function that changes the node of a copy)."""
    match node:
        case ast.Compare(ops=[operator]):
            for table in (OPPOSITES, EDGES):
                if new := table.get(type(operator)):
                    yield f'{new.__name__}', lambda one, new=new: _set(one, ops=[new()])
        case ast.BoolOp(op=operator):
            new = ast.Or if isinstance(operator, ast.And) else ast.And
            yield new.__name__, lambda one: _set(one, op=new())
        case ast.BinOp(op=operator) if new := OPERATORS.get(type(operator)):
            yield new.__name__, lambda one: _set(one, op=new())
        case ast.UnaryOp(op=ast.Not()):
            yield (
                'without not',
                lambda one: _set(one, op=ast.UAdd(), operand=_bool(one)),
            )
        case ast.Constant(value=bool(value)):
            yield f'{not value}', lambda one: _set(one, value=not one.value)
        case ast.Constant(value=int() | float()):
            yield 'one more', lambda one: _set(one, value=one.value + 1)
        case ast.If() | ast.While():
            if isinstance(node, ast.If):
                yield 'always', lambda one: _set(one, test=ast.Constant(True))
            yield 'never', lambda one: _set(one, test=ast.Constant(False))


def _set(node, **fields):
    for name, value in fields.items():
        setattr(node, name, value)


def _bool(node):
    return ast.Call(ast.Name('bool', ast.Load()), [node.operand], [])


def may_go(node):
    """Whether a statement can be left out: it is no docstring, and no definition."""
    if isinstance(node, ast.Expr):
        return not isinstance(node.value, ast.Constant)
    kinds = (ast.Assign, ast.AugAssign, ast.Return, ast.Raise, ast.Continue, ast.Break)
    return isinstance(node, kinds)


def mutants_of(source):
    """Yield (a name, the code) of each mutant of a module."""
    tree = ast.parse(source)
    functions = [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef)]
    names = {}
    for function in functions:
        for node in ast.walk(function):
            names[node] = function.name
    nodes = list(ast.walk(tree))
    for number, node in enumerate(nodes):
        if node not in names:
            continue
        where = f'{names[node]}, line {node.lineno}' if hasattr(node, 'lineno') else ''
        text = ast.unparse(node).splitlines()[0] if where else ''
        for what, change in changes_of(node):
            mutant = copy.deepcopy(tree)
            change(list(ast.walk(mutant))[number])
            yield f'{where}: `{text}`: {what}', ast.fix_missing_locations(mutant)
        if may_go(node):
            mutant = copy.deepcopy(tree)
            _leave_out(mutant, list(ast.walk(mutant))[number])
            yield f'{where}: `{text}`: left out', ast.fix_missing_locations(mutant)


def _leave_out(tree, statement):
    for node in ast.walk(tree):
        for field in ('body', 'orelse', 'finalbody'):
            block = getattr(node, field, None)
            if isinstance(block, list) and statement in block:
                block[block.index(statement)] = ast.copy_location(ast.Pass(), statement)


# -- a try -----------------------------------------------------------------------------


class Loader(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Imports the mutant in the place of the module."""

    def __init__(self, name, path, tree):
        self.name, self.path, self.tree = name, path, tree

    def find_spec(self, name, path=None, target=None):
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=self)

    def get_filename(self, name):
        return str(self.path)

    def get_data(self, path):
        raise OSError

    def get_code(self, name):
        return compile(self.tree, str(self.path), 'exec')


def is_noticed(name, path, tree, tests):
    """Run the tests against a mutant in a fork; return whether one fails."""
    child = os.fork()
    if not child:
        code = FAILED_ITSELF
        try:
            quiet = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(quiet, descriptor)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(LIMIT)
            for known in [one for one in sys.modules if one.startswith('paste_wspbus')]:
                del sys.modules[known]
            sys.meta_path.insert(0, Loader(name, path, tree))
            os.environ['CI'] = 'true'  # the same examples for each mutant
            words = ['-xq', '--assert=plain', '-p', 'no:cacheprovider', *tests]
            code = pytest.main(words)
        finally:
            os._exit(int(code))
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == FAILED_ITSELF:
        raise SystemExit('pytest cannot run')
    return bool(status)


def attack(name, tests):
    """Try each mutant of a module; return how many there are, and the names of the survivors."""
    path = ROOT.joinpath(*name.split('.')).with_suffix('.py')
    source = path.read_text()
    if is_noticed(name, path, ast.parse(source), tests):
        raise SystemExit(f'{name}: its tests fail without a change')
    number, survivors = 0, []
    for mutant, tree in mutants_of(source):
        number += 1
        if not is_noticed(name, path, tree, tests):
            survivors.append(mutant)
            print(f'  {mutant}', flush=True)
    return number, survivors


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('modules', nargs='*', default=list(MODULES))
    os.chdir(ROOT)
    for name in parser.parse_args().modules:
        began = time.monotonic()
        print(f'{name}:', flush=True)
        number, survivors = attack(name, MODULES[name])
        took = time.monotonic() - began
        print(
            f'  {number} mutants, {len(survivors)} survive ({took:.0f} s)', flush=True
        )


if __name__ == '__main__':
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
