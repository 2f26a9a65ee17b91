"""Parts of a file on a web server: exactly the bytes asked for, over a connection that is kept.

A server answers a request for a range with 206 and says which range it sends; anything else is an
error, for a server that ignores the range would send the whole file.  A connection that breaks is
taken up again where it broke; a server that is silent for 10 s is given up.  Whoever a server
redirects to on another host, or without encryption, is not told the token.
"""

import http.client
import re
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

from thrifty.errors import UserError

PATIENCE_S = 10
TRIES = 3
REDIRECTS = 5
PIECE = 1 << 20
MOST_TEXT = 64 << 20
"""Bytes of a whole answer (a list of files, an index) that are taken at most."""


class Refused(UserError):
    """The server answered, and not with what was asked for."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Answer:
    """The head of a response, and its body to read."""

    response: http.client.HTTPResponse
    url: str


class Web:
    """Requests to web servers, with one connection a host.

    Args:
        headers: sent to the host of each address asked for, and not to others it redirects to
            if they are secret (``authorization``).
    """

    def __init__(self, headers: Mapping[str, str]):
        self._headers = {key.lower(): value for key, value in headers.items()}
        self._connections: dict[tuple[str, str], http.client.HTTPConnection] = {}

    def text(self, url: str) -> bytes:
        """The whole of a small document.

        Raises:
            UserError: the server cannot be reached, refuses, or sends more than 64 MB.
        """
        for attempt in range(TRIES):
            try:
                answer = self._get(url, {})
                content = answer.response.read(MOST_TEXT + 1)
                break
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if attempt + 1 == TRIES or isinstance(error, TimeoutError):
                    raise _unreachable(url, error) from None
        if len(content) > MOST_TEXT:
            self.close()
            raise UserError(f"{url} has more than {MOST_TEXT:,} bytes, which no list of files has")
        return content

    def size(self, url: str) -> int:
        """Bytes of the file at ``url``, learnt by asking for its first."""
        size = 0
        try:
            for _ in self.part(url, 0, 1):
                size = self._total
        except Refused as error:
            if error.status != 416:  # an empty file has no first byte
                raise
        return size

    def part(self, url: str, begin: int, end: int) -> Iterator[bytes]:
        """The bytes from ``begin`` to ``end``, in pieces of at most 1 MiB.

        Raises:
            UserError: the server cannot be reached, does not answer ranged reads, sends another
                range, is silent, or breaks off three times without sending more.
        """
        at, failures = begin, 0
        while at < end:
            before = at
            try:
                answer = self._get(url, {"range": f"bytes={at}-{end - 1}"})
                self._check(answer, at, end)
                while at < end and (piece := answer.response.read(min(PIECE, end - at))):
                    at += len(piece)
                    yield piece
                reason: Exception = ConnectionError("the connection ended early")
            except (OSError, http.client.HTTPException) as error:
                reason = error
            if at < end:
                self.close()
                failures = 0 if at > before else failures + 1
                if failures == TRIES or (failures and isinstance(reason, TimeoutError)):
                    raise _unreachable(url, reason) from None

    def close(self) -> None:
        """Let go of all connections."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    _total = 0

    def _check(self, answer: Answer, begin: int, end: int) -> None:
        response = answer.response
        if response.status != 206:
            self.close()
            raise UserError(
                f"{answer.url} does not answer reads of a part of a file (status "
                f"{response.status}); download the file and give its path"
            )
        told = response.headers.get("content-range", "")
        found = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", told)
        if not found or (int(found[1]), int(found[2])) != (begin, end - 1):
            self.close()
            raise UserError(
                f"{answer.url} was asked for bytes {begin} to {end - 1} and sends {told!r}; "
                f"download the file and give its path"
            )
        self._total = int(found[3])

    def _get(self, url: str, more: Mapping[str, str]) -> Answer:
        headers = {"accept-encoding": "identity", **self._headers, **more}
        home = url
        for _ in range(REDIRECTS + 1):
            place = urlsplit(url)
            if place.scheme not in ("http", "https") or not place.hostname:
                raise UserError(f"{url!r} is no address of a web server")
            if not same_origin(home, url):
                headers.pop("authorization", None)
            response = self._send(place, headers)
            if response.status in (301, 302, 303, 307, 308):
                response.read(PIECE)
                url = urljoin(url, response.headers.get("location", ""))
                continue
            if response.status >= 400:
                self.close()
                raise Refused(f"{url} answers {response.status} {response.reason}", response.status)
            return Answer(response, url)
        raise UserError(f"{url} redirects more than {REDIRECTS} times")

    def _send(self, place: SplitResult, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        key = place.scheme, place.netloc
        kept = self._connections.get(key)
        connection = kept or _connect(place)
        self._connections[key] = connection
        target = (place.path or "/") + (f"?{place.query}" if place.query else "")
        try:
            connection.request("GET", target, headers=dict(headers))
            return connection.getresponse()
        except (OSError, http.client.HTTPException):
            connection.close()
            del self._connections[key]
            if kept is None:
                raise
        return self._send(place, headers)  # a kept connection may have been closed meanwhile


def same_origin(one: str, other: str) -> bool:
    """Whether what the server of ``one`` is told may be told that of ``other``.

    Example:
        >>> same_origin("https://hub/a", "https://hub/b"), same_origin("https://hub", "http://hub")
        (True, False)
    """
    return urlsplit(one)[:2] == urlsplit(other)[:2]


def _connect(place: SplitResult) -> http.client.HTTPConnection:
    kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
    host = place.hostname or ""
    proxy = urllib.request.getproxies().get(place.scheme)
    if not proxy or urllib.request.proxy_bypass(host):
        return kind(host, place.port, timeout=PATIENCE_S)
    through = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    connection = kind(through.hostname or "", through.port, timeout=PATIENCE_S)
    connection.set_tunnel(host, place.port)
    return connection


def _unreachable(url: str, error: Exception) -> UserError:
    return UserError(
        f"{url} cannot be read ({error}); look at the connection and try again, or download the "
        f"file elsewhere and give its path"
    )
