"""Going through a list page by page, without I/O: how much to ask for, what to deliver, when to stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from penstock._core.protocol import Request

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class PageOf(Protocol[T_co]):
    """A page of any list."""

    @property
    def data(self) -> tuple[T_co, ...]:
        """Its items."""

    @property
    def has_more(self) -> bool:
        """Whether it is not the last."""

    @property
    def next_cursor(self) -> str | None:
        """Where the next one begins."""


class Pager(Generic[T]):
    """One walk through a list. Ask for :meth:`request`, give its page to :meth:`take`, until there is none.

    Args:
        build: makes the request of one page from its size and the cursor it begins behind.
        limit: deliver so many at most; None goes through all.
        page_size: items per request, 1 to 100.
    """

    def __init__(
        self, build: Callable[[int, str | None], Request], limit: int | None, page_size: int
    ) -> None:
        self._build = build
        self._left = limit
        self._page_size = page_size
        self._cursor: str | None = None
        self._more = True

    def request(self) -> Request | None:
        """Return the next page's request; None at the end of the list or of what was asked for."""
        if not self._more or (self._left is not None and self._left <= 0):
            return None
        size = self._page_size if self._left is None else min(self._page_size, self._left)
        return self._build(size, self._cursor)

    def take(self, page: PageOf[T]) -> tuple[T, ...]:
        """Take the answer to the last request and return the items to deliver."""
        self._cursor = page.next_cursor
        self._more = page.has_more and page.next_cursor is not None
        items = page.data[: self._left]
        if self._left is not None:
            self._left -= len(items)
        return items
