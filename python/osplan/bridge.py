"""The trainer's side of the bridge: its journal file, its control socket, its heartbeat.

The training thread only appends to a queue and takes commands from another; one thread writes, listens and answers.
It may catch everything: a broken connection or a full disk must not stop a step.
"""

import contextlib
import ctypes
import faulthandler
import json
import os
import selectors
import socket
import struct
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from osplan.domain.errors import UserError
from osplan.domain.full_disk import is_full
from osplan.domain.lease import Lease
from osplan.domain.protocol import FORMAT_VERSION, PROTOCOL_VERSION, encode_line, snake

COMMANDS = ("stop", "pause", "checkpoint", "sample", "measure", "thaw", "set")
MAX_QUEUED_STEPS = 100_000
MAX_CLIENT_BYTES = 4 << 20
POLL_SECONDS = 0.02
"""How often the thread looks while there is something to do; where there is nothing it sleeps until it is woken or something is due."""
SYNC_SECONDS = 1.0
COMMAND_FOLDER_SECONDS = 1.0
HEARTBEAT_SECONDS = 1.0
JOURNALED_HEARTBEAT_SECONDS = 10.0
RESERVED_BYTES = 1 << 18
KEEP_SIZE = 1
"""fallocate(2): FALLOC_FL_KEEP_SIZE."""
_LIBC = ctypes.CDLL(None)
LASTING = frozenset({"checkpoint", "finished", "failed", "command", "incident", "latents"})
"""Events that are on the disk before anything else happens."""


class Tracker(Protocol):
    """Somebody else's record of a run."""

    def write(self, event: str, ts: float, fields: Mapping[str, Any]) -> None:
        """Takes one event of the journal; `ts` is seconds since 1970."""
        ...

    def flush(self) -> None:
        """What was taken can be read by others."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


class Journal:
    """`trainer.jsonl`: append-only, one writer. A torn last line (a kill while writing) is cut off when it is opened."""

    def __init__(self, path: Path, attempt: int) -> None:
        self.path, self.attempt = path, attempt
        self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._reserved = 0
        self.seq = self._last_seq() + 1
        self.past = self._past()
        self.unsynced = False

    def _last_seq(self) -> int:
        size = os.fstat(self.file).st_size
        tail = b""
        at = size
        while at > 0 and tail.count(b"\n") < 2:
            step = min(1 << 16, at)
            at -= step
            tail = os.pread(self.file, step, at) + tail
        end = tail.rfind(b"\n") + 1
        if end < len(tail):
            os.ftruncate(self.file, size - (len(tail) - end))
        lines = tail[:end].splitlines()
        return json.loads(lines[-1])["seq"] if lines else -1

    def _past(self) -> list[dict[str, Any]]:
        events = (b'"event":"command"', b'"event":"incident"')
        with open(self.path, "rb") as lines:
            found = [json.loads(line) for line in lines if any(event in line for event in events)]
        return [event for event in found if event["event"] in ("command", "incident")]

    def append(self, event: str, ts: float, fields: dict[str, Any]) -> bytes:
        """Writes one event and returns its line."""
        line = encode_line({"seq": self.seq, "ts": round(ts, 6), "attempt": self.attempt}, event, fields)
        began, written = self.size(), 0
        self._reserve(began + len(line))
        try:
            while written < len(line):
                written += os.write(self.file, line[written:])
        except OSError:
            os.ftruncate(self.file, began)
            raise
        self.seq += 1
        self.unsynced = True
        return line

    def _reserve(self, end: int) -> None:
        """Keeps blocks of the disk for what comes next, so that a disk that is full can still be told of. Not all file systems can."""
        if end + RESERVED_BYTES // 2 > self._reserved:
            done = _LIBC.fallocate(self.file, KEEP_SIZE, ctypes.c_int64(end), ctypes.c_int64(RESERVED_BYTES))
            self._reserved = end + RESERVED_BYTES if done == 0 else self._reserved

    def release(self) -> None:
        """Gives back what was kept for later lines."""
        os.ftruncate(self.file, self.size())
        self._reserved = 0

    def sync(self) -> None:
        """Everything written so far survives a power cut."""
        if self.unsynced:
            os.fdatasync(self.file)
            self.unsynced = False

    def size(self) -> int:
        """Bytes written so far."""
        return os.fstat(self.file).st_size


class Client:
    """One connection to the control socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.incoming = b""
        self.outgoing = bytearray()
        self.subscribed = False

    def queue(self, data: bytes, journal_size: int) -> None:
        """Queues bytes; a reader that has fallen 4 MiB behind is told to read the file instead."""
        if self.subscribed and len(self.outgoing) > MAX_CLIENT_BYTES:
            self.subscribed = False
            self.outgoing += _message({"jsonrpc": "2.0", "method": "lagged", "params": {"offset": journal_size}})
            return
        self.outgoing += data


