"""Runs every cheat in plain Python, each in a process of its own, and prints as JSON what each one printed: the control
of the cheats.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path

from cheats import CHEATS
from engine_like import collection


def printed(code: str) -> str:
    """What a block prints in a forked copy of this process, and a mark if it wrote the canary."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.suppress(BaseException):
            apis = collection()
            exec(code, {"__name__": "__main__", "apis": apis, "requester": apis["_requester"]})
        os.write(theirs, output.getvalue().encode("utf-8", "replace")[:60_000])
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as reader:
        text = reader.read().decode()
    os.waitpid(child, 0)
    return text


def main(folder: Path) -> None:
    """Run the cheats with their files in `folder`."""
    secret, canary = folder / "secret", folder / "canary"
    secret.write_text("secret")
    found = {}
    for cheat in CHEATS:
        canary.unlink(missing_ok=True)
        text = printed(cheat.code.replace("SECRET_FILE", str(secret)).replace("CANARY", str(canary)))
        found[cheat.name] = text + ("GOT" if canary.exists() else "")
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
