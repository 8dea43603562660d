"""A site of scripts, by the common gateway interface: a process for each request."""

from __future__ import annotations

import http.server
import os
import sys
import warnings
from pathlib import Path
from threading import get_ident
from typing import Any

SCRIPT = f"#!{sys.executable} -S\nfrom strangers.apps.script import answer\nanswer()\n"


class Site(http.server.CGIHTTPRequestHandler):
    """A directory with one script."""

    def __init__(self, *args: Any) -> None:
        directory = Path(os.environ["STRANGERS_SITE"])
        script = directory / "cgi-bin" / "script"
        if not script.exists():
            script.parent.mkdir(exist_ok=True)
            # Several handlers begin at once, and each is to find a whole script.
            draft = directory / str(get_ident())
            draft.write_text(SCRIPT)
            draft.chmod(0o755)
            draft.replace(script)
        # The script is not to become the user nobody, who may not read it.
        http.server.nobody_uid = os.getuid
        # Python 3.13 says that 3.15 will not have this class.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        super().__init__(*args, directory=str(directory))
