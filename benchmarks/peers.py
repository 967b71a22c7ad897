"""The environment of all that is compared: `python -m benchmarks.peers` makes it, `.venv-peers` beside `.venv`.

Every side runs in it, the stock SDK and ours too, so that all have the same Python, SDK, Starlette and uvicorn.
Versions are pinned here and nowhere else; when they change, the environment is made anew.
"""

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from examples.cluster import ROOT

FOLDER = ROOT / ".venv-peers"
# Written last, so that an interrupted installation is not taken for a finished one.
INSTALLED = FOLDER / ".installed"

# uvicorn[standard] brings uvloop and httptools, the second of the two HTTP servers that are measured.
BASE = ("mcp==2.3.0", "uvicorn[standard]==0.54.0", "uvloop==0.23.0", "httptools==0.9.0")

# Each as its documentation installs it for Postgres; one that cannot be installed is left out of the tables.
PEERS = {
    "mcp-persist": ("mcp-persist[postgres]==2.2.0",),
    # The newest of which all requirements could be had when this was pinned.
    "fastmcp": ("fastmcp==4.1.0", "py-key-value-aio[postgresql]==0.4.6"),
}

# Seconds for one run of pip.
PATIENCE = 600


@dataclass(frozen=True)
class Environment:
    """An interpreter, and the peers that it cannot import, each with the reason."""

    python: Path
    missing: dict[str, str]


class PipFailedError(RuntimeError):
    """pip could not install something; the message is the last that it said."""


def environment() -> Environment | None:
    """The environment as it stands, or None if it was not made or its pins have changed since."""
    if not INSTALLED.exists():
        return None
    made = json.loads(INSTALLED.read_text())
    return Environment(_python(), made["missing"]) if made["pins"] == _pins() else None


def versions() -> dict[str, str]:
    """The pinned versions of what is compared, as lines for people."""
    sdk, uvicorn, *fast = (pin.replace("==", " ") for pin in BASE)
    return {
        "sides of calls": f"{sdk}, {uvicorn}",
        "their fast HTTP": ", ".join(fast),
        "peers": ", ".join(pins[0].replace("==", " ") for pins in PEERS.values()),
    }


def make(say: Callable[[str], None]) -> Environment:
    """Install everything that can be installed.

    Raises:
        PipFailedError: not even what all sides need could be.
    """
    say(f"Making {FOLDER.name} with the peers of the benchmark: a minute or two, once")
    _run([sys.executable, "-m", "venv", "--clear", str(FOLDER)])
    # mcpsession itself is the tree that stands here: sides start in its folder.
    _install("what all sides need", [*BASE, *_dependencies()], say)
    missing = {}
    for name, pins in PEERS.items():
        try:
            # With the base: what a peer needs must not take another SDK or uvicorn than the other sides have.
            _install(name, [*pins, *BASE], say)
        except PipFailedError as error:
            missing[name] = str(error)
            say(f"  {name} is left out: {error}")
    INSTALLED.write_text(json.dumps({"pins": _pins(), "missing": missing}))
    return Environment(_python(), missing)


def _python() -> Path:
    return FOLDER / "bin" / "python"


def _pins() -> list[str]:
    return [*BASE, *_dependencies(), *(pin for pins in PEERS.values() for pin in pins)]


def _dependencies() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [str(dependency) for dependency in project["dependencies"]]


def _install(what: str, pins: Sequence[str], say: Callable[[str], None]) -> None:
    say(f"  installing {what}: {' '.join(pins)}")
    _run([str(_python()), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pins])


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()[-500:]]
        raise PipFailedError(said[-1])


def main() -> int:
    """Make the environment unless it is there; without a network say so, and let the benchmark go on without it."""
    if environment() is not None:
        INSTALLED.touch()
        return 0
    try:
        made = make(lambda text: print(text, flush=True))  # noqa: T201 (a command line's progress)
    except (PipFailedError, subprocess.TimeoutExpired) as error:
        print(f"No peers: {error}", file=sys.stderr)  # noqa: T201
        return 0
    print(f"Made {FOLDER.name}" + (f", without {', '.join(made.missing)}" if made.missing else ""))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
