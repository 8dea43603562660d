"""The channel, between two ends here and to a process that is killed."""

from __future__ import annotations

import os
import select
import signal
import socket

import pytest

from graced.reload.channel import MAX_DESCRIPTORS, MAX_SIZE, Channel, Letter
from graced.reload.table import Message
from support.descriptors import room_for

Ends = tuple[Channel, Channel]


def get(channel: Channel) -> Letter:
    letter = channel.receive()
    assert letter
    return letter


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_letter_arrives_whole(ends: Ends) -> None:
    one, other = ends
    one.send(Message.HELLO, {"pid": 7, "version": "1.2"}, b"any\nbytes\0")
    one.send(Message.READY)
    letter = get(other)
    assert letter.message is Message.HELLO
    assert letter.words == {"pid": "7", "version": "1.2"}
    assert letter.data == b"any\nbytes\0"
    assert (letter.number("pid"), letter.number("version"), letter.number("port")) == (7, 0, 0)
    assert get(other).message is Message.READY
    assert other.receive() is None
    assert not other.ended


@pytest.mark.parametrize("message", Message)
def test_every_message_arrives(ends: Ends, message: Message) -> None:
    ends[1].send(message)
    assert get(ends[0]).message is message


def test_most_descriptors_that_the_kernel_allows_arrive(ends: Ends) -> None:
    one, other = ends
    read, write = os.pipe()
    one.send(Message.BATCH, descriptors=[write] * MAX_DESCRIPTORS)
    os.close(write)
    letter = get(other)
    assert len(letter.descriptors) == MAX_DESCRIPTORS
    assert not letter.cut
    assert not any(os.get_inheritable(fd) for fd in letter.descriptors)
    os.write(letter.descriptors[-1], b"here")
    assert os.read(read, 9) == b"here"
    copies = list(letter.descriptors)
    letter.close()
    assert not any(map(is_open, copies))
    assert os.read(read, 9) == b""
    os.close(read)


@pytest.mark.parametrize(
    ("data", "descriptors"), [(b"x" * MAX_SIZE, 0), (b"", MAX_DESCRIPTORS + 1)]
)
def test_letter_that_is_too_large_is_not_sent(ends: Ends, data: bytes, descriptors: int) -> None:
    with pytest.raises(OSError, match="Message too long"):
        ends[0].send(Message.BATCH, data=data, descriptors=[0] * descriptors)
    assert ends[1].receive() is None


def test_descriptors_without_room_are_missing_and_the_letter_says_so(ends: Ends) -> None:
    one, other = ends
    one.send(Message.BATCH, {"number": 5}, b"rest", [0] * 5)
    with room_for(3):
        letter = get(other)
    assert letter.cut
    assert len(letter.descriptors) == 3
    assert (letter.number("number"), letter.data) == (5, b"rest")
    letter.close()


def test_letter_of_another_version_is_skipped(ends: Ends) -> None:
    one, other = ends
    raw = socket.socket(fileno=os.dup(one.fileno()))
    read, write = os.pipe()
    socket.send_fds(raw, [b"PERHAPS soon=1\nand more"], [write])
    os.close(write)
    raw.send(b"READY\n")
    raw.close()
    assert get(other).message is Message.READY
    # Its descriptor is not open for ever.
    assert os.read(read, 1) == b""
    os.close(read)


def test_what_was_sent_before_the_end_is_read(ends: Ends) -> None:
    one, other = ends
    one.send(Message.FAILED, data=b"because")
    one.close()
    assert not other.ended
    assert get(other).data == b"because"
    assert other.receive() is None
    assert other.ended
    with pytest.raises(BrokenPipeError):
        other.send(Message.STOP)


def test_what_a_killed_process_has_said_is_read(ends: Ends) -> None:
    """Although it has not read what it was told, which the kernel reports first."""
    one, other = ends
    pid = os.fork()
    if not pid:
        one.close()
        other.send(Message.TAKEN)
        other.send(Message.SERVING)
        signal.pause()
    other.close()
    poll = select.poll()
    poll.register(one.fileno(), select.POLLIN)
    assert poll.poll(10_000)
    one.send(Message.RELEASED)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    messages = []
    while letter := one.receive():
        messages.append(letter.message)
    assert messages[0] is Message.TAKEN
    assert one.ended


def test_process_that_reads_nothing_does_not_hold_up_the_other(ends: Ends) -> None:
    def send_for_ever() -> None:
        while True:
            ends[0].send(Message.BATCH, data=b"x" * 1000)

    with pytest.raises(BlockingIOError):
        send_for_ever()
