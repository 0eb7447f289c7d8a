"""The page in Debian's Chromium (or Chrome), against a server on this machine."""

import base64
import io
import math
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import served
from PIL import Image

from torchdigits import Recognizer, SigmoidMLP
from torchdigits.data.datasets import DigitSplits
from torchdigits.files.networks import save_network
from torchdigits.web.app import application

sync_api = pytest.importorskip("playwright.sync_api", reason="the browser needs playwright")

from playwright.sync_api import Browser, BrowserContext, JSHandle, Page, Route, expect  # noqa: E402

pytestmark = pytest.mark.browser

Point = tuple[float, float]
Stroke = list[Point]


def arc(x: float, y: float, width: float, height: float, start: float, end: float) -> Stroke:
    """Of an ellipse around (x, y), from one angle to another: 0 is at the right, 90 below."""
    angles = (math.radians(start + (end - start) * step / 10) for step in range(11))
    return [(x + width / 2 * math.cos(angle), y + height / 2 * math.sin(angle)) for angle in angles]


# In the unit square, as a hand goes.
STROKES: dict[int, list[Stroke]] = {
    0: [arc(0.5, 0.5, 0.38, 0.56, -70, -430)],
    1: [[(0.54, 0.22), (0.47, 0.78)]],
    2: [[*arc(0.49, 0.36, 0.32, 0.28, -170, 40), (0.32, 0.76), (0.72, 0.76)]],
    3: [[*arc(0.47, 0.35, 0.32, 0.28, -160, 80), *arc(0.47, 0.63, 0.36, 0.3, -85, 160)]],
    4: [[(0.36, 0.22), (0.3, 0.52), (0.7, 0.5)], [(0.64, 0.24), (0.58, 0.8)]],
    5: [[(0.4, 0.24), (0.37, 0.46), *arc(0.48, 0.6, 0.34, 0.34, -120, 150)], [(0.4, 0.24), (0.68, 0.22)]],
    6: [[(0.58, 0.2), (0.42, 0.42), *arc(0.5, 0.62, 0.3, 0.32, -170, -520)]],
    7: [[(0.3, 0.26), (0.7, 0.26), (0.46, 0.8)]],
    8: [[*arc(0.5, 0.36, 0.26, 0.28, -60, -270), *arc(0.5, 0.64, 0.3, 0.28, -90, 270), (0.63, 0.3)]],
    9: [[*arc(0.5, 0.38, 0.28, 0.3, -20, -380), (0.6, 0.8)]],
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no browser: install chromium or google-chrome")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(application()) as address:
        yield address


@pytest.fixture
def trouble() -> Iterator[list[str]]:
    """Errors that the pages logged to the console, and what they asked of other hosts: in the end, nothing."""
    found: list[str] = []
    yield found
    assert found == []


@pytest.fixture
def visit(browser: Browser, trouble: list[str]) -> Iterator[Callable[..., Page]]:
    contexts: list[BrowserContext] = []

    def open_page(address: str, width: int = 1280, height: int = 720, **options: Any) -> Page:
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith(address) else trouble.append(request.url))
        page.goto(address)
        expect(page.locator("#layers button").first).to_be_visible()
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def page(visit: Callable[..., Page], address: str) -> Page:
    return visit(address)


def on_paper(page: Page, stroke: Stroke) -> Stroke:
    box = page.locator("#paper").bounding_box()
    assert box is not None
    return [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]


def draw(page: Page, strokes: list[Stroke], release: bool = True) -> None:
    for stroke in strokes:
        start, *rest = on_paper(page, stroke)
        page.mouse.move(*start)
        page.mouse.down()
        for point in rest:
            page.mouse.move(*point)
        if release:
            page.mouse.up()


def expect_said(page: Page, text: str) -> None:
    """What a screen reader is told, once the answers have come to rest."""
    expect(page.locator("#said")).to_have_text(re.compile(text))


def bars(page: Page) -> list[float]:
    return list(
        page.locator("#bars").evaluate(
            "bars => [...bars.children].map(row => +row.style.getPropertyValue('--activation'))"
        )
    )


def ink(page: Page) -> int:
    """Pixels of the paper that are not bare."""
    return int(
        page.locator("#paper").evaluate(
            "paper => paper.getContext('2d').getImageData(0, 0, paper.width, paper.height).data.filter(v => v).length"
        )
    )


