"""Trees of arrays: nested tuples, lists and dictionaries, walked from left to right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from portable_bp._typing import Array, Tree


def leaves(tree: Tree) -> Iterator[Array]:
    """The leaves of a tree, left to right.

    Parameters
    ----------
    tree : tree of arrays
        Nested tuples, lists and dictionaries.

    Yields
    ------
    array
        One leaf after the other.

    Examples
    --------
    >>> list(leaves((1, [2, ()], {"a": 3})))
    [1, 2, 3]
    """
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, tuple | list):
        yield tree
        return
    for branch in tree:
        yield from leaves(branch)


def map_leaves(f: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """A tree of the same form, each leaf ``f(leaf, *leaves of the others in the same place)``.

    Parameters
    ----------
    f : function
        Of one leaf of each tree.
    tree : tree of arrays
        Nested tuples, lists and dictionaries.
    *others : trees of the same form
        Whose leaves go with those of ``tree``.

    Returns
    -------
    tree
        The results.

    Examples
    --------
    >>> map_leaves(lambda a, b: a + b, (1, [2, ()]), (10, [20, ()]))
    (11, [22, ()])
    """
    if isinstance(tree, dict):
        return {k: map_leaves(f, tree[k], *(other[k] for other in others)) for k in tree}
    if not isinstance(tree, tuple | list):
        return f(tree, *others)
    branches = (map_leaves(f, *same) for same in zip(tree, *others, strict=True))
    # A NamedTuple takes its fields one by one, the others take them together.
    return type(tree)(*branches) if hasattr(tree, "_fields") else type(tree)(branches)


def paths(tree: Tree, name: str) -> Tree:
    """The tree with each leaf replaced by its place: ``name/0/1``.

    >>> paths((5, (6, 7)), "p")
    ('p/0', ('p/1/0', 'p/1/1'))
    """
    if isinstance(tree, tuple | list):
        return tuple(paths(branch, f"{name}/{i}") for i, branch in enumerate(tree))
    return name