class Bridge:
    """What the loop sees: `emit` what happened, `take` what was asked, `acknowledge` what was done."""

    def __init__(self, run: Path, attempt: int, socket_path: str, run_id: str) -> None:
        self.run, self.attempt, self.run_id = run, attempt, run_id
        self._lease = Lease(run, attempt)
        self.journal = Journal(run / "trainer.jsonl", attempt)
        self.past_events = self.journal.past
        self.socket_path = socket_path
        self.listener = _listen(socket_path)
        self.step, self.step_at = 0, time.time()
        self._events: deque[tuple[str, float, dict[str, Any]]] = deque()
        self._commands: deque[dict[str, Any]] = deque()
        self._seen = {str(line.get("id")) for line in self.past_events if line["event"] == "command"}
        self._waiting: dict[str, tuple[Client, Any]] = {}
        self._clients: dict[int, Client] = {}
        self._written = threading.Condition()
        self._emitted = 0
        self._appended = 0
        self._lock = threading.Lock()
        self._closing = False
        self._is_idle = False
        """Whether the thread sleeps until it is woken."""
        self.is_blocked = False
        """Whether the journal cannot be written, for the disk is full."""
        self._last_folder = self._last_sync = self._last_beat = self._last_line = 0.0
        self._trackers: list[Tracker] = []
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = socket.socketpair()
        for end in (self._wake_in, self._wake_out):
            end.setblocking(False)
        self._selector.register(self._wake_out, selectors.EVENT_READ, "wake")
        if self.listener is not None:
            self._selector.register(self.listener, selectors.EVENT_READ, "listener")
        (run / "commands").mkdir(mode=0o700, exist_ok=True)
        self.emit("opened", format_version=FORMAT_VERSION)
        self._thread = threading.Thread(target=self._serve, name="bridge", daemon=True)
        self._thread.start()

    past_events: list[dict[str, Any]]
    """Commands and incidents of earlier attempts, as they stand in the journal."""

    @property
    def listening(self) -> str | None:
        """Path of the control socket; None where it could not be opened and commands come as files."""
        return self.socket_path if self.listener is not None else None

    def track(self, trackers: Sequence[Tracker]) -> None:
        """Tells others too from the next event on. Before the first step."""
        self._trackers = list(trackers)

    def emit(self, event: str, **fields: Any) -> None:
        """Queues an event. Never blocks on a disk or a reader, except for the events that must last."""
        if event == "step":
            self.step, self.step_at = int(fields["step"]), time.time()
            if len(self._events) > MAX_QUEUED_STEPS:
                return
        with self._lock:
            self._events.append((event, time.time(), fields))
            self._emitted += 1
            target = self._emitted
        if event in LASTING:
            self._wait_for(target)
        elif self._is_idle:
            self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_in.send(b".")

    def _wait_for(self, target: int) -> None:
        self._wake()
        with self._written:
            self._written.wait_for(lambda: self._appended >= target or self.is_blocked or not self._thread.is_alive(), timeout=60)

    def take(self) -> list[dict[str, Any]]:
        """Commands that have arrived since the last call, oldest first, with snake_case keys."""
        taken = []
        while self._commands:
            taken.append(self._commands.popleft())
        return taken

    def put(self, command: dict[str, Any]) -> None:
        """Adds a command from inside the process, such as one made from a signal."""
        self._commands.append(command)

    def acknowledge(self, command: dict[str, Any], step: int, status: str, effective: Any, message: str | None = None) -> None:
        """Journals what became of a command and answers whoever waits for it."""
        fields = {
            "id": command["id"],
            "name": command["name"],
            "step": step,
            "status": status,
            "effective": effective,
            "by": command.get("by"),
            "reason": command.get("reason"),
            "message": message,
            "path": command.get("path"),
        }
        self.emit("command", **fields)

    def end_unless_ours(self) -> None:
        """Ends this process where another trainer has taken the run over: nothing of this one may reach the run's folder any more."""
        if not self._lease.is_held():
            print("another trainer has taken this run over: this one ends without writing", file=sys.stderr, flush=True)
            os._exit(1)

    def close(self) -> None:
        """Writes what is queued, tells the readers and ends the thread."""
        self._closing = True
        self._wake()
        self._thread.join(timeout=30)
        if self.listener is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.socket_path)

    def _serve(self) -> None:
        while True:
            closing = self._closing
            try:
                self._turn(closing)
            except OSError as cause:
                self._block(is_full(cause))
                time.sleep(0.5)
            if closing and not self._events:
                self.journal.release()
                self.journal.sync()
                self._flush_clients()
                self._each_tracker("close")
                return

    def _block(self, blocked: bool) -> None:
        with self._written:
            self.is_blocked = blocked
            self._written.notify_all()

    def _turn(self, closing: bool) -> None:
        ready = self._selector.select(0 if closing or self._events else POLL_SECONDS)
        if not ready and not closing and not any(client.outgoing for client in self._clients.values()):
            ready = self._idle()
        for key, mask in ready:
            if key.data == "wake":
                with contextlib.suppress(BlockingIOError):
                    self._wake_out.recv(4096)
            elif key.data == "listener":
                self._accept()
            else:
                self._serve_client(key.data, mask)
        now = time.time()
        self._write_events(now)
        self._poll_folder(now)
        self._beat(now)
        self._flush_clients()

    def _idle(self) -> list[tuple[selectors.SelectorKey, int]]:
        """Sleeps until something comes or is due. `emit` looks for this after it added an event, this for events after it said so."""
        self._is_idle = True
        due = min(self._last_beat + HEARTBEAT_SECONDS, self._last_folder + COMMAND_FOLDER_SECONDS) - time.time()
        ready = self._selector.select(0 if self._events or self._closing else min(HEARTBEAT_SECONDS, max(0.0, due)))
        self._is_idle = False
        return ready

    def _write_events(self, now: float) -> None:
        lasting = False
        appended = 0
        if self._events:
            self.end_unless_ours()
        while self._events:
            event, ts, fields = self._events[0]
            line = self.journal.append(event, ts, fields)
            if self.is_blocked:
                self._block(False)
            self._events.popleft()
            appended += 1
            lasting |= event in LASTING
            self._last_line = now
            self._tell_trackers(event, ts, fields)
            for client in self._clients.values():
                if client.subscribed:
                    client.queue(line, self.journal.size())
            if event == "command":
                self._answer(str(fields["id"]), line)
        if lasting or (appended and now - self._last_sync > SYNC_SECONDS):
            self.journal.sync()
            self._last_sync = now
            self._each_tracker("flush")
        if appended:
            with self._written:
                self._appended += appended
                self._written.notify_all()

    def _each_tracker(self, action: Literal["flush", "close"]) -> None:
        for tracker in self._trackers:
            try:
                getattr(tracker, action)()
            except Exception as cause:
                print(f"{type(tracker).__name__} could not {action}: {cause}", file=sys.stderr, flush=True)

    def _tell_trackers(self, event: str, ts: float, fields: dict[str, Any]) -> None:
        for tracker in list(self._trackers):
            try:
                tracker.write(event, ts, fields)
            except Exception as cause:
                # The journal is the truth; a tracker that fails must not end a training.
                self._trackers.remove(tracker)
                print(f"{type(tracker).__name__} takes no more: {cause}", file=sys.stderr, flush=True)

    def _answer(self, command_id: str, line: bytes) -> None:
        waiting = self._waiting.pop(command_id, None)
        if waiting is not None:
            client, request = waiting
            client.queue(_message({"jsonrpc": "2.0", "id": request, "result": json.loads(line)}), self.journal.size())
        with contextlib.suppress(OSError):
            (self.run / "commands" / f"{command_id}.json").unlink()

    def _poll_folder(self, now: float) -> None:
        if now - self._last_folder < COMMAND_FOLDER_SECONDS:
            return
        self._last_folder = now
        self.end_unless_ours()
        for path in sorted((self.run / "commands").glob("*.json")):
            try:
                command = json.loads(path.read_text())
            except (OSError, ValueError):
                continue
            if isinstance(command, dict) and path.stem == str(command.get("id")):
                self._accept_command(command)

    def _accept_command(self, command: dict[str, Any]) -> str | None:
        """Queues a command; returns why it cannot be, or None."""
        if command.get("name") not in COMMANDS:
            return f"expected one of {', '.join(COMMANDS)}, got {command.get('name')}"
        if str(command.get("id")) not in self._seen:
            self._seen.add(str(command["id"]))
            self._commands.append({snake(key): value for key, value in command.items()})
        return None

    def _beat(self, now: float) -> None:
        if now - self._last_beat < HEARTBEAT_SECONDS:
            return
        self._last_beat = now
        beat = _message({"jsonrpc": "2.0", "method": "heartbeat", "params": {"step": self.step, "stepAt": self.step_at, "ts": now}})
        for client in self._clients.values():
            if client.subscribed:
                client.queue(beat, self.journal.size())
        if now - self._last_line > JOURNALED_HEARTBEAT_SECONDS and not self._events:
            with self._lock:
                self._events.append(("heartbeat", now, {"step": self.step}))
                self._emitted += 1

    def _accept(self) -> None:
        assert self.listener is not None
        connection, _ = self.listener.accept()
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        if struct.unpack("3i", credentials)[1] != os.getuid():
            connection.close()
            return
        connection.setblocking(False)
        client = Client(connection)
        self._clients[connection.fileno()] = client
        self._selector.register(connection, selectors.EVENT_READ, client)

    def _serve_client(self, client: Client, mask: int) -> None:
        if not mask & selectors.EVENT_READ:
            return
        try:
            data = client.connection.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or len(client.incoming) > MAX_CLIENT_BYTES:
            self._drop(client)
            return
        client.incoming += data
        *lines, client.incoming = client.incoming.split(b"\n")
        for line in lines:
            if line.strip():
                self._request(client, line)

    def _request(self, client: Client, line: bytes) -> None:
        try:
            request = json.loads(line)
            method, params = request["method"], request.get("params") or {}
        except (ValueError, KeyError, TypeError):
            self._reply(client, None, error={"code": -32600, "message": "expected a JSON-RPC 2.0 request on one line"})
            return
        identity = request.get("id")
        if method in COMMANDS:
            command = {"id": f"rpc-{os.getpid()}-{time.time_ns()}", "by": "socket", **params, "name": method}
            if str(command["id"]) in self._seen:
                self._reply(client, identity, error={"code": -32002, "message": f"command {command['id']} was given before"})
                return
            self._waiting[str(command["id"])] = (client, identity)
            self._accept_command(command)
            return
        try:
            self._reply(client, identity, result=self._answer_now(client, method, params))
        except KeyError:
            self._reply(client, identity, error={"code": -32601, "message": f"unknown method {method}"})
        except UserError as refused:
            self._reply(
                client, identity, error={"code": -32001, "message": refused.message, "data": {"code": refused.code, "hint": refused.hint}}
            )

    def _answer_now(self, client: Client, method: str, params: dict[str, Any]) -> Any:
        match method:
            case "hello":
                if params.get("protocol", PROTOCOL_VERSION) != PROTOCOL_VERSION:
                    raise UserError(
                        "PROTOCOL_VERSION",
                        f"expected protocol {PROTOCOL_VERSION}, got {params.get('protocol')}",
                        "use the Stagewright version that started the run",
                    )
                return {
                    "protocol": PROTOCOL_VERSION,
                    "run": self.run_id,
                    "attempt": self.attempt,
                    "seq": self.journal.seq,
                    "pid": os.getpid(),
                }
            case "ping":
                return {"ts": time.time()}
            case "status":
                return {"step": self.step, "stepAt": self.step_at, "attempt": self.attempt, "seq": self.journal.seq}
            case "subscribe":
                client.subscribed = True
                return {"path": str(self.journal.path), "offset": self.journal.size(), "seq": self.journal.seq}
            case "stack":
                return {"stack": _stacks()}
            case _:
                raise KeyError(method)

    def _reply(self, client: Client, identity: Any, **body: Any) -> None:
        client.queue(_message({"jsonrpc": "2.0", "id": identity, **body}), self.journal.size())

    def _flush_clients(self) -> None:
        for client in list(self._clients.values()):
            try:
                while client.outgoing:
                    sent = client.connection.send(client.outgoing[: 1 << 16])
                    del client.outgoing[:sent]
            except BlockingIOError:
                continue
            except OSError:
                self._drop(client)

    def _drop(self, client: Client) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(client.connection)
        self._clients = {number: other for number, other in self._clients.items() if other is not client}
        client.connection.close()


