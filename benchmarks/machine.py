"""Where the numbers come from: the machine and the versions."""

import importlib.util
import os
import platform
from importlib.metadata import version
from pathlib import Path

import psutil

from benchmarks import peers

# Seconds over which the machine is watched before the run.
WATCH = 0.5


def describe(postgres: str) -> dict[str, str]:
    """One line of text for each thing that changes the numbers."""
    return {
        "CPU": _cpu_model(),
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "busy before the run": f"{psutil.cpu_percent(interval=WATCH):.0f} %",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "mcp": version("mcp"),
        "mcpsession": version("mcpsession"),
        "uvicorn": f"{version('uvicorn')} ({_parser()}, {_loop()})",
        "asyncpg": version("asyncpg"),
        "Postgres": postgres,
        **({} if peers.environment() is None else peers.versions()),
    }


def _cpu_model() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _parser() -> str:
    """What uvicorn parses HTTP with: it takes the fast one if that is installed."""
    return "httptools" if importlib.util.find_spec("httptools") else "h11"


def _loop() -> str:
    return "uvloop" if importlib.util.find_spec("uvloop") else "asyncio"
