"""The graph of a traced function: its operations, and what they work on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np

from portable_bp._tree import leaves
from portable_bp._typing import Tree


class Node:
    """One operation: what it calls, on what, and the shape and dtype of the result.

    Attributes
    ----------
    name : the function's name; ``"state"``, ``"input"`` or ``"number"`` for an input
    call : what the plain run calls, as ``call(*args, **kwargs)``
    args, kwargs : nodes, constant arrays and Python values, also in nested tuples and lists
    view : whether the result is a view of the memory of ``args[0]``
    """

    __slots__ = ("args", "call", "dtype", "kwargs", "name", "shape", "size", "view")

    def __init__(
        self,
        name: str,
        call: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        shape: tuple[int, ...],
        dtype: Any,
        view: bool = False,
    ) -> None:
        self.name, self.call, self.args, self.kwargs = name, call, args, kwargs or {}
        self.shape, self.view = shape, view
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.size = int(np.prod(shape, dtype=np.int64))

    @property
    def ufunc(self) -> Any:
        """The element-wise NumPy function that this is a plain call of, or None."""
        f: Any = self.call
        plain = isinstance(f, np.ufunc) and not self.kwargs and len(self.args) == f.nin
        return f if plain and f.signature is None and f.nout == 1 else None

    @property
    def elementwise(self) -> bool:
        """Whether entry i of the result depends on the entries i of the arguments alone."""
        select = self.name == "where" and len(self.args) == 3
        return self.ufunc is not None or self.name == "astype" or select

    @property
    def sources(self) -> Iterator[Node]:
        """The nodes among the arguments."""
        return (a for a in leaves((self.args, self.kwargs)) if isinstance(a, Node))

    @property
    def parts(self) -> tuple[Node, ...]:
        """The arrays that this lays side by side in one flat array; empty for other operations."""
        parts = self.args if self.name == "join" else ()
        if (
            self.call is np.concatenate
            and self.kwargs.get("axis", 0) in (0, -1)
            and len(self.args) == 1
        ):
            parts = tuple(self.args[0])
        flat = all(isinstance(p, Node) and p.dtype == self.dtype for p in parts)
        return parts if flat and len(self.shape) == 1 else ()

    def __repr__(self) -> str:
        return f"{self.name} {self.dtype}{list(self.shape)}"


class Graph:
    """What was noted.

    Attributes
    ----------
    state, inputs, numbers : the inputs, in the order of the leaves: what one run hands to the next,
        other arrays, and 0-d arrays that change from run to run
    nodes : the operations, in the order in which they were called
    new_state : for each of ``state``, the node (or constant array) that takes its place
    results : nodes or constant arrays; ``form`` is their tree, with positions for leaves
    """

    def __init__(self) -> None:
        self.state: list[Node] = []
        self.inputs: list[Node] = []
        self.numbers: list[Node] = []
        self.nodes: list[Node] = []
        self.new_state: list[Any] = []
        self.results: list[Any] = []
        self.form: Tree = ()


def an_input(*args: Any) -> NoReturn:
    raise AssertionError("an input is handed in, not computed")