def seen(page: Page) -> np.ndarray:
    """The pixels that the page says the network sees."""
    shades = page.locator("#pixels").evaluate("canvas => [...canvas.getContext('2d').getImageData(0, 0, 28, 28).data]")
    return np.array(shades, np.uint8)[::4]


@pytest.mark.slow
def test_every_digit_drawn_with_the_mouse_is_recognised(page: Page) -> None:
    for digit, strokes in STROKES.items():
        draw(page, strokes)
        expect_said(page, f"^{digit}, second [0-9]$")
        expect(page.locator("#digit")).to_have_text(str(digit))
        page.keyboard.press("Escape")
        expect(page.locator("#digit")).to_have_text("")


def test_a_three_turns_into_an_eight_before_the_button_is_released(page: Page) -> None:
    draw(page, STROKES[3], release=False)
    expect(page.locator("#digit")).to_have_text("3")
    assert max(bars(page)) > 0.1
    page.mouse.up()
    draw(page, [arc(0.47, 0.35, 0.32, 0.28, -160, -270)])
    draw(page, [arc(0.47, 0.63, 0.36, 0.3, 160, 270)], release=False)
    expect(page.locator("#digit")).to_have_text("8")


@pytest.mark.slow
def test_undo_takes_the_last_stroke_and_clear_all_of_them(page: Page) -> None:
    for undo in (partial(page.click, "#undo"), partial(page.keyboard.press, "Control+z")):
        draw(page, STROKES[4][:1])
        expect(page.locator("#digit")).not_to_have_text("")
        one = ink(page)
        draw(page, STROKES[4][1:])
        assert ink(page) > one
        undo()
        assert ink(page) == one
        expect(page.locator("#digit")).not_to_have_text("")
        undo()
        assert ink(page) == 0
        expect(page.locator("#second")).to_have_text("Nothing drawn yet.")
    for clear in (partial(page.click, "#clear"), *(partial(page.keyboard.press, key) for key in ("Escape", "Delete"))):
        draw(page, STROKES[4])
        expect(page.locator("#digit")).not_to_have_text("")
        clear()
        assert ink(page) == 0
        assert bars(page) == [0] * 10
        assert not seen(page).any()
        expect(page.locator("#hint")).to_be_visible()


@pytest.mark.slow
def test_a_picture_is_read_instead_of_a_drawing(page: Page, digits: DigitSplits) -> None:
    def content(index: int) -> bytes:
        Image.fromarray(digits.test.images[index].view(28, 28).numpy()).save(file := io.BytesIO(), "PNG")
        return file.getvalue()

    def transfer(index: int) -> JSHandle:
        return page.evaluate_handle(
            """base64 => {
                const bytes = Uint8Array.from(atob(base64), character => character.charCodeAt(0));
                const transfer = new DataTransfer();
                transfer.items.add(new File([bytes], "digit.png", { type: "image/png" }));
                return transfer;
            }""",
            base64.b64encode(content(index)).decode(),
        )

    def paste(index: int) -> None:
        page.evaluate("data => dispatchEvent(new ClipboardEvent('paste', { clipboardData: data }))", transfer(index))

    def choose(index: int) -> None:
        with page.expect_file_chooser() as chooser:
            page.click("#choose")
        chooser.value.set_files({"name": "digit.png", "mimeType": "image/png", "buffer": content(index)})

    def drop(index: int) -> None:
        page.dispatch_event("#paper", "drop", {"dataTransfer": transfer(index)})

    draw(page, STROKES[1])
    recognizer = Recognizer()
    for index, bring in enumerate((drop, paste, choose, drop)):
        bring(index)
        found = recognizer.recognize(io.BytesIO(content(index)))
        expect_said(page, f"^{found.digit}, second {found.runner_up}$")
        np.testing.assert_allclose(bars(page), found.activations, rtol=1e-5)
        np.testing.assert_array_equal(seen(page), found.pixels)
        assert ink(page) > 0
    draw(page, STROKES[1])  # which takes its place
    expect_said(page, "^1,")
    page.click("#clear")
    assert ink(page) == 0


