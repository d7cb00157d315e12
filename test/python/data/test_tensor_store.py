import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import osplan
from osplan.data import tensor_store
from osplan.data.tensor_store import TensorStore, described_folder, lossless
from osplan.domain.errors import UserError

MADE_WITH = {"encoder": "one"}


def parts_of(number: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    return {"moments": torch.randn(4, 3, generator=generator), "mask": torch.tensor([number], dtype=torch.int64)}


def is_right(parts: dict[str, torch.Tensor] | None, number: int) -> bool:
    wanted = parts_of(number)
    return parts is not None and parts.keys() == wanted.keys() and all(torch.equal(parts[name], wanted[name]) for name in wanted)


def filled(folder: Path, numbers: range = range(5)) -> TensorStore:
    store = TensorStore(folder, MADE_WITH)
    for number in numbers:
        store.put(f"{number:032x}", parts_of(number))
    store.close()
    return store


def test_what_was_put_is_found_at_once_and_by_those_who_come_later(tmp_path):
    store = TensorStore(tmp_path / "cache", MADE_WITH)
    assert store.get("a") is None
    store.put("a", parts_of(1))
    assert is_right(store.get("a"), 1)
    store.close()
    later = TensorStore(tmp_path / "cache", MADE_WITH)
    assert is_right(later.get("a"), 1)
    assert len(later) == 1


def test_types_and_empty_shapes_come_back_as_they_were(tmp_path):
    parts = {"a": torch.zeros(0, 3), "b": torch.tensor(2.5, dtype=torch.bfloat16), "c": torch.arange(3, dtype=torch.uint8)}
    store = TensorStore(tmp_path, MADE_WITH)
    store.put("x", parts)
    store.close()
    found = TensorStore(tmp_path, MADE_WITH).get("x")
    assert found is not None
    assert all(torch.equal(found[name], parts[name]) and found[name].dtype == parts[name].dtype for name in parts)


def test_what_another_process_wrote_is_found_without_opening_again(tmp_path):
    reader = TensorStore(tmp_path, MADE_WITH)
    assert reader.get(f"{3:032x}") is None
    filled(tmp_path)
    assert is_right(reader.get(f"{3:032x}"), 3)
    filled(tmp_path, range(5, 9))
    assert is_right(reader.get(f"{8:032x}"), 8)


def test_a_changed_byte_is_refused_by_name_and_a_later_copy_takes_its_place(tmp_path):
    filled(tmp_path)
    (shard,) = tmp_path.glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(content)
    problems: list[str] = []
    store = TensorStore(tmp_path, MADE_WITH, problems.append)
    found = {number: store.get(f"{number:032x}") for number in range(5)}
    (wrong,) = [number for number, parts in found.items() if parts is None]
    assert all(is_right(parts, number) for number, parts in found.items() if number != wrong)
    assert len(problems) == 1
    assert f"{wrong:032x}" in problems[0]
    assert f"{wrong:032x}" not in store
    store.put(f"{wrong:032x}", parts_of(wrong))
    store.close()
    again = TensorStore(tmp_path, MADE_WITH, problems.append)
    assert all(is_right(again.get(f"{number:032x}"), number) for number in range(5))
    assert all(is_whole for _, is_whole in again.verify())


@pytest.mark.parametrize("kept", [0, 5, 100, -40])
def test_a_shard_that_was_cut_off_is_refused_as_a_whole(tmp_path, kept):
    filled(tmp_path)
    (shard,) = tmp_path.glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:kept])
    problems: list[str] = []
    store = TensorStore(tmp_path, MADE_WITH, problems.append)
    assert len(store) == 0
    assert shard.name in problems[0]


