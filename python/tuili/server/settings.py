"""What a server is told: where it listens, who may come, and how much of everything.

A file in TOML has the same names: `model = "…"` with its options in [model_options], and these in [server].
"""

from __future__ import annotations

import dataclasses
import inspect
import ipaddress
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuili.chat.completions import MODEL_NAME, given_name, is_model_name
from tuili.checks import (
    Check,
    boolean,
    described,
    float_in,
    int_in,
    integer,
    invalid,
    measured,
    only_known,
)
from tuili.errors import InvalidParameterError
from tuili.llm import LLM
from tuili.loading.files import StrPath, read_file

MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Checked when made. Times in seconds, sizes in bytes.

    raises  InvalidParameterError
    """

    host: str = "127.0.0.1"  # beyond loopback only with api_keys, or anonymous = true
    port: int = 8000  # 0: one that is free
    api_keys: tuple[str, ...] = ()  # each is a tenant: a share of the requests, and a prefix cache of its own
    anonymous: bool = False  # serve a network without keys
    allowed_hosts: tuple[str, ...] = ()  # names in Host besides this machine's own
    served_model_name: str | None = None  # the model's own
    max_body_bytes: int = 8 << 20
    max_header_bytes: int = 64 << 10
    header_timeout_s: float = 10.0  # for a request's head
    body_timeout_s: float = 30.0  # for the whole body
    keep_alive_s: float = 5.0  # between two requests of a connection
    send_timeout_s: float = 30.0  # for a client that reads nothing
    request_timeout_s: float = 600.0  # deadline of a request that names no earlier one
    drain_s: float = 30.0  # for what is under way when the server is told to end
    max_connections: int = 1024
    max_requests: int = 256  # under way at once; each continuation of each prompt is one
    max_requests_per_key: int = 64
    max_tokens_per_minute: int | None = None  # of prompts and answers, for each key
    page: bool = True  # the chat page at /

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _CHECKS[field.name](field.name, getattr(self, field.name)))
        if not self.is_local and not self.api_keys and not self.anonymous:
            invalid(
                "host",
                "is not this machine alone: give keys (--api-key-file, api_key_file), or serve everybody "
                "(--anonymous, anonymous = true)",
            )
        if self.max_tokens_per_minute is not None and not self.api_keys:
            invalid("max_tokens_per_minute", "is of each key: give keys (--api-key-file, api_key_file)")

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        address = _address(self.host)
        return self.host == "localhost" if address is None else address.is_loopback

    def allows(self, host: str) -> bool:
        """Whether a Host header's name, without port, means this server. A page of another name that
        resolves to this address (DNS rebinding) does not.
        """
        name = host.lower().removesuffix(".").removeprefix("[").removesuffix("]")
        if name in ("localhost", *self.allowed_hosts):
            return True
        address = _address(name)
        return address is not None and (address.is_loopback or not self.is_local)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _host(name: str, value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9.:-]{1,255}", value):
        invalid(name, f"must be a name or an address, not {given_name(value)}")
    return value


def _hosts(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or len(value) > 256:
        invalid(name, f"must be a list of names, not {described(value)}")
    for item in value:
        if not isinstance(item, str) or not (_address(item) or re.fullmatch(r"[A-Za-z0-9._-]{1,255}", item)):
            invalid(
                name, f"must hold names or addresses without a port, not {given_name(item)}: any port will do"
            )
    return tuple(item.lower().removesuffix(".") for item in value)


def _keys(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or len(value) > 10_000:
        invalid(name, f"must be a list of keys, not {described(value)}")
    for item in value:
        if not isinstance(item, str) or not re.fullmatch(r"[!-~]{16,512}", item):
            form = "strings of 16 to 512 printable characters of ASCII without spaces"
            invalid(name, f"must be {form}, not {measured(item)}")
    if len(set(value)) != len(value):
        invalid(name, "holds a key twice")
    return tuple(value)


def _model_name(name: str, value: object) -> str | None:
    if not isinstance(value, str | None) or (value is not None and not is_model_name(value)):
        invalid(name, f"must be {MODEL_NAME}, not {given_name(value)}")
    return value


_CHECKS: dict[str, Check] = {
    "host": _host,
    "port": int_in(0, 65535),
    "api_keys": _keys,
    "anonymous": boolean,
    "allowed_hosts": _hosts,
    "served_model_name": _model_name,
    "max_body_bytes": int_in(1, 1 << 30),
    "max_header_bytes": int_in(1024, 1 << 20),
    **dict.fromkeys(
        (
            "header_timeout_s",
            "body_timeout_s",
            "keep_alive_s",
            "send_timeout_s",
            "request_timeout_s",
            "drain_s",
        ),
        float_in(0.0, 1e6, above_low=True),
    ),
    "max_connections": int_in(1, 1 << 20),
    "max_requests": int_in(1, 1 << 20),
    "max_requests_per_key": int_in(1, 1 << 20),
    "max_tokens_per_minute": lambda name, value: None if value is None else integer(name, value, 1, 1 << 40),
    "page": boolean,
}
NAMES = tuple(_CHECKS)
MODEL_OPTIONS = tuple(sorted(inspect.signature(LLM).parameters.keys() - {"model", "progress"}))
_FILE_NAMES = ("model", "model_options", "server", "api_key_file")


def read_keys(path: StrPath) -> tuple[str, ...]:
    """The keys of a file, one a line; empty lines and those that begin with # are none."""
    lines = read_file(path, MAX_FILE_BYTES).decode("utf-8-sig", "replace").splitlines()
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def read_config(path: StrPath) -> dict[str, Any]:
    """A configuration file: "model", "model_options", "server", "api_key_file", those that it has. A relative
    api_key_file is beside it.

    raises  InvalidParameterError, and as `read_file`
    """
    try:
        found = tomllib.loads(read_file(path, MAX_FILE_BYTES).decode("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidParameterError(f"config: {error}", param="config") from None
    only_known(found, _FILE_NAMES)
    for table in ("model_options", "server"):
        if not isinstance(found.get(table, {}), Mapping):
            invalid(table, f"must be a table, not {described(found[table])}")
    only_known(found.get("server", {}), NAMES, "server.")
    only_known(found.get("model_options", {}), MODEL_OPTIONS, "model_options.")
    for name in ("model", "api_key_file"):
        if name in found and not isinstance(found[name], str):
            invalid(name, f"must be a string, not {described(found[name])}")
    if "api_key_file" in found:
        found["api_key_file"] = str(Path(path).parent / found["api_key_file"])
    return found
