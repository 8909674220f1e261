"""The filters of Enterprise Manager's queries.

A filter is `<parameter><operator><value>`; `;` is AND, `,` is OR, parentheses group, a value may be quoted
(helpcenter, "Comparison Expressions" and "Logical Operators: AND, OR"; parentheses were seen in a recorded response). A
quote inside a quoted value is doubled (helpcenter, "Optional Parameters"). The precedence of AND over OR is not
documented.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from worker.sandbox.simulated_enterprise_manager.behaviour import Behaviour

_COMPARISON = re.compile(r"\s*([A-Za-z]+)\s*(==|!=|>=|<=|>|<)\s*")
_BARE_VALUE = re.compile(r"[^\s\";,()][^\";,()]*")
_OPERATORS: dict[str, Callable[[str, str], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_QUOTED = {
    "impossible": re.compile(r'"([^"]*)"'),
    "backslash": re.compile(r'"((?:[^"\\]|\\.)*)"'),
    "doubled": re.compile(r'"((?:[^"]|"")*)"'),
}
_DEEPEST = 20


class FilterInvalidError(ValueError):
    """The filter cannot be parsed, or names a property that the resource does not have."""


def filter_of(text: str, known: AbstractSet[str], behaviour: Behaviour) -> Callable[[Mapping[str, str]], bool]:
    """A predicate on a resource's properties, parsed from the filter. `known` are the properties' lower-case names.

    Raises:
        FilterInvalidError: the filter cannot be parsed, or names an unknown property.
    """
    if not text.strip():
        return lambda _: True
    reader = _Reader(text, known, behaviour)
    condition = reader.either()
    if reader.rest.strip():
        raise FilterInvalidError(f"Unexpected text in the filter: {reader.rest.strip()}")
    return condition


@dataclass(slots=True)
class _Reader:
    rest: str
    known: AbstractSet[str]
    behaviour: Behaviour
    depth: int = 0

    def either(self) -> Callable[[Mapping[str, str]], bool]:
        conditions = [self.both()]
        while self._next_is(","):
            conditions.append(self.both())
        return lambda properties: any(condition(properties) for condition in conditions)

    def both(self) -> Callable[[Mapping[str, str]], bool]:
        conditions = [self.one()]
        while self._next_is(";"):
            conditions.append(self.one())
        return lambda properties: all(condition(properties) for condition in conditions)

    def one(self) -> Callable[[Mapping[str, str]], bool]:
        if self._next_is("("):
            return self._grouped()
        comparison = _COMPARISON.match(self.rest)
        if comparison is None:
            raise FilterInvalidError(f"A comparison is expected: {self.rest.strip()}")
        name, sign = comparison[1].lower(), comparison[2]
        if name not in self.known:
            raise FilterInvalidError(f"There is no parameter {comparison[1]} to filter by.")
        self.rest = self.rest[comparison.end() :]
        value, compare = self._folded(self._value()), _OPERATORS[sign]
        return lambda properties: compare(self._folded(properties[name]), value)

    def _grouped(self) -> Callable[[Mapping[str, str]], bool]:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise FilterInvalidError("The filter is nested too deeply.")
        condition = self.either()
        if not self._next_is(")"):
            raise FilterInvalidError("A closing parenthesis is missing in the filter.")
        self.depth -= 1
        return condition

    def _value(self) -> str:
        rule = self.behaviour.quote_inside_value
        if found := _QUOTED[rule].match(self.rest):
            self.rest = self.rest[found.end() :]
            if rule == "backslash":
                return re.sub(r"\\(.)", r"\1", found[1])
            return found[1].replace('""', '"')
        if found := _BARE_VALUE.match(self.rest):
            self.rest = self.rest[found.end() :]
            return found[0].strip()
        raise FilterInvalidError("A value is missing in the filter.")

    def _folded(self, text: str) -> str:
        return text if self.behaviour.names_by_case else text.casefold()

    def _next_is(self, sign: str) -> bool:
        rest = self.rest.lstrip()
        if not rest.startswith(sign):
            return False
        self.rest = rest[1:]
        return True
