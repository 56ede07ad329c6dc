"""An asynchronous iterator that also gives a sign of life, so that its reader can do what is due by the clock."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TypeVar

K = TypeVar("K")


async def ticking(items: AsyncGenerator[K, None], seconds: float) -> AsyncIterator[K | None]:
    """The same items, and None whenever none has come for `seconds`; closes `items` at the end."""
    waiting: asyncio.Task[K] | None = None
    async with aclosing(items):
        try:
            while True:
                waiting = waiting or asyncio.create_task(_next(items))
                if not (await asyncio.wait({waiting}, timeout=seconds))[0]:
                    yield None
                    continue
                try:
                    item = waiting.result()
                except _NoMoreError:
                    return
                waiting = None
                yield item
        finally:
            if waiting is not None:
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)


class _NoMoreError(Exception):
    """StopAsyncIteration cannot leave a task."""


async def _next(items: AsyncGenerator[K, None]) -> K:
    try:
        return await anext(items)
    except StopAsyncIteration as error:
        raise _NoMoreError from error
