"""The wheel has all that it needs: the migrations and their scripts lie elsewhere in the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from mcpsession.postgres.migrate import HEAD

ROOT = Path(__file__).parents[2]
# Without network: pip neither asks its index nor builds in an environment of its own.
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside of the repository with the installed wheel, and nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    # Built from a copy, because setuptools leaves its build folder, with files of long ago, beside the sources.
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("mcpsession", "migrations"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    run(*PIP, "wheel", str(source), "--no-deps", "--no-build-isolation", "--no-index", f"--wheel-dir={folder}")
    (wheel,) = folder.glob("mcpsession-*.whl")
    run(*PIP, "install", str(wheel), "--no-deps", "--no-index", f"--target={folder / 'site'}")
    return folder / "site"


def test_an_installed_wheel_can_migrate(installed: Path, empty_database_url: str) -> None:
    done = python(installed, "-m", "mcpsession", "migrate", "--url", empty_database_url)
    assert done.endswith(f"went from revision none to {HEAD}\n")


def test_the_wheel_is_what_was_run(installed: Path) -> None:
    script = "import mcpsession, mcpsession.migrations as m; print(mcpsession.__file__, m.__file__)"
    found = [Path(file) for file in python(installed, "-c", script).split()]
    assert [installed / "mcpsession/__init__.py", installed / "mcpsession/migrations/__init__.py"] == found


def test_the_wheel_has_the_command_and_the_marker_for_type_checkers(installed: Path) -> None:
    assert (installed / "mcpsession" / "py.typed").exists()
    assert (installed / "bin" / "mcpsession").exists()


def python(site: Path, *arguments: str) -> str:
    # Without the site module there are no .pth files, and so no editable installation that would fill in what lacks.
    path = os.pathsep.join([str(site), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    return run(sys.executable, "-S", *arguments, cwd=site, PYTHONPATH=path)


def run(*command: str, cwd: Path | None = None, **environment: str) -> str:
    done = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=120)
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout
