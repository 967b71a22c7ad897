"""What the demo shows: a screen for people, which reads as well in a pipe or in a log of CI."""

import io
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from examples.cluster import Cluster, ReplicaProcess
from examples.demo.story import Say, StoryError

# A whole line with its time fits into 80 columns.
TITLE_WIDTH = 58
LOG_TAIL_LINES = 15

INSPECTOR = "npx @modelcontextprotocol/inspector"


class Screen:
    """Prints; where somebody watches, it also shows what is going on right now."""

    def __init__(self) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A tick that the terminal's encoding does not have must not end the demo.
            sys.stdout.reconfigure(errors="replace")
        console = Console(highlight=False)
        # In a pipe there is nobody's width to respect.
        self._console = console if console.is_terminal else Console(highlight=False, width=120)

    def title(self) -> None:
        self._console.print()
        self._console.print(Text("mcpsession", style="bold"), "any replica serves any request of any session", sep=": ")
        self._console.print()

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Say what one waits for, while it lasts."""
        with self._console.status(Text(what, style="dim")):
            yield

    def cluster(self, cluster: Cluster) -> None:
        """Show who takes part."""
        for replica in cluster.replicas:
            self._fact(name(replica), replica.url, f"process {replica.pid}")
        self._fact("the front", cluster.url, f"process {cluster.front.pid}, each request to the next replica")
        self._fact("Postgres", without_password(cluster.database_url), "all that the replicas share")
        self._console.print()

    def _fact(self, who: str, where: str, what: str) -> None:
        self._console.print(Text.assemble(f"    {who:<10} ", (f"{where}  ", "cyan"), (what, "dim")))

    @contextmanager
    def step(self, number: int, title: str) -> Iterator[Say]:
        """Show a step: while it runs, and when it has ended, well or not."""
        seen: list[str] = []
        began = time.monotonic()
        with self._console.status(Text(f"{number}  {title}")) as status:

            def say(line: str) -> None:
                seen.append(line)
                text = Text.assemble(f"{number}  {title}: ", (line, "dim"), no_wrap=True, overflow="ellipsis")
                status.update(text)

            try:
                yield say
            except Exception:
                self._ended(Text("✗", style="bold red"), number, title, began, seen)
                raise
        self._ended(Text("✓", style="bold green"), number, title, began, seen)

    def _ended(self, mark: Text, number: int, title: str, began: float, seen: Sequence[str]) -> None:
        took = f"{(time.monotonic() - began) * 1000:8,.0f} ms"
        line = Text.assemble("  ", mark, f" {number}  ", (f"{title:<{TITLE_WIDTH}}", "bold"), (took, "cyan"))
        self._console.print(line)
        for text in seen:
            self._lines(text, style="dim")

    def _lines(self, text: str, *, style: str) -> None:
        self._console.print(Padding(Text(text, style=style), (0, 0, 0, 7), expand=False))

    def failure(self, error: Exception, replicas: Sequence[ReplicaProcess]) -> None:
        """Say what was expected and what was seen, and how the replicas' logs end."""
        if isinstance(error, StoryError):
            self._lines(error.what, style="red")
            self._lines(f"expected: {error.expected}", style="red")
            self._lines(f"seen:     {error.seen}", style="red")
        else:
            self._lines(f"{type(error).__name__}: {error}", style="red")
        for replica in replicas:
            tail = replica.log.splitlines()[-LOG_TAIL_LINES:]
            about = f"the end of the log of {name(replica)}:" if tail else f"{name(replica)} logged nothing"
            self._lines(about, style="bold")
            for line in tail:
                self._lines(line, style="dim")

    def broken(self, error: Exception) -> None:
        """Say that it could not even begin."""
        self._console.print(Text(str(error), style="red"))

    def verdict(self, done: int, steps: int, seconds: float, *, started_in: float) -> None:
        """The last line: how it went, and how long that took."""
        self._console.print()
        well = done == steps
        text = f"all {steps} steps passed" if well else f"step {done + 1} of {steps} failed"
        style = "bold green" if well else "bold red"
        times = f" in {seconds:.1f} s, after {started_in:.1f} s to start everything"
        self._console.print(Text.assemble("  ", (text, style), (times, "dim")))
        self._console.print()

    def serving(self, url: str) -> None:
        """Tell how to reach what is up, and how to end it."""
        self._console.print(Text.assemble("  the MCP endpoint is  ", (url, "bold green")))
        self._console.print(f"  MCP Inspector:  {INSPECTOR}  with transport 'Streamable HTTP' and this URL")
        self._console.print("  requests take turns; one with the header 'x-replica: 0' (or 1, 2) goes to that replica")
        self._console.print("  Ctrl-C ends all of it")
        self._console.print()

    def ended(self) -> None:
        self._console.print("  ended: nothing is left running")


def name(replica: ReplicaProcess) -> str:
    """Replicas count from 0 on the wire and from 1 for people."""
    return f"replica {replica.index + 1}"


def without_password(url: str) -> str:
    parts = urlsplit(url)
    return url.replace(f":{parts.password}@", ":…@") if parts.password else url
