"""Alerts: tell people once, and keep what was told.

An alert is first a row (its id is the digest of the cause, so one cause alerts once), then a line in
`<home>/reports/alerts.log` that ends in its id, and then a message to every Apprise URL of `VOICE_PIPELINE_ALERT_URLS`
(Slack, e-mail, …; https://github.com/caronc/apprise/wiki). Only after line and message is the row marked delivered: the
next `deliver_pending` takes up what a kill or an outage of the chat left, and the log holds each alert once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import RowMapping, select, update

from voice_pipeline.schema.canonical import digest
from voice_pipeline.store.database import insert_new
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import alerts as table

logger = logging.getLogger("voice_pipeline.alerts")

MARK = 16
"""Characters of its id that end an alert's line."""
PATIENCE_S = 5.0
"""How long one process waits for another that delivers."""


def raise_alert(store: Store, cause: Mapping[str, Any], title: str, body: str) -> bool:
    """Record and send an alert; False (and nothing sent) if this `cause` has alerted before."""
    alert_id = digest(dict(cause))
    row = {"alert_id": alert_id, "at": store.now().isoformat(), "title": title, "body": body, "delivered": False}
    with store.database.write() as connection:
        if not insert_new(connection, table, [row]):
            return False
    logger.warning("%s: %s", title, body)
    deliver_pending(store)
    return True


def deliver_pending(store: Store) -> int:
    """Log and send every alert that no address has taken yet; returns how many were delivered now.

    One process at a time: of two that find the same alert pending, each would tell it. Who waits too long leaves it to
    the other one and to the next call.
    """
    store.settings.reports.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(store.settings.reports / ".alerts.lock", timeout=PATIENCE_S):
            return _deliver(store)
    except Timeout:
        return 0


def _deliver(store: Store) -> int:
    pending = store.database.rows(select(table).where(table.c.delivered.is_(False)).order_by(table.c.at))
    _write_lines(store, pending)
    delivered = [row["alert_id"] for row in pending if _notify(store.settings.alert_urls, row["title"], row["body"])]
    if delivered:
        with store.database.write() as connection:
            connection.execute(update(table).where(table.c.alert_id.in_(delivered)).values(delivered=True))
    return len(delivered)


def _write_lines(store: Store, rows: Sequence[RowMapping]) -> None:
    """Append a line an alert that has none. A line that a kill cut off lacks its id, so it is written again, whole."""
    if not rows:
        return
    path = store.settings.reports / "alerts.log"
    text = path.read_text(errors="replace") if path.exists() else ""
    told = {line[-MARK:] for line in text.splitlines()}
    new = [row for row in rows if row["alert_id"][:MARK] not in told]
    lines = [f"{r['at']} {r['title']}: {' '.join(r['body'].split())} {r['alert_id'][:MARK]}\n" for r in new]
    with path.open("a") as handle:
        handle.write(("\n" if text and not text.endswith("\n") else "") + "".join(lines))


def _notify(urls: tuple[str, ...], title: str, body: str) -> bool:
    """True when every address took it; with no address the log and the file are the delivery."""
    if not urls:
        return True
    import apprise

    sender = apprise.Apprise()
    accepted = [sender.add(url) for url in urls]
    if not all(accepted):
        logger.error("an address in VOICE_PIPELINE_ALERT_URLS is no Apprise URL; correct it")
        return False
    return bool(sender.notify(title=title, body=body))
