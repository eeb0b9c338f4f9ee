"""Who may come in: keys, names of this server, and paths. Nothing here reads a body."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass
from urllib.parse import unquote

from starlette.types import Scope

from tuili.chat.completions import is_model_name
from tuili.server.replies import Refused
from tuili.server.settings import Settings

OPEN_PATHS = ("/health", "/ready")  # exactly these, without a key
_PLAIN_PATH = re.compile(r"(?:/[A-Za-z0-9_-][A-Za-z0-9._:-]*)+|/")
_MODELS = "/v1/models/"  # below it, clients write "org/name" as org%2Fname, and names in Chinese in bytes
_ESCAPED = re.compile("%2f|%3a|(?:%[89a-f][0-9a-f])+", re.IGNORECASE)
_PARTS = re.compile("[^/.:][^/]*(?:/[^/.:][^/]*)*")


@dataclass(frozen=True, slots=True)
class Tenant:
    """Whoever holds a key; `name` is for logs, `salt` separates what the prefix cache keeps."""

    name: str
    salt: str | None


ANYBODY = Tenant("-", None)


class Access:
    """The rules of one server."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tenants = [(_digest(key.encode()), _tenant(key)) for key in settings.api_keys]

    def check(self, scope: Scope) -> Tenant:
        """The tenant of a request.

        raises  Refused: 400 for a path, Host or framing that no honest client sends, 403 for another site's
                page, 401 without a key
        """
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, []).append(value)
        if not _is_plain(scope["raw_path"], scope["path"]):
            raise Refused(400, "the path is not one of this server's", code="invalid_path")
        host = self._host(headers.get(b"host", []))
        if b"content-length" in headers and b"transfer-encoding" in headers:
            raise Refused(400, "Content-Length next to Transfer-Encoding", code="invalid_http")
        self._check_origin(headers.get(b"origin", []), host)
        if scope["path"] in OPEN_PATHS:
            return ANYBODY
        return self._tenant(headers.get(b"authorization", []), scope["path"])

    def _host(self, values: list[bytes]) -> str:
        match = (
            re.fullmatch(rb"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?", values[0]) if values else None
        )
        if len(values) != 1 or match is None or not self._settings.allows(match[1].decode()):
            raise Refused(400, "the Host header does not name this server", code="invalid_host")
        return values[0].decode().lower()

    def _check_origin(self, values: list[bytes], host: str) -> None:
        """A page of another site may not use the server through its visitors' browsers."""
        for value in values:
            if value.decode("latin-1").lower() not in (f"http://{host}", f"https://{host}"):
                raise Refused(403, "pages of other sites may not use this server", code="invalid_origin")

    def _tenant(self, values: list[bytes], path: str) -> Tenant:
        if not self._tenants:
            return ANYBODY
        key = _key(values[0]) if len(values) == 1 else None
        digest = _digest(key or b"")
        found = None
        for known, tenant in self._tenants:  # all of them, however early one matches
            if hmac.compare_digest(known, digest):
                found = tenant
        if key is None or found is None:
            scheme = 'Basic realm="tuili"' if path == "/" else "Bearer"  # a browser asks its user
            raise Refused(
                401, "a valid API key is needed", code="invalid_api_key", headers={"WWW-Authenticate": scheme}
            )
        return found


def _is_plain(raw_path: bytes, path: str) -> bool:
    """Whether a path is written in the one way that there is; a model's name may be in another."""
    written = raw_path.decode("latin-1")
    if not written.startswith(_MODELS):
        return written == path and _PLAIN_PATH.fullmatch(path) is not None
    written, name = _ESCAPED.sub(lambda found: unquote(found[0]), written), path.removeprefix(_MODELS)
    return written == path and is_model_name(name) and _PARTS.fullmatch(name) is not None


def _key(authorization: bytes) -> bytes | None:
    """The key of `Bearer KEY`, or of a browser's `Basic base64(anything:KEY)`."""
    scheme, _, credentials = authorization.partition(b" ")
    if scheme.lower() == b"bearer":
        return credentials
    if scheme.lower() != b"basic":
        return None
    try:
        return base64.b64decode(credentials, validate=True).partition(b":")[2]
    except binascii.Error:
        return None


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(b"tuili key " + key).digest()


def _tenant(key: str) -> Tenant:
    digest = hashlib.sha256(b"tuili tenant " + key.encode()).hexdigest()
    return Tenant(f"key-{digest[:8]}", digest[8:])