def test_random_damage_never_gives_a_wrong_tensor(tmp_path):
    filled(tmp_path)
    (shard,) = tmp_path.glob("*.safetensors")
    whole = shard.read_bytes()
    draws = random.Random(4)
    for _ in range(200):
        content = bytearray(whole)
        for _ in range(draws.randint(1, 4)):
            content[draws.randrange(len(content))] = draws.randrange(256)
        shard.write_bytes(content[: draws.randint(0, len(content))] if draws.random() < 0.2 else content)
        store = TensorStore(tmp_path, MADE_WITH)
        for number in range(5):
            parts = store.get(f"{number:032x}")
            assert parts is None or is_right(parts, number)


def test_another_way_of_making_entries_has_another_folder_and_a_foreign_folder_is_refused(tmp_path):
    one, other = (described_folder(tmp_path, "latents", {"encoder": name}) for name in ("one", "other"))
    assert one != other
    filled(one)
    os.rename(one, other)
    with pytest.raises(UserError, match="CACHE_FOREIGN|something else"):
        TensorStore(other, {"encoder": "other"})


def test_shards_of_dead_writers_are_removed_and_those_of_living_ones_are_not(tmp_path):
    import fcntl

    filled(tmp_path)
    dead, living = tmp_path / ".writing-dead.safetensors", tmp_path / ".writing-living.safetensors"
    dead.write_bytes(b"half")
    living.write_bytes(b"half")
    for path in (dead, living):
        os.utime(path, (time.time() - 1000,) * 2)
    with open(living, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        filled(tmp_path, range(10, 11))
    assert not dead.exists()
    assert living.exists()


def test_a_folder_that_cannot_be_written_is_said_once_and_training_could_go_on(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    problems: list[str] = []
    store = TensorStore(blocked / "cache", MADE_WITH, problems.append)
    for number in range(3):
        store.put(f"{number}", parts_of(number))
        store.flush()
    store.close()
    assert len(problems) == 1
    assert store.failure is not None


def test_many_threads_put_and_get_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_store, "SHARD_BYTES", 200)
    store = TensorStore(tmp_path, MADE_WITH)

    def work(first: int) -> None:
        for number in range(first, first + 25):
            store.put(f"{number:032x}", parts_of(number))
            assert is_right(store.get(f"{number:032x}"), number)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(0, 100, 25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()
    later = TensorStore(tmp_path, MADE_WITH)
    assert all(is_right(later.get(f"{number:032x}"), number) for number in range(100))
    assert len(list(tmp_path.glob("*.safetensors"))) > 10


WRITER = """
import sys, torch
from pathlib import Path
from osplan.data import tensor_store
tensor_store.SHARD_BYTES = 4000
store = tensor_store.TensorStore(Path(sys.argv[1]), {"encoder": "one"})
print("ready", flush=True)
for number in range(100_000):
    generator = torch.Generator().manual_seed(number)
    store.put(f"{number:032x}", {"moments": torch.randn(4, 3, generator=generator), "mask": torch.tensor([number], dtype=torch.int64)})
"""


def test_a_writer_killed_at_any_moment_leaves_whole_entries_only(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(osplan.__file__ or "").parent.parent), "OMP_NUM_THREADS": "1"}
    counts = []
    for wait in (0.15, 0.02, 0.3):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, env=environment)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        problems: list[str] = []
        store = TensorStore(tmp_path, MADE_WITH, problems.append)
        assert not problems
        assert all(is_right(store.get(name), int(name, 16)) for name in sorted(store.names())[:: max(1, len(store) // 50)])
        counts.append(len(store))
    assert counts[-1] > 0
    assert counts == sorted(counts)


def test_numbers_of_half_the_bytes_are_kept_so_only_where_nothing_is_lost():
    exact = torch.randn(64).to(torch.bfloat16).float()
    assert lossless(exact).dtype == torch.bfloat16
    assert torch.equal(lossless(exact).float(), exact)
    assert lossless(torch.tensor([1.0, 1 / 3])).dtype == torch.float32


def test_the_description_says_what_entries_were_made_with(tmp_path):
    filled(tmp_path)
    assert json.loads((tmp_path / "cache.json").read_text()) == {"format": 1, "encoder": "one"}
