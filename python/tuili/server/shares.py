"""How much of the server each tenant uses: sequences in the engine, bytes of bodies, tokens a minute.

A sequence is one continuation of one prompt; other requests count as one. A body counts from its first byte
until its request is answered or was handed to the engine.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter

from tuili.checks import invalid
from tuili.errors import QueueFullError, RequestCancelled
from tuili.server.access import ANYBODY, Tenant
from tuili.server.replies import Refused, refusal
from tuili.server.settings import Settings

BUFFERED_BODIES = 16  # of the largest size: what may be in memory at once, half of it for one key
MINUTE_S = 60.0


def full() -> Refused:
    return refusal(QueueFullError(""))


class Shares:
    """The shares of all tenants. Safe from any thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._sequences: Counter[Tenant] = Counter()
        self._bytes: Counter[Tenant] = Counter()
        self._rates: dict[Tenant, _Rate] = {}

    def most_sequences(self, tenant: Tenant) -> int:
        limits = self._settings
        most = limits.max_requests
        return most if tenant is ANYBODY else min(most, limits.max_requests_per_key)

    def add_sequences(self, tenant: Tenant, n: int) -> None:
        """raises  Refused 429, and then nothing was added"""
        with self._lock:
            mine, all_of_them = self._sequences[tenant] + n, self._sequences.total() + n
            if n > 0 and (mine > self.most_sequences(tenant) or all_of_them > self._settings.max_requests):
                raise full()
            self._sequences[tenant] = mine

    def add_bytes(self, tenant: Tenant, n: int) -> None:
        """raises  Refused 429, and then nothing was added"""
        most = BUFFERED_BODIES * self._settings.max_body_bytes
        with self._lock:
            mine, all_of_them = self._bytes[tenant] + n, self._bytes.total() + n
            if n > 0 and (all_of_them > most or (tenant is not ANYBODY and mine > most // 2)):
                raise full()
            self._bytes[tenant] = mine

    def check_rate(self, tenant: Tenant) -> None:
        """raises  Refused 429 with the time after which the tenant has tokens again"""
        with self._lock:
            wait_s = self._rate(tenant).wait_s(time.monotonic())
        if wait_s > 0:
            raise Refused(
                429,
                "this key has used its tokens of the minute",
                code="token_rate",
                headers={"Retry-After": str(math.ceil(wait_s))},
            )

    def use_tokens(self, tenant: Tenant, n: int) -> None:
        with self._lock:
            self._rate(tenant).use(n, time.monotonic())

    def _rate(self, tenant: Tenant) -> _Rate:
        most = None if tenant is ANYBODY else self._settings.max_tokens_per_minute
        return self._rates.setdefault(tenant, _Rate(most))


class _Rate:
    """Tokens that a tenant may still use. What a request takes is known afterwards: there may be debt, and
    nothing new begins until it is paid.
    """

    def __init__(self, per_minute: int | None) -> None:
        self._per_minute = per_minute
        self._left, self._at = float(per_minute or 0), 0.0

    def use(self, n: int, now: float) -> None:
        if self._per_minute is not None:
            self._left = self._now(now) - n
            self._at = now

    def wait_s(self, now: float) -> float:
        """Seconds until there is a token."""
        if self._per_minute is None:
            return 0.0
        return max(0.0, 1 - self._now(now)) * MINUTE_S / self._per_minute

    def _now(self, now: float) -> float:
        assert self._per_minute is not None
        return min(self._per_minute, self._left + (now - self._at) * self._per_minute / MINUTE_S)


class Place:
    """One request's part of its tenant's share, until it leaves. Safe from any thread."""

    def __init__(self, shares: Shares, tenant: Tenant) -> None:
        self._shares, self._tenant = shares, tenant
        self._lock = threading.Lock()
        self._n_sequences = self._n_bytes = 0
        self._gone = False

    def buffer(self, n_bytes: int) -> None:
        """Count bytes of the body. raises  Refused 429"""
        self._shares.add_bytes(self._tenant, n_bytes)
        self._n_bytes += n_bytes

    def hand_on(self) -> None:
        """The body is no longer kept."""
        n_bytes, self._n_bytes = self._n_bytes, 0
        self._shares.add_bytes(self._tenant, -n_bytes)

    def enter(self) -> None:
        """Begin, as one sequence. raises  Refused 429"""
        self._shares.check_rate(self._tenant)
        self.widen(1)

    def widen(self, n_sequences: int) -> None:
        """Count as so many sequences.

        raises  InvalidParameterError if a tenant never has so many; Refused 429; RequestCancelled if the
                request has left meanwhile
        """
        most = self._shares.most_sequences(self._tenant)
        if n_sequences > most:
            invalid(
                "n", f"or num_beams, times the number of prompts may be at most {most}, not {n_sequences}"
            )
        with self._lock:
            if self._gone:
                raise RequestCancelled("the client left")
            self._shares.add_sequences(self._tenant, n_sequences - self._n_sequences)
            self._n_sequences = n_sequences

    def use_tokens(self, n: int) -> None:
        self._shares.use_tokens(self._tenant, n)

    def leave(self) -> None:
        self.hand_on()
        with self._lock:
            self._gone = True
            self._shares.add_sequences(self._tenant, -self._n_sequences)
            self._n_sequences = 0
