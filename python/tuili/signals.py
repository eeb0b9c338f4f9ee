"""Exceptions of a signal's handler, which come in the middle of whatever runs."""

from __future__ import annotations

import sys
import traceback

_LIBRARIES = {"tuili", "jinja2", "markupsafe", *sys.stdlib_module_names}


def of_a_handler(error: BaseException) -> bool:
    """Whether a signal's handler raised what came out of a call that runs nobody else's functions: then one
    of the frames between is neither ours nor a library's.
    """
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    modules = (frame.f_globals.get("__name__", "<template>") for frame in frames)
    return any(name.partition(".")[0] not in _LIBRARIES and name[:1] != "<" for name in modules)
