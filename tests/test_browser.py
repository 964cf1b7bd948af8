"""A student's first steps in a real JupyterLab: a mistake shows its sentence, a right answer its green line."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
ID, STUB = "superposition.feature_norms", "def feature_norms"
WRONG = "def feature_norms(W):\n    return (W**2).sum(dim=1)"
RIGHT = "def feature_norms(W):\n    return (W**2).sum(dim=1).sqrt()"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(120),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
    pytest.mark.skipif(os.name == "nt", reason="processes are ended the POSIX way"),
]

OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# What a test asks JupyterLab for, in its own words: the notebook on the screen, its cells, its commands.
NOTEBOOK = """
window.notebook = () => window.jupyterapp.shell.currentWidget;
window.cells = () => window.notebook().content.widgets;
window.find = text => window.cells().findIndex(cell => cell.model.sharedModel.getSource().startsWith(text));
window.run = async index => {
    window.notebook().content.activeCellIndex = index;
    window.notebook().content.mode = 'command';
    await window.jupyterapp.commands.execute('notebook:run-cell');
};
null;  // playwright calls a function that an expression gives
"""


@dataclass
class Lab:
    """A running JupyterLab with a student's own copy of the chapters."""

    url: str
    token: str
    folder: Path


@contextlib.contextmanager
def running_lab(folder: Path, theme: str = "JupyterLab Light") -> Iterator[Lab]:
    """`mechlib lab` in `folder`, with no settings but these, ended with everything that it started."""
    shutil.copytree(ROOT / "chapters", folder / "chapters")
    settings = {
        "notebook-extension/tracker": {"windowingMode": "none"},  # every cell is in the page, also far below
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
        "apputils-extension/themes": {"theme": theme},
    }
    for name, content in settings.items():
        path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    places = {
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "IPYTHONDIR": "ipython",
    }
    environment = os.environ | {name: str(folder / place) for name, place in places.items()}
    for name in ("NBGRADER_EXECUTION", "MECHLIB_SEED", "MECHLIB_SOLUTIONS"):
        environment.pop(name, None)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    options = [
        "--no-browser",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        "--LabApp.expose_app_in_browser=True",
        # It ends by itself, should this test be killed.
        "--ServerApp.shutdown_no_activity_timeout=180",
        "--MappingKernelManager.cull_idle_timeout=180",
        "--MappingKernelManager.cull_interval=30",
        "--MappingKernelManager.cull_connected=True",
    ]
    command = [sys.executable, "-m", "mechlib", "lab", *options]
    with open(folder / "log.txt", "w") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    lab = Lab(f"http://127.0.0.1:{port}", token, folder)
    try:
        wait_until_it_answers(lab, process)
        yield lab
    finally:
        end(process)


