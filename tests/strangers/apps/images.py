"""An archive for medical images, by pynetdicom."""

from __future__ import annotations

from typing import Any

from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, Verification

from strangers import gate
from strangers.apps import big

PIXELS = b"".join(big(20))


def _slow(event: Any) -> None:
    if event.assoc.requestor.ae_title == "SLOW":
        gate.wait()


def on_echo(event: Any) -> int:
    _slow(event)
    return 0x0000


def on_store(event: Any) -> int:
    _slow(event)
    return 0x0000 if event.dataset.PixelData == PIXELS else 0xA700


entity = AE("ARCHIVE")
entity.maximum_associations = 100
entity.add_supported_context(Verification)
entity.add_supported_context(CTImageStorage)

ARCHIVE: dict[str, Any] = {
    "ae": entity,
    "ae_title": entity.ae_title,
    "contexts": entity.supported_contexts,
    "evt_handlers": [(evt.EVT_C_ECHO, on_echo), (evt.EVT_C_STORE, on_store)],
}
"""The arguments of an `AssociationServer`, without the address."""