def test_a_page_is_read_and_each_of_its_digits_can_be_chosen(page: Page, mnist: DigitSplits) -> None:
    images = 255 - mnist.test.images.view(-1, 28, 28).numpy()
    picture = np.vstack([np.hstack([*images[:4]]), np.hstack([*images[4:8]])]).repeat(3, 0).repeat(3, 1)
    Image.fromarray(picture).save(file := io.BytesIO(), "PNG")
    expected = Recognizer().read(picture)
    assert [len(line) for line in expected.lines] == [4, 4]
    with page.expect_file_chooser() as chooser:
        page.click("#choose")
    chooser.value.set_files({"name": "page.png", "mimeType": "image/png", "buffer": file.getvalue()})
    buttons = page.locator("#text button")
    expect(buttons).to_have_text([*expected.text.replace("\n", "")])
    expect(page.locator("#text div")).to_have_text(expected.text.split("\n"))
    for place, (box, found) in enumerate(expected.digits):
        if place % 2:
            buttons.nth(place).press("Enter")
        else:  # the picture is fitted into the paper, a square
            (width, height), (left, top, right, bottom) = expected.size, box
            x, y = (left + right) / 2 / width, 0.5 + ((top + bottom) / 2 - height / 2) / width
            page.mouse.click(*on_paper(page, [(x, y)])[0])
        np.testing.assert_array_equal(seen(page), found.pixels)
        np.testing.assert_allclose(bars(page), found.activations, rtol=1e-5, atol=1e-5)
        unsure = re.compile("unsure" if not found.sure else "^$")
        expect(buttons.nth(place)).to_have_class(unsure)
    page.click("#clear")
    expect(page.locator("#text")).to_be_hidden()


@pytest.mark.slow
def test_what_is_no_picture_is_said_in_a_line_and_drawing_goes_on(page: Page, trouble: list[str]) -> None:
    Image.new("L", (99, 99)).save(blank := io.BytesIO(), "PNG")
    for media_type, buffer, words in (
        ("image/png", b"no picture", "not a picture"),
        ("text/plain", b"no picture", "send a form"),
        ("image/png", blank.getvalue(), "no ink"),
        ("image/png", bytes(11_000_000), "larger than 10,000,000 bytes"),
    ):
        page.set_input_files("#file", {"name": "x", "mimeType": media_type, "buffer": buffer})
        expect(page.locator("#trouble")).to_contain_text(words)
        expect(page.locator("#digit")).to_have_text("")
    assert all(line.startswith("Failed to load resource: the server responded with") for line in trouble)
    trouble.clear()
    draw(page, STROKES[3])
    expect(page.locator("#digit")).to_have_text("3")
    expect(page.locator("#trouble")).to_have_text("")


def test_a_server_that_is_gone_is_said_in_a_line_and_asked_again(page: Page, trouble: list[str]) -> None:
    page.route("**/recognize", lambda route: route.abort())
    draw(page, STROKES[4][:1])
    expect(page.locator("#trouble")).to_contain_text("No answer from the server.")
    page.unroute("**/recognize")
    draw(page, STROKES[4][1:])
    expect(page.locator("#digit")).to_have_text("4")
    expect(page.locator("#trouble")).to_have_text("")
    assert {*trouble} == {"Failed to load resource: net::ERR_FAILED"}  # as the browser says too
    trouble.clear()


@pytest.mark.slow
def test_a_slow_server_is_asked_once_at_a_time_and_for_the_newest_drawing(page: Page) -> None:
    asked: list[Route] = []
    page.route("**/recognize", lambda route: asked.append(route))

    def let_answer(number: int) -> None:
        for _ in range(100):
            if len(asked) == number:
                break
            page.wait_for_timeout(50)
        assert len(asked) == number
        asked[-1].continue_()

    draw(page, STROKES[3])
    page.wait_for_timeout(300)
    let_answer(1)  # asked when the stroke began
    let_answer(2)  # asked for all of it
    expect_said(page, "^3,")
    draw(page, STROKES[3])
    page.keyboard.press("Escape")
    let_answer(3)  # asked for what is no longer there
    page.wait_for_timeout(500)
    expect(page.locator("#digit")).to_have_text("")
    assert len(asked) == 3


