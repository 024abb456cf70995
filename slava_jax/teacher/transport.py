"""The HTTP client of the teacher: no other origin is sent anything, and a reply has a limit."""

import contextlib

import httpx2
import openai

LARGEST_REPLY = 8 * 2**20  # bytes after decompression; an answer has thousands
_LARGEST_ERROR = 2**16  # of which the first bytes say what is wrong
_MOST_REDIRECTS = 3
# Of the body as it was sent, no longer true of the one that was read.
_DROPPED = {"content-encoding", "content-length", "transfer-encoding"}


class RedirectError(Exception):
    """The server redirects to another origin; the text is that origin."""


class TooLargeError(Exception):
    """The reply is larger than LARGEST_REPLY."""


class BoundedClient(openai.DefaultAsyncHttpxClient):
    """Follows redirects only within the server's own origin, and reads bounded replies."""

    async def send(self, request: httpx2.Request, **options) -> httpx2.Response:
        """Sends a request and reads the reply.

        Raises:
          RedirectError: the request would have gone elsewhere, or in circles.
          TooLargeError: the reply is too large. Of an error's body only the start is read.
          httpx2.RequestError: as the base class.
        """
        options |= {"stream": True, "follow_redirects": False}
        for _ in range(_MOST_REDIRECTS + 1):
            response = await super().send(request, **options)
            if not response.has_redirect_location:
                return await _read(response)
            await response.aclose()
            onward = response.next_request
            # Other redirects than 307 and 308 turn the request into one without a body.
            if onward is None or onward.method != request.method:
                break
            if _origin(onward.url) != _origin(request.url):
                raise RedirectError(_origin(onward.url))
            request = onward
        raise RedirectError("another address")


async def _read(response: httpx2.Response) -> httpx2.Response:
    """The same response with its decompressed body, which is never held beyond the limit."""
    body, limit = bytearray(), LARGEST_REPLY if response.is_success else _LARGEST_ERROR
    try:
        # Pieces of at most a MiB, whatever the compression.
        async with contextlib.aclosing(response.aiter_bytes()) as pieces:
            async for piece in pieces:
                body += piece
                if len(body) > limit:
                    break
    finally:
        await response.aclose()
    if len(body) > limit and response.is_success:
        raise TooLargeError
    headers = [(k, v) for k, v in response.headers.multi_items() if k.lower() not in _DROPPED]
    return httpx2.Response(
        response.status_code, headers=headers, content=bytes(body[:limit]), request=response.request
    )


def _origin(url: httpx2.URL) -> str:
    """Scheme, host and port, without a user's name and password."""
    return f"{url.scheme}://{url.host}" + (f":{url.port}" if url.port else "")
