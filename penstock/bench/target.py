"""The server to load: its address, its model, and how many words make a prompt of so many tokens."""

from __future__ import annotations

import random
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock._core.http import client_args
from penstock._core.requests import Request
from penstock.bench.answer import Reader
from penstock.bench.connection import Address, Connection, CutError
from penstock.bench.figures import Call
from penstock.bench.prompts import EMBEDDINGS, encode, request, words
from penstock.errors import APIConnectionError, APIResponseError

if TYPE_CHECKING:
    from penstock.client import Penstock


@dataclass(frozen=True, slots=True)
class Target:
    """What is loaded.

    Attributes:
        address: where calls go.
        path: the endpoint.
        common: fields of each body.
        streamed: whether the answers stream.
    """

    address: Address
    path: str
    common: Mapping[str, Any]
    streamed: bool

    async def ask(self, body: bytes, *, streamed: bool | None = None) -> Call:
        """Make one call.

        Raises:
            APIConnectionError: the server cannot be reached, or cut the answer off.
            APIResponseError: it refused.
        """
        call = Call(0.0)
        reader = Reader(call, streamed=self.streamed if streamed is None else streamed)
        try:
            connection = await Connection.open(self.address)
            try:
                reader.end(await connection.call(self.address.post(self.path, body), reader.feed))
            finally:
                connection.close()
        except OSError as error:
            raise APIConnectionError(
                f"cannot reach {self.address.host}:{self.address.port}: {error}. Is the server running there?"
            ) from error
        except CutError as error:
            raise APIConnectionError(f"the first call got no answer: {error}") from error
        if call.code:
            raise APIResponseError(
                f"the first call failed, so the load was not begun: {call.code}: {call.message}"
            )
        return call

    async def words_for(self, tokens: int) -> int:
        """Return how many words make a prompt of this many tokens to the model, its template included.

        It asks for the tokens of two prompts. A server that counts none gets a word for each token.

        Raises:
            PenstockError: the server refused, or cannot be reached.
        """
        short, long = max(tokens // 2, 1), max(tokens, 2)
        counts = []
        for count in (short, long):
            body = {**self.common, **request(self.path, words(count, random.Random(count)))}
            if self.path != EMBEDDINGS:
                body |= {"max_tokens": 1, "stream": False}
                body.pop("stream_options", None)
            counts.append((await self.ask(encode(body), streamed=False)).prompt_tokens)
        first, second = counts
        if first is None or second is None or second <= first:
            return tokens
        each = (second - first) / (long - short)
        return max(round((tokens - (first - short * each)) / each), 1)


def address_of(client: Penstock) -> Address:
    """Return the address of a client's server, with its key and its certificates."""
    settings = client._settings  # noqa: SLF001 - of the same package
    headers: dict[str, str] = settings.args(Request("POST", "/"))["headers"]
    context: ssl.SSLContext = client_args(settings.ca_file)["verify"]
    return Address(settings.url, context, {**headers, "content-type": "application/json", "accept": "*/*"})
