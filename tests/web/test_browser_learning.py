"""The views that learn and step through, in the browser: what a reader does, and what the page then shows."""

import base64
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest
import torch
from conftest import ROOT, served
from test_browser import STROKES, browser, draw, trouble, visit  # noqa: F401  # fixtures

from torchdigits import Recognizer, load_network
from torchdigits.data.datasets import DigitSplits
from torchdigits.files.checkpoints import parameters_of, parse_checkpoint
from torchdigits.files.networks import network_of
from torchdigits.proof.example import step_through
from torchdigits.training.options import TrainOptions
from torchdigits.training.run import train
from torchdigits.web.app import application

sync_api = pytest.importorskip("playwright.sync_api", reason="the browser needs playwright")

from playwright.sync_api import Locator, Page, Response, Route, expect  # noqa: E402

pytestmark = pytest.mark.browser
SLOW = 60_000  # milliseconds that a busy machine may take


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(application()) as address:
        yield address


@pytest.fixture
def learn(visit: Callable[..., Page], address: str) -> Iterator[Page]:  # noqa: F811
    page = visit(address)
    page.set_default_timeout(SLOW)
    page.click("nav a[data-view=learn]")
    expect(page).to_have_url(f"{address}/learn")
    yield page
    if page.locator("#over").is_enabled():
        page.click("#over")
        expect(page.locator("#over")).to_be_disabled()


def said(page: Page, column: int = 0) -> str:
    return page.locator(".now").nth(column).inner_text()


def updates(page: Page, column: int = 0) -> int:
    found = re.search(r"Update ([\d,]+)", said(page, column))
    return int(found[1].replace(",", "")) if found else 0


def recognised(page: Page, column: int = 0) -> float:
    found = re.match(r"([\d.]+) % recognised", said(page, column))
    assert found
    return float(found[1])


def expect_state(page: Page, state: str, column: int = 0) -> None:
    expect(page.locator(".status").nth(column)).to_have_text(re.compile(state), timeout=SLOW)


def ink(canvas: Locator) -> int:
    """Pixels that are not bare."""
    return int(
        canvas.evaluate(
            """c => c.getContext("2d").getImageData(0, 0, c.width, c.height).data
               .filter((value, i) => i % 4 == 3 && value).length"""
        )
    )


@pytest.mark.slow
def test_a_whole_run_to_its_test_and_its_checkpoint(learn: Page, digits: DigitSplits, tmp_path: Path) -> None:
    learn.fill("[name=seed]", "8")
    learn.fill("[name=epochs]", "12")
    learn.click("#start")
    expect_state(learn, "Has finished")
    trained = train(TrainOptions(dataset="digits", seed=8, epochs=12, accelerator="cpu", output=tmp_path / "runs"))
    assert recognised(learn) > 80
    assert recognised(learn) == pytest.approx(100 * trained.rows[-1]["validation_accuracy"], abs=0.051)
    expect(learn.locator(".test")).to_contain_text(f"Test: {trained.test.correct} of 290")
    expect(learn.locator(".test")).to_contain_text(f"epoch {trained.best['epoch']},")
    with learn.expect_download() as downloading:
        learn.click(".save")
    path = tmp_path / downloading.value.suggested_filename
    downloading.value.save_as(path)
    ours, theirs = load_network(path).state_dict(), load_network(trained.folder / "best.ckpt").state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    command = learn.locator(".command code").inner_text()
    assert command == "torchdigits train --dataset digits --epochs 12 --seed 8 --accelerator cpu --engine eager"
    for chart in ("accuracy", "cost", "recall"):
        assert ink(learn.locator("canvas.chart").nth(["accuracy", "cost", "recall"].index(chart))) > 500
    assert ink(learn.locator("canvas.weights")) > 10_000
    # of the 2s, 100 % after epoch 3, 7 % after epoch 4, 83 % after epoch 5; moments between those are by the clock
    expect(learn.locator(".lost")).to_have_text(re.compile(r"Lost and found again:.* 2 \(since epoch "))


@pytest.mark.slow
def test_steps_pause_and_slow_motion(learn: Page) -> None:
    steps = learn.locator("#steps button")
    for button, reached in ((0, 1), (0, 2), (1, 12), (2, 122)):
        steps.nth(button).click()
        expect(learn.locator(".now")).to_contain_text(f"Update {reached},", timeout=SLOW)
        expect_state(learn, "Pauses")
    learn.locator("#pace").evaluate("slider => { slider.value = 2; slider.dispatchEvent(new Event('input')); }")
    expect(learn.locator("#pace-said")).to_have_text("10 updates a second")
    learn.click("#start")
    expect(learn.locator("#start")).to_have_text("Pause")
    expect(steps.first).to_be_disabled()
    start, before = monotonic(), updates(learn)
    while updates(learn) < 130:
        sleep(0.05)
    assert monotonic() - start + 0.1 * max(0, before - 122) > 0.3
    learn.click("#start")
    expect_state(learn, "Pauses")
    reached = updates(learn)
    sleep(0.4)
    assert updates(learn) == reached < 200


