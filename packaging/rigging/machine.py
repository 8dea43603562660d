"""A booted Debian system of the rig's own: what containers and virtual machines have in common."""

import contextlib
from abc import abstractmethod
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from rigging.device import Device
from rigging.errors import RigError


class Machine(Device):
    """A device that the rig boots, gone without a trace when the context is left.

    It belongs to the thread that boots it and is killed when that thread ends.
    """

    @abstractmethod
    def boot(self) -> None:
        """Start the machine and return when systemd has reached its default target.

        Raises RigError with the end of the console's output when it does not.
        """

    @abstractmethod
    def reboot(self) -> None:
        """Let the machine shut down in order and start again with the same files."""

    @abstractmethod
    def poweroff(self) -> None:
        """Shut the machine down in order; ``boot`` may start it again."""

    @abstractmethod
    def close(self) -> None:
        """Kill the machine and remove everything that belongs to it."""

    @contextlib.contextmanager
    def out_of_memory(self, unit: str) -> Iterator[None]:
        """Let the kernel kill a unit's processes when they next ask for memory.

        Raises RigError on leaving when it has not killed any.
        """
        before = self.cursor()
        self.systemctl("set-property", "--runtime", unit, "MemoryMax=1")
        yield
        self.systemctl("revert", unit)
        records = self.journal(unit=unit, after=before)
        if not any("OOM killer" in record["MESSAGE"] for record in records):
            raise RigError(f"the kernel killed nothing of {unit}")

    def __enter__(self) -> Self:
        try:
            self.boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
