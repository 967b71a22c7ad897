"""The files that need an engine to run pass the validators that need none."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(sys.executable).parent


def run(*command: str | Path) -> str:
    """Run a command in the repository's root; its output is the assertion's message when it fails."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_compose_file_follows_the_compose_specification() -> None:
    run(SCRIPTS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")


def test_the_dockerfile_passes_hadolint() -> None:
    run(SCRIPTS / "hadolint", "Dockerfile")


def test_haproxy_accepts_the_balancers_configuration() -> None:
    # Debian installs it where only root's PATH looks.
    haproxy = shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin")
    if haproxy is None:
        pytest.skip("haproxy is not installed: apt-get install haproxy")
    assert "WARNING" not in run(haproxy, "-c", "-f", "deploy/haproxy.cfg")


def test_the_balancer_and_the_compose_file_name_the_same_replicas() -> None:
    services = re.findall(r"^  (replica-\d+):$", (ROOT / "docker-compose.yml").read_text(), re.MULTILINE)
    servers = re.findall(r"^    server (\S+) (\S+)$", (ROOT / "deploy/haproxy.cfg").read_text(), re.MULTILINE)
    assert servers == [(service, f"{service}:8000") for service in services]
    assert len(services) == 3


def test_every_target_of_the_makefile_is_in_its_help() -> None:
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    listed = re.findall(r"^  make (\S+) +\S", run("make", "help"), re.MULTILINE)
    assert listed == phony[1].split()


def test_the_script_for_ci_is_executable_bash() -> None:
    run("bash", "-n", ".ci/run")
    assert os.access(ROOT / ".ci/run", os.X_OK)
