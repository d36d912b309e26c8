"""A page in headless Chromium, driven over the browser's own DevTools protocol through a pair of pipes.

No package is needed for that: a message is a line of JSON that ends with a zero byte (`--remote-debugging-pipe`), and
there is neither a port nor a driver of the browser's version. https://chromedevtools.github.io/devtools-protocol/
"""

import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--mute-audio",
    "--remote-debugging-pipe", "--window-size=1400,1000",
)  # fmt: skip
PATIENCE = 120.0  # seconds, for a machine that does much else beside


def chromium() -> str | None:
    """The path of a Chromium, if one is installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """A browser of its own with one page; requests: the addresses of all that the page asked for."""

    def __init__(self, profile: Path, options: Sequence[str] = ()) -> None:
        path = chromium()
        assert path is not None
        (here_in, there_out), (there_in, here_out) = os.pipe(), os.pipe()
        # High numbers, so that neither is in the way when they become 3 and 4 there.
        reads, writes = (fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 20) for one in (there_in, there_out))
        words = [path, *QUIET, *options, f"--user-data-dir={profile}", "about:blank"]
        null = os.open(os.devnull, os.O_RDWR)
        self._process = os.posix_spawn(
            path, words, {**os.environ, "HOME": str(profile)}, setpgroup=0,
            file_actions=[(os.POSIX_SPAWN_DUP2, null, 1), (os.POSIX_SPAWN_DUP2, null, 2),
                          (os.POSIX_SPAWN_DUP2, reads, 3), (os.POSIX_SPAWN_DUP2, writes, 4)],
        )  # fmt: skip
        for one in (there_in, there_out, reads, writes, null):
            os.close(one)
        self._in, self._out = here_in, here_out
        self._waiting, self._number, self._session = b"", 0, ""
        self.requests: list[str] = []
        self.problems: list[str] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.ask(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session = ""
        with suppress(Exception):
            self.ask("Browser.close")
        for one in (self._in, self._out):
            os.close(one)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            if os.waitpid(self._process, os.WNOHANG)[0]:
                return
            time.sleep(0.02)
        with suppress(ProcessLookupError):
            os.killpg(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; what happens meanwhile is noted."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        while (answer := self._next()).get("id") != self._number:
            self._note(answer)
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _next(self) -> dict[str, Any]:
        pieces, until = [self._waiting], time.monotonic() + PATIENCE
        while b"\0" not in pieces[-1]:
            ready, _, _ = select.select([self._in], [], [], max(0, until - time.monotonic()))
            piece = os.read(self._in, 1 << 20) if ready else b""
            if not piece:
                raise AssertionError("the browser does not answer" if not ready else "the browser has ended")
            pieces.append(piece)
        message, _, self._waiting = b"".join(pieces).partition(b"\0")
        document: dict[str, Any] = json.loads(message)
        return document

    def _note(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description") or details["text"])
        if method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(params["entry"]["text"])

    def open(self, address: str | Path) -> None:
        """Open a page, and wait until it is all there."""
        address = address.as_uri() if isinstance(address, Path) else address
        failed = self.ask("Page.navigate", url=address).get("errorText")
        assert not failed, f"{address}: {failed}"
        self.wait(f"document.readyState === 'complete' && location.href.startsWith({address[:12]!r})")

    def run(self, script: str) -> Any:
        """The value of an expression in the page, awaited."""
        done = self.ask(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True
        )  # fmt: skip
        if details := done.get("exceptionDetails"):
            raise AssertionError(details.get("exception", {}).get("description") or details["text"])
        return done["result"].get("value")

    def wait(self, script: str) -> None:
        """Wait until an expression is true in the page."""
        self.until(lambda: self.run(script), script)

    def until(self, holds: Callable[[], object], what: str) -> None:
        """Wait until something holds."""
        until = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < until, f"never: {what}"
            time.sleep(0.02)

    def press(self, *keys: str) -> None:
        """Press keys one after the other, as a person does: `j`, `Enter`, `ArrowDown`."""
        for key in keys:
            text = "\r" if key == "Enter" else key if len(key) == 1 else ""
            code = {"Enter": 13, "Tab": 9, "Escape": 27}.get(key, ord(key.upper()) if len(key) == 1 else 0)
            event = {"key": key, "text": text, "windowsVirtualKeyCode": code}
            self.ask("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **event)
            self.ask("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def downloads_to(self, folder: Path) -> None:
        """Let downloads go to a folder without asking."""
        folder.mkdir(exist_ok=True)
        self.ask("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def choose_file(self, selector: str, path: Path) -> None:
        """Choose a file in a file input."""
        root = self.ask("DOM.getDocument")["root"]["nodeId"]
        node = self.ask("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.ask("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def screenshot(self, path: Path) -> None:
        """Write what can be seen as a PNG."""
        import base64

        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))


def version() -> str:
    """What the browser calls itself; "" where there is none."""
    path = chromium()
    return subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout if path else ""
