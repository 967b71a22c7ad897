"""The directory of a private Postgres: one process at a time has it, and a temporary one is removed in the end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

from mcpsession.postgres.embedded_launch import EmbeddedPostgresError

PREFIX: Final = "mcpsession-postgres-"
# A server whose owner was killed needs up to 5 s to kill a backend that does not listen.
DYING_SERVER_DEADLINE: Final = 10.0


class Home:
    """A locked directory.

    The lock is the kernel's and is inherited by the server, so it is free exactly when the owner and every
    process of its server are gone, however they died.
    """

    def __init__(self, path: Path, *, lock: int, temporary: bool) -> None:
        self.path = path
        self.lock = lock
        self.temporary = temporary

    def __repr__(self) -> str:
        return f"<Home {str(self.path)!r} {'temporary' if self.temporary else 'persistent'}>"

    def announce(self, url: str) -> None:
        """Tell a second process, which finds the directory locked, who has it and where the server is."""
        os.ftruncate(self.lock, 0)
        os.pwrite(self.lock, f"{os.getpid()}\n{url}\n".encode(), 0)

    def close(self) -> None:
        """Remove the directory if it is temporary, and let go of the lock."""
        if self.temporary:
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self.lock)


def open_home(directory: Path) -> Home:
    """Lock `directory`, made if it is missing.

    Raises:
        EmbeddedPostgresError: another process has it; the message has that server's URL.
    """
    directory = directory.absolute()
    directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    home = Home(directory, lock=_lock(directory / "lock"), temporary=False)
    home.announce("")
    return home


def temporary_home() -> Home:
    """Make and lock a temporary directory; first remove those whose owners were killed."""
    root = Path(tempfile.gettempdir())
    for leftover in root.glob(f"{PREFIX}*"):
        _sweep(leftover)
    # It gets the name that is swept only when it is locked.
    unlocked = Path(tempfile.mkdtemp(prefix="mcpsession-starting-", dir=root))
    # Another user, who may run the server, must be able to pass.
    unlocked.chmod(0o711)
    lock = _lock(unlocked / "lock")
    path = unlocked.rename(root / unlocked.name.replace("mcpsession-starting-", PREFIX))
    home = Home(path, lock=lock, temporary=True)
    home.announce("")
    return home


def _sweep(leftover: Path) -> None:
    """Remove a temporary directory of ours that nobody uses."""
    with contextlib.suppress(OSError):
        status = leftover.lstat()
        if status.st_uid != os.geteuid() or leftover.is_symlink():
            return
        lock = os.open(leftover / "lock", os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(leftover, ignore_errors=True)
        finally:
            os.close(lock)


def _lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + DYING_SERVER_DEADLINE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            owner, url = _owner(descriptor)
            # A dead owner's server is about to end. An owner that is just locking has not written its name yet.
            if _alive(owner) or time.monotonic() > deadline:
                os.close(descriptor)
                raise EmbeddedPostgresError(
                    f"{path.parent} is in use by process {owner or 'unknown'}, which runs an embedded Postgres there; "
                    f"give this process that server's URL instead{f': {url}' if url else ''}"
                ) from None
        time.sleep(0.02)


def _owner(descriptor: int) -> tuple[int, str]:
    lines = os.pread(descriptor, 4096, 0).decode(errors="replace").split("\n")
    return (int(lines[0]), lines[1]) if len(lines) > 1 and lines[0].isdigit() else (0, "")


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False
