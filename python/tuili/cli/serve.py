"""The arguments of `tuili serve`."""

from __future__ import annotations

import argparse
from typing import Any

from tuili.cli.command import add_command
from tuili.errors import InvalidParameterError


def add_arguments(commands: Any) -> None:
    """Add the command to the subparsers of `tuili`."""
    text = "serve a model over HTTP, with OpenAI's interface"
    parser = add_command(commands, "serve", run, text, model=True, needs_model=False, prints_json=False)
    group = parser.add_argument_group("server")
    group.add_argument("--config", metavar="FILE", help="settings in TOML; options here come before it")
    group.add_argument("--host", metavar="ADDRESS", help="default 127.0.0.1: this machine alone")
    group.add_argument("--port", type=int, metavar="N", help="default 8000")
    group.add_argument("--api-key-file", metavar="FILE", help="keys that may be used, one a line")
    group.add_argument("--anonymous", action="store_const", const=True, help="serve a network without keys")
    group.add_argument(
        "--allowed-host", action="append", metavar="NAME", dest="allowed_hosts", help="a name of this server"
    )
    group.add_argument("--served-model-name", metavar="NAME", help="what clients call it; default MODEL")
    group.add_argument("--drain-s", type=float, metavar="SECONDS", help="to finish after SIGTERM; default 30")
    group.add_argument("--max-requests", type=int, metavar="N", help="under way at once; default 256")
    group.add_argument(
        "--max-requests-per-key", type=int, metavar="N", help="the same of one key; default 64"
    )
    group.add_argument("--max-tokens-per-minute", type=int, metavar="N", help="of one key; default: no limit")
    group.add_argument("--no-page", action="store_const", const=False, dest="page", help="no chat page at /")


def run(options: argparse.Namespace) -> int:
    """The command. raises: TuiliError for what keeps the server from starting"""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise InvalidParameterError(
            "tuili serve needs starlette and uvicorn: pip install 'tuili[server]'",
            param="serve",
            code="extra",
        ) from None
    from tuili.server import process

    return process.run(options)