@pytest.mark.slow
def test_what_is_waited_for_is_told(learn: Page) -> None:
    learn.fill("[name=epochs]", "1000")  # so many updates that they are compiled first
    learn.fill("[name=batch_size]", "9")
    learn.click("#start")
    expect_state(learn, "Compiling the updates for this machine")
    expect(learn.locator("#start")).to_have_text("Pause")
    expect(learn.locator(".command")).to_be_hidden()


@pytest.mark.slow
def test_the_learning_rate_changes_on_the_way(learn: Page) -> None:
    learn.locator("#steps button").nth(1).click()
    expect(learn.locator(".now")).to_contain_text("Update 10,", timeout=SLOW)
    rate = learn.locator(".rate")
    rate.fill("0.5")
    rate.press("Enter")
    rate.blur()
    expect(learn.locator(".now")).to_contain_text("learning rate 0.5")
    learn.locator("#steps button").first.click()
    expect(learn.locator(".command")).to_contain_text("No command repeats this run")


@pytest.mark.slow
def test_two_runs_side_by_side_from_the_same_start(learn: Page) -> None:
    learn.locator(".rate").fill("0.3")
    learn.click("#compare")
    expect(learn.locator(".rate").nth(1)).to_have_value("30")
    learn.click("#start")
    for column in (0, 1):
        expect_state(learn, "Has finished", column)
    first = [learn.locator(".run").nth(column).locator("canvas.weights") for column in (0, 1)]
    assert first[0].evaluate("c => c.toDataURL()") != first[1].evaluate("c => c.toDataURL()")
    assert recognised(learn, 0) > 50 > recognised(learn, 1)
    learn.click("#over")
    learn.locator("#steps button").nth(0).click()
    for column in (0, 1):
        expect(learn.locator(".now").nth(column)).to_contain_text("Update 1,", timeout=SLOW)
    learn.locator(".remove").nth(1).click()
    expect(learn.locator(".run")).to_have_count(1)


def recognitions(page: Page) -> list[Response]:
    """The server's answers from now on to what is drawn, of which the last will be that of all that is."""
    answered: list[Response] = []
    page.on("response", lambda response: answered.append(response) if response.url.endswith("/recognize") else None)
    return answered


def expect_answer_to_the_last(page: Page, answered: list[Response]) -> None:
    content = page.evaluate(
        """fetch(document.querySelector(".save").href.replace("?best=true", "")).then(answer => answer.arrayBuffer())
           .then(bytes => btoa(String.fromCharCode(...new Uint8Array(bytes))))"""
    )
    network = network_of(parameters_of(parse_checkpoint(base64.b64decode(content))))

    def expected() -> list[float]:
        pixels = torch.tensor(answered[-1].json()["pixels"])
        return list(network(pixels.view(1, 784) / 255)[0].tolist())

    def shown() -> list[float]:
        script = "rows => rows.map(row => +row.style.getPropertyValue('--activation'))"
        return list(page.locator(".small-bars li").evaluate_all(script))

    end, before = monotonic() + SLOW / 1000, -1
    while not (answered and before == len(answered) and shown() == pytest.approx(expected(), abs=1e-3)):
        assert monotonic() < end, (shown(), expected() if answered else None)
        before = len(answered)
        page.wait_for_timeout(300)  # the next answer, and the frame with it, are on their way


@pytest.mark.slow
def test_what_is_drawn_is_answered_by_the_network_of_the_moment(learn: Page) -> None:
    draw(learn, STROKES[3])
    learn.fill("[name=seed]", "2")
    learn.click("#start")
    expect_state(learn, "Has finished")
    expect(learn.locator(".run .answer").first).to_contain_text("second")
    learn.locator("#paper").scroll_into_view_if_needed()
    answered = recognitions(learn)
    draw(learn, [[(0.1, 0.1), (0.12, 0.12)]])
    expect_answer_to_the_last(learn, answered)


