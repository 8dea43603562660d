"""``python -m graced``, and what /usr/sbin/graced calls."""

from __future__ import annotations

from typing import NoReturn

from graced import signals


def main() -> NoReturn:
    """graced(8)."""
    signals.hold()
    from graced import cli  # noqa: PLC0415  (only now no signal can interrupt the imports)

    cli.main()


if __name__ == "__main__":
    main()
