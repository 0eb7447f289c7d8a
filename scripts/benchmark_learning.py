"""Time the view that learns, in Chromium: python scripts/benchmark_learning.py"""

import json
import re
import shutil
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from time import perf_counter, sleep
from typing import Any

from benchmark_page import draw_for, drawings_of, started

from torchdigits.commands.cli import main
from torchdigits.data.datasets import has_mnist
from torchdigits.errors import OptionError

SLOW = 120_000  # milliseconds that anything may take
SCRIPT = {"FunctionCall", "RunMicrotasks", "EvaluateScript", "TimerFire", "FireAnimationFrame"}  # of Chromium's trace


def benchmark_learning(*, seconds: float = 10, data_dir: Path | None = None) -> None:
    """Train in the browser, and show how long it takes to the first picture and to MNIST's first epoch, how many frames
    come, how long the page's script takes for one, and how long drawings take to be answered meanwhile.

    Args:
        seconds: that the run goes on which the frames and drawings are measured beside.
        data_dir: MNIST's folder (default: $TORCHDIGITS_DATA_DIR or data).

    Raises:
        OptionError: there is no Playwright or Chromium, or no MNIST; or the seconds are too few.
    """
    if not seconds >= 1:  # nor NaN
        raise OptionError(f"--seconds {seconds:g}: it must be 1 or more")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise OptionError("it needs playwright: pip install 'torchdigits[test]'") from error
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None or not has_mnist(data_dir):
        raise OptionError("it needs Chromium and MNIST")
    folder = [] if data_dir is None else ["--data-dir", str(data_dir)]
    with started(*folder) as (address, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 900}, bypass_csp=True)
        page.set_default_timeout(SLOW)
        page.goto(f"{address}learn")
        sleep(8)  # the processes are ready then
        print(f"first picture after Start, small digits: {_until_painted(page):.2f} s")
        page.click("#over")
        page.select_option("[name=dataset]", "mnist")
        for what in ("first time, compiled or read from the cache", "again"):
            start = perf_counter()
            page.click("#start")
            page.wait_for_function("/epoch ([2-9]|[1-9][0-9])/.test(document.querySelector('.now').textContent)")
            print(f"MNIST's first epoch after Start, {what}: {perf_counter() - start:.2f} s")
            page.click("#over")
        page.fill("[name=epochs]", "1000")
        page.click("#start")
        page.wait_for_function("document.querySelector('.now').textContent.includes('a second')")
        frames: list[int] = []
        page.on("response", lambda answer: frames.append(1) if "/frame" in answer.url else None)
        with TemporaryDirectory() as kept:
            browser.start_tracing(page=page, path=Path(kept) / "trace", categories=["devtools.timeline"])
            page.wait_for_timeout(1000 * seconds)
            browser.stop_tracing()
            events: list[dict[str, Any]] = json.loads((Path(kept) / "trace").read_text(encoding="utf-8"))["traceEvents"]
        script = [event for event in events if event.get("name") in SCRIPT and "dur" in event]
        took, worked = (max(event.get(key, 0) for event in script) / 1000 for key in ("dur", "tdur"))
        print(f"frames a second: {len(frames) / seconds:.1f}; script at once, at most: ", end="")
        print(f"{worked:.1f} ms of a processor, {took:.1f} ms by the clock, of {len(script):,} times")
        said = page.inner_text(".now")
        found = re.search(r"([\d,]+) a second", said)
        print(f"updates a second meanwhile: {found[1] if found else '?'}")
        times = [reply.milliseconds for reply in draw_for(address, drawings_of(data_dir), seconds)]
        print(f"drawings meanwhile: median {median(times):.1f} ms, p95 {quantiles(times, n=20)[-1]:.1f} ms")
        browser.close()


def _until_painted(page: Any) -> float:
    start = perf_counter()
    page.click("#start")
    page.wait_for_function(
        """() => { const c = document.querySelector(".weights"); return c.height > 100 && c.getContext("2d")
             .getImageData(0, 0, c.width, c.height).data.some(value => value); }"""
    )
    return perf_counter() - start


if __name__ == "__main__":
    main(benchmark_learning)
