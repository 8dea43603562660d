"""As many clients as a device may get, under the limits of the unit as shipped."""

import resource
from collections.abc import Iterator

import pytest

from device.service import FAREWELL, Service, clients_now, receive, rest

CLIENTS = 2000


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """The clients are ours, one descriptor each."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = CLIENTS + 256
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, need), max(hard, need)))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
def test_two_thousand_clients_at_once(graced: Service) -> None:
    clients = graced.connect(CLIENTS)
    with graced.watch() as watch:
        watch.until(lambda unit: clients_now(unit["StatusText"]) == CLIENTS)
    for number, client in enumerate(clients):
        client.sendall(b"%04d" % number)
    for number, client in enumerate(clients):
        assert receive(client, 4) == b"%04d" % number
    graced.device.systemctl("stop", "--no-block", "graced.service")
    for client in clients:
        assert receive(client, len(FAREWELL)) == FAREWELL
        client.shutdown(1)
        assert rest(client) == b""
    with graced.watch() as watch:
        state = watch.until(lambda unit: unit["ActiveState"] in ("inactive", "failed"))
    assert state["Result"] == "success"
