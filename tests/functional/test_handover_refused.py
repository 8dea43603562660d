"""SIGUSR2 where no next start would inherit the clients; device/test_restart.py has the rest."""

from __future__ import annotations

from signal import SIGTERM, SIGUSR2

import pytest

from support import Graced, NotifySocket

REFUSED = r"^<4>SIGUSR2 received and ignored: there is no service manager"


@pytest.mark.parametrize("handler", ["echo", "echo-threaded"])
def test_handover_without_service_manager_is_one_warning(handler: str) -> None:
    with Graced("--handler", handler) as graced, graced.served() as client:
        graced.signal(SIGUSR2)
        graced.log.wait_for(REFUSED)
        client.echo(b"still there")
        graced.signal(SIGTERM)
        client.expect_farewell_alone()
        client.close()
        assert graced.wait() == 0
        assert graced.log.count(REFUSED) == 1


@pytest.mark.parametrize("handler", ["echo", "echo-threaded"])
def test_handover_with_keep_never_is_stop(handler: str, notify_socket: NotifySocket) -> None:
    config = '[continuity]\nkeep = "never"'
    env = notify_socket.environment
    with (
        Graced("--handler", handler, config=config, env=env) as graced,
        graced.served() as client,
    ):
        graced.signal(SIGUSR2)
        client.expect_farewell_alone()
        client.close()
        assert graced.wait() == 0
        graced.log.wait_for(r"^<6>SIGUSR2 received, closing in 5 s, 1 client remaining$")


@pytest.mark.parametrize("handler", ["echo", "echo-threaded"])
def test_handover_into_full_store_is_stop(handler: str, notify_socket: NotifySocket) -> None:
    """This service manager closes whatever it is to keep."""
    with (
        Graced("--handler", handler, env=notify_socket.environment) as graced,
        graced.served() as client,
    ):
        graced.signal(SIGUSR2)
        client.expect_farewell_alone()
        client.close()
        assert graced.wait() == 79
        graced.log.wait_for(r"^<6>SIGUSR2 received, handing over 0 clients .*, 1 remaining$")


@pytest.mark.parametrize("handler", ["echo", "echo-threaded"])
def test_handover_to_deaf_service_manager_is_stop(handler: str) -> None:
    with NotifySocket() as notify:
        graced = Graced("--handler", handler, env=notify.environment)
        graced.__enter__()
        notify.wait_for("READY=1")
    try:
        with graced.served() as client:
            graced.log.wait_for("^<4>cannot talk to the service manager: ")
            graced.signal(SIGUSR2)
            client.expect_farewell_alone()
            client.close()
            assert graced.wait() == 0
    finally:
        graced.__exit__(None, None, None)


def test_stop_leaves_no_listener_to_next_start(notify_socket: NotifySocket) -> None:
    """In the end its address refuses connections."""
    with Graced(env=notify_socket.environment) as graced, graced.served() as client:
        notify_socket.wait_for("FDNAME=graced-clients")
        graced.signal(SIGTERM)
        client.expect_farewell_alone()
        client.close()
        assert graced.wait() == 0
        texts = [message.text for message in notify_socket.messages]
    forgotten = texts.index("FDSTOREREMOVE=1\nFDNAME=graced-listeners")
    kept = [n for n, text in enumerate(texts) if "FDSTORE=1\nFDNAME=graced-listeners" in text]
    assert max(kept) < forgotten
