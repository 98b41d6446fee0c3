"""Alerts: tell people once, and keep what was told.

An alert is first a row (its id is the digest of the cause, so one cause alerts once), then a line in
`<home>/reports/alerts.log`, and then a message to every Apprise URL of `VOICE_PIPELINE_ALERT_URLS` (Slack, e-mail, …;
https://github.com/caronc/apprise/wiki). An address that cannot be reached leaves the row undelivered: the next
`deliver_pending` tries again, so an outage of the chat costs no alert.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from sqlalchemy import select, update

from voice_pipeline.schema.canonical import digest
from voice_pipeline.store.database import insert_new
from voice_pipeline.store.store import Store
from voice_pipeline.store.tables import alerts as table

logger = logging.getLogger("voice_pipeline.alerts")


def raise_alert(store: Store, cause: Mapping[str, Any], title: str, body: str) -> bool:
    """Record and send an alert; False (and nothing sent) if this `cause` has alerted before."""
    alert_id = digest(dict(cause))
    row = {"alert_id": alert_id, "at": store.now().isoformat(), "title": title, "body": body, "delivered": False}
    with store.database.write() as connection:
        if not insert_new(connection, table, [row]):
            return False
    logger.warning("%s: %s", title, body)
    _write_line(store, row["at"], title, body)  # type: ignore[arg-type]
    deliver_pending(store)
    return True


def deliver_pending(store: Store) -> int:
    """Send every alert that no address has taken yet; returns how many were delivered now."""
    pending = store.database.rows(select(table).where(table.c.delivered.is_(False)).order_by(table.c.at))
    delivered = [row["alert_id"] for row in pending if _notify(store.settings.alert_urls, row["title"], row["body"])]
    if delivered:
        with store.database.write() as connection:
            connection.execute(update(table).where(table.c.alert_id.in_(delivered)).values(delivered=True))
    return len(delivered)


def _write_line(store: Store, at: str, title: str, body: str) -> None:
    path = store.settings.reports / "alerts.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        handle.write(f"{at} {title}: {' '.join(body.split())}\n")


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
