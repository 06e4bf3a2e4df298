"""A headless Chromium, and a JupyterLab for it to open: what the browser tests stand on."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)  # None: Playwright's own
IDLE = ".jp-Notebook-ExecutionIndicator[data-status='idle']"
PROMPT = ".jp-CodeCell .jp-InputPrompt"
START = 90  # seconds that JupyterLab or a kernel may take to start
# Settings of JupyterLab: every cell stays in the page, not only those that are in view, and nothing
# asks whether to fetch news.
SETTINGS = {
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
DARK = {"@jupyterlab/apputils-extension/themes": {"theme": "JupyterLab Dark"}}


@contextlib.contextmanager
def chromium():
    """A browser; skips the test where there is none, but in CI, which installs one."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright")
    with sync_api.sync_playwright() as playwright:
        try:
            found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        except sync_api.Error as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"no Chromium that starts: {str(error).splitlines()[0]}")
        yield found
        found.close()


@contextlib.contextmanager
def jupyterlab(folder: Path, settings: dict | None = None):
    """A JupyterLab whose root is `folder`; gives its address, to which a notebook's name is added.

    Its own configuration lies in a folder beside, not in the user's.
    """
    pytest.importorskip("jupyterlab", reason="no JupyterLab")
    pytest.importorskip("anywidget", reason="no anywidget")
    own = folder / ".jupyter"
    for name, values in {**SETTINGS, **(settings or {})}.items():
        path = own / "lab" / "user-settings" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--IdentityProvider.token="]
    command += [f"--ServerApp.root_dir={folder}", "--LabApp.expose_app_in_browser=True"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JUPYTER_CONFIG_DIR": str(own)}
    server = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    base = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START
        while True:
            try:
                urllib.request.urlopen(f"{base}/api", timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, f"JupyterLab ended with code {server.returncode}"
                assert time.monotonic() < deadline, f"JupyterLab did not start in {START} s"
                time.sleep(0.25)
        yield f"{base}/lab/tree"
    finally:
        server.terminate()
        server.wait(20)


def opened(browser, address: str, width: int = 1240, height: int = 1000):
    """A page with a notebook and its kernel ready, and the list of all that it complains about."""
    page = browser.new_context(viewport={"width": width, "height": height}).new_page()
    trouble = []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("console", lambda m: trouble.append(m.text) if m.type == "error" else None)
    page.goto(f"{address}?reset")
    page.wait_for_selector(IDLE, timeout=1000 * START)
    return page, trouble


def run_all(page, seconds: float) -> float:
    """Run all cells of the notebook in the page; return how many seconds they took."""
    # A command that comes before the page is ready for it does nothing.
    _until(page, "notebook:clear-all-cell-outputs", lambda texts: set(texts) == {"[ ]:"})
    start = time.monotonic()
    _until(page, "notebook:run-all-cells", lambda texts: set(texts) != {"[ ]:"})
    page.wait_for_function(
        """(prompt) => [...document.querySelectorAll(prompt)].every(
          (cell) => /\\d/.test(cell.textContent))""",
        arg=PROMPT,
        timeout=1000 * seconds,
    )
    page.wait_for_selector(IDLE, timeout=1000 * seconds)
    return time.monotonic() - start


def _until(page, command: str, done) -> None:
    """Give JupyterLab a command until the prompts of the code cells say that it was obeyed."""
    for _ in range(30):
        page.evaluate("(name) => { window.jupyterapp.commands.execute(name); }", command)
        page.wait_for_timeout(1000)
        if done([text.strip() for text in page.locator(PROMPT).all_inner_texts()]):
            return
    raise AssertionError(f"JupyterLab does not obey {command}")
