"""Any other value in a signed ledger line, in its envelope, or in the statement under the same signature."""

from __future__ import annotations

import base64
import copy
import json
from dataclasses import replace

from hypothesis import strategies as st

from voice_pipeline.schema.canonical import canonical_json
from voice_pipeline.store.ledger import LedgerLine

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def tampered(line: LedgerLine, data: st.DataObject, *fields: str) -> LedgerLine:
    """`line` with one value changed: of its payload, or of those `fields` beside it that the signature binds."""
    where = data.draw(st.sampled_from(["payload", "envelope", "statement", "whole", *fields]))
    if where == "seq":
        return replace(line, seq=data.draw(st.integers(0, line.seq - 1)))
    value = data.draw(PLAIN)
    if where in fields:
        return replace(line, **{where: str(value)})
    if where == "whole":
        return replace(line, payload=value)
    payload = copy.deepcopy(line.payload)
    if where == "payload":
        payload[data.draw(st.sampled_from(sorted(payload)))] = value
    elif where == "envelope":
        payload["envelope"][data.draw(st.sampled_from(["payload", "payloadType", "signatures"]))] = value
    else:
        said = json.loads(base64.b64decode(payload["envelope"]["payload"]))
        said[data.draw(st.sampled_from(sorted(said)))] = value
        payload["envelope"]["payload"] = base64.b64encode(canonical_json(said)).decode()
    return replace(line, payload=payload)
