"""A parent that has imported PyTorch and forks workers with the environment torchrun would set: a trial begins without a cold start.

The parent starts no thread and touches no device, so that a fork is a whole process. One request is one line of JSON on its socket:
`{run, attempt, log, exitFile, environment}`; the answer is `{pid}` of the launcher. A launcher leads a session of its own, waits for its
one rank and writes the exit file, as the shell and torchrun do for a cold start; it outlives the parent, and so does the rank. While the
parent has nothing to do a launcher and its rank stand ready for the next request; without one they end with the parent.
"""

import ctypes
import gc
import json
import os
import select
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOM = "--room="
"""The parent's last argument is long: a child writes its own command line there, by which it is found."""
POLL_SECONDS = 0.25
MAX_REQUEST_BYTES = 1 << 20
LAUNCHER = "stagewright-run"
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals of a launcher that ask its rank to end."""


def serve(path: str, train: Callable[[Path, int], int]) -> int:
    """Answers requests until whoever started it is gone. Returns 3 where a fork would not be safe."""
    starter = os.getppid()
    _import_everything()
    tasks = len(os.listdir("/proc/self/task"))
    if tasks != 1:
        print(f"the pool expected one thread after its imports, got {tasks}: trials start cold", file=sys.stderr, flush=True)
        return 3
    gc.collect()
    gc.freeze()
    listener = _listen(path)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    spare: Spare | None = None
    try:
        while os.getppid() == starter:
            ready, _, _ = select.select([listener], [], [], POLL_SECONDS)
            if ready:
                spare = _answer(listener, spare, train)
            elif spare is None:
                spare = _spare(listener, train)
        return 0
    finally:
        Path(path).unlink(missing_ok=True)


def _import_everything() -> None:
    """Everything a trial imports, and nothing that starts a thread."""
    # OpenBLAS starts its threads when it is loaded; PyTorch's number is set by the trainer.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    import osplan.bridge
    import osplan.train.assemble  # noqa: F401


def _listen(path: str) -> socket.socket:
    Path(path).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(old)
    listener.listen(16)
    return listener


@dataclass(frozen=True, slots=True)
class Spare:
    """A launcher that waits for its request at the other end of a connection, its rank forked already."""

    pid: int
    connection: socket.socket

    def give(self, request: bytes) -> bool:
        """Hands the request over; False where the launcher is gone."""
        with self.connection:
            try:
                self.connection.sendall(request)
                return True
            except OSError:
                return False


def _spare(listener: socket.socket, train: Callable[[Path, int], int]) -> Spare:
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        listener.close()
        ours.close()
        _launch(theirs, train)
    theirs.close()
    return Spare(pid, ours)


def _answer(listener: socket.socket, spare: Spare | None, train: Callable[[Path, int], int]) -> Spare | None:
    """Gives one request to a launcher and says its number. Returns the spare that is left."""
    connection, _ = listener.accept()
    with connection:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        if struct.unpack("3i", credentials)[1] != os.getuid():
            return spare
        connection.settimeout(5)
        try:
            request = _line(connection)
            json.loads(request)
        except (OSError, ValueError):
            return spare
        if spare is None or not spare.give(request):
            spare = _spare(listener, train)
            spare.give(request)
        connection.sendall(json.dumps({"pid": spare.pid}).encode() + b"\n")
    return None


class NoRequestError(ValueError):
    """The connection was closed, or what came is no request."""


def _line(connection: socket.socket) -> bytes:
    text = b""
    while not text.endswith(b"\n"):
        more = connection.recv(1 << 16)
        if not more or len(text) > MAX_REQUEST_BYTES:
            raise NoRequestError("a request is one line")
        text += more
    return text


def _launch(connection: socket.socket, train: Callable[[Path, int], int]) -> None:
    """The launcher: forks the rank, takes the request, passes TERM on, waits, and writes how it ended. Never returns."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD, *PASSED_ON])
        ours, theirs = socket.socketpair()
        rank = os.fork()
        if rank == 0:
            connection.close()
            ours.close()
            _rank(theirs, train)
        theirs.close()
        line = _line(connection)
        request = json.loads(line)
        _redirect(request["log"])
        os.chdir(request["run"])
        _become(["sh", "-c", "pool", LAUNCHER, request["exitFile"]])
        ours.sendall(line)
        code = _waited(rank)
        _write_exit(request["exitFile"], code)
    except NoRequestError:
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _waited(rank: int) -> int:
    """The launcher's status: 1 where the rank failed, whatever its own was, as torchrun has it. The signals waited for are blocked."""
    asked = False
    while True:
        found, status = os.waitpid(rank, os.WNOHANG)
        if found != 0:
            break
        caught = signal.sigtimedwait([signal.SIGCHLD, *PASSED_ON], POLL_SECONDS)
        if caught is not None and caught.si_signo in PASSED_ON and not asked:
            asked = True
            os.kill(rank, signal.SIGTERM)
    code = os.waitstatus_to_exitcode(status)
    if code != 0:
        print(f"  exitcode  : {code} (pid: {rank})", file=sys.stderr, flush=True)
    return 0 if code == 0 and not asked else 1


def _write_exit(path: str, code: int) -> None:
    with open(f"{path}.tmp", "w") as file:
        file.write(f'{{"formatVersion":1,"exitCode":{code}}}\n')
    os.replace(f"{path}.tmp", path)


def _rank(connection: socket.socket, train: Callable[[Path, int], int]) -> None:
    """The rank: the process torchrun would have started, once there is a request. Never returns."""
    code = 1
    try:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        with connection:
            request: dict[str, Any] = json.loads(_line(connection))
        _redirect(request["log"])
        os.chdir(request["run"])
        os.environ.clear()
        os.environ.update({**request["environment"], **_torchrun_environment()})
        run, attempt = Path(request["run"]).resolve(), int(request["attempt"])
        words = ["osplan", "train", request["run"], f"--attempt={attempt}"]
        _become([sys.executable, "-u", "-m", *words])
        sys.argv = ["osplan", *words[1:]]
        code = train(run, attempt)
    except NoRequestError:
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _torchrun_environment() -> dict[str, str]:
    """What torchrun tells the one rank of a job of one."""
    return {
        "LOCAL_RANK": "0", "RANK": "0", "GROUP_RANK": "0", "ROLE_RANK": "0", "ROLE_NAME": "default",
        "LOCAL_WORLD_SIZE": "1", "WORLD_SIZE": "1", "GROUP_WORLD_SIZE": "1", "ROLE_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_RUN_ID": "pool",
    }  # fmt: skip


def _redirect(log: str) -> None:
    nothing, output = os.open("/dev/null", os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number, target in ((0, nothing), (1, output), (2, output)):
        os.dup2(target, number)
    os.close(nothing)
    os.close(output)


def _become(words: list[str]) -> None:
    """Writes another command line over this process's own.

    Raises ValueError where it does not fit.
    """
    with open("/proc/self/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    text = b"\0".join(word.encode() for word in words) + b"\0"
    if start == 0 or len(text) >= end - start:
        raise ValueError(f"expected a command line of at most {end - start} bytes, got {len(text)}")
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, text, len(text))
