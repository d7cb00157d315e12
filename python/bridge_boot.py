"""Hosts pythonia's Python half so that neither side can take the other down.

Started in place of Python (`PYTHON_BIN`), with the path of pythonia's interface file as its argument. It keeps the channel
from children, keeps printing away from Node's terminal, leaves Ctrl-C to Node, ends with Node, and turns every failure into an answer.
"""

import ctypes
import json
import os
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

DEATH_SIGNAL = 1


class Channel:
    """pythonia's channel to Node: one JSON object a line. What cannot be sent becomes an error reply."""

    def __init__(self, number: int) -> None:
        os.set_inheritable(number, False)
        connection = socket.socket(fileno=number)
        self.incoming = connection.makefile("r", encoding="utf-8")
        self.outgoing = connection.makefile("w", encoding="utf-8")
        self.readline = self.incoming.readline
        self._lock = threading.Lock()
        self._owner = threading.get_ident()

    def queue(self, what: Any) -> None:
        """Sends a message."""
        if threading.get_ident() != self._owner:
            raise RuntimeError("only the interpreter's main thread may speak to Node")
        text = what if isinstance(what, str) else _as_json(what)
        with self._lock:
            self.outgoing.write(text + "\n")
            self.outgoing.flush()


def _as_json(message: dict[str, Any]) -> str:
    try:
        return json.dumps(message, allow_nan=False)
    except (TypeError, ValueError) as cause:
        return json.dumps({"r": message.get("r"), "key": "error", "val": "", "sig": f"the answer is not JSON: {cause}"})


def _isolate() -> None:
    os.setpgid(0, 0)
    ctypes.CDLL(None, use_errno=True).prctl(DEATH_SIGNAL, signal.SIGTERM)
    if os.getppid() == 1:
        sys.exit(0)
    log = os.open(os.environ.get("STAGEWRIGHT_INTERPRETER_LOG") or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)


def main() -> None:
    """Serves until Node closes the channel."""
    channel = Channel(int(os.environ.pop("NODE_CHANNEL_FD")))
    os.environ.pop("NODE_CHANNEL_SERIALIZATION_MODE", None)
    _isolate()
    theirs = str(Path(sys.argv[1]).resolve().parent)
    sys.path.insert(0, theirs)
    from Bridge import Bridge

    # Their modules have common names; they must not stand before ours.
    sys.path.remove(theirs)
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    bridge = Bridge(channel)
    while line := channel.readline():
        if line.startswith("{"):
            message = json.loads(line)
            try:
                bridge.onMessage(message["r"], message["action"], message["ffid"], message["key"], message["val"])
            except BaseException:
                channel.queue({"r": message["r"], "key": "error", "val": "", "sig": traceback.format_exc()})


if __name__ == "__main__":
    main()
