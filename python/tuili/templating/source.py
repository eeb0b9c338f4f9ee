"""From the text of a template to a syntax tree that is small, allowed, and spends fuel wherever it repeats
work."""

from __future__ import annotations

import itertools
from typing import Any

from jinja2 import Environment, nodes
from jinja2.ext import Extension
from jinja2.lexer import (
    TOKEN_BLOCK_BEGIN,
    TOKEN_BLOCK_END,
    TOKEN_COMMENT,
    TOKEN_DATA,
    TOKEN_NAME,
    TOKEN_OPERATOR,
    TOKEN_VARIABLE_BEGIN,
    TOKEN_VARIABLE_END,
    TOKEN_WHITESPACE,
)  # fmt: skip
from jinja2.parser import Parser
from jinja2.visitor import NodeTransformer

from tuili.templating.filters import JOINED, TICK, WEIGHED
from tuili.templating.meter import refuse

MAX_SOURCE_CHARS = 1 << 20
MAX_TOKENS = 20_000  # a tree of them has at most about as many nodes
MAX_DEPTH = 100  # of the syntax tree
MAX_BRACKETS = 24  # each costs the parser a dozen frames
MAX_BLOCKS = 48
MAX_CHAIN = 48  # of `not`, `else` and signs in one tag

_UNSEEN = frozenset({TOKEN_WHITESPACE, TOKEN_COMMENT})
_BEGIN = frozenset({TOKEN_BLOCK_BEGIN, TOKEN_VARIABLE_BEGIN})
_END = frozenset({TOKEN_BLOCK_END, TOKEN_VARIABLE_END})
_OPENING = frozenset({"for", "if", "macro", "call", "filter", "with", "generation", "block", "autoescape"})
_FORBIDDEN = (
    nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends, nodes.Block, nodes.EvalContextModifier,
)  # fmt: skip


class Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks an assistant's text for training; here it is a scope, no
    more."""

    tags = {"generation"}  # noqa: RUF012 (jinja's interface)

    def parse(self, parser: Parser) -> nodes.Node:
        """The node that stands for the block."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def parse(environment: Environment, source: str) -> nodes.Template:
    """The tree of `source`, ready to be compiled.

    raises  TemplateError (template_size, template_depth, template_forbidden); jinja2.TemplateSyntaxError
    """
    if len(source) > MAX_SOURCE_CHARS:
        refuse(f"{len(source)} characters; the limit is {MAX_SOURCE_CHARS}", "template_size")
    _check_tokens(environment, source)
    tree = environment.parse(source)
    _check_tree(tree)
    _Metering().visit(tree)
    nodes.Node.set_environment(tree, environment)
    return tree


def _check_tokens(environment: Environment, source: str) -> None:
    """Refuse, before the recursive parser sees it, what would take it too deep."""
    brackets = blocks = chain = n_tokens = 0
    tag: list[str] = []
    for _, kind, text in environment.lexer.tokeniter(source, None):
        if kind in _UNSEEN:
            continue
        n_tokens += 1
        if kind in _BEGIN:
            tag, brackets, chain = [], 0, 0
        elif kind in _END:
            blocks += _nesting(tag) if kind == TOKEN_BLOCK_END else 0
        elif kind == TOKEN_OPERATOR:
            brackets += (text in "([{") - (text in ")]}")
            chain += text in "+-"
            tag.append(text if len(tag) < 1000 else "")
        elif kind == TOKEN_NAME:
            chain += text in ("not", "else")
            tag.append(text)
        elif kind != TOKEN_DATA:
            chain = chain if text != "," else 0
        if n_tokens > MAX_TOKENS:
            refuse(f"more than {MAX_TOKENS} tokens", "template_size")
        if brackets > MAX_BRACKETS or blocks > MAX_BLOCKS or chain > MAX_CHAIN:
            refuse("nested too deeply", "template_depth")


def _nesting(tag: list[str]) -> int:
    """How much a tag changes the depth of blocks."""
    if not tag:
        return 0
    if tag[0].startswith("end"):
        return -1
    return int(tag[0] in _OPENING or (tag[0] == "set" and "=" not in tag))


def _check_tree(tree: nodes.Template) -> None:
    level: list[nodes.Node] = [tree]
    for depth in itertools.count():
        if not level:
            return
        if depth > MAX_DEPTH:
            refuse("nested too deeply", "template_depth")
        for node in level:
            if isinstance(node, _FORBIDDEN):
                refuse(f"{type(node).__name__.lower()} is not allowed", "template_forbidden")
        level = [child for node in level for child in node.iter_child_nodes()]


def _size(body: list[nodes.Node]) -> int:
    """The number of nodes in `body`: what evaluating it once costs at most, loops in it aside."""
    count, level = 0, body
    while level:
        count += len(level)
        level = [child for node in level for child in node.iter_child_nodes()]
    return count


def _filter(name: str, value: nodes.Expr, line: int) -> nodes.Filter:
    return nodes.Filter(value, name, [], [], None, None, lineno=line)


def _tick(weight: int, line: int) -> nodes.Filter:
    return _filter(TICK, nodes.Const(weight, lineno=line), line)


class _Metering(NodeTransformer):
    """Puts our own filters where work is repeated, compared or hashed."""

    def _metered(self, node: Any) -> Any:
        weight = 1 + _size(node.body)
        node = self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_tick(weight, node.lineno), lineno=node.lineno))
        return node

    visit_Macro = visit_CallBlock = visit_FilterBlock = _metered

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.test is not None:  # evaluated for items that the body never sees
            weight = 1 + _size([node.test])
            node.test = nodes.And(_tick(weight, node.lineno), node.test, lineno=node.lineno)
        return self._metered(node)  # type: ignore[no-any-return]

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        node = self.generic_visit(node)  # type: ignore[assignment]
        return _filter(JOINED, nodes.List(node.nodes, lineno=node.lineno), node.lineno)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        node = self.generic_visit(node)  # type: ignore[assignment]
        node.expr = self._weighed(node.expr)
        for operand in node.ops:
            operand.expr = self._weighed(operand.expr)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        node = self.generic_visit(node)  # type: ignore[assignment]
        node.key = self._weighed(node.key)
        return node

    def _weighed(self, node: nodes.Expr) -> nodes.Expr:
        return node if isinstance(node, nodes.Const) else _filter(WEIGHED, node, node.lineno)