@pytest.fixture
def held(learn: Page) -> list[Route]:
    """The first request that changes a run from now on, which does not arrive; a run of one update is there."""
    held: list[Route] = []

    def hold_the_first(route: Route) -> None:
        if held or route.request.method != "PATCH":
            route.continue_()
        else:
            held.append(route)

    learn.fill("[name=seed]", "2")
    learn.locator("#steps button").nth(0).click()
    expect(learn.locator(".now").first).to_contain_text("Update 1,", timeout=SLOW)
    learn.route("**/runs/*", hold_the_first)
    return held


def wait_for(held: list[Route], page: Page) -> None:
    end = monotonic() + SLOW / 1000
    while not held and monotonic() < end:
        page.wait_for_timeout(20)
    assert held


@pytest.mark.slow
def test_what_a_run_is_told_reaches_it_in_order(learn: Page, held: list[Route]) -> None:
    learn.locator("#paper").scroll_into_view_if_needed()
    answered = recognitions(learn)
    draw(learn, STROKES[3][:1])
    wait_for(held, learn)
    draw(learn, [[(0.1, 0.1), (0.12, 0.9)]])
    learn.wait_for_timeout(500)  # in which later ones could overtake it
    held[0].continue_()
    learn.wait_for_timeout(500)
    expect_answer_to_the_last(learn, answered)


@pytest.mark.slow
def test_a_run_that_hears_nothing_keeps_the_next_from_nothing(learn: Page, held: list[Route]) -> None:
    learn.locator("#pace").evaluate("slider => { slider.value = 3; slider.dispatchEvent(new Event('input')); }")
    wait_for(held, learn)
    learn.click("#over")
    expect(learn.locator("#start")).to_have_text("Start")
    learn.locator("#steps button").nth(0).click()
    expect(learn.locator(".now").first).to_contain_text("Update 1,", timeout=SLOW)
    held[0].fulfill(status=204)


@pytest.mark.slow
def test_a_reload_in_the_middle_finds_the_run_again(learn: Page) -> None:
    learn.fill("[name=seed]", "5")
    learn.locator("#pace").evaluate("slider => { slider.value = 3; slider.dispatchEvent(new Event('input')); }")
    learn.click("#start")
    expect(learn.locator(".now")).to_contain_text("Update", timeout=SLOW)
    while updates(learn) < 20:
        sleep(0.05)
    before = updates(learn)
    learn.reload()
    expect(learn.locator(".now")).to_contain_text("Update", timeout=SLOW)
    assert updates(learn) >= before
    expect(learn.locator("[name=seed]")).to_have_value("5")
    expect(learn.locator("#pace-said")).to_have_text("30 updates a second")
    expect(learn.locator("#start")).to_have_text("Pause")


@pytest.mark.slow
def test_a_finger_starts_steps_and_draws(visit: Callable[..., Page], address: str) -> None:  # noqa: F811
    page = visit(address, width=390, height=844, has_touch=True, is_mobile=True)
    page.tap("nav a[data-view=learn]")
    page.locator("#steps button").nth(1).tap()
    expect(page.locator(".now")).to_contain_text("Update 10,", timeout=SLOW)
    page.locator("#paper").scroll_into_view_if_needed()
    page.tap("#paper")  # a dot
    expect(page.locator("#hint")).to_be_hidden()
    page.tap("nav a[data-view=step-through]")
    page.select_option("[name=source]", "digits")
    page.locator("#step-list button").nth(5).tap()
    page.locator("#layer-bars .bar-row").nth(3).tap()
    expect(page.locator("#chosen h4")).to_have_text("Hidden neuron 3")
    page.tap("nav a[data-view=learn]")
    page.tap("#over")
    expect(page.locator("#over")).to_be_disabled()


def test_wrong_options_are_told_on_the_page(learn: Page, trouble: list[str]) -> None:  # noqa: F811
    for field, value, word in (
        ("[name=hidden]", "0", "Hidden layers:"), ("[name=hidden]", "100000", "Hidden layers:"),
        ("[name=hidden]", "x", "Hidden layers:"),
        ("[name=batch_size]", "0", "Mini-batch:"), ("[name=seed]", "", "Seed:"),
        (".rate", "1e9", "Learning rate:"), (".rate", "", "Learning rate:"), (".rate", "x", "Learning rate:"),
    ):  # fmt: skip
        before = learn.input_value(field)
        learn.fill(field, value)
        learn.click("#start")
        expect(learn.locator("#learn-trouble")).to_contain_text(word)
        learn.fill(field, before)
    trouble[:] = [text for text in trouble if "422" not in text]  # which Chromium itself writes to the console


