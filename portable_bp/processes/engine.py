"""The narrow door to a library that connects processes: what training needs of it.

An adapter subclasses :class:`Engine` and registers under the entry-point group
``portable_bp.processes``.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from typing import Any, NoReturn

from portable_bp._typing import HostArray


class Engine(ABC):
    """Some processes, one for each device. All methods but :meth:`abort` are collective.

    Attributes
    ----------
    rank, size : int
        The number of this process, from 0, and how many there are.
    local_rank, local_size : int
        The same among the processes of this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @abstractmethod
    def sum(self, flat: HostArray) -> HostArray:
        """The sum of the arrays of all processes, with the same bits on each; a new array.

        Parameters
        ----------
        flat : array of shape (n,)
            Contiguous.

        Returns
        -------
        array of shape (n,)
        """

    @abstractmethod
    def exchange(self, flat: HostArray, partner: int) -> HostArray:
        """The array that the process ``partner`` hands in at the same time; a new array.

        Parameters
        ----------
        flat : array of shape (n,)
            Contiguous.
        partner : int
            A rank.

        Returns
        -------
        array of shape (n,)
        """

    @abstractmethod
    def gather(self, item: Any) -> list[Any]:
        """What each process hands in, by rank.

        Parameters
        ----------
        item : object
            One that can be pickled.

        Returns
        -------
        list
        """

    @abstractmethod
    def broadcast(self, item: Any) -> Any:
        """What process 0 hands in.

        Parameters
        ----------
        item : object
            One that can be pickled; that of the other processes does not matter.

        Returns
        -------
        object
        """

    @abstractmethod
    def abort(self, code: int) -> NoReturn:
        """End all processes, at once; not collective.

        Parameters
        ----------
        code : int
            The exit code.
        """

    @abstractmethod
    def close(self) -> None:
        """Let the connections go."""


class Single(Engine):
    """One process, alone."""

    def sum(self, flat: HostArray) -> HostArray:
        return flat

    def exchange(self, flat: HostArray, partner: int) -> HostArray:
        raise AssertionError("nobody is there")

    def gather(self, item: Any) -> list[Any]:
        return [item]

    def broadcast(self, item: Any) -> Any:
        return item

    def abort(self, code: int) -> NoReturn:
        sys.exit(code)

    def close(self) -> None:
        return
