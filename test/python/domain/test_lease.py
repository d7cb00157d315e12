import errno
from pathlib import Path

import pytest
from osplan.domain.errors import UserError
from osplan.domain.lease import Lease


def test_the_trainer_that_was_started_last_holds_the_run(tmp_path: Path):
    first = Lease(tmp_path, 1)
    assert first.is_held()
    again = Lease(tmp_path, 1)
    assert again.is_held() and not first.is_held()
    later = Lease(tmp_path, 2)
    assert later.is_held() and not again.is_held()
    assert [path.name for path in tmp_path.iterdir()] == ["writer.json"]


def test_an_attempt_before_the_newest_is_refused_and_takes_nothing(tmp_path: Path):
    newest = Lease(tmp_path, 3)
    with pytest.raises(UserError, match="expected attempt 3 or a later one, got 2"):
        Lease(tmp_path, 2)
    assert newest.is_held()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"attempt": "x"}', "null"])
def test_a_file_that_a_power_cut_left_is_taken_over(tmp_path: Path, text: str):
    (tmp_path / "writer.json").write_text(text)
    assert Lease(tmp_path, 1).is_held()


def test_a_full_disk_keeps_nobody_from_going_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    before = Lease(tmp_path, 1)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert Lease(tmp_path, 2).is_held() and before.is_held()
    assert [path.name for path in tmp_path.iterdir()] == ["writer.json"]


def test_storage_that_cannot_be_read_for_a_moment_ends_nobody(tmp_path: Path):
    lease = Lease(tmp_path, 1)
    (tmp_path / "writer.json").unlink()
    assert lease.is_held()
