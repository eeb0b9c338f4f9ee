"""`tuili cache`: list, verify and clear the packed cache."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

from tuili.loading import packed_cache


def run(options: argparse.Namespace, bar: Callable[[int, int], None] | None) -> tuple[dict[str, Any], int]:
    """What there is to print as JSON, and the exit code: 1 if a file is damaged.

    bar  called with (bytes, bytes in all) while files are verified
    """
    folder = packed_cache.folder_of(options.cache_dir)
    if options.action == "clear":
        removed = packed_cache.trim(folder, options.max_bytes)
        return {"folder": folder, "removed": removed}, 0
    found = packed_cache.entries(folder)
    total, done = sum(entry.n_bytes for entry in found), 0
    files: list[dict[str, Any]] = []
    for entry in found:
        facts = entry.facts or {}
        line: dict[str, Any] = {
            "path": entry.path,
            "n_bytes": entry.n_bytes,
            "used": time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used)),
            "model": facts.get("model"),
            "options": facts.get("options"),
        }
        if options.action == "verify":
            begin = done

            def progress(n_bytes: int) -> None:
                nonlocal done
                done += n_bytes
                if bar is not None:
                    bar(min(done, total), total)

            line["problem"] = packed_cache.verify(entry.path, progress)
            done = begin + entry.n_bytes
        files.append(line)
    if bar is not None and total:
        bar(total, total)
    return {"folder": folder, "max_bytes": packed_cache.MAX_BYTES, "files": files}, int(
        any(line.get("problem") for line in files)
    )


def table(result: dict[str, Any]) -> str:
    """The result of `run` as text for people."""
    if "removed" in result:
        return f"{len(result['removed'])} files removed from {result['folder']}"
    lines = []
    for file in result["files"]:
        made_of = file["model"] or "of another version, or damaged"
        told = {k: v for k, v in (file["options"] or {}).items() if v not in (None, "auto", True)}
        options = ", ".join(f"{k}={v}" for k, v in told.items())
        problem = "" if "problem" not in file else f"  {file['problem'] or 'ok'}"
        name = os.path.basename(file["path"])
        lines.append(f"{name}  {file['n_bytes'] / 1e6:8.1f} MB  {file['used']}{problem}")
        lines.append(f"  {made_of}  {options}".rstrip())
    total = sum(file["n_bytes"] for file in result["files"])
    sizes = f"{total / 1e6:.1f} of {result['max_bytes'] / 1e6:.0f} MB"
    lines.append(f"{len(result['files'])} files, {sizes} in {result['folder']}")
    return "\n".join(lines)
