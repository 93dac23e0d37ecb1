"""The head of an answer leaves with its first piece, where the one in front asks for it.

vLLM sends the head of a stream before the engine has done anything for it, so a proxy believes that a hung engine has
answered, and may not repeat the request elsewhere. With the header x-nbridge-hold-head (`nbridge gateway` sends it) the
head waits for the first piece: then a proxy's time to the head is the time to the first token, and until then a request
can be repeated.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = b"x-nbridge-hold-head"


class HeadWithFirstChunk:
    """ASGI middleware that holds the head of an answer back until its first piece is there, or its end."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not any(name == HEADER for name, _ in scope["headers"]):
            await self._app(scope, receive, send)
            return
        held: list[Message] = []

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                held.append(message)
                return
            if held:
                if message["type"] == "http.response.body" and not message.get("body") and message.get("more_body"):
                    return  # a piece of nothing
                await send(held.pop())
            await send(message)

        await self._app(scope, receive, sending)