def wait_until_it_answers(lab: Lab, process: subprocess.Popen, seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{lab.url}/api/status?token={lab.token}", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(f"JupyterLab does not answer:\n{(lab.folder / 'log.txt').read_text()[-3000:]}")


def end(process: subprocess.Popen) -> None:
    """JupyterLab ends its kernels when it is told to end; a kernel whose JupyterLab is gone ends by itself."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=15)
            return


@contextlib.contextmanager
def running_browser() -> Iterator:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=OPTIONS, timeout=30_000)
        try:
            yield browser
        finally:
            browser.close()


def open_chapter(browser, lab: Lab):
    """The first chapter as it was released, with a fresh kernel, in a page that reaches nothing but this JupyterLab."""
    chapter = "01_superposition/01_superposition.ipynb"
    shutil.copy(ROOT / "chapters" / chapter, lab.folder / "chapters" / chapter)
    shutil.rmtree((lab.folder / "chapters" / chapter).parent / ".mechlib", ignore_errors=True)
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(30_000)
    page.route(lambda url: not url.startswith(lab.url), lambda route: route.abort())
    page.goto(f"{lab.url}/lab/tree/{chapter}?reset&token={lab.token}")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.evaluate(NOTEBOOK)
    page.wait_for_function("() => notebook().context.isReady && notebook().sessionContext.isReady")
    return page


def close_chapter(page) -> None:
    page.evaluate("async () => { await notebook().context.save(); await notebook().sessionContext.shutdown(); }")
    page.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Lab]:
    with running_lab(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with running_browser() as browser:
        yield browser


@pytest.fixture
def page(browser, lab) -> Iterator:
    page = open_chapter(browser, lab)
    yield page
    close_chapter(page)


def index_of(page, text: str) -> int:
    """Which cell begins with `text`."""
    index = page.evaluate("text => find(text)", text)
    assert index >= 0, f"there is no cell that begins with {text!r}"
    return index


def write(page, stub: str, source: str) -> None:
    page.evaluate("([index, text]) => cells()[index].model.sharedModel.setSource(text)", [index_of(page, stub), source])


def run(page, text: str):
    """Run the cell that begins with `text`; what the student then sees under it."""
    index = index_of(page, text)
    page.evaluate("index => run(index)", index)
    return output(page, index)


def output(page, index: int):
    return page.locator(".jp-Notebook .jp-Cell").nth(index).locator(".jp-OutputArea-output")


def see(outputs, text: str) -> None:
    playwright.expect(outputs.filter(has_text=text).first).to_be_visible()


def shown(page) -> list[str]:
    """The outputs of all cells."""
    return [text for text in page.locator(".jp-Notebook .jp-OutputArea-output").all_inner_texts() if text.strip()]


def test_the_untouched_chapter(page):
    """It opens with its picture and its mathematics, and "Run All" goes up to the first stub."""
    picture = page.locator(".jp-Notebook img[alt^='Five features in two dimensions']")
    playwright.expect(picture).to_be_visible()
    assert picture.evaluate("async image => { await image.decode(); return image.naturalWidth; }") > 300
    page.wait_for_selector("mjx-container")
    text = page.locator(".jp-Notebook").inner_text()
    assert "\\hat" not in text and "\\sum" not in text
    assert "01 · Superposition" in text and not shown(page)

    page.evaluate("async () => { await jupyterapp.commands.execute('notebook:run-all-cells').catch(() => null); }")
    first = output(page, index_of(page, f'check("{ID}"'))
    see(first, "is not written yet")
    below = index_of(page, 'check("superposition.superposition_index"')
    assert output(page, below).count() == 0
    ran = page.evaluate("() => cells().map(cell => cell.model.type === 'code' && cell.model.executionCount)")
    assert max(index for index, count in enumerate(ran) if count) == index_of(page, f'check("{ID}"')


def test_a_stub_then_a_mistake_then_a_right_answer(page):
    check = f'check("{ID}"'
    assert run(page, "try:\n    import mechlib").count() == 0  # the set-up cell is silent
    run(page, STUB)
    stub = run(page, check)
    see(stub, "feature_norms is not written yet. Replace raise NotImplementedError by your code")
    write(page, STUB, WRONG)
    run(page, STUB)
    mistake = run(page, check)
    see(mistake, "These are the squared lengths: take the square root.")
    see(mistake, f"CheckFailed: {ID}")
    assert not mistake.filter(has_text="Traceback").count()
    write(page, STUB, RIGHT)
    run(page, STUB)
    right = run(page, check)
    playwright.expect(right).to_have_count(1)
    assert right.inner_text().split() == ["✓", ID, "1", "/", "1"]
    mark = right.locator("b").first.evaluate("mark => getComputedStyle(mark).color")
    red, green, blue = (int(part) for part in mark.removeprefix("rgb(").removesuffix(")").split(","))
    assert green > red and green > blue


CIRCUITSVIS = """import circuitsvis, torch
circuitsvis.attention.attention_heads(torch.rand(2, 3, 3).tril(), ["one", "two", "three"])"""


def test_circuitsvis_draws_without_a_network(page):
    """The page reaches nothing but JupyterLab, and both heads are drawn."""
    write(page, STUB, CIRCUITSVIS)
    drawn = run(page, "import circuitsvis")
    see(drawn, "Head 0 Zoomed")
    playwright.expect(drawn.locator("canvas, svg, img")).to_have_count(3)  # two small pictures and a large one
