"""``python -m graced``, and what /usr/sbin/graced calls."""

# Before anything else is imported: from here on no signal can kill the process or raise
# KeyboardInterrupt in the middle of its start; they wait for the `SignalInbox`.  The `signal`
# module itself would take five milliseconds.
import _signal  # type: ignore[import-not-found]

_signal.pthread_sigmask(
    _signal.SIG_BLOCK,
    (
        _signal.SIGTERM,
        _signal.SIGHUP,
        _signal.SIGINT,
        _signal.SIGQUIT,
        _signal.SIGUSR1,
        _signal.SIGUSR2,
    ),
)

from graced.app.cli import main  # noqa: E402

__all__ = ["main"]

if __name__ == "__main__":
    main()
