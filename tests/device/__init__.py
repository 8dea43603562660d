"""The installed package under a real systemd, on every release that it is for.

Run by ``make test`` in containers that the rig boots, by .ci/run on virtual machines with Debian's
own kernels too, and by debian/tests on the system that the package is installed on
(GRACED_DEVICE=local). conftest.py says which tests run where.
"""

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]

# The rig is a program with modules of its own, installed nowhere.
sys.path.insert(0, str(CHECKOUT / "packaging"))
