"""A headless browser for tests, spoken to in the WebDriver protocol (W3C) over plain HTTP: nothing to install but the
browser and its driver."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

KEYS = {"left": "\ue012", "up": "\ue013", "right": "\ue014", "down": "\ue015", "tab": "\ue004", "enter": "\ue007"}
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


def missing() -> str:
    """Why there is no browser to test in; empty where there is one."""
    browser = any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    lacking = [
        name for name, there in (("Chromium", browser), ("chromedriver", shutil.which("chromedriver"))) if not there
    ]
    return f"{' and '.join(lacking)} not installed (apt-get install chromium chromium-driver)" if lacking else ""


class Browser:
    """One window."""

    def __init__(self, address: str, session: str) -> None:
        self.base = f"{address}/session/{session}"

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """One command; its value."""
        return send(f"{self.base}{path}", method, body)

    def open(self, url: str) -> None:
        self.ask("POST", "/url", {"url": url})

    def run(self, script: str, *args: Any) -> Any:
        """A script's returned value; a promise is waited for."""
        return self.ask("POST", "/execute/sync", {"script": script, "args": list(args)})

    def click(self, selector: str) -> None:
        self.run(
            "document.querySelector(arguments[0]).scrollIntoView({behavior: 'instant', block: 'center'})", selector
        )
        found = self.ask("POST", "/element", {"using": "css selector", "value": selector})
        self.ask("POST", f"/element/{found[ELEMENT]}/click", {})

    def type(self, *keys: str) -> None:
        """Keys into whatever has the focus."""
        pressed = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        self.ask("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": pressed}]})

    def resize(self, width: int, height: int) -> None:
        self.ask("POST", "/window/rect", {"width": width, "height": height})

    def scheme(self, name: str) -> None:
        """Set what the system prefers, light or dark."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.ask("POST", "/goog/cdp/execute", {"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}})

    def screenshot(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.ask("GET", "/screenshot")))

    def log(self, kind: str) -> list[Any]:
        return list(self.ask("POST", "/se/log", {"type": kind}))

    def requests(self) -> list[str]:
        """Addresses asked for since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


def send(url: str, method: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=240) as answer:
            return json.loads(answer.read())["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(json.loads(error.read())["value"]["message"].splitlines()[0]) from None


@contextmanager
def browser(width: int = 1280, height: int = 900) -> Iterator[Browser]:
    """A window of its own in a browser of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"{address}/status")
        arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--window-size={width},{height}"]
        options = {
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        made = send(f"{address}/session", "POST", {"capabilities": {"alwaysMatch": options}})
        window = Browser(address, made["sessionId"])
        try:
            yield window
        finally:
            window.ask("DELETE", "")
    finally:
        driver.terminate()
        driver.wait()


def wait_for(url: str) -> None:
    for _ in range(300):
        try:
            send(url, "GET")
        except (OSError, AssertionError):
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"nothing answers at {url}")
