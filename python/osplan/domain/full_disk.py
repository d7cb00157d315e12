"""A full disk: told from other errors, and looked at again."""

import errno
import os
from pathlib import Path

from osplan.domain.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space, none of a quota, or none under a limit on the size of a file."""


class DiskFullError(UserError):
    """There is no room for what is to be written; `needed` are its bytes."""

    def __init__(self, where: Path, needed: int, found: object) -> None:
        super().__init__(
            "DISK_FULL",
            f"{where}: expected room for {needed:,} bytes, got {found}",
            "free some space and run `stagewright continue`; earlier checkpoints are untouched",
        )
        self.needed = needed


def is_full(cause: BaseException) -> bool:
    """Whether an error says that a disk is full. Libraries that write files themselves only say so in words."""
    return (isinstance(cause, OSError) and cause.errno in FULL) or any(os.strerror(number) in str(cause) for number in FULL)


def free_bytes(folder: Path) -> int:
    """What a person without privileges may still write there, quotas aside."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def has_room(folder: Path, needed: int) -> bool:
    """Whether `needed` bytes can be had in a folder now: they are taken, and given back."""
    if free_bytes(folder) < needed:
        return False
    probe = folder / ".step-room.tmp"
    try:
        with open(probe, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, needed))
    except OSError as cause:
        if not is_full(cause):
            raise
        return False
    finally:
        probe.unlink(missing_ok=True)
    return True
