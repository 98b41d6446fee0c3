"""Alerts: each cause once, never lost to an address that is down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from filelock import FileLock

from voice_pipeline.store import alerts as module
from voice_pipeline.store.alerts import deliver_pending, raise_alert
from voice_pipeline.store.store import Store


class _Chat(BaseHTTPRequestHandler):
    received: list[bytes]
    status = 200

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.send_response(type(self).status)
        self.end_headers()
        if type(self).status == 200:
            type(self).received.append(body)

    def log_message(self, *_args: object) -> None:
        return


@pytest.fixture
def chat() -> Iterator[tuple[type[_Chat], str]]:
    handler = type("Chat", (_Chat,), {"received": [], "status": 200})
    server = HTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield handler, f"json://127.0.0.1:{server.server_port}"
    server.shutdown()


def with_address(store: Store, url: str) -> Store:
    return replace(store, settings=store.settings.model_copy(update={"alert_urls": (url,)}))


def test_a_cause_is_told_once_in_log_file_and_chat(store: Store, chat: tuple[type[_Chat], str]) -> None:
    handler, url = chat
    addressed = with_address(store, url)
    assert raise_alert(addressed, {"run": "r1"}, "run failed", "disk\nfull")
    assert not raise_alert(addressed, {"run": "r1"}, "run failed", "disk full")
    lines = (store.settings.reports / "alerts.log").read_text().splitlines()
    assert len(lines) == len(handler.received) == 1
    assert "run failed: disk full" in lines[0]
    assert b"disk" in handler.received[0]


def test_an_alert_that_no_address_took_is_delivered_later(store: Store, chat: tuple[type[_Chat], str]) -> None:
    handler, url = chat
    addressed = with_address(store, url)
    handler.status = 503
    assert raise_alert(addressed, {"run": "r1"}, "run failed", "disk full")
    assert deliver_pending(addressed) == 0
    handler.status = 200
    assert deliver_pending(addressed) == 1
    assert deliver_pending(addressed) == 0
    assert len(handler.received) == 1


def test_an_address_that_is_none_loses_no_alert(store: Store) -> None:
    wrong = with_address(store, "no-such-scheme://x")
    assert raise_alert(wrong, {"run": "r1"}, "run failed", "disk full")
    assert deliver_pending(wrong) == 0
    assert deliver_pending(store) == 1


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("step", ["_write_lines", "_notify"])
def test_an_alert_killed_at_any_step_is_logged_and_delivered_at_the_next_look(
    store: Store, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def die(*_args: object) -> None:
        raise _Killed

    with monkeypatch.context() as patched:
        patched.setattr(module, step, die)
        with pytest.raises(_Killed):
            raise_alert(store, {"run": "r1"}, "run failed", "disk full")
    assert deliver_pending(store) == 1
    assert deliver_pending(store) == 0
    (line,) = (store.settings.reports / "alerts.log").read_text().splitlines()
    assert "run failed: disk full" in line


def test_a_line_that_was_cut_off_is_written_again_whole(store: Store) -> None:
    wrong = with_address(store, "no-such-scheme://x")
    assert raise_alert(wrong, {"run": "r1"}, "run failed", "disk full")
    log = store.settings.reports / "alerts.log"
    whole = log.read_text()
    log.write_text(whole[:-10])
    deliver_pending(store)
    assert log.read_text() == f"{whole[:-10]}\n{whole}"


def test_two_processes_never_tell_the_same_alert_twice(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one delivers, another waits its turn or leaves it to the first one and to the next call."""
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)
    log = store.settings.reports / "alerts.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(store.settings.reports / ".alerts.lock"):
        assert raise_alert(store, {"incident": "inc-1"}, "harm", "a release was rolled back")
        assert not log.exists()
    assert deliver_pending(store) == 1
    assert deliver_pending(store) == 0
    assert len(log.read_text().splitlines()) == 1
