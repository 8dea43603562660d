"""What the users of the strangers' servers have: each stranger's own client.

A function talks to the server at `host` and `port` as its users do, one conversation from connect
to close, and raises where the client finds the answer wrong or missing.
"""

from __future__ import annotations

import logging
import logging.handlers
import multiprocessing.connection
import socket
import struct
import xmlrpc.client
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

from strangers import apps

PATIENCE = 10.0
"""Seconds in which a server answers."""
UPLOAD = b"".join(apps.big(20))
"""Two million bytes."""


def http(host: str, port: int, what: str, blocks: int = apps.BLOCKS, directory: str = "/") -> None:
    right = {
        "quick": apps.QUICK,
        "slow": apps.QUICK,
        "paused": 2 * apps.QUICK,
        "big": b"".join(apps.big(blocks)) if what == "big" else b"",
        "upload": apps.checksum(UPLOAD).encode(),
    }
    connection = HTTPConnection(host, port, timeout=PATIENCE)
    try:
        body = UPLOAD if what == "upload" else None
        connection.request("POST" if body else "GET", directory + what, body)
        response = connection.getresponse()
        received = response.read()
        assert response.status == 200, response.status
        assert received == right[what], f"{len(received)} bytes: {received[:99]!r}"
    finally:
        connection.close()


def wsgi(host: str, port: int, what: str) -> None:
    http(host, port, what, apps.MODERATE)


def cgi(host: str, port: int, what: str) -> None:
    http(host, port, what, apps.MODERATE, "/cgi-bin/script/")


def connections(host: str, port: int, what: str) -> None:
    right = {
        "quick": apps.QUICK,
        "slow": apps.QUICK,
        "big": b"".join(apps.big(apps.MODERATE)) if what == "big" else b"",
        "upload": apps.checksum(UPLOAD).encode(),
    }
    with multiprocessing.connection.Client((host, port)) as connection:
        connection.send_bytes(UPLOAD if what == "upload" else what.encode())
        assert connection.recv_bytes() == right[what]


def documented(host: str, port: int, what: str) -> None:
    """The description for people, and the procedures."""
    if what != "quick":
        xmlrpc_(host, port, what)
        return
    with closing(HTTPConnection(host, port, timeout=PATIENCE)) as connection:
        connection.request("GET", "/")
        page = connection.getresponse().read()
        assert b"upload" in page, page
        assert page.endswith(b"</html>"), page


def _check_procedure(server: Any, what: str) -> None:
    if what == "upload":
        text = UPLOAD.hex()
        assert server.upload(text) == apps.checksum(text.encode())
    elif what == "big":
        assert server.big() == b"".join(apps.big(apps.MODERATE // 2)).hex()
    else:
        assert getattr(server, what)() == apps.QUICK.decode()


def xmlrpc_(host: str, port: int, what: str) -> None:
    transport = xmlrpc.client.Transport()
    # An answer that is compressed has the time in it.
    transport.accept_gzip_encoding = False
    with xmlrpc.client.ServerProxy(f"http://{host}:{port}/", transport) as server:
        _check_procedure(server, what)


def jsonrpc(host: str, port: int, what: str) -> None:
    import jsonrpclib

    server = jsonrpclib.ServerProxy(f"http://{host}:{port}/")
    try:
        _check_procedure(server, what)
    finally:
        server("close")()


def names(host: str, port: int, what: str) -> None:
    from dnslib import DNSRecord

    from strangers.apps.names import TEXTS

    question = DNSRecord.question(f"{what}.test", "TXT")
    # Not `question.send`: it spins for ever where the answer is cut short.
    with socket.create_connection((host, port), PATIENCE) as sock, sock.makefile("rwb") as file:
        packed = question.pack()
        file.write(struct.pack("!H", len(packed)) + packed)
        file.flush()
        (length,) = struct.unpack("!H", file.read(2))
        answer = DNSRecord.parse(file.read(length))
    assert answer.header.id == question.header.id
    texts = [b"".join(each.rdata.data) for each in answer.rr]
    count = TEXTS if what == "big" else 1
    assert texts == [apps.QUICK * 10 + b"%d" % number for number in range(count)]


def registers(host: str, port: int, what: str) -> None:
    from umodbus.client import tcp

    from strangers.apps.registers import REGISTERS, SLOW

    start = SLOW if what == "slow" else 0
    with socket.create_connection((host, port), PATIENCE) as sock:
        message = tcp.read_holding_registers(1, start, REGISTERS)
        values = tcp.send_message(message, sock)
        assert values == [1 + start + number for number in range(REGISTERS)]


def images(host: str, port: int, what: str) -> None:
    from pynetdicom import AE
    from pynetdicom.sop_class import CTImageStorage, Verification

    entity = AE("SLOW" if what == "slow" else "CLIENT")
    entity.add_requested_context(CTImageStorage if what == "upload" else Verification)
    association = entity.associate(host, port)
    assert association.is_established
    try:
        if what == "upload":
            status = association.send_c_store(_image())
        else:
            status = association.send_c_echo()
        assert status.Status == 0x0000, status
    finally:
        association.release()


def _image() -> Any:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian
    from pynetdicom.sop_class import CTImageStorage

    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = CTImageStorage
    image.SOPInstanceUID = "1.2.3"
    image.add_new(0x7FE00010, "OB", UPLOAD)
    return image


def records(host: str, port: int, what: str) -> None:
    logger = logging.Logger("sender")
    handler = logging.handlers.SocketHandler(host, port)
    logger.addHandler(handler)
    try:
        logger.error("a record, %s", UPLOAD.hex() if what == "upload" else what)
    finally:
        handler.close()
