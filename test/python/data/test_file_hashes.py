import hashlib
import os

from osplan.data.file_hashes import MEMORY, FileHashes


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_file_is_read_once_and_remembered_for_the_next_process(tmp_path, monkeypatch):
    clip = tmp_path / "a.mp4"
    clip.write_bytes(b"one")
    assert FileHashes(tmp_path / "derived").of(str(clip)) == sha256(b"one")
    later = FileHashes(tmp_path / "derived")
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert later.of(str(clip)) == sha256(b"one")
    assert later.known(str(clip)) == sha256(b"one")


def test_a_file_replaced_by_one_of_the_same_size_and_age_is_noticed(tmp_path):
    clip = tmp_path / "a.mp4"
    clip.write_bytes(b"one")
    facts = clip.stat()
    FileHashes(tmp_path / "derived").of(str(clip))
    clip.write_bytes(b"two")
    os.utime(clip, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    hashes = FileHashes(tmp_path / "derived")
    assert hashes.known(str(clip)) is None
    assert hashes.before(str(clip)) == sha256(b"one")
    assert hashes.of(str(clip)) == sha256(b"two")
    assert hashes.before(str(clip)) == sha256(b"one")


def test_a_file_that_only_looks_changed_keeps_its_hash_and_has_no_former_one(tmp_path):
    clip = tmp_path / "a.mp4"
    clip.write_bytes(b"one")
    hashes = FileHashes(tmp_path / "derived")
    hashes.of(str(clip))
    os.utime(clip)
    assert hashes.known(str(clip)) is None
    assert hashes.of(str(clip)) == sha256(b"one")
    assert hashes.before(str(clip)) is None


def test_torn_and_foreign_lines_of_the_memory_are_passed_over(tmp_path):
    clip = tmp_path / "a.mp4"
    clip.write_bytes(b"one")
    derived = tmp_path / "derived"
    FileHashes(derived).of(str(clip))
    memory = derived / MEMORY
    memory.write_bytes(b'{"no": 1}\n\xff\xfe\n[1,2]\n' + memory.read_bytes() + b'["a.mp4", 3, 1')
    hashes = FileHashes(derived)
    assert hashes.known(str(clip)) == sha256(b"one")
    other = tmp_path / "b.mp4"
    other.write_bytes(b"two")
    hashes.of(str(other))
    assert FileHashes(derived).known(str(other)) == sha256(b"two")


def test_the_memory_moves_with_its_data(tmp_path):
    (tmp_path / "data").mkdir()
    clip = tmp_path / "data" / "a.mp4"
    clip.write_bytes(b"one")
    FileHashes(tmp_path / "data" / "derived").of(str(clip))
    os.symlink(tmp_path / "data", tmp_path / "link")
    assert FileHashes(tmp_path / "link" / "derived").known(str(tmp_path / "link" / "a.mp4")) == sha256(b"one")


def test_without_a_folder_the_memory_is_this_process_alone(tmp_path):
    clip = tmp_path / "a.mp4"
    clip.write_bytes(b"one")
    hashes = FileHashes(None)
    assert hashes.of(str(clip)) == sha256(b"one")
    assert hashes.known(str(clip)) == sha256(b"one")
    assert list(tmp_path.iterdir()) == [clip]
