import errno
import json
import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from osplan.bridge import Bridge


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def socket_path(run: Path) -> str:
    return str(run / "s.sock")


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "trainer.jsonl").read_text().splitlines()]


class Caller:
    """A JSON-RPC client on the control socket."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(5)
        self.socket.connect(path)
        self.file = self.socket.makefile("rb")

    def send(self, method: str, **params: object) -> None:
        self.socket.sendall(json.dumps({"jsonrpc": "2.0", "id": method, "method": method, "params": params}).encode() + b"\n")

    def call(self, method: str, **params: object) -> dict:
        self.send(method, **params)
        while True:
            answer = json.loads(self.file.readline())
            if answer.get("id") == method:
                return answer


def test_events_are_numbered_and_the_first_line_names_the_format(run: Path):
    bridge = Bridge(run, 1, socket_path(run), "r")
    bridge.emit("step", step=1, loss=float("nan"))
    bridge.close()
    written = lines(run)
    assert [line["seq"] for line in written] == list(range(len(written)))
    assert written[0]["formatVersion"] == 1
    assert written[1]["loss"] == {"$f": "nan"}


def test_a_torn_last_line_is_cut_off_and_the_numbers_go_on(run: Path):
    Bridge(run, 1, "", "r").close()
    with open(run / "trainer.jsonl", "ab") as file:
        file.write(b'{"seq":1,"ts":1,"att')
    bridge = Bridge(run, 2, "", "r")
    bridge.close()
    assert [(line["seq"], line["attempt"]) for line in lines(run)] == [(0, 1), (1, 2)]


def test_only_the_owner_may_open_the_socket(run: Path):
    bridge = Bridge(run, 1, socket_path(run), "r")
    assert stat.S_IMODE(os.stat(socket_path(run)).st_mode) == 0o600
    bridge.close()


def test_another_protocol_version_is_refused(run: Path):
    bridge = Bridge(run, 1, socket_path(run), "r")
    answer = Caller(socket_path(run)).call("hello", protocol=99)
    assert answer["error"]["data"]["code"] == "PROTOCOL_VERSION"
    bridge.close()


def test_a_command_is_answered_with_its_effect(run: Path):
    bridge = Bridge(run, 1, socket_path(run), "r")
    caller = Caller(socket_path(run))
    caller.send("set", id="c1", path="learningRate", value="*0.5", by="me")
    deadline = time.time() + 5
    taken: list[dict] = []
    while not taken and time.time() < deadline:
        taken = bridge.take()
    bridge.acknowledge(taken[0], 7, "applied", 5e-6)
    answer = json.loads(caller.file.readline())
    assert answer["result"] | {"seq": 0, "ts": 0} == answer["result"] | {
        "seq": 0,
        "ts": 0,
        "step": 7,
        "effective": 5e-6,
        "status": "applied",
        "by": "me",
    }
    bridge.close()


def test_the_same_command_as_a_file_is_taken_once(run: Path):
    bridge = Bridge(run, 1, "", "r")
    (run / "commands" / "c2.json").write_text(json.dumps({"id": "c2", "name": "stop", "by": "me"}))
    deadline = time.time() + 5
    taken: list[dict] = []
    while not taken and time.time() < deadline:
        taken = bridge.take()
        time.sleep(0.01)
    bridge.acknowledge(taken[0], 3, "applied", None)
    bridge.close()
    assert not (run / "commands" / "c2.json").exists()
    again = Bridge(run, 2, "", "r")
    (run / "commands" / "c2.json").write_text(json.dumps({"id": "c2", "name": "stop", "by": "me"}))
    time.sleep(1.3)
    assert again.take() == []
    again.close()


def test_a_subscriber_gets_every_event_after_the_offset(run: Path):
    bridge = Bridge(run, 1, socket_path(run), "r")
    caller = Caller(socket_path(run))
    start = caller.call("subscribe")["result"]["seq"]
    for step in range(100):
        bridge.emit("step", step=step, loss=1.0)
    seen = []
    while len(seen) < 100:
        line = json.loads(caller.file.readline())
        if line.get("event") == "step":
            seen.append(line["seq"])
    assert seen == list(range(start, start + 100))
    bridge.close()


def test_a_reader_that_stops_reading_does_not_stop_the_trainer(run: Path):
    bridge = Bridge(run, 1, socket_path(run), "r")
    Caller(socket_path(run)).call("subscribe")
    began = time.perf_counter()
    for step in range(20_000):
        bridge.emit("step", step=step, loss=1.0, note="x" * 200)
    assert time.perf_counter() - began < 2
    bridge.close()
    assert sum(line["event"] == "step" for line in lines(run)) == 20_000


def test_garbage_on_the_socket_is_answered_not_obeyed(run: Path):
    bridge = Bridge(run, 1, socket_path(run), "r")
    caller = Caller(socket_path(run))
    caller.socket.sendall(b"\x00\xff not json\n[]\n")
    assert json.loads(caller.file.readline())["error"]["code"] == -32600
    assert json.loads(caller.file.readline())["error"]["code"] == -32600
    assert caller.call("ping")["result"]["ts"] > 0
    assert "error" in caller.call("launch_missiles")
    bridge.close()


def test_a_thread_with_nothing_to_do_sleeps_until_an_event_wakes_it(run: Path, monkeypatch):
    for name in ("HEARTBEAT_SECONDS", "COMMAND_FOLDER_SECONDS"):
        monkeypatch.setattr(f"osplan.bridge.{name}", 3600)
    bridge = Bridge(run, 1, socket_path(run), "r")
    for step in (1, 2, 3):
        wait_for(lambda: bridge._is_idle)
        bridge.emit("step", step=step)
        wait_for(lambda: lines(run)[-1].get("step") == step)
    wait_for(lambda: bridge._is_idle)
    caller = Caller(socket_path(run))
    assert caller.call("status")["result"]["step"] == 3
    bridge.close()


def wait_for(holds) -> None:
    until = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_a_full_disk_tears_no_line_and_loses_none(run: Path, monkeypatch):
    bridge = Bridge(run, 1, "", "r")
    bridge.emit("checkpoint", step=1)
    write, is_full = os.write, [True]

    def torn(file: int, data: bytes) -> int:
        if is_full and file == bridge.journal.file:
            if len(data) < 10:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(file, data[:-5])
        return write(file, data)

    monkeypatch.setattr(os, "write", torn)
    for step in range(2, 5):
        bridge.emit("checkpoint", step=step)
    assert bridge.is_blocked and [line["event"] for line in lines(run)] == ["opened", "checkpoint"]
    is_full.clear()
    bridge.emit("step", step=5)
    bridge.close()
    assert not bridge.is_blocked
    assert [(line["seq"], line.get("step")) for line in lines(run)] == [(0, None), *((step, step) for step in range(1, 6))]


def test_lines_have_room_on_a_disk_that_becomes_full(run: Path):
    bridge = Bridge(run, 1, "", "r")
    bridge.emit("checkpoint", step=1)
    journal = run / "trainer.jsonl"
    assert journal.stat().st_blocks * 512 > journal.stat().st_size + (1 << 17)
    bridge.close()
    assert journal.stat().st_blocks * 512 <= 8192


def test_a_trainer_whose_run_another_has_taken_over_ends_without_a_word(run: Path):
    code = """
import sys, time
from pathlib import Path
from osplan.bridge import Bridge
bridge = Bridge(Path(sys.argv[1]), 1, "", "r")
for step in range(100_000):
    bridge.emit("step", step=step, loss=1.0)
    time.sleep(0.01)
"""
    old = subprocess.Popen([sys.executable, "-c", code, str(run)], stderr=subprocess.PIPE, text=True)
    while not (run / "trainer.jsonl").exists() or len(lines(run)) < 5:
        time.sleep(0.01)
    newer = Bridge(run, 1, "", "r")
    _, said = old.communicate(timeout=30)
    newer.emit("step", step=7, loss=2.0)
    newer.close()
    assert old.returncode == 1 and "another trainer has taken this run over" in said
    written = lines(run)
    taken_over = [line["event"] for line in written].index("opened", 1)
    assert [line.get("loss") for line in written[taken_over:]] == [None, 2.0]
