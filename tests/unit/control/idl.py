"""The interface descriptions of varlink, as far as ours need it: does a value have a type?"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

_TOKEN = re.compile(r"#[^\n]*|\s+|(->|\[\]|\[string\]|[\w.]+|[():,?])")
_PLAIN: dict[str, Any] = {"int": int, "float": (int, float), "string": str, "bool": bool}

Type = Any


class Description:
    """An interface: its named types, and the input and output of each method."""

    def __init__(self, text: str) -> None:
        """Raises `ValueError` for what is no description."""
        self._tokens: list[str] = []
        at = 0
        while at < len(text):
            found = _TOKEN.match(text, at)
            if not found:
                raise ValueError(f"not understood: {text[at : at + 20]!r}")
            if found[1]:
                self._tokens.append(found[1])
            at = found.end()
        self.types: dict[str, Type] = {}
        self.methods: dict[str, tuple[Type, Type]] = {}
        self.errors: dict[str, Type] = {}
        self._expect("interface")
        self.name = self._next()
        while self._tokens:
            kind, name = self._next(), self._next()
            if name in {*self.types, *self.methods, *self.errors}:
                raise ValueError(f"{name!r} stands for two things")
            if kind == "method":
                given = self._type()
                self._expect("->")
                self.methods[name] = given, self._type()
            else:
                {"type": self.types, "error": self.errors}[kind][name] = self._type()

    def _next(self) -> str:
        return self._tokens.pop(0)

    def _expect(self, token: str) -> None:
        if (found := self._next()) != token:
            raise ValueError(f"{found!r} instead of {token!r}")

    def _type(self) -> Type:
        token = self._next()
        if token in {"?", "[]", "[string]"}:
            return token, self._type()
        if token != "(":
            return token
        fields: dict[str, Type] = {}
        while self._tokens[0] != ")":
            name = self._next()
            fields[name] = None
            if self._tokens[0] == ":":
                self._next()
                fields[name] = self._type()
            if self._tokens[0] == ",":
                self._next()
        self._next()
        return fields

    def has(self, value: Any, wanted: Type) -> bool:
        """Whether a value of JSON has the type."""
        if isinstance(wanted, tuple):
            kind, inner = wanted
            if kind == "?":
                return value is None or self.has(value, inner)
            if kind == "[string]":
                return isinstance(value, dict) and all(map(self._tester(inner), value.values()))
            return isinstance(value, list) and all(map(self._tester(inner), value))
        if isinstance(wanted, dict):
            if wanted and None in wanted.values():
                return value in wanted
            names = isinstance(value, dict) and set(value) == set(wanted)
            return names and all(self.has(value[name], wanted[name]) for name in wanted)
        if wanted in _PLAIN:
            return isinstance(value, _PLAIN[wanted]) and isinstance(value, bool) == (
                wanted == "bool"
            )
        return self.has(value, self.types[wanted])

    def _tester(self, wanted: Type) -> Callable[[Any], bool]:
        return lambda value: self.has(value, wanted)
