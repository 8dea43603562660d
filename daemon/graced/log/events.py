"""The catalogue of events: each kind of record, with its level, text and identity.

The message id of an event stands for what happened, whatever the wording; it is the key into the
message catalog (systemd/graced.catalog) and is never given to another event.  The fields of a text
become fields of the journal, so that ``journalctl GRACED_CLIENT=127.0.0.1:50000`` finds the records
of a client: the names of the fields are an interface.
"""

from __future__ import annotations

from graced.log.event import CRITICAL, DEBUG, ERROR, INFO, WARNING, Event

STARTED = Event(
    "eebc3d0fba844c5e9e8b32ce68086404",
    INFO,
    "serving on %(addresses)s with pid %(pid)d",
)
CONNECTED = Event(
    "2529371691ee4f95be9d80162c17b5ee",
    INFO,
    "connection from %(client)s",
    per_client=True,
)
CLOSED = Event(
    "7f057eb36f9943519742dd4279117567",
    INFO,
    "closing connection from %(client)s: %(reason)s, %(bytes:byte)s echoed in %(seconds).3f s",
    per_client=True,
)
RECEIVED = Event(
    "c3d282df181842e8b885f177c4d3a78f",
    DEBUG,
    "received from %(client)s: %(data)s",
    per_client=True,
)
SIGNAL = Event(
    "f5a76ca679a340cfad4e450c96a7d1d2",
    INFO,
    "%(signal)s received, closing in %(seconds)g s, %(clients_left:client)s remaining",
)
LAME_DUCK = Event(
    "8fb6d52078054c0c95139592b8018bd2",
    INFO,
    "%(signal)s received, the drain begins in %(seconds)g s, %(clients_left:client)s now",
)
SHUTDOWN_CALLED = Event(
    "6ec715a94d32413d91cabea12a376cf4",
    INFO,
    "the handler has called %(call)s(), which stops the service as SIGTERM does",
)
SIGNAL_AGAIN = Event(
    "d74278d8237d4656b246ddec8a9b884c",
    INFO,
    "%(signal)s received, already closing",
)
SIGNAL_IMPATIENT = Event(
    "4fa4d9f468b348f0b2a5652efa6787fb",
    INFO,
    "%(signal)s received again, ending the grace period now",
)
NOTIFYING = Event(
    "76d13a09ca564b7dbe72ccf17771e257",
    INFO,
    "telling %(clients_left:client)s that the server is going offline",
)
COUNTDOWN = Event(
    "4b779ae099954386815e6573d828c35d",
    INFO,
    "closing in %(seconds)d s, %(clients_left:client)s remaining",
)
STOPPED = Event(
    "e8349aa6f3f24e1c92e73c784359eaa7",
    INFO,
    "stopped after %(seconds).3f s: %(clients_gone:client)s departed,"
    " %(clients_closed)d closed at the deadline",
    final=True,
)
HANDLERS_BUSY = Event(
    "42defef74ef347feb42c0f91b8517f78",
    WARNING,
    "no handler thread is free of %(handlers)d, further clients wait",
)
HANDLER_GREETS = Event(
    "f1cb61ef999b4a52bfa92b765f333ddc",
    WARNING,
    "the handler %(handler)s speaks first, and a client has waited %(seconds)g s for that:"
    " its class needs greets = True",
)
HOOK_FAILED = Event(
    "139f63eefc9a4ab4a947fbba3da7cb61",
    ERROR,
    "the hook %(hook)s of the handler has failed: %(reason)s",
)
NOT_RESTORED = Event(
    "b6fe95abbb954da39f2e004ecd2f9e72",
    WARNING,
    "%(handlers:handler)s without its state after %(seconds)g s, the others go on",
)
SETTLING = Event(
    "1a246bab515f4e10bfaad1e0602496ce",
    INFO,
    "SIGUSR2 received, %(handlers:busy handler)s may save their state within %(seconds)g s",
)
HANDED_OVER = Event(
    "4f87b58082bf4cb4a7d8d4dab39020d3",
    INFO,
    "SIGUSR2 received, handing over %(clients:client)s to the next start,"
    " %(clients_left)d remaining",
)
INHERITED = Event(
    "6a9b6ce1a36c4d15a62d4a6f23e33a6e",
    INFO,
    "inherited %(clients:client)s, unserved for %(milliseconds)d ms",
)
INHERITED_AFTER_CRASH = Event(
    "7ff1e9e4d7154f1e8424ea670d61d35b",
    WARNING,
    "inherited %(clients:client)s from a process that crashed",
)
NOT_INHERITED = Event(
    "dd5cc68cab9e4b2d9dbc4b2eea89ce0f",
    WARNING,
    "clients cannot be inherited and are turned away: %(reason)s",
)
HANDOVER_REFUSED = Event(
    "c9e6d01fc623407d99628991c423c108",
    WARNING,
    "SIGUSR2 received and ignored: there is no service manager to hand over to",
)
HANDOVER_IMPOSSIBLE = Event(
    "55b00013dff642a3acfff2bbe8f11c62",
    WARNING,
    "stopping instead of handing over, because the next start would fail: %(reason)s",
)
CANNOT_HAND_OVER = Event(
    "e8c74d51b3e14330835cef82a635ac8e",
    WARNING,
    "the clients are told to go, because they cannot be handed over: %(reason)s",
)
CANNOT_MIRROR = Event(
    "2ba58347e6254d44bfd7c6167004fbc1",
    WARNING,
    "a crash would end clients now, trying again with the next client: %(reason)s",
)
STATUS = Event(
    "98beb9f390814837b6f2a35140a6abba",
    INFO,
    "%(status)s",
)
REFUSED = Event(
    "d09ac25e75aa48c28863f7e8ba9d372a",
    WARNING,
    "refused %(refused:client)s, the last from %(client)s: %(reason)s",
)
ACCEPT_PAUSED = Event(
    "ce37d76a0ae344e89e881b9884a9dbc5",
    WARNING,
    "cannot accept clients (%(reason)s), trying again every %(seconds)g s",
)
ACCEPT_RESUMED = Event(
    "069b89c745384e34a6a3504a77aa5ea0",
    INFO,
    "accepting clients again",
)
CANNOT_REFUSE = Event(
    "92931fc5b5fe412ab3e88b95c0ab98fb",
    WARNING,
    "cannot refuse new connections to %(address)s before its end, the last may be reset:"
    " %(reason)s",
)
HANDLER_FAILED = Event(
    "e8d8c58e7dc14ccc8ad452bfac4c194f",
    ERROR,
    "the handler of %(client)s failed: %(reason)s",
    per_client=True,
)
HANDLERS_STUCK = Event(
    "160cd409c9dc4404ae6857ef20cf0a06",
    WARNING,
    "exiting without waiting longer for %(handlers:handler)s",
)
NOT_STARTED = Event(
    "994b9ff18fc54e7da5b4d118e8d02913",
    ERROR,
    "cannot start: %(reason)s",
)
FAILED = Event(
    "f2a788d9c74745ac985aa686487381bc",
    CRITICAL,
    "failed: %(reason)s",
    final=True,
)
ADDRESS_ABSENT = Event(
    "52a3584875084d2597831a727d47b93c",
    WARNING,
    "this machine does not have the address %(address)s, which serves as soon as it does",
)
ADDRESS_UNRESOLVED = Event(
    "186374aa962048b1bb6ce5079e04cea8",
    WARNING,
    "%(address)s cannot be resolved at present, trying again while the service runs",
)
ADDRESS_FOUND = Event(
    "1174b96b0d7e4b018abef650414f2829",
    INFO,
    "%(address)s can be resolved, serving on %(addresses)s too",
)
LISTENER_LEFT = Event(
    "3dc54f7e969c4c5cb92b6f411b859b16",
    INFO,
    "no longer listening on %(address)s: %(reason)s",
)
CLAIM_REFUSED = Event(
    "57b2325a63f94eea8f4df59059fbd09f",
    WARNING,
    "%(reason)s; %(outlook)s",
)
CLAIM_GRANTED = Event(
    "5c0a703fa2e74155815f35f6074d20b8",
    INFO,
    "%(claim)s now; before: %(reason)s",
)
LISTENER_NOT_INHERITED = Event(
    "6d58ad8836bb40498f5442f88212361e",
    WARNING,
    "the listener of the last process at %(address)s is not used again: %(reason)s",
)
NOTIFY_BROKEN = Event(
    "5cedba4daebe451b9cc59237a89bf712",
    WARNING,
    "cannot talk to the service manager: %(reason)s",
)
NOTIFY_LOST = Event(
    "976fbe9ec2fe4add98c26138dfce9a61",
    WARNING,
    "a message to the service manager is lost, sending it again: %(reason)s",
)
BARRIER_LATE = Event(
    "60cd7bdf749e440ab2606ca4e53fb3c4",
    WARNING,
    "the service manager has not read the messages for it within %(seconds)g s",
)
WATCHDOG_LATE = Event(
    "dc8b0cc7c86f4c1fba02140d830a2e03",
    WARNING,
    "%(thread)s has not turned for %(seconds).1f s, not feeding the watchdog",
)
HANDLER_BLOCKS = Event(
    "aa4610499aa04d8c8a743f9c1cac15dd",
    WARNING,
    "the handler %(handler)s makes all clients wait: it does not return from %(place)s",
)
LOG_DROPPED = Event(
    "7f99ca92fa2b457aa05709bc2a54e0f8",
    WARNING,
    "dropped %(records:log record)s because the log could not keep up",
)
LOG_SUPPRESSED = Event(
    "deaedb0d38824b5bb4893a3f5a4cd41b",
    WARNING,
    "suppressed %(records:log record)s about clients that come and go too fast",
)
CONTROL_ABSENT = Event(
    "8f54cebd91024f4aa11b22d61cc7fc71",
    WARNING,
    "no control socket at %(path)s: %(reason)s",
)
CONTROL_FAILED = Event(
    "512c3900a779476791eed57eb31104d2",
    WARNING,
    "the control socket has failed: %(reason)s",
)
CLOSED_BY_OPERATOR = Event(
    "105256a6be5d4cd6b8406bbc405a9c94",
    INFO,
    "user %(user)d has closed %(clients:client)s at the control socket",
)
TOLD_BY_OPERATOR = Event(
    "76cc3eb7a2034a80a671961f03d457b1",
    INFO,
    "user %(user)d tells %(clients:client)s at the control socket, closing in %(seconds)g s",
)
LOG_LEVEL_SET = Event(
    "d2fded76e9894c00b32c22fbffab9a6b",
    INFO,
    "user %(user)d has set the log level to %(level)s at the control socket, before: %(before)s",
)
DRAIN_ORDERED = Event(
    "f7c92cfed33848f894c0e35555901b87",
    INFO,
    "user %(user)d stops the service at the control socket",
)
AGENT_ANSWERS = Event(
    "da0acc0db22e4744889ab6b26fbff9e6",
    INFO,
    "answering agent checks of HAProxy on %(addresses)s",
)
AGENT_FAILED = Event(
    "e2c12889934240fca27bc7d7e37e4222",
    WARNING,
    "cannot answer an agent check of HAProxy: %(reason)s",
)
RELOADING = Event(
    "ce96da6d63f84891a474f0737c9568ab",
    INFO,
    "reloading: a new process is started beside this one",
)
RELOADED = Event(
    "909804630d0f472eb0409653519c26ad",
    INFO,
    "reloaded: %(clients:client)s moved to the process with pid %(pid)d, %(clients_left)d remaining"
    " here, closing in %(seconds)g s",
)
RELOAD_FAILED = Event(
    "3c8ff19412004bd98968ee4a3f8dc0bc",
    WARNING,
    "the reload has failed: %(reason)s",
)
REST_ENDED = Event(
    "e0a6fc0fe68a46b9b38217b8a8b4df5a",
    INFO,
    "the old process ends after %(seconds).3f s: %(clients_gone:client)s departed,"
    " %(clients_closed)d closed at the deadline",
    final=True,
)
RELOAD_ORDERED = Event(
    "79efe0c9e06643e8aa15279622b4845f",
    INFO,
    "user %(user)d reloads the service at the control socket",
)
CERTIFICATE = Event(
    "73d826ea27ed450d8580fe2740d4dee8",
    WARNING,
    "clients may object to the certificate %(path)s: %(reason)s",
)
LIMITS = Event(
    "f0cf29630b16464ca4f499a7349d0ecf",
    WARNING,
    "%(reason)s",
)
ALL = {name: value for name, value in vars().items() if isinstance(value, Event)}
"""All events by name, in the order of the catalogue."""