@pytest.mark.slow
def test_a_finger_draws_and_does_not_scroll(visit: Callable[..., Page], address: str) -> None:
    page = visit(address, 390, 844, has_touch=True, is_mobile=True)
    touch = page.context.new_cdp_session(page)

    def send(kind: str, *points: Point) -> None:
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})

    for stroke in STROKES[7]:
        points = on_paper(page, stroke)
        send("touchStart", points[0])
        for start, end in pairwise(points):
            for step in range(1, 9):
                send(
                    "touchMove", (start[0] + (end[0] - start[0]) * step / 8, start[1] + (end[1] - start[1]) * step / 8)
                )
        send("touchEnd")
    expect_said(page, "^7,")
    assert page.evaluate("scrollY") == 0


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"has_touch": True, "is_mobile": True}, {}])
def test_a_narrow_page_has_no_keys_and_no_weights_apart_from_the_neurons(
    visit: Callable[..., Page], address: str, options: dict[str, Any]
) -> None:
    page = visit(address, 390, 844, **options)
    draw(page, STROKES[7])
    expect_said(page, "^7,")
    neuron = page.locator("#layers button").first
    neuron.tap() if options else neuron.hover()
    expect(page.locator("#feeds")).to_contain_text("Hidden neuron 0, activation")
    for part in page.locator("kbd, #columns, #wires, .weight").all():
        expect(part).to_be_hidden()


def test_a_neuron_shows_what_it_feeds_to_pointer_and_keyboard(page: Page) -> None:
    weights = [*Recognizer().network.parameters()][2][:, 8]
    told = page.locator("#bars > .fed")
    signed = [f"{weight:+.1f}".replace("-", "\N{MINUS SIGN}") for weight in weights.tolist()]
    neuron = page.locator("#layers button").nth(8)
    expect(told).to_have_count(0)
    neuron.hover()
    expect(told).to_have_count(10)
    assert [row.get_attribute("data-weight") for row in told.all()] == signed
    expect(page.locator("#wires path.against")).to_have_count(int((weights < 0).sum()))
    expect(page.get_by_text("weight", exact=True)).to_be_visible()
    page.mouse.move(1, 1)
    expect(told).to_have_count(0)
    expect(page.get_by_text("weight", exact=True)).to_be_hidden()  # an axis with nothing on it

    page.focus("#choose")
    for key in ("Tab", "ArrowDown", "ArrowRight", "ArrowRight"):  # rows of six
        page.keyboard.press(key)
    expect(neuron).to_be_focused()
    expect(told).to_have_count(10)
    best, worst = weights.argmax().item(), weights.argmin().item()
    expect(neuron).to_have_attribute(
        "aria-label", re.compile(rf"^Hidden neuron 8\. .*highest to {best} .*lowest to {worst} ")
    )
    draw(page, STROKES[0])
    expect_said(page, "^0,")
    expect(neuron).to_have_attribute("aria-label", re.compile(r"^Hidden neuron 8, activation [01]\.\d\d\. "))


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [[784, 10], [784, 300, 10], [784, 20, 16, 10]])
def test_other_networks_are_shown_too(visit: Callable[..., Page], tmp_path: Path, sizes: list[int]) -> None:
    save_network(SigmoidMLP(sizes), path := tmp_path / "some.ckpt")
    with served(application(path)) as address:
        page = visit(address)
        draw(page, STROKES[5])
        expect(page.locator("#digit")).not_to_have_text("")
        buttons = page.locator("#layers button")
        expect(buttons).to_have_count(sum(sizes[1:-1]) or 10)
        expect(page.locator("#layers canvas")).to_have_count(sizes[1])
        buttons.first.hover()
        expect(page.locator(".fed")).to_have_count(sizes[2] if len(sizes) > 2 else 0)
        page.close()


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (1920, 1080), (390, 844)])
def test_drawing_and_answer_are_seen_together(
    visit: Callable[..., Page], address: str, width: int, height: int
) -> None:
    page = visit(address, width, height, device_scale_factor=2)
    parts = ["#paper", "#buttons", "#answer", "#bars"] + ["#pixels", "#layers", "#feeds"] * (width > 1000)
    for part in parts:
        box = page.locator(part).bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["y"] >= 0
        assert box["x"] + box["width"] <= width
        assert box["y"] + box["height"] <= height, part
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#paper").evaluate("paper => paper.width == Math.round(2 * paper.clientWidth)")
