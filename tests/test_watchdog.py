"""A step that does not return is noticed and told, and nothing is killed.

Catalogue row CAN-11.
"""

from __future__ import annotations

import gc
import logging
import resource
import threading
import time

import pytest

from patience import comes_true
from tiny_engine import Clock, codes, make_engine, sampling
from tuili.generation import engine as engine_module
from tuili.generation.watchdog import Watchdog


class Hanging:
    """A runner whose steps hang until `go` is set."""

    def __init__(self, runner):
        self.runner, self.interrupt, self.go = runner, runner.interrupt, threading.Event()

    def step(self, *arguments):
        self.go.wait()
        return self.runner.step(*arguments)

    def run(self, *arguments, **options):
        return self.runner.run(*arguments, **options)


@pytest.fixture
def hanging(monkeypatch):
    monkeypatch.setattr(engine_module, "STUCK_S", 0.1)
    engine = make_engine(start_thread=True)
    engine._runner = Hanging(engine._runner)
    yield engine
    engine._runner.go.set()
    engine.close()


def test_a_step_that_hangs_is_told_with_its_stack_and_ends_nothing(hanging, caplog):
    assert hanging.stats()["healthy"]
    handle = hanging.submit(codes("a"), sampling(max_tokens=3))
    assert comes_true(lambda: not hanging.stats()["healthy"])
    assert comes_true(lambda: caplog.records)
    time.sleep(0.2)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "test_watchdog.py" in record.getMessage() and "in step" in record.getMessage()
    hanging._runner.go.set()
    assert handle.result(10).outputs[0].text == "bcd"
    assert comes_true(lambda: hanging.stats()["healthy"])


def test_work_is_late_after_its_limit_and_told_once(caplog):
    clock = Clock()
    watchdog = Watchdog(10.0, clock)
    for began in (0.0, 100.0):
        watchdog.since = clock.now = began
        clock.now += 10.0
        watchdog.check()
        assert not watchdog.late and not caplog.records
        clock.now += 0.1
        watchdog.check()
        watchdog.check()
        assert watchdog.late and len(caplog.records) == 1
        caplog.clear()
    watchdog.since = None
    assert not watchdog.late


def test_late_work_is_told_where_no_file_can_be_opened(caplog):
    """A full table of descriptors, or no folder that can be written."""
    clock = Clock()
    watchdog = Watchdog(10.0, clock)
    watchdog.since, clock.now = 0.0, 11.0
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        watchdog.check()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    (record,) = caplog.records
    assert "MainThread" in record.getMessage() and "test_watchdog.py" in record.getMessage()


def test_an_engine_that_sleeps_is_healthy_and_a_closed_one_is_not(hanging):
    hanging._runner.go.set()
    hanging.submit(codes("a"), sampling(max_tokens=3)).result(10)
    time.sleep(0.2)
    assert comes_true(lambda: hanging.healthy)
    hanging.close()
    assert not hanging.healthy and hanging.stats()["healthy"] is False


@pytest.mark.parametrize("way", ["close", "del"])
def test_the_watch_ends_with_the_engine(way):
    def watches():
        return {thread for thread in threading.enumerate() if thread.name == "tuili-watchdog"}

    before = watches()  # those of engines that other tests keep
    engine = make_engine(start_thread=True)
    engine.submit(codes("a"), sampling(max_tokens=3)).result(10)
    [watch] = watches() - before
    if way == "close":
        engine.close()
    del engine
    gc.collect()
    assert comes_true(lambda: not watch.is_alive())
