"""The agent of a service, where the configuration asks for one."""

from __future__ import annotations

from graced.control.agent import Agent, answer
from graced.log import events

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import ExitStack

    from graced.process.supervisor import Supervisor
    from graced.server import Server
    from graced.sockets.listener import Listener


def serve(
    listeners: Sequence[Listener], server: Server, supervisor: Supervisor, belongings: ExitStack
) -> None:
    """Answer agent checks about a service that serves; `belongings` ends that.

    Where the system is short of something there is no agent, and a record in the log.
    """

    def line() -> bytes:
        admission = server.admission
        return answer(supervisor.lifecycle.state, admission.clients, admission.max_clients)

    try:
        agent = Agent([each.sock for each in listeners], line)
        belongings.callback(agent.stop)
        agent.start()
    except (OSError, RuntimeError) as error:
        events.AGENT_FAILED(reason=error)
    else:
        events.AGENT_ANSWERS(addresses=", ".join(each.name for each in listeners))