class Silent:
    """The port of every rank but the first: it says nothing and is asked nothing."""

    past_events: list[dict[str, Any]] = []
    listening = None
    is_blocked = False

    def emit(self, event: str, **fields: Any) -> None:
        """Nothing."""

    def take(self) -> list[dict[str, Any]]:
        """Nothing."""
        return []

    def put(self, command: dict[str, Any]) -> None:
        """Nothing: the first rank gets the same signal and tells the others."""

    def acknowledge(self, command: dict[str, Any], step: int, status: str, effective: Any, message: str | None = None) -> None:
        """Nothing."""

    def end_unless_ours(self) -> None:
        """Nothing: the first rank is the one that writes."""

    def close(self) -> None:
        """Nothing."""


def _message(body: dict[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def _stacks() -> str:
    with tempfile.TemporaryFile() as out:
        faulthandler.dump_traceback(out, all_threads=True)
        out.seek(0)
        return out.read().decode(errors="replace")


def _listen(path: str) -> socket.socket | None:
    """A listening Unix socket of mode 0600, or None where the path cannot hold one."""
    if not path or len(path.encode()) >= 100:
        return None
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old = os.umask(0o177)
    try:
        Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        listener.bind(path)
    except OSError:
        listener.close()
        return None
    finally:
        os.umask(old)
    listener.listen(64)
    listener.setblocking(False)
    return listener
