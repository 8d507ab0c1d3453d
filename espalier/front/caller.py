"""What was asked, sent and waited for: by a thread or by an event loop, whole or as a stream.

Whoever leaves early (an interrupt, an iterator let go, a cancelled task) takes its requests along.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from espalier.front.asking import Asked
from espalier.front.client import Client
from espalier.front.progress import Progress
from espalier.front.replies import Replies
from espalier.front.table import Entry, Watch
from espalier.tokenizer.base import Tokenizer


class Caller:
    def __init__(self, client: Client, tokenizer: Tokenizer | None) -> None:
        self._client = client
        self._tokenizer = tokenizer

    def wait(self, asked: Asked, shown: bool | None = None) -> Any:
        """The reply, or the list of them; `shown` says whether a progress line is drawn."""
        ended: SimpleQueue[Entry] = SimpleQueue()
        replies = self._send(asked, Watch(ended.put))
        total = len(replies.entries)
        try:
            with Progress(total, shown) as progress:
                for done in range(1, total + 1):
                    ended.get()
                    progress.update(done)
        finally:
            self._client.abort(replies.entries)
        return replies.all()

    def stream(self, asked: Asked) -> Iterator[dict[str, Any]]:
        changed: SimpleQueue[Entry] = SimpleQueue()
        replies = self._send(asked, Watch(changed.put, every_step=True))
        try:
            while not replies.is_told:
                yield from replies.news(_all_of(changed))
        finally:
            self._client.abort(replies.entries)

    async def async_wait(self, asked: Asked) -> Any:
        ended: asyncio.Queue[Entry] = asyncio.Queue()
        replies = self._send(asked, _threadsafe(ended, every_step=False))
        try:
            for _ in replies.entries:
                await ended.get()
        finally:
            self._client.abort(replies.entries)
        return replies.all()

    async def async_stream(self, asked: Asked) -> AsyncGenerator[dict[str, Any], None]:
        changed: asyncio.Queue[Entry] = asyncio.Queue()
        replies = self._send(asked, _threadsafe(changed, every_step=True))
        try:
            while not replies.is_told:
                entries = {await changed.get(): None}
                while not changed.empty():
                    entries[changed.get_nowait()] = None
                for said in replies.news(entries):
                    yield said
        finally:
            self._client.abort(replies.entries)

    def _send(self, asked: Asked, watch: Watch) -> Replies:
        entries = self._client.send(asked.prepared, watch)
        return Replies(entries, self._client.table, self._tokenizer, single=asked.is_single)


def _all_of(changed: SimpleQueue[Entry]) -> dict[Entry, None]:
    """Those that changed, each once; waits for the first."""
    entries = {changed.get(): None}
    with suppress(Empty):
        while True:
            entries[changed.get_nowait()] = None
    return entries


def _threadsafe(queue: asyncio.Queue[Entry], *, every_step: bool) -> Watch:
    """Told on the engine's thread; an event loop that is closed has nobody to be told."""
    loop = asyncio.get_running_loop()

    def tell(entry: Entry) -> None:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(queue.put_nowait, entry)

    return Watch(tell, every_step)
