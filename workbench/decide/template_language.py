"""The language of prompt templates, and the count of what carrying one out takes.

Jinja cut down to what a prompt needs: `{{ slot }}`, `if`, `for` over a list slot, comparisons and five filters. A text
is parsed, each part is looked up in a list of what is allowed, and only then compiled, in Jinja's immutable sandbox.
Nothing is called, nothing computed and no attribute read but those of `loop`, so a text grows only by being printed,
and the work is the number of parts carried out. Both are counted: no clock decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from workbench.canonical import redacted
from workbench.decide.weights import closest
from workbench.errors import LLMValidationError

if TYPE_CHECKING:
    from jinja2 import Environment, Template, nodes

MAX_TEMPLATE = 20_000  # characters
MAX_OUTPUT = 2_000_000  # characters written
MAX_READ = 10_000_000  # characters that filters and comparisons go through
MAX_STEPS = 200_000  # parts of a template that its loops carry out
# The parser and Python's compiler are recursive:
MAX_DEPTH = 8  # tags in tags, brackets in brackets
MAX_TAG = 60  # words and signs of a tag
MAX_BRANCHES = 100  # `elif` in a template
TAGS = ("if", "elif", "else", "endif", "for", "endfor")
FILTERS = ("join", "length", "lower", "trim", "upper")
LOOP = ("index", "index0", "first", "last", "length")
NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
RESERVED = {"and", "false", "in", "is", "loop", "none", "not", "or", "recursive", "self", "super", "true", *TAGS}
# Tags of Jinja's besides; any other word is a slip of the pen, which its parser tells.
FOREIGN = {
    "autoescape", "block", "call", "extends", "filter", "from", "import", "include", "macro", "print", "set", "with",
}  # fmt: skip
_SAID = {"Call": "a call", "Concat": "~", "CondExpr": "an inline if without else", "Getitem": "[ ]", "Test": "is"}
_LANGUAGE = f"use {{{{ slot }}}}, if, for over a list slot, comparisons, and the filters {', '.join(FILTERS)}"


@lru_cache(maxsize=64)  # the largest template there can be keeps 2 MB
def compiled(text: str, slots: tuple[tuple[str, bool], ...]) -> Template:
    """The template for slots of these names, True for those that are lists; `written` carries it out.

    Raises LLMValidationError validation.template for what cannot be read, for names that are no slots and slots
    that are not named, security.template for what is not part of the language; with the line.
    """
    from jinja2 import TemplateSyntaxError

    if len(text) > MAX_TEMPLATE:
        step = f"keep it at {MAX_TEMPLATE} characters, and give long texts as values"
        raise bad_template(f"the template has {len(text)} characters", step)
    environment = _environment()
    try:
        _check_tags(environment.lex(text))
        tree = environment.parse(text)
    except LLMValidationError:
        raise
    except (TemplateSyntaxError, ValueError) as error:  # numbers of too many digits are ValueErrors
        line, told = getattr(error, "lineno", 1), getattr(error, "message", None) or error
        raise bad_template(f"line {line} of the template cannot be read: {told!s:.200}", _LANGUAGE) from error
    reader = _Reader(dict(slots))
    reader.body(tree.body, frozenset())
    if unused := [name for name, _ in slots if name not in reader.named]:
        raise bad_template(f"slots that the template never names: {', '.join(unused)}", "take them out")
    tree.set_environment(environment)
    return environment.template_class.from_code(environment, environment.compile(tree), {}, None)


def written(template: Template, values: Mapping[str, object]) -> str:
    """The text that a compiled template makes of its slots' values, which must be of the slots' types.

    Raises LLMValidationError validation.template_limit above MAX_OUTPUT, MAX_READ and MAX_STEPS, validation.template
    for comparing what has no order, printing a list as it is, and filters of the wrong kind of value.
    """
    from jinja2 import TemplateError

    meter = _Meter()
    pieces = []
    try:
        for piece in template.generate({**values, "_meter": meter}):
            meter.write(len(piece))
            pieces.append(piece)
    except (TypeError, TemplateError) as error:
        raise bad_template(
            f"the template cannot be carried out: {error!s:.200}",
            "compare values of one kind, and print a list with |join or in a for",
        ) from error
    return "".join(pieces)


def shown(value: object, most: int = 40) -> str:
    """A value as a refusal may quote it: at most so many characters, without what looks like a secret.

    What has no repr, such as a whole number with more digits than Python prints, is told by its type.
    """
    try:
        text = repr(value)
    except Exception as error:  # whatever a foreign object does must not take the place of the refusal
        return f"({type(value).__name__}: its repr raises {type(error).__name__})"
    return redacted(text[: 20 * most])[:most]


def bad_template(found: str, next_step: str) -> LLMValidationError:
    """The refusal of a template that cannot be read or carried out."""
    return LLMValidationError(found, code="validation.template", next_step=next_step[:160])


def _foreign(line: int, what: str) -> LLMValidationError:
    found = f"line {line} of the template uses {what}, which is not part of the template language"
    return LLMValidationError(found, code="security.template", next_step=_LANGUAGE)


# -- reading


def _check_tags(words: Iterator[tuple[int, str, str]]) -> None:
    """Refuse tags from outside the language, and what is too deep or too long for a recursive parser."""
    depth = size = brackets = branches = 0
    inside = first = False
    for line, kind, word in words:
        if kind in ("block_begin", "variable_begin"):
            size, brackets, inside, first = 0, 0, True, kind == "block_begin"
        elif kind in ("block_end", "variable_end"):
            inside = False
        elif inside and kind != "whitespace":
            if first:
                if word in FOREIGN:
                    raise _foreign(line, f"the tag {word}")
                depth += (word in ("if", "for")) - word.startswith("end")
                branches += word == "elif"
            first = False
            size += 1
            brackets += (word in ("(", "[", "{")) - (word in (")", "]", "}"))
        if max(depth, brackets) > MAX_DEPTH or size > MAX_TAG or branches > MAX_BRANCHES:
            raise LLMValidationError(
                f"line {line} of the template goes beyond {MAX_DEPTH} tags or brackets in each other, {MAX_TAG} words "
                f"in a tag, or {MAX_BRANCHES} elif",
                code="security.template",
                next_step="split it into simpler tags, or into several templates",
            )


class _Reader:
    """Goes through a parsed template: refuses what is not in the language, and puts in the counting.

    slots: name -> whether it is a list. named: the slots and loops that the text has named so far.
    """

    def __init__(self, slots: Mapping[str, bool]) -> None:
        self._slots, self._parts = slots, 0
        self.named: set[str] = set()

    def body(self, body: Sequence[nodes.Node], loops: frozenset[str]) -> None:
        """Check statements; loops: the names of the loops around them."""
        from jinja2 import nodes

        for node in body:
            self._parts += 1
            if isinstance(node, nodes.Output):
                for part in node.nodes:
                    self._expression(part, loops)
            elif isinstance(node, nodes.If):
                self._expression(node.test, loops)
                for branch in (node.body, node.elif_, node.else_):
                    self.body(branch, loops)
            elif isinstance(node, nodes.For):
                self._loop(node, loops)
            else:
                raise _foreign(node.lineno, type(node).__name__)

    def _loop(self, node: nodes.For, loops: frozenset[str]) -> None:
        from jinja2 import nodes

        if node.recursive or node.test is not None or not isinstance(node.target, nodes.Name):
            raise _foreign(node.lineno, "a for with several names, `if` or `recursive`")
        if not isinstance(node.iter, nodes.Name) or not self._slots.get(node.iter.name):
            raise _foreign(node.lineno, "a for over something else than a list slot")
        name = node.target.name
        if name in self._slots or name in loops or not NAME.fullmatch(name) or name in RESERVED:
            step = "give the loop a name of its own, of lower-case letters, digits and _"
            raise bad_template(f"line {node.lineno} of the template has a loop named {name!r:.60}", step)
        self.named.add(node.iter.name)
        before = self._parts
        self.body(node.body, loops | {name})
        steps = nodes.Const(self._parts - before + 1)
        node.iter = nodes.Filter(node.iter, "_turns", [steps], [], None, None, lineno=node.lineno)
        self.body(node.else_, loops)

    def _expression(self, node: nodes.Node, loops: frozenset[str]) -> None:
        from jinja2 import nodes

        self._parts += 1
        parts: Sequence[nodes.Node] = ()
        if isinstance(node, nodes.Name):
            self._name(node, loops)
        elif isinstance(node, nodes.Getattr):
            in_loop = isinstance(node.node, nodes.Name) and node.node.name == "loop" and bool(loops)
            if not in_loop or node.attr not in LOOP:
                raise _foreign(node.lineno, f"the attribute {node.attr:.40}")
        elif isinstance(node, nodes.Filter):
            parts = self._filter(node)
        elif isinstance(node, nodes.Compare):
            sides: list[nodes.Compare | nodes.Operand] = [node, *node.ops]
            parts = [side.expr for side in sides]
            for side in sides:
                side.expr = nodes.Filter(side.expr, "_read", [], [], None, None, lineno=node.lineno)
        elif isinstance(node, nodes.CondExpr) and node.expr2 is not None:
            parts = (node.test, node.expr1, node.expr2)
        elif isinstance(node, nodes.And | nodes.Or):
            parts = (node.left, node.right)
        elif isinstance(node, nodes.Not | nodes.Neg):
            parts = (node.node,)
        elif not isinstance(node, nodes.Const | nodes.TemplateData):
            kind = type(node).__name__
            raise _foreign(node.lineno, _SAID.get(kind, kind))
        for part in parts:
            self._expression(part, loops)

    def _name(self, node: nodes.Name, loops: frozenset[str]) -> None:
        if node.name not in self._slots and node.name not in loops:
            hint = closest(node.name, [*self._slots, *loops])
            step = (
                f"did you mean {hint!r}?"
                if hint
                else "declare it as a Slot, or put it between {% raw %} and {% endraw %}"
            )
            raise bad_template(f"line {node.lineno} of the template names {node.name!r:.60}, which is no slot", step)
        self.named.add(node.name)

    @staticmethod
    def _filter(node: nodes.Filter) -> Sequence[nodes.Node]:
        from jinja2 import nodes

        plain = not (node.kwargs or node.dyn_args or node.dyn_kwargs) and len(node.args) <= (node.name == "join")
        texts = all(isinstance(given, nodes.Const) and isinstance(given.value, str) for given in node.args)
        if node.name not in FILTERS or node.node is None or not plain or not texts:
            raise _foreign(node.lineno, f"the filter {node.name:.40} with {len(node.args)} arguments")
        return (node.node,)


# -- carrying out


class _Meter:
    """Counts what one rendering does; LLMValidationError validation.template_limit when it is too much."""

    __slots__ = ("_characters", "_read", "_steps")

    def __init__(self) -> None:
        self._steps = self._read = self._characters = 0

    def step(self, parts: int) -> None:
        self._steps += parts
        self._check(self._steps, MAX_STEPS, "carries out more than {} parts in its loops")

    def read(self, characters: int) -> None:
        self._read += characters + 1
        self._check(self._read, MAX_READ, "reads more than {} characters in its filters and comparisons")

    def write(self, characters: int) -> None:
        self._characters += characters
        self._check(self._characters, MAX_OUTPUT, "makes a text of more than {} characters")

    @staticmethod
    def _check(found: int, most: int, told: str) -> None:
        if found > most:
            raise LLMValidationError(
                f"the template {told.format(f'{most:,}')}",
                code="validation.template_limit",
                next_step="give shorter lists or texts, or take loops out of loops",
            )


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import StrictUndefined, pass_context
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    made = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, autoescape=False, optimized=False, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, finalize=_printed,
    )  # fmt: skip
    made.globals, made.tests = {}, {}
    made.filters = {
        "join": pass_context(_join),
        "length": lambda value: len(_of((str, tuple), value)),
        "lower": pass_context(_text_filter(str.lower)),
        "trim": pass_context(_text_filter(str.strip)),
        "upper": pass_context(_text_filter(str.upper)),
        # Put in by _Reader around what loops go over, and around both sides of comparisons.
        "_turns": pass_context(_turns),
        "_read": pass_context(_read),
    }
    return made


def _turns(context: Mapping[str, Any], value: tuple[str, ...], steps: int) -> Iterator[str]:
    for item in value:
        context["_meter"].step(steps)
        yield item


def _read(context: Mapping[str, Any], value: Any) -> Any:
    texts = value if isinstance(value, tuple) else (value,)
    context["_meter"].read(sum(len(text) for text in texts if isinstance(text, str)) + len(texts))
    return value


def _join(context: Mapping[str, Any], value: Any, between: str = "") -> str:
    context["_meter"].read(len(between) * len(_of(tuple, value)))
    return between.join(_read(context, value))


def _text_filter(make: Callable[[str], str]) -> Callable[[Mapping[str, Any], Any], str]:
    return lambda context, value: make(_read(context, _of(str, value)))


def _of(kind: type[Any] | tuple[type[Any], ...], value: Any) -> Any:
    if isinstance(value, kind):
        return value
    raise TypeError(f"a filter was given {type(value).__name__}, which it is not for")


def _printed(value: Any) -> Any:
    if isinstance(value, tuple):
        raise TypeError("a list cannot be printed as it is")
    return value
