"""In a pod's server: an answer says which model gave it, and once the pod is to end kept connections close one by one.

A client that keeps its connection stays with the pod that it first met, whatever the Service says since. The pod's
preStop hook writes the file HANFORGE_LEAVING; from then on `connection: close` sends each client's next request to a
pod that stays, and `x-hanforge-leaving` tells the hook (charts/hanforge-serve/files/drain.py) which pod answered it.
"""

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
LEAVING = ((b"connection", b"close"), (b"x-hanforge-leaving", b"1"))


class Leaving:
    """ASGI middleware, named to vLLM by `--middleware`; HANFORGE_SERVES is what it puts into `x-hanforge-model`."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]) -> None:
        self._app = app
        self._file = os.environ["HANFORGE_LEAVING"]
        self._model = os.environ.get("HANFORGE_SERVES", "").encode("ascii", "replace")

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on; its answer's headers are added to as it begins."""

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                more = LEAVING if os.path.exists(self._file) else ()
                message["headers"] = [*message.get("headers", ()), (b"x-hanforge-model", self._model), *more]
            await send(message)

        await self._app(scope, receive, told if scope["type"] == "http" else send)
