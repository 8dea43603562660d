"""Options: what a handler reads of the section ``[handler]`` of the configuration.

The class attribute ``options`` declares them, a `dict` of names and `Option`; the class method
``configure(options)`` gets their values.  `graced.handlers.configuring` does both.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

_WORDS: dict[type, str] = {
    bool: "true or false",
    str: "a string",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "a table",
}
"""The types of TOML that an option can have."""


class Option:
    """An option of a handler: its default, what it is for, and which values are allowed."""

    __slots__ = ("about", "check", "choices", "default", "high", "item", "low", "required", "type")

    def __init__(
        self,
        default: Any,
        about: str,
        *,
        low: float | None = None,
        high: float | None = None,
        choices: Sequence[Any] = (),
        check: Callable[[Any], Any] | None = None,
    ) -> None:
        """Declare an option.

        `default`: a value of TOML, whose type all values must have; or a type (`str`, `int`,
        `float`, `bool`, `list`, `dict`) of an option that must be written.  A list whose default
        has items takes items of their type.  `about`: what it is for, with its unit; for people.
        `low`, `high`: the range of a number.  `choices`: all values that are allowed, or all items
        of a list.  `check`: returns what the handler gets for a value that fits; raises
        `ValueError` with the words that follow the name of the option: "must be ...".

        Raises `TypeError`, and `ValueError` where the default is not allowed.
        """
        self.required = isinstance(default, type)
        self.type: type = default if isinstance(default, type) else type(default)
        if self.type not in _WORDS:
            raise TypeError(f"an option must be {', '.join(_WORDS.values())}, not {default!r}")
        if (low, high) != (None, None) and self.type not in {int, float}:
            raise TypeError(f"only a number has a range, not {default!r}")
        self.default = None if self.required else default
        self.about = about
        self.low = low
        self.high = high
        self.choices = tuple(choices)
        self.check = check
        self.item: type | None = type(default[0]) if default and self.type is list else None
        if not self.required:
            self.checked(default)

    def checked(self, value: Any) -> Any:
        """The value that the handler gets for a value in TOML.

        Raises `ValueError` with the words that follow the name of the option.
        """
        if not _fits(value, self.type):
            raise ValueError(f"must be {_WORDS[self.type]}")
        if self.type is float:
            value = float(value)
        if self.item and not all(_fits(each, self.item) for each in value):
            raise ValueError(f"must be a list, and each item {_WORDS.get(self.item, self.item)}")
        if self.range and not self._is_in_range(value):
            raise ValueError(f"must be {self.range}")
        if self.choices and not all(each in self.choices for each in self._items(value)):
            raise ValueError(f"must be one of {', '.join(map(str, self.choices))}")
        return self.check(value) if self.check else value

    def _is_in_range(self, value: float) -> bool:
        # Not by `<`: nan is in no range.
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def _items(self, value: Any) -> Sequence[Any]:
        return value if self.type is list else (value,)

    @property
    def range(self) -> str:
        """The range of a number in words; empty: any."""
        if self.low is None:
            return "" if self.high is None else f"at most {self.high:g}"
        if self.high is None:
            return f"at least {self.low:g}"
        return f"from {self.low:g} to {self.high:g}"

    @property
    def allowed(self) -> str:
        """Which values are allowed, in words."""
        words = _WORDS[self.type]
        if self.choices:
            words = ("any of " if self.type is list else "") + ", ".join(map(str, self.choices))
        return f"{words} {self.range}".rstrip()


def _fits(value: Any, kind: type) -> bool:
    # For Python `True` is a whole number, and for TOML it is not.
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is kind
