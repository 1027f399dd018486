"""Activations and losses by name: what a file or a pickle keeps of them, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Protocol, Self

from portable_bp._scalars import shown


class Named(Protocol):
    """A record of functions that has a name, and the numbers that it was made with."""

    @property
    def name(self) -> str: ...

    @property
    def parameters(self) -> Mapping[str, float]: ...


def describe(part: Named) -> dict[str, Any]:
    """Name and parameters, as a file keeps them."""
    return {"name": part.name, **part.parameters}


def make(table: Mapping[str, Callable[..., Any]], description: Mapping[str, Any]) -> Any:
    """The inverse of :func:`describe`, from a fixed table."""
    parameters = dict(description)
    name = parameters.pop("name")
    if name not in table:
        raise ValueError(f"unknown name {shown(name)}; known are: {', '.join(sorted(table))}")
    return table[name](**parameters)


def is_builtin(part: Named, table: Mapping[str, Callable[..., Any]]) -> bool:
    """Whether ``part`` is what the table makes of its name, not a user's that borrows the name."""
    if part.name not in table:
        return False
    try:
        made = table[part.name](**part.parameters)
    except TypeError:
        return False
    return _functions(part) == _functions(made)


def _functions(part: Named) -> list[Any]:
    """The code of each: what stays the same when a function is made anew."""
    return [getattr(f, "__code__", f) for f in vars(part).values() if callable(f)]


class ByName:
    """Pickled by name where it is one of ours; a user's own is pickled as its functions can be.

    Nothing in it can change, so a copy is the object itself.
    """

    @classmethod
    def _table(cls) -> Mapping[str, Callable[..., Any]]:
        raise NotImplementedError

    @cached_property
    def builtin(self) -> bool:
        """Whether it is what the table makes of its name: its functions keep our rules."""
        return is_builtin(self, self._table())  # type: ignore[arg-type]

    @classmethod
    def _make(cls, description: Mapping[str, Any]) -> Any:
        return make(cls._table(), description)

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self.builtin:
            return self._make, (describe(self),)  # type: ignore[arg-type]
        return super().__reduce_ex__(protocol)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: Any) -> Self:
        return self
