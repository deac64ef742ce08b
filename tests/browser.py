"""A headless Chromium, driven over its DevTools pipe: pages are opened, clicked and looked at as a user would.

Debian's `chromium` package, or any Chromium or Chrome of the names below; `REGFLAT_CHROMIUM` names another.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
)  # fmt: skip
_PATIENCE_S = 120.0


def chromium() -> str | None:
    """The browser's path, None where there is none."""
    named = os.environ.get("REGFLAT_CHROMIUM")
    return named or next((found for name in NAMES if (found := shutil.which(name))), None)


class Page:
    """One tab. `errors` collects what the console and the page complain about."""

    def __init__(self, browser: _Browser, session: str) -> None:
        self.browser, self.session, self.errors = browser, session, []  # type: ignore[var-annotated]

    def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.browser.call(method, parameters, self.session)

    def open(self, path: Path, width: int = 1600, height: int = 1000, dark: bool = False) -> None:
        """Open a file and wait until its script has drawn everything."""
        self.errors.clear()
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.do(f"{domain}.enable")
        self.resize(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.do("Emulation.setEmulatedMedia", features=[scheme])
        self.do("Page.navigate", url=path.resolve().as_uri())
        self.wait("document.body && document.body.dataset.ready === 'true'")

    def resize(self, width: int, height: int) -> None:
        self.do("Emulation.setScrollbarsHidden", hidden=True)
        self.do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise."""
        answer = self.do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Until the expression is true."""
        end = time.monotonic() + _PATIENCE_S
        while not self.ask(f"Boolean({expression})"):
            assert time.monotonic() < end and not self.errors, f"{expression} is not true; the page said {self.errors}"
            time.sleep(0.05)

    def click(self, selector: str, index: int = 0) -> None:
        """A real click of the mouse on the middle of an element."""
        target = f"document.querySelectorAll({json.dumps(selector)})[{index}]"
        box = self.ask(
            f"(() => {{ const e = {target}; e.scrollIntoView({{block: 'center'}}); "
            "const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        self.click_at(*box)

    def click_at(self, x: float, y: float) -> None:
        self.do("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased"):
            self.do("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, code: int = 0, text: str = "") -> None:
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code, **({"text": text} if text else {})}
        self.do("Input.dispatchKeyEvent", type="keyDown", **common)
        self.do("Input.dispatchKeyEvent", type="keyUp", **common)

    def choose(self, selector: str, value: str) -> None:
        """Pick an option of a select, or type into a field, and tell the page so."""
        target = f"document.querySelector({json.dumps(selector)})"
        told = f"['input', 'change'].forEach(name => {target}.dispatchEvent(new Event(name)))"
        self.ask(f"{target}.value = {json.dumps(value)}; {told}")

    def picture(self, path: Path, whole: bool = True) -> None:
        """A screenshot, of the whole page or of what is seen."""
        clip: dict[str, Any] = {}
        if whole:
            size = self.do("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"clip": {**size, "scale": 1}, "captureBeyondViewport": True}
        path.write_bytes(base64.b64decode(self.do("Page.captureScreenshot", format="png", **clip)["data"]))


class _Browser:
    def __init__(self, folder: str) -> None:
        there, self.out = os.pipe()
        self.into, back = os.pipe()
        path = chromium()
        assert path is not None
        moved = (there, back)

        def place() -> None:
            kept = [os.dup(fd) for fd in moved]  # out of the way, for either may be 3 or 4 already
            high = [os.dup2(fd, 60 + i) for i, fd in enumerate(kept)]
            for fd, name in zip(high, (3, 4), strict=True):
                os.dup2(fd, name)

        self.process = subprocess.Popen(
            [path, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
            preexec_fn=place,
            close_fds=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(there)
        os.close(back)
        self.waiting, self.count = b"", 0
        self.pages: dict[str, Page] = {}

    def call(self, method: str, parameters: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self.count:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer.get("result", {}))
            self._note(answer)

    def _receive(self) -> dict[str, Any]:
        end = time.monotonic() + _PATIENCE_S
        while b"\0" not in self.waiting:
            ready, _, _ = select.select([self.into], [], [], max(end - time.monotonic(), 0.0))
            assert ready, "the browser does not answer"
            got = os.read(self.into, 1 << 20)
            assert got, "the browser has gone"
            self.waiting += got
        text, self.waiting = self.waiting.split(b"\0", 1)
        answer: dict[str, Any] = json.loads(text)
        return answer

    def _note(self, event: dict[str, Any]) -> None:
        """Keep what went wrong on a page: exceptions, errors of the console, and any attempt to reach the network."""
        page, said = self.pages.get(event.get("sessionId", "")), event.get("params", {})
        if page is None:
            return
        kind = event.get("method")
        if kind == "Runtime.exceptionThrown":
            page.errors.append(said["exceptionDetails"])
        elif kind == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
            page.errors.append([argument.get("value", argument.get("description")) for argument in said["args"]])
        elif kind == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            page.errors.append(said["entry"])
        elif kind == "Network.requestWillBeSent" and not said["request"]["url"].startswith(("file:", "data:", "blob:")):
            page.errors.append(said["request"]["url"])

    def page(self) -> Page:
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        self.pages[session] = Page(self, session)
        return self.pages[session]

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.out)
        os.close(self.into)


@contextmanager
def opened() -> Iterator[Page]:
    """A tab of a fresh browser."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = _Browser(folder)
        try:
            yield browser.page()
        finally:
            browser.close()