@pytest.mark.slow
def test_a_server_that_ends_is_told_and_found_again(visit: Callable[..., Page], trouble: list[str]) -> None:  # noqa: F811
    command = [sys.executable, str(ROOT / "scripts" / "serve.py"), "--port"]

    def started(port: str) -> tuple[subprocess.Popen[str], str]:
        server = subprocess.Popen([*command, port], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert server.stdout is not None
        found = re.search(r"http://\S+:(\d+)/", server.stdout.readline())
        assert found
        return server, found[1]

    server, port = started("0")
    try:
        page = visit(f"http://127.0.0.1:{port}/")
        page.click("nav a[data-view=learn]")
        page.locator("#steps button").first.click()
        expect(page.locator(".now")).to_contain_text("Update 1,", timeout=SLOW)
        server.kill()
        server.communicate()
        expect_state(page, "No answer from the server")
        server, _ = started(port)
        expect_state(page, "no such run")
        page.locator("#steps button").first.click()
        expect(page.locator(".now")).to_contain_text("Update 1,", timeout=SLOW)
        expect_state(page, "Pauses")
        page.close()
    finally:
        server.kill()
        assert server.communicate()[1] == ""
    trouble.clear()  # the console says that the server was gone


# Step through


def numbers(page: Page) -> dict[str, list[str]]:
    rows = page.locator("#chosen tbody tr")
    return {
        rows.nth(i).locator("th").inner_text(): rows.nth(i).locator("td").all_inner_texts() for i in range(rows.count())
    }


def value(text: str) -> float:
    return float(text.replace("\N{MINUS SIGN}", "-"))


@pytest.mark.slow
def test_every_step_forwards_and_backwards_has_the_references_numbers(
    visit: Callable[..., Page],  # noqa: F811
    address: str,
    digits: DigitSplits,
) -> None:
    page = visit(address)
    page.click("nav a[data-view=step-through]")
    page.select_option("[name=source]", "digits")
    page.fill("[name=place]", "7")
    page.select_option("[name=label]", str(int(digits.test.labels[7])))
    page.fill("[name=learning_rate]", "0.5")
    page.locator("[name=learning_rate]").blur()
    label = int(digits.test.labels[7])
    expect(page.locator("#walk")).to_have_attribute("aria-busy", "false")
    expect(page.locator("#step-list button")).to_have_count(10)
    expected = step_through(load_network(), digits.test.images[7].numpy(), label, 0.5)
    first, last = expected.layers
    j = int(np.abs(first.delta.by_hand).argmax())
    k0 = int(np.abs(first.weight_gradient.by_hand[j]).argmax())
    wanted: list[dict[str, object]] = [
        {},
        {"z": first.z.by_hand[j], "a": first.a.by_hand[j]},
        {"z": last.z.by_hand[label], "a": last.a.by_hand[label]},
        {"C": expected.cost.by_hand},
        {"δ": last.delta.by_hand[label]},
        {"δ": first.delta.by_hand[j]},
        {"∂C/∂b": first.bias_gradient.by_hand[j]},
        {"∂C/∂w": first.weight_gradient.by_hand[j, k0]},
        {"b": first.new_biases.by_hand[j], "w": first.new_weights.by_hand[j, k0]},
        {
            "a": last.new_a.by_hand[label],
            "C before": expected.cost.by_hand,
            "C after": expected.new_cost.by_hand,
            "predicted": expected.predicted_fall.by_hand,
        },
    ]
    bars = {1: first.a, 2: last.a, 4: last.delta, 5: first.delta, 6: first.bias_gradient, 9: last.new_a}

    def check(step: int) -> None:
        expect(page.locator("#step-list button").nth(step)).to_have_attribute("aria-current", "step")
        found = numbers(page)
        assert len(found) == len(wanted[step])
        for (name, number), (shown, (by_hand, by_autograd, ulps)) in zip(
            wanted[step].items(), found.items(), strict=True
        ):
            assert shown.startswith(name)
            assert value(by_hand) == number  # every digit is shown
            assert value(by_autograd) == pytest.approx(number, rel=1e-9, abs=1e-12)
            assert float(ulps) < 1000
        if step in bars:
            lengths = page.locator("#layer-bars .bar-row i").evaluate_all(
                "bars => bars.map(bar => +bar.style.getPropertyValue('--length') * (bar.matches('.against') ? -1 : 1))"
            )
            values = bars[step].by_hand
            np.testing.assert_allclose(lengths, values / np.abs(values).max(), atol=1e-6)  # as CSS keeps it

    for step in range(10):
        check(step)
        if step < 9:
            page.click("#forth")
    for step in range(8, -1, -1):
        page.keyboard.press("p")
        check(step)
    page.keyboard.press("n")
    page.locator("#layer-bars .bar-row").nth(4).click()  # follow another neuron
    assert value(next(iter(numbers(page).values()))[0]) == first.z.by_hand[4]
    page.locator("#step-list button").nth(5).click()
    assert value(next(iter(numbers(page).values()))[0]) == first.delta.by_hand[4]
    page.keyboard.press("Tab")
    page.locator("#layer-bars .bar-row").nth(4).press("ArrowDown")
    assert value(next(iter(numbers(page).values()))[0]) == first.delta.by_hand[5]


@pytest.mark.slow
def test_the_error_of_a_drawn_digit_is_two_clicks_away(visit: Callable[..., Page], address: str) -> None:  # noqa: F811
    page = visit(address)
    with page.expect_response(re.compile("/recognize")):
        draw(page, STROKES[3])
    expect(page.locator("#digit")).to_have_text("3")
    page.click("nav a[data-view=step-through]")
    page.get_by_role("button", name="BP1: δ(2)").click()
    expect(page.locator("#walk")).to_have_attribute("aria-busy", "false")
    with page.expect_response(re.compile("/steps")) as answered:
        page.select_option("[name=label]", "5")
    expect(page.locator("#walk")).to_have_attribute("aria-busy", "false")
    answer = answered.value.json()
    assert answer["y"][5] == 1
    question = answered.value.request.post_data_json
    assert question
    pixels = np.array(question["pixels"], np.uint8).reshape(784)
    assert Recognizer().answer(pixels).digit == 3
    expected = step_through(load_network(), pixels, 5, 3.0).layers[1].delta
    assert value(next(iter(numbers(page).values()))[0]) == expected.by_hand[5]


def test_a_wrong_learning_rate_is_told_and_nothing_is_shown(
    visit: Callable[..., Page],  # noqa: F811
    address: str,
    trouble: list[str],  # noqa: F811
) -> None:
    page = visit(f"{address}/")
    page.click("nav a[data-view=step-through]")
    expect(page.locator("#step-trouble")).to_have_text("Draw a digit on the paper, or take a test image.")
    expect(page.locator("#walk")).to_be_hidden()
    page.select_option("[name=source]", "digits")
    expect(page.locator("#walk")).to_be_visible()
    page.fill("[name=learning_rate]", "-1")
    page.locator("[name=learning_rate]").blur()
    expect(page.locator("#step-trouble")).to_contain_text("learning_rate")
    expect(page.locator("#walk")).to_be_hidden()
    trouble[:] = [text for text in trouble if "422" not in text]


@pytest.mark.slow
@pytest.mark.parametrize("view", ["learn", "step-through"])
@pytest.mark.parametrize("width", [390, 768, 1280, 1920])
def test_nothing_is_cut_off_on_any_width(visit: Callable[..., Page], address: str, view: str, width: int) -> None:  # noqa: F811
    page = visit(address, width=width, height=800)
    draw(page, STROKES[3])
    page.click(f"nav a[data-view={view}]")
    if view == "step-through":
        page.locator("#step-list button").nth(7).click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    too_wide = page.evaluate(
        """width => [...document.querySelectorAll("main *, nav *")].filter((element) => {
          const { left, right, width: own } = element.getBoundingClientRect();
          return own && (left < -1 || right > width + 1) && !element.closest(".numbers, .formula, .unseen");
        }).map((element) => element.outerHTML.slice(0, 80))""",
        width,
    )
    assert too_wide == []


@pytest.mark.slow
def test_views_have_addresses_and_the_page_is_small(visit: Callable[..., Page], address: str) -> None:  # noqa: F811
    page = visit(address)
    for view, title in (("learn", "watch it learn"), ("step-through", "step by step"), ("read", "read a digit")):
        page.click(f"nav a[data-view={view}]")
        expect(page).to_have_title(re.compile(title))
        expect(page.locator(f"nav a[data-view={view}]")).to_have_attribute("aria-current", "page")
    page.go_back()
    expect(page).to_have_url(f"{address}/step-through")
    page.goto(f"{address}/learn")
    expect(page.locator("#start")).to_be_visible()
    expect(page.locator("#layers")).to_be_hidden()
    folder = ROOT / "torchdigits" / "web" / "page"
    assert sum(path.stat().st_size for path in folder.iterdir() if path.suffix in {".js", ".css"}) < 100_000
    assert json.loads(page.evaluate("JSON.stringify([...document.scripts].map(s => s.src))")) == [f"{address}/main.js"]
