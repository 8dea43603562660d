"""A client as one writes it with a tutorial at hand: it takes each read for a message.

It sends, then reads, once a pause (a second, unless told otherwise); leaves when what it has read
is the farewell and nothing else; and knows nothing of graced.  Started as a program::

    tutorial_client.py HOST PORT [PAUSE]
"""

from __future__ import annotations

import logging
import socket
import sys
import time

logging.basicConfig(level=logging.INFO)

HOST, PORT, *PAUSE = sys.argv[1:]

with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
    s.connect((HOST, int(PORT)))
    while True:
        time.sleep(float(PAUSE[0]) if PAUSE else 1)
        s.sendall(b"hello world")

        data = s.recv(1024)

        if data == b"SHUTDOWN":
            logging.info("Closing connection...")
            break

        if not data:
            break

        logging.info("Received %r", data)
