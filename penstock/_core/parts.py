"""How a method that is written once, as a flow, becomes one of the synchronous and one of the asynchronous client.

A group of calls is a subclass of :class:`Part`, such as ``Jobs``, whose methods return flows::

    class Jobs(Part[Driver]):
        @Call
        def cancel(self, job_id: str) -> Flow[Job]: ...

``Jobs(SyncDriver(...))`` then has ``cancel(job_id) -> Job``, and ``Jobs(AsyncDriver(...))`` has the same as a coroutine.
Type checkers see exactly that.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeAlias, TypeVar, overload

from pydantic import BaseModel

from penstock._core import flows
from penstock._core.drivers import AsyncDriver, SyncDriver
from penstock._core.flows import Flow, Items
from penstock._core.http import Settings
from penstock._core.requests import Request, query
from penstock.models import Page

P = ParamSpec("P")
T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
Driver = TypeVar("Driver", bound=SyncDriver | AsyncDriver)


class Part(Generic[Driver]):
    """A group of calls of a client, made by its driver."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    @property
    def _settings(self) -> Settings:
        return self._driver.settings

    def _fetch(self, request: Request, model: type[M]) -> Flow[M]:
        return flows.fetch(request, model, self._settings.calls)

    def _pages(
        self, path: str, page: type[Page[T]], limit: int | None, page_size: int, **filters: object
    ) -> Items[T]:
        calls = self._settings.calls
        return flows.pages(path, query(**filters), page, limit=limit, page_size=page_size, policy=calls)


SyncPart: TypeAlias = Part[SyncDriver]
AsyncPart: TypeAlias = Part[AsyncDriver]


class _Method(Generic[P, T]):
    """A method of a :class:`Part`. Read from an instance, it is the function of that kind of client."""

    def __init__(self, method: Callable[Concatenate[Any, P], Generator[Any, Any, Any]]) -> None:
        self.__doc__ = method.__doc__
        self._method = method
        # What help() shows: without self, and with the result in the place of Flow[...] or Items[...].
        shown = inspect.signature(method)
        result = shown.return_annotation.partition("[")[2].removesuffix("]")
        self.__signature__ = shown.replace(
            parameters=list(shown.parameters.values())[1:], return_annotation=result
        )

    def _bind(self, carry_out: Callable[[Any], Any], part: Part[Any]) -> Any:
        @functools.wraps(self._method)
        def function(*args: P.args, **kwargs: P.kwargs) -> Any:
            return carry_out(self._method(part, *args, **kwargs))

        function.__signature__ = self.__signature__  # type: ignore[attr-defined]  # inspect reads it
        return function


class Call(_Method[P, T]):
    """A method with one result: of ``Flow[T]`` it makes a function that returns ``T``, or a coroutine of ``T``."""

    def __init__(self, method: Callable[Concatenate[Any, P], Flow[T]]) -> None:
        super().__init__(method)

    @overload
    def __get__(self, part: None, owner: type) -> Self: ...
    @overload
    def __get__(self, part: SyncPart, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, part: AsyncPart, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, part: Part[Any] | None, owner: type) -> Any:
        """Return the function; on the class, this object."""
        return self if part is None else self._bind(part._driver.run, part)  # noqa: SLF001 - its own part


class Iteration(_Method[P, T]):
    """A method with many results: of ``Items[T]`` it makes a function that returns a generator of ``T``."""

    def __init__(self, method: Callable[Concatenate[Any, P], Items[T]]) -> None:
        super().__init__(method)

    @overload
    def __get__(self, part: None, owner: type) -> Self: ...
    @overload
    def __get__(self, part: SyncPart, owner: type) -> Callable[P, Generator[T]]: ...
    @overload
    def __get__(self, part: AsyncPart, owner: type) -> Callable[P, AsyncGenerator[T]]: ...
    def __get__(self, part: Part[Any] | None, owner: type) -> Any:
        """Return the function; on the class, this object."""
        return self if part is None else self._bind(part._driver.iterate, part)  # noqa: SLF001 - its own part
