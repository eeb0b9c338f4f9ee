"""A server's process: read what it is told, load the model, listen, and end as told.

SIGTERM or Ctrl-C: nothing new is taken, what is under way gets drain_s, then it is ended; a second signal
ends it at once. The exit code is 0.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import gc
import logging
import os
import resource
import signal
import socket
import sys
from types import FrameType
from typing import Any, NoReturn

import uvicorn

from tuili.checks import invalid
from tuili.cli.command import MODEL_OPTIONS, bar, given_options
from tuili.errors import InvalidParameterError, TuiliError
from tuili.llm import LLM
from tuili.server import settings as configuration
from tuili.server.app import App
from tuili.server.connection import limited
from tuili.server.settings import Settings

log = logging.getLogger("tuili.server")

_OPTIONS = (
    "host",
    "port",
    "anonymous",
    "allowed_hosts",
    "served_model_name",
    "drain_s",
    "max_requests",
    "max_requests_per_key",
    "max_tokens_per_minute",
    "page",
)
BACKLOG = 2048  # uvicorn's own default
ACCEPTED_AT_ONCE = 16  # before the next look at what else is to be done
OWN_FILES = 64  # descriptors that are not for clients
AFTER_DRAIN_S = 5.0  # for answers to be written
SWITCH_INTERVAL_S = 0.001  # how long a thread of ours may keep the event loop from running


def run(options: argparse.Namespace) -> int:
    """The command. raises: TuiliError for what keeps the server from starting"""
    signal.signal(signal.SIGTERM, _leave)  # while the model is loaded
    model, model_options, settings = read(options)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # of this process: its threads are ours
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # prompts
    settings = within_files(settings)
    with bind(settings) as listener, LLM(model, **model_options, progress=bar("loading")) as llm:
        return serve(llm, settings, listener)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def read(options: argparse.Namespace) -> tuple[str, dict[str, Any], Settings]:
    """(model, options of LLM, settings) of the command line and its file."""
    file = {} if options.config is None else configuration.read_config(options.config)
    model = options.model or file.get("model")
    if model is None:
        raise InvalidParameterError("serve: a MODEL is needed, here or in the file", param="model")
    model_options = {**file.get("model_options", {}), **given_options(options, MODEL_OPTIONS)}
    chosen = {**file.get("server", {}), **given_options(options, _OPTIONS)}
    key_file = options.api_key_file or file.get("api_key_file")
    if key_file is not None:
        keys = configuration.read_keys(key_file)
        if not keys:
            invalid("api_key_file", "holds no key")
        Settings(api_keys=chosen.get("api_keys", ()))  # names what is wrong with the first ones
        chosen["api_keys"] = (*chosen.get("api_keys", ()), *keys)
    return model, model_options, Settings(**chosen)


def within_files(settings: Settings) -> Settings:
    """As many connections as the process may have files: one too many would stop asyncio from accepting.

    raises  TuiliError (files) if there is no room for any
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.max_connections + OWN_FILES + ACCEPTED_AT_ONCE
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    room = soft - OWN_FILES - ACCEPTED_AT_ONCE
    if room < 1:
        raise TuiliError(f"the process may open {soft} files, too few to serve", code="files")
    if room < settings.max_connections:
        log.warning("the process may open %d files: at most %d connections", soft, room)
    return dataclasses.replace(settings, max_connections=min(room, settings.max_connections))


def bind(settings: Settings) -> socket.socket:
    """A socket that has the address and does not listen yet. raises: TuiliError (listen)"""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise TuiliError(
            f"cannot listen on {settings.host}, port {settings.port}: {reason}", code="listen"
        ) from None
    return listener


def configured(app: App) -> uvicorn.Config:
    """uvicorn's settings for the application."""
    settings = app.settings
    return uvicorn.Config(
        app,
        http=limited(settings),
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_s,  # type: ignore[arg-type]
        timeout_graceful_shutdown=int(settings.drain_s + AFTER_DRAIN_S),
        h11_max_incomplete_event_size=settings.max_header_bytes,
        backlog=ACCEPTED_AT_ONCE,
    )


class Server(uvicorn.Server):
    """uvicorn's, but it drains when told to end, and does not end by the signal."""

    def __init__(self, app: App) -> None:
        super().__init__(configured(app))
        self._app = app

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)  # those that wait in the kernel are another matter

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        again, self.should_exit = self.should_exit, True
        loop = asyncio.get_running_loop()
        soon = loop.call_soon_threadsafe  # this is amid whatever the loop does
        soon(self._app.drain)
        soon(loop.call_later, 0.0 if again else self._app.settings.drain_s, self._app.abort_all)


def serve(llm: LLM, settings: Settings, listener: socket.socket) -> int:
    """Serve until told to end; returns the exit code."""
    app = App(llm, settings)
    _prepare(llm)
    _start_log()
    listener.listen(BACKLOG)
    host, port = listener.getsockname()[:2]
    log.info("serving %s at http://%s:%d", app.served.name, f"[{host}]" if ":" in host else host, port)
    try:
        Server(app).run(sockets=[listener])
    finally:
        app.close()
    return 0


def _prepare(llm: LLM) -> None:
    """Do once what holds up everything the first time: a model's vocabulary for texts and for grammars, its
    template; and what the collector of garbage would do again and again.
    """
    with contextlib.suppress(TuiliError):  # a vocabulary may lack this text, and what unknown text becomes
        llm.tokenizer.encode("a")
    with contextlib.suppress(TuiliError):  # an encoder has neither, and llguidance may be missing
        llm.generate([0], regex="a", max_tokens=1)
    with contextlib.suppress(TuiliError):
        llm.encode_chat([{"role": "user", "content": "a"}])
    gc.collect()
    gc.freeze()  # what is here by now stays: the collector would walk over it while everybody waits


def _start_log() -> None:
    """One line for each request on standard error. uvicorn's own warnings would let anybody fill it."""
    log.setLevel(logging.INFO)
    lines = logging.getLogger("tuili.server.requests")  # which are JSON, with nothing before it
    lines.propagate = False
    lines.handlers = [logging.StreamHandler()]
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
