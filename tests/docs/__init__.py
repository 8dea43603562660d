"""What README, docs and man pages show is run, literally, and its output is compared."""

from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
