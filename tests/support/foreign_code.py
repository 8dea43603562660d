"""Handlers as other people write them, with what Python does at its exit, or with a server."""

from __future__ import annotations

import _thread
import atexit
import csv
import ctypes
import dbm.dumb
import faulthandler
import gzip
import os
import shelve
import socketserver
import sqlite3
import subprocess
import sys
import tempfile
import threading
import warnings
import zipfile
from types import SimpleNamespace
from typing import Any

from support.handlers import TutorialHandler


class AsyncHandler(TutorialHandler):
    async def handle(self) -> None:  # type: ignore[override]
        """Nobody would run this."""


class DatagramHandler(socketserver.DatagramRequestHandler):
    """Has no stream."""

    def handle(self) -> None:
        """Nobody would come here."""


class PrintingHandler(TutorialHandler):
    """Prints, and leaves a file with unflushed bytes and a function of `atexit` behind."""

    files: list[Any] = []  # noqa: RUF012

    def setup(self) -> None:
        print("a line of a handler")
        directory = os.environ["DIRECTORY"]
        file = open(f"{directory}/file", "w", encoding="utf-8")  # noqa: SIM115
        file.write("buffered")
        self.files.append(file)
        atexit.register(print, "at the exit")
        if os.environ.get("HANGS"):
            atexit.register(threading.Event().wait)


class Troubled:
    """Fails where no caller hears of it."""

    def __del__(self) -> None:
        raise ValueError("a destructor")


def fail() -> None:
    raise ValueError("a thread")


class TalkativeHandler(socketserver.StreamRequestHandler):
    """Says something by the way that the client names."""

    def handle(self) -> None:
        for line in self.rfile:
            getattr(self, line.decode().strip())()
            self.wfile.write(b"said\n")

    def say_by_descriptor(self) -> None:
        os.write(1, b"by descriptor\n")

    def say_by_child(self) -> None:
        subprocess.run(["echo", "by child"], check=True)

    def say_by_child_on_stderr(self) -> None:
        subprocess.run(["sh", "-c", "echo by child on stderr >&2"], check=True)

    def say_by_system(self) -> None:
        os.system("echo by system")

    def say_by_print(self) -> None:
        print("by print")

    def say_by_first_stdout(self) -> None:
        print("by first stdout", file=sys.__stdout__)

    def say_by_buffer(self) -> None:
        sys.stdout.buffer.write(b"by buffer\n")

    def say_by_warning(self) -> None:
        # The tests make errors of warnings.
        warnings.simplefilter("default")
        warnings.warn("by warning", stacklevel=1)

    def say_by_faulthandler(self) -> None:
        faulthandler.dump_traceback(all_threads=False)

    def say_by_destructor(self) -> None:
        Troubled()

    def say_by_thread(self) -> None:
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()

    def say_by_library(self) -> None:
        library = ctypes.CDLL(None)
        library.puts(b"by library")
        library.fflush(None)

    def say_at_last(self) -> None:
        print("at last", end="")


class PackingHandler(TutorialHandler):
    """Leaves files behind that only their end makes whole."""

    left: list[Any] = []  # noqa: RUF012

    def setup(self) -> None:
        directory = os.environ["DIRECTORY"]
        packed = gzip.open(f"{directory}/packed.gz", "wt", encoding="utf-8")  # noqa: SIM115
        packed.write("packed")
        archive = zipfile.ZipFile(f"{directory}/archive.zip", "w")
        archive.writestr("name", "packed")
        table = csv.writer(open(f"{directory}/table", "w", encoding="utf-8"))  # noqa: SIM115
        table.writerow([1, 2])
        # From Python 3.13 on the default is SQLite, which another thread may not close.
        entries: Any = dbm.dumb.open(f"{directory}/shelf")  # noqa: SIM115
        shelf: Any = shelve.Shelf(entries, writeback=True)
        shelf["list"] = []
        shelf["list"].append(1)
        temporary = tempfile.NamedTemporaryFile(dir=directory, prefix="temporary")  # noqa: SIM115
        base = sqlite3.connect(f"{directory}/base", isolation_level=None, check_same_thread=False)
        base.executescript("CREATE TABLE t (x); INSERT INTO t VALUES (1); BEGIN; DELETE FROM t")
        self.left += [packed, archive, table, shelf, temporary, base]

    def handle(self) -> None:
        super().handle()
        if os.environ.get("STAYS"):
            threading.Event().wait()


class AskingHandler(socketserver.BaseRequestHandler):
    """Asks its server for something."""

    server: Any = SimpleNamespace(word=b"asked", draining="not this")

    def handle(self) -> None:
        while self.request.recv(100):
            assert not self.server.draining.is_set()
            assert self.server.io_threads
            assert self.server.socket_type
            self.request.sendall(self.server.word)


class QuittingHandler(socketserver.BaseRequestHandler):
    """Stops its server when a client says so, as handlers of `socketserver` do."""

    server: Any

    def handle(self) -> None:
        while data := self.request.recv(100):
            if data == b"quit":
                self.server.shutdown()
                self.server.server_close()
            self.request.sendall(data)


class SelfEndingHandler(QuittingHandler):
    """Stops before its first client."""

    @classmethod
    def startup(cls, server: Any) -> None:
        server.shutdown()


class HookedHandler(TutorialHandler):
    """Does something at the begin and at the end of the service."""

    word = b""

    @classmethod
    def startup(cls, server: Any) -> None:
        assert not server.draining.is_set()
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        cls.word = b"ready"

    @classmethod
    def shutdown(cls, server: Any) -> None:
        assert server.draining.is_set()
        print("the end of", cls.word.decode(), "for", server.guest)

    def handle(self) -> None:
        while self.request.recv(100):
            self.server.guest = "one"  # type: ignore[attr-defined]
            self.request.sendall(self.word)


class FailingHookHandler(TutorialHandler):
    """Finds at its start that something is missing."""

    @staticmethod
    def startup(_server: Any) -> None:
        raise FileNotFoundError("no such modem")


class ExitingHookHandler(TutorialHandler):
    """Has hooks that call sys.exit(): the one that `EXITS` in the environment names."""

    @classmethod
    def _exit(cls, name: str) -> None:
        if os.environ.get("EXITS", "startup") == name:
            sys.exit(f"{name} has had enough")

    @classmethod
    def startup(cls, _server: Any) -> None:
        cls._exit("startup")
        atexit.register(print, "at the exit")

    @classmethod
    def restored(cls, _server: Any) -> None:
        cls._exit("restored")

    @classmethod
    def shutdown(cls, _server: Any) -> None:
        cls._exit("shutdown")

    def save(self) -> bytes:
        return b""

    def restore(self, _state: bytes) -> None:
        """There is none."""


class OtherMethodsHandler(TutorialHandler):
    """Has methods that are no hooks, by their names."""

    def startup(self) -> None:
        raise AssertionError

    shutdown = restored = startup


def __getattr__(name: str) -> Any:
    if name == "ThreadStartingHandler":
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    elif name == "LowLevelThreadHandler":
        _thread.start_new_thread(threading.Event().wait, ())
    else:
        raise AttributeError(name)
    return TutorialHandler
