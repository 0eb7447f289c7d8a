import asyncio
import hashlib
import io
import logging
import re
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import schemathesis
import torch
from conftest import ROOT, Outcome, assert_one_line_error, served
from fastapi import FastAPI
from PIL import Image

from torchdigits import Recognizer, SigmoidMLP, __version__, load_network
from torchdigits.data.datasets import DigitSplits
from torchdigits.errors import CheckpointError, SlowImageError
from torchdigits.files.networks import save_network, shipped_checkpoint
from torchdigits.proof.gradients import reference_of
from torchdigits.proof.reference import columns
from torchdigits.recognition.preparation import look
from torchdigits.recognition.workers import Workers, shared
from torchdigits.web import app as web
from torchdigits.web import middleware, protocol, reading
from torchdigits.web.middleware import LARGE, LARGE_AT_A_TIME, MAX_BYTES
from torchdigits.web.protocol import GuardedProtocol, listen

Run = Callable[..., Outcome]
BINARY = {"type": "string", "format": "binary"}
PNG = {"Content-Type": "image/png"}
PATHS = (
    "/",
    "/learn",
    "/step-through",
    "/style.css",
    "/main.js",
    "/network",
    "/runs",
    "/openapi.json",
    "/nowhere",
    "/recognize",
)


@contextmanager
def asked(application: FastAPI) -> Iterator[httpx.Client]:
    with served(application) as address, httpx.Client(base_url=address, trust_env=False, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with asked(web.application()) as client:
        yield client


@pytest.fixture(scope="module")
def picture(digits: DigitSplits) -> bytes:
    return encoded(digits.test.images[7].view(28, 28).numpy())


def encoded(pixels: np.ndarray, form: str = "PNG") -> bytes:
    Image.fromarray(pixels).save(file := io.BytesIO(), form)
    return file.getvalue()


def blank(size: int) -> Iterator[bytes]:
    """A body whose length is not told beforehand."""
    yield from (bytes(min(2**16, size - start)) for start in range(0, size, 2**16))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "GIF", "WEBP"])
def test_api_answers_what_the_recognizer_answers(client: httpx.Client, digits: DigitSplits, form: str) -> None:
    recognizer, media_type = Recognizer(), f"image/{form.lower()}"
    for pixels in digits.test.images[:5].view(-1, 28, 28).numpy():
        content = encoded(pixels, form)
        found = recognizer.recognize(io.BytesIO(content))
        expected = {"digit": found.digit, "runner_up": found.runner_up, "activations": found.activations}
        expected |= {
            "doubt": found.doubt,
            "sure": found.sure,
            "hidden": found.hidden,
            "pixels": found.pixels.reshape(28, 28).tolist(),
        }
        for answer in (
            client.post("/recognize", files={"picture": ("a picture", content, media_type)}),
            client.post("/recognize", content=content, headers={"Content-Type": media_type}),
            client.post("/recognize", content=content, headers={"Content-Type": "application/octet-stream"}),
        ):
            assert answer.status_code == 200
            assert answer.json() == expected


def test_api_reads_what_the_recognizer_reads(client: httpx.Client, mnist: DigitSplits) -> None:
    row = 255 - np.hstack([*mnist.test.images[:4].view(-1, 28, 28).numpy()])
    lines = [Image.fromarray(row).resize((448, 112)), Image.fromarray(row[:, :28]).resize((112, 112))]
    picture = Image.new("L", (448, 224), 255)
    for number, line in enumerate(lines):
        picture.paste(line, (0, 112 * number))
    for shown, text in ((picture, "7210\n7"), (lines[1], "7")):
        shown.save(file := io.BytesIO(), "PNG")
        page = Recognizer().read(file.getvalue())
        answer = client.post("/read", content=file.getvalue(), headers=PNG).json()
        assert (answer["size"], answer["text"], page.text) == ([*shown.size], text, text)
        for found, (box, expected) in zip(answer["digits"], page.digits, strict=True):
            assert found["box"] == [*box]
            assert (found["digit"], found["sure"], found["doubt"]) == (expected.digit, True, expected.doubt)
            assert found["pixels"] == expected.pixels.reshape(28, 28).tolist()
            assert found["hidden"] == [pytest.approx(layer, abs=1e-5) for layer in expected.hidden]
    assert client.post("/read", content=b"no picture", headers=PNG).status_code == 422


@pytest.mark.parametrize("sizes", [[784, 10], [784, 30, 10], [784, 40, 20, 10]])
def test_api_gives_the_activations_of_every_layer(tmp_path: Path, picture: bytes, sizes: list[int]) -> None:
    torch.manual_seed(0)
    save_network(network := SigmoidMLP(sizes), tmp_path / "some.ckpt")
    with asked(web.application(tmp_path / "some.ckpt")) as client:
        answer = client.post("/recognize", content=picture, headers=PNG).json()
    _, activations = reference_of(network).forward_pass(columns(np.array(answer["pixels"], np.uint8).reshape(1, 784)))
    assert [len(layer) for layer in answer["hidden"]] == sizes[1:-1]
    for found, expected in zip([*answer["hidden"], answer["activations"]], activations[1:], strict=True):
        np.testing.assert_allclose(found, expected[:, 0], atol=1e-5)
    assert [answer["digit"], answer["runner_up"]] == np.argsort(activations[-1][:, 0])[:-3:-1].tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_network_is_described_to_the_last_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    save_network(network := SigmoidMLP([784, 4, 3, 10]).to(dtype), path := tmp_path / "some.ckpt")
    with asked(web.application(path)) as client:
        told = client.get("/network").json()
    found = [torch.tensor(layer[kind], dtype=dtype) for layer in told["layers"] for kind in ("weights", "biases")]
    assert all(torch.equal(*pair) for pair in zip(found, network.parameters(), strict=True))
    facts: dict[str, object] = {
        "file": "some.ckpt",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "sizes": [784, 4, 3, 10],
    }
    facts |= {"parameters": 784 * 4 + 4 + 4 * 3 + 3 + 3 * 10 + 10, "precision": str(dtype).split(".")[1], "card": None}
    assert {name: told[name] for name in facts} == facts


def test_a_network_too_large_to_be_shown_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "MOST_SHOWN", 23_860)
    web.application()
    monkeypatch.setattr(web, "MOST_SHOWN", 23_859)
    path = re.escape(str(shipped_checkpoint()))
    with pytest.raises(CheckpointError, match=f"^{path} has 23,860 weights and biases; the page shows 23,859 at most$"):
        web.application()


def test_shipped_network_is_described_as_on_its_card(client: httpx.Client) -> None:
    card = (ROOT / "checkpoints" / "README.md").read_text()
    told = client.get("/network").json()
    assert told["sizes"] == list(load_network().sizes)
    assert told["sha256"] in card
    for name, fact in told["card"].items():
        assert re.search(rf"^\| {name} \| {re.escape(fact)}(\. .*)? \|$", card, re.MULTILINE)


def test_what_is_no_form_is_refused_and_not_logged(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    answer = client.post("/recognize", content=b"\x89PNG", headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert (answer.status_code, *answer.json()) == (400, "error")
    assert caplog.records == []


@pytest.mark.parametrize("content_type", ["image/png", "multipart/form-data; boundary=x"])
def test_a_body_over_the_limit_is_refused(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, content_type: str
) -> None:
    monkeypatch.setattr(Workers, "work", lambda *_, **__: pytest.fail("it was decoded"))
    start = b'--x\r\nContent-Disposition: form-data; name="picture"; filename="x"\r\n\r\n'
    rest = blank(MAX_BYTES + 1 - len(start))
    body = start + b"".join(rest)
    answer = client.post("/recognize", content=body, headers={"Content-Type": content_type})
    assert answer.status_code == 413
    assert answer.json() == {"error": "the body is larger than 10,000,000 bytes"}


def test_a_body_of_just_the_limit_is_read(client: httpx.Client, picture: bytes) -> None:
    content = picture + bytes(MAX_BYTES - len(picture))  # what follows the picture does not matter
    assert client.post("/recognize", content=content, headers=PNG).status_code == 200


def test_a_full_temporary_folder_harms_nothing(
    client: httpx.Client, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda *_, **__: pytest.fail("it was asked for"))
    content = picture + bytes(MAX_BYTES - len(picture) - 1000)
    assert client.post("/recognize", content=content, headers=PNG).status_code == 200
    assert client.post("/recognize", files={"picture": content}).status_code == 200


@pytest.mark.parametrize(
    ("status", "request_"),
    [
        (400, {"content": b"nonsense", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}),
        (400, {"content": b"", "headers": {"Content-Type": "multipart/form-data"}}),
        (400, {"files": [("picture", b"1"), ("picture", b"2")]}),
        (415, {"content": b"{}", "headers": {"Content-Type": "application/json"}}),
        (415, {"data": {"picture": "1"}}),
        (415, {}),
        (422, {"files": {"photo": b"1"}}),
        (422, {"files": {"picture": (None, "text")}}),
        (422, {"files": {"picture": b"no picture"}}),
        (422, {"content": b"no picture", "headers": PNG}),
        (422, {"content": b"", "headers": PNG}),
        (422, {"content": encoded(np.arange(100, dtype=np.uint8).reshape(10, 10))[:50], "headers": PNG}),
        (422, {"content": encoded(np.zeros((28, 28), np.uint8)), "headers": PNG}),
        (422, {"content": encoded(np.array([[1, 1 + 2**-23]] * 2, np.float32), "TIFF"), "headers": PNG}),
    ],
)
def test_what_is_no_picture_of_a_digit_is_one_line(client: httpx.Client, status: int, request_: dict[str, str]) -> None:
    answer = client.request("POST", "/recognize", **request_)  # type: ignore[arg-type]  # of several kinds
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    says = {
        400: "the request cannot be read",
        415: r"send a form with the field picture, or a body of image/\.\.\. or octet-stream",
        422: r"the form needs a file as its field picture|(the picture|cannot read the picture): [^\n<>]+",
    }
    assert re.fullmatch(says[status], answer.json()["error"])


def test_it_answers_to_no_other_names(client: httpx.Client) -> None:
    port = client.base_url.port
    own = ("127.0.0.1:{}", "localhost:{}", "LOCALHOST:{}", "[::1]:{}")
    others = (
        "evil.example:{}",
        "localhost.evil.example:{}",
        "192.168.0.1:{}",
        "0.0.0.0:{}",
        "127.0.0.1",
        "localhost:1",
    )
    odd = ("", ":{}", "127.0.0.1:{0}:{0}", "me@127.0.0.1:{}", "127.0.0.1:", "[::1", "[]:{}", "localhost:٣")
    for path in PATHS:
        for host in own:
            assert client.get(path, headers={"Host": host.format(port)}).status_code != 421, host
        for host in others + odd:
            assert client.get(path, headers={b"Host": host.format(port).encode()}).status_code == 421, host


@pytest.mark.parametrize("every", ["0.0.0.0", "::"])
def test_a_server_at_every_address_is_asked_by_address(every: str) -> None:
    with asked(web.application(host=every)) as client:
        port = client.base_url.port
        for host in ("192.168.0.1:{}", "[fe80::1]:{}", "localhost:{}", socket.gethostname() + ":{}"):
            assert client.get("/", headers={"Host": host.format(port)}).status_code == 200, host
        for host in ("evil.example:{}", "192.168.0.1", "[evil.example]:{}", "192.168.0.1.evil.example:{}"):
            assert client.get("/", headers={"Host": host.format(port)}).status_code == 421, host


def test_it_answers_no_other_sites_page(client: httpx.Client, picture: bytes) -> None:
    port = client.base_url.port
    for origin, status in (
        (f"http://127.0.0.1:{port}", 200),
        (f"http://localhost:{port}", 403),  # its own too, but not the one that was asked
        (f"https://127.0.0.1:{port}", 403),
        ("http://127.0.0.1:1", 403),
        ("http://evil.example", 403),
        ("null", 403),
    ):
        answer = client.post("/recognize", content=picture, headers=PNG | {"Origin": origin})
        assert answer.status_code == status, origin
        assert "access-control-allow-origin" not in answer.headers


def test_every_answer_forbids_what_the_page_does_not_need(client: httpx.Client) -> None:
    answers = [client.request(method, path) for path in PATHS for method in ("GET", "HEAD", "POST", "OPTIONS", "PUT")]
    answers.append(client.get("/", headers={"Host": "evil.example"}))
    answers.append(client.post("/recognize", content=blank(MAX_BYTES + 1), headers=PNG))
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"
        if answer.is_error and answer.request.method != "HEAD":
            assert list(answer.json()) == ["error"]


def test_it_serves_no_file_but_its_own(client: httpx.Client) -> None:
    for path, media_type in [
        *dict.fromkeys(web.VIEWS, "html").items(),
        ("/style.css", "css"),
        *dict.fromkeys((f"/{script.name}" for script in web.PAGE.glob("*.js")), "javascript").items(),
    ]:
        answer = client.get(path)
        assert answer.text == (web.PAGE / ("index.html" if path in web.VIEWS else path[1:])).read_text()
        assert answer.headers["content-type"] == f"text/{media_type}; charset=utf-8"
        assert client.head(path).status_code == 200
        assert {*client.post(path).headers["allow"].split(", ")} == {"GET", "HEAD"}
    for path in ("/app.py", "/docs", "/redoc", "/style.css/", "/%2e%2e/app.py", "/..%2fapp.py", "/main.js%00"):
        assert client.get(path).status_code == 404, path
    for path in (
        "/../app.py",
        "//etc/passwd",
        "/style.css/../app.py",
        "http://evil.example/app.py",
        "/%252e%252e/app.py",
        "/..\\app.py",
        "/..%5capp.py",
        "/%c0%ae%c0%ae/app.py",
        "/%00/../app.py",
        "/" + "../" * 1000 + "etc/passwd",
    ):  # as httpx would not
        with socket.create_connection(("127.0.0.1", client.base_url.port or 80), timeout=10) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {client.base_url.netloc.decode()}\r\n\r\n".encode())
            assert connection.recv(12) == b"HTTP/1.1 404", path


def test_who_asks_in_another_way_is_told_in_which_ways_there_are(client: httpx.Client) -> None:
    for path, ways in (("/recognize", "POST"), ("/runs", "GET, POST"), ("/runs/x", "DELETE, PATCH")):
        answer = client.put(path)
        assert (answer.status_code, answer.headers["allow"]) == (405, ways)


def test_a_mistake_of_the_server_is_told_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    served = web.application()
    served.add_api_route("/broken", lambda: 1 / 0)
    with asked(served) as client:
        answer = client.get("/broken")
        assert answer.status_code == 500
        assert answer.json() == {"error": "the server made a mistake; its terminal says more"}
    [logged] = [record for record in caplog.records if record.name == web.__name__]
    assert logged.exc_info
    assert logged.exc_info[0] is ZeroDivisionError


@pytest.fixture(scope="module")
def hardy() -> Iterator[int]:
    """A server as serve.py's, but that it waits a second for a request; its port."""
    with listen("127.0.0.1", 0) as listener, pytest.MonkeyPatch.context() as patch:
        patch.setattr(GuardedProtocol, "request_timeout", 1.0)
        server = protocol.server(web.application())
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


@pytest.fixture
def unharmed(hardy: int, picture: bytes, caplog: pytest.LogCaptureFixture) -> Iterator[int]:
    """Its port; afterwards it answers, has logged nothing, and has as many files open as before."""
    ask(hardy, picture)  # so that its threads are there,
    shared()  # and the worker that tests themselves use
    before = steady_files()
    yield hardy
    ask(hardy, picture)
    assert wait_for(lambda: open_files() <= before), (before, open_files())
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def is_reset(connection: socket.socket) -> bool:
    """Whether the other end is gone, before what it has sent is read."""
    try:
        connection.send(b"x")
    except ConnectionError:
        return True
    return False


def open_files() -> int:
    folder = Path("/proc/self/fd")
    return len([*folder.iterdir()]) if folder.exists() else 0


def steady_files() -> int:
    """The open files, once the ends of connections that are closing are closed."""
    before = -1
    while before != (now := open_files()):
        before = now
        sleep(0.1)
    return now


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> bool:
    end = monotonic() + seconds
    while not (met := condition()) and monotonic() < end:
        sleep(0.02)
    return met


def ask(port: int, picture: bytes) -> dict[str, object]:
    answer = httpx.post(f"http://127.0.0.1:{port}/recognize", content=picture, headers=PNG, trust_env=False, timeout=60)
    assert answer.status_code == 200
    return dict(answer.json())


def post(port: int, *headers: str, host: str = "127.0.0.1:{}", form: str = "image/png", body: bytes = b"") -> bytes:
    lines = ("POST /recognize HTTP/1.1", f"Host: {host.format(port)}", f"Content-Type: {form}", *headers)
    return "\r\n".join([*lines, "", ""]).encode() + body


def exchange(port: int, *parts: bytes, every: float = 0) -> bytes:
    """What is answered to parts sent one by one, until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        with suppress(ConnectionError):
            for part in parts:
                connection.sendall(part)
                sleep(every)
        received = b""
        with suppress(ConnectionError):
            while part := connection.recv(2**16):
                received += part
    return received


@pytest.mark.slow
def test_clients_that_draw_at_once_get_each_the_answer_to_its_own(unharmed: int, digits: DigitSplits) -> None:
    pictures = [
        encoded(np.asarray(Image.fromarray(pixels).resize((112, 112))))
        for pixels in digits.test.images[:10].view(-1, 28, 28).numpy()
    ]
    recognizer = Recognizer()
    expected = [recognizer.recognize(io.BytesIO(content)).activations for content in pictures]
    end = monotonic() + 2

    def draw(first: int) -> int:
        asked = 0
        with httpx.Client(base_url=f"http://127.0.0.1:{unharmed}", trust_env=False, timeout=60) as client:
            while monotonic() < end:
                number = (first + asked) % len(pictures)
                answer = client.post("/recognize", content=pictures[number], headers=PNG)
                assert answer.status_code == 200
                assert answer.json()["activations"] == expected[number]
                asked += 1
        return asked

    with ThreadPoolExecutor(10) as pool:
        assert min(pool.map(draw, range(10))) > 0


def test_who_does_not_send_a_whole_request_in_time_is_ended_and_others_are_answered(
    unharmed: int, picture: bytes
) -> None:
    get = f"GET /style.css HTTP/1.1\r\nHost: 127.0.0.1:{unharmed}\r\n\r\n".encode()
    whole = post(unharmed, f"Content-Length: {len(picture)}", body=picture)
    slow = {
        "nothing": (),
        "headers": [bytes([byte]) for byte in whole[:100]],
        "headers and no body": [post(unharmed, "Content-Length: 9")],
        "body": [post(unharmed, "Content-Length: 900"), *[b"x"] * 90],
        "form": [post(unharmed, "Content-Length: 9", form="multipart/form-data; boundary=x")],
        "a second request": [get, *[bytes([byte]) for byte in whole[:100]]],
        "the rest of what is too large": [post(unharmed, "Content-Length: 99999999"), *[b"x"] * 90],
    }
    with ThreadPoolExecutor(len(slow)) as pool:
        answers = {name: pool.submit(exchange, unharmed, *parts, every=0.05) for name, parts in slow.items()}
        for _ in range(5):
            assert not all(answer.done() for answer in answers.values())
            ask(unharmed, picture)
        found = {name: re.findall(rb"HTTP/1.1 (\d+)", answer.result()) for name, answer in answers.items()}
    assert found == {
        **{name: [b"408"] for name in slow},
        "nothing": [],
        "a second request": [b"200", b"408"],
        "the rest of what is too large": [b"413"],
    }


def test_bytes_that_drip_do_not_put_off_the_timeout(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GuardedProtocol, "request_timeout", 0.2)
    port = client.base_url.port or 80
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(post(port, "Content-Length: 900"))
        end = monotonic() + 3
        with suppress(ConnectionError):  # ended while a byte was on its way
            while not select.select([connection], [], [], 0.02)[0] and monotonic() < end:
                connection.sendall(b"x")
        assert monotonic() < end


def test_odd_http_is_refused_and_harms_nothing(unharmed: int, picture: bytes) -> None:
    host, length, last = f"Host: 127.0.0.1:{unharmed}", f"Content-Length: {len(picture)}", "Connection: close"
    chunked = "Transfer-Encoding: chunked"
    good = post(unharmed, length, body=picture)
    odd: dict[bytes, tuple[str, ...]] = {
        post(unharmed, "Content-Length: -1"): ("400",),
        post(unharmed, "Content-Length: x"): ("400",),
        post(unharmed, "Content-Length: 1e3"): ("400",),
        post(unharmed, "Content-Length: " + "9" * 19): ("413",),
        post(unharmed, "Content-Length: " + "9" * 5000): ("400",),
        post(unharmed, "Content-Length: 3", "Content-Length: 4"): ("400",),
        post(unharmed, length, chunked, last, body=b"0\r\n\r\n"): ("400", "411"),
        post(unharmed, "Transfer-Encoding: gzip", last): ("400", "501"),
        post(unharmed, chunked, body=b"5\r\nabcde\r\n0\r\n\r\n"): ("411",),
        good + post(unharmed, chunked, body=b"5\r\nabc"): ("200 411",),
        post(unharmed, "X: " + "x" * 100_000, last): ("400", "422"),
        post(unharmed, *["X: x"] * 20_000, last): ("400", "422"),
        post(unharmed, "X : x"): ("400",),
        post(unharmed, "Expect: 100-continue", length, last, body=picture): ("100 200",),
        post(unharmed, "Expect: 100-continue", "Content-Length: 99999999", last): ("413",),
        post(unharmed, "Upgrade: websocket", "Connection: upgrade", length, last, body=picture): ("200",),
        post(unharmed, length, last, host="evil.example:{}", body=picture): ("421",),
        post(unharmed, length, last, "Origin: http://evil.example", body=picture): ("403",),
        post(unharmed, length, last, host, body=picture): ("400",),
        good + good + post(unharmed, length, last, body=picture): ("200 200 200",),
        good + b"\x00\xff garbage\r\n\r\n": ("200 400",),
        good + b"\xff" * 100_000: ("200 400",),
        b"GET /style.css HTTP/1.0\r\n\r\n": ("421",),
        b"GET /style.css HTTP/1.1\r\n\r\n": ("400",),
        f"GET /style.css HTTP/1.0\r\n{host}\r\n\r\n".encode(): ("200",),
        f"GET /style.css HTTP/9.9\r\n{host}\r\n{last}\r\n\r\n".encode(): ("200", "400", "505"),
        f"GET style.css HTTP/1.1\r\n{host}\r\n{last}\r\n\r\n".encode(): ("404",),
        f"GET * HTTP/1.1\r\n{host}\r\n{last}\r\n\r\n".encode(): ("404",),
        f"GET /{'x' * 100_000} HTTP/1.1\r\n{host}\r\n{last}\r\n\r\n".encode(): ("400", "404"),
        f"GET /?{'%' * 1000} HTTP/1.1\r\n{host}\r\n{last}\r\n\r\n".encode(): ("200",),
        f"BREW /network HTTP/1.1\r\n{host}\r\n{last}\r\n\r\n".encode(): ("405",),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": ("421 400",),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500): ("400",),
        bytes(range(256)) * 100: ("400",),
        b"\r\n" * 100: ("400", "408"),
    }
    with ThreadPoolExecutor(len(odd)) as pool:
        answers = dict(zip(odd, pool.map(partial(exchange, unharmed), odd), strict=True))
    for request, answer in answers.items():
        assert " ".join(re.findall(r"HTTP/1.1 (\d+)", answer.decode())) in odd[request], request[:200]


def test_a_body_in_chunks_ends_the_connection(unharmed: int) -> None:
    with socket.create_connection(("127.0.0.1", unharmed), timeout=30) as connection, connection.makefile("rb") as told:
        connection.sendall(post(unharmed, "Transfer-Encoding: chunked"))
        assert told.readline().startswith(b"HTTP/1.1 411 ")
        with suppress(ConnectionError):  # closed already
            connection.sendall(b"5\r\nabcde\r\n" * 1000)
            assert b"HTTP/1.1 " not in told.read()


def test_who_leaves_early_or_only_connects_harms_nothing(unharmed: int, picture: bytes) -> None:
    idle = [socket.create_connection(("127.0.0.1", unharmed), timeout=30) for _ in range(200)]
    whole = post(unharmed, f"Content-Length: {len(picture)}", body=picture)
    form = post(unharmed, f"Content-Length: {MAX_BYTES}", form="multipart/form-data; boundary=x")
    form += b'--x\r\nContent-Disposition: form-data; name="picture"; filename="x"\r\n\r\n' + bytes(2_000_000)
    for request in (whole, whole[:-1], whole[:50], whole * 5, form):
        for reset in (False, True):
            with socket.create_connection(("127.0.0.1", unharmed), timeout=30) as connection:
                if reset:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.sendall(request)
    ask(unharmed, picture)
    for connection in idle:
        assert connection.recv(1) == b""  # the server ends it
        connection.close()


def test_who_does_not_read_the_answers_is_ended(unharmed: int) -> None:
    with socket.create_connection(("127.0.0.1", unharmed), timeout=30) as connection:
        connection.sendall(f"GET /network HTTP/1.1\r\nHost: 127.0.0.1:{unharmed}\r\n\r\n".encode() * 60)
        sleep(0.2)  # it is being answered, and not read
        assert wait_for(lambda: is_reset(connection))


def test_of_too_many_connections_the_one_that_waited_longest_is_ended(
    unharmed: int, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 4)
    monkeypatch.setattr(GuardedProtocol, "request_timeout", 60.0)
    with ExitStack() as stack:
        begun, *idle = [
            stack.enter_context(socket.create_connection(("127.0.0.1", unharmed), timeout=10)) for _ in range(4)
        ]
        begun.sendall(post(unharmed, "Content-Length: 9"))
        ask(unharmed, picture)
        assert begun.recv(12) == b"HTTP/1.1 503"
        assert select.select(idle, [], [], 0.1)[0] == []  # they are still open


def test_there_are_fewer_connections_than_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))
    assert protocol.server(web.application()).config.backlog == 2
    assert protocol.most_connections() == 16


def test_of_large_pictures_one_at_a_time_is_taken_apart_and_small_ones_meanwhile(
    unharmed: int, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, at_work, met = Workers.work, threading.Lock(), threading.Event()

    def slowly(self: Workers, file: io.BytesIO, task: str) -> object:
        if len(file.getvalue()) > LARGE:
            assert at_work.acquire(blocking=False)
            assert met.wait(30)
            at_work.release()
        return work(self, file, task)

    large = picture + bytes(LARGE)
    monkeypatch.setattr(Workers, "work", slowly)
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(ask, unharmed, large) for _ in range(4)]
        assert wait_for(at_work.locked)
        expected = ask(unharmed, picture)["digit"]
        assert not any(answer.done() for answer in answers)
        met.set()
        assert [answer.result()["digit"] for answer in answers] == [expected] * 4


def test_small_pictures_that_take_long_wait_with_the_large_ones(
    unharmed: int, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, small, met = Workers.work, shared("small", reading.SMALL, reading.SECONDS), threading.Event()
    slow, endless = picture + b"slow", picture + b"endless"

    def slowly(self: Workers, file: io.BytesIO, task: str) -> object:
        if file.getvalue() in (slow, endless):
            if self is small:
                raise SlowImageError("it would take more than 1 s")
            assert met.wait(30)
        if file.getvalue() == endless:
            raise SlowImageError("it would take more than 6 s")
        return work(self, file, task)

    monkeypatch.setattr(Workers, "work", slowly)
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(ask, unharmed, slow) for _ in range(3)]
        refused = pool.submit(
            exchange, unharmed, post(unharmed, f"Content-Length: {len(endless)}", "Connection: close", body=endless)
        )
        expected = ask(unharmed, picture)["digit"]
        assert not any(answer.done() for answer in answers)
        met.set()
        assert [answer.result()["digit"] for answer in answers] == [expected] * 3
        assert b"422" in refused.result()[:12]
        assert b"more than 6 s" in refused.result()


@pytest.mark.skipif(sys.platform != "linux", reason="has one address of its own")
def test_a_client_does_not_wait_for_all_pictures_of_another(
    unharmed: int, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, wait, one_may_end = Workers.work, reading._wait_for_place, threading.Semaphore(0)
    waiting: list[object] = []
    begun: list[int] = []
    lanes: set[reading._Places] = set()

    def slowly(self: Workers, file: io.BytesIO, task: str) -> object:
        begun.append(len(file.getvalue()) - len(picture))
        assert one_may_end.acquire(timeout=30)
        return work(self, file, task)

    async def watched(places: reading._Places, request: Any) -> None:
        lanes.add(places)
        waiting.append(request)
        await wait(places, request)

    def ask_from(client: int, name: int) -> int:
        with httpx.Client(transport=httpx.HTTPTransport(local_address=f"127.0.0.{client}"), timeout=30) as asking:
            url = f"http://127.0.0.1:{unharmed}/recognize"
            return asking.post(url, content=picture + bytes(name), headers=PNG).status_code

    monkeypatch.setattr(Workers, "work", slowly)
    monkeypatch.setattr(reading, "_wait_for_place", watched)
    # The first client sends five, and two others one or two each: of all who wait, theirs come first.
    asked = [(1, 11), (1, 12), (1, 13), (1, 14), (1, 15), (2, 21), (2, 22), (3, 31)]
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = []
        for client, name in asked:
            answers.append(pool.submit(ask_from, client, name))
            assert wait_for(lambda: len(waiting) == len(answers))
        for number in range(reading.SMALL + 1, len(asked) + 1):
            one_may_end.release()
            assert wait_for(lambda: len(begun) == number)  # noqa: B023
        one_may_end.release(reading.SMALL)
        assert {answer.result() for answer in answers} == {200}
    assert begun == [11, 12, 21, 31, 22, 13, 14, 15]
    [places] = lanes
    assert wait_for(lambda: not places._clients)


def test_a_place_goes_to_the_client_that_has_the_fewest() -> None:
    async def given() -> list[str]:
        places, found = reading._Places(2), []

        async def one(client: str) -> None:
            await places.acquire(client)
            found.append(client)

        await one("first")
        await one("first")
        places.release("first")
        await one("second")
        async with asyncio.TaskGroup() as waiting:
            for client in ("first", "third", "third"):
                waiting.create_task(one(client))
                await asyncio.sleep(0)
            assert found == ["first", "first", "second"]
            for client in ("second", "third", "third"):  # the first still has one
                places.release(client)
                await asyncio.sleep(0.01)
        places.release("first")
        places.release("first")
        assert not places._clients
        await one("fourth")
        await one("fourth")
        return found

    expected = ["first", "first", "second", "third", "first", "third", "fourth", "fourth"]
    assert asyncio.run(asyncio.wait_for(given(), 30)) == expected


def test_the_description_of_an_answer_has_its_sizes_and_that_of_a_picture_its_types() -> None:
    described = web.application().openapi()
    schemas = described["components"]["schemas"]
    for path in ("/recognize", "/read"):
        content = described["paths"][path]["post"]["requestBody"]["content"]
        form = content.pop("multipart/form-data")["schema"]
        assert form == {"type": "object", "required": ["picture"], "properties": {"picture": BINARY}}
        assert set(content) == {"image/png", "image/jpeg", "image/*", "application/octet-stream"}
        assert all(body == {"schema": BINARY} for body in content.values())
    assert described["info"]["version"] == __version__
    for name in ("Answer", "PageDigit", "PageAnswer", "Card", "Network"):
        assert all("description" in field for field in schemas[name]["properties"].values()), name
        assert set(schemas[name]["required"]) == {*schemas[name]["properties"]}, name
    for name, field, sizes in (
        ("Answer", "activations", (10, 10)),
        ("Answer", "pixels", (28, 28)),
        ("PageDigit", "box", (4, 4)),
        ("PageAnswer", "size", (2, 2)),
        ("PageAnswer", "digits", (1, None)),
    ):
        of_field = schemas[name]["properties"][field]
        assert (of_field["minItems"], of_field.get("maxItems")) == sizes


@pytest.mark.parametrize("more", [0, 100_000])  # of so many bytes uvicorn stops reading, and does not see who leaves
def test_who_leaves_before_its_turn_is_not_waited_for(
    unharmed: int, picture: bytes, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    work, begun, met = Workers.work, [], threading.Event()

    def slowly(self: Workers, *arguments: Any, **options: Any) -> object:
        begun.append(self)
        assert met.wait(30)
        return work(self, *arguments, **options)

    monkeypatch.setattr(Workers, "work", slowly)
    monkeypatch.setattr(GuardedProtocol, "request_timeout", 60.0)
    with ThreadPoolExecutor(reading.SMALL) as pool:
        answers = [pool.submit(ask, unharmed, picture) for _ in range(reading.SMALL)]
        assert wait_for(lambda: len(begun) == reading.SMALL)
        before, body = steady_files(), picture + bytes(more)
        with ExitStack() as stack:
            for _ in range(20):
                leaves = stack.enter_context(socket.create_connection(("127.0.0.1", unharmed), timeout=30))
                leaves.sendall(post(unharmed, f"Content-Length: {len(body)}", body=body))
            assert wait_for(lambda: open_files() >= before + 40) or not before
        assert wait_for(lambda: open_files() <= before)
        met.set()
        for answer in answers:
            answer.result()
    ask(unharmed, picture)
    assert len(begun) == reading.SMALL + 1


def test_of_large_bodies_eight_at_a_time_are_read_and_all_are_answered(
    unharmed: int, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GuardedProtocol, "request_timeout", 60.0)
    large = picture + bytes(1_000_000)
    start = post(unharmed, f"Content-Length: {len(large)}", "Connection: close", body=large[:-1])
    with ExitStack() as stack, ThreadPoolExecutor(12) as pool:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", unharmed), timeout=30)) for _ in range(12)]
        sent = [pool.submit(connection.sendall, start) for connection in slow]
        assert wait_for(lambda: sum(future.done() for future in sent) >= LARGE_AT_A_TIME)
        ask(unharmed, picture)  # a small one does not wait
        codes = [pool.submit(finish, connection, future) for connection, future in zip(slow, sent, strict=True)]
        assert [code.result() for code in codes] == [b"HTTP/1.1 200"] * 12


def finish(connection: socket.socket, sent: "Future[None]") -> bytes:
    sent.result()
    connection.sendall(b"\0")
    return connection.recv(12)


SOME, MOST = 1000, 3000  # bytes; they stand for LARGE and MAX_BYTES
sizes = st.sampled_from([1, SOME, MOST]).flatmap(lambda size: st.integers(size - 1, size + 1)) | st.integers(
    0, 2 * MOST
)


@pytest.mark.slow
@hypothesis.settings(
    max_examples=150, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(size=sizes, told=sizes, same=st.booleans(), cuts=st.lists(sizes, max_size=5).map(sorted))
def test_a_body_of_any_length_and_in_any_parts_gets_its_status(
    unharmed: int, size: int, told: int, same: bool, cuts: list[int]
) -> None:
    told = size if same else told
    parts = [bytes(end - start) for start, end in pairwise([0, *(min(cut, size) for cut in cuts), size]) if end > start]
    expected = b"413" if told > MOST else b"" if told > size else b"200"
    sight = look(digit_on_paper())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(middleware, "MAX_BYTES", MOST)
        patch.setattr(middleware, "LARGE", SOME)
        patch.setattr(reading, "LARGE", SOME)
        patch.setattr(Workers, "work", lambda *_: sight._asdict())
        with socket.create_connection(("127.0.0.1", unharmed), timeout=30) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with suppress(ConnectionError):  # it has its answer already
                for part in [post(unharmed, f"Content-Length: {told}"), *parts]:
                    connection.sendall(part)
                if not expected:
                    connection.shutdown(socket.SHUT_WR)
            assert connection.recv(12)[9:] == expected


def digit_on_paper() -> np.ndarray:
    paper = np.zeros((56, 56), np.uint8)
    paper[18:38, 26:29] = 255
    return paper


def test_page_names_no_other_host_and_has_no_code_in_line() -> None:
    page = (web.PAGE / "index.html").read_text()
    assert set(re.findall(r"https?://[^/'\"<\s]+", page)) == {"http://127.0.0.1:8000", "http://www.w3.org"}
    assert not re.search(r"<script>|<style|\sstyle=|\son\w+=", page)


def digit(left: int) -> bytes:
    pixels = np.zeros((28, 28), np.uint8)
    pixels[4:24, left : left + 3] = 255
    return encoded(pixels)


pictures = st.integers(5, 20).map(digit)  # what the description calls binary
schemathesis.openapi.format("binary", pictures)
for media_type in ("image/png", "image/jpeg", "image/*", "application/octet-stream"):
    schemathesis.openapi.media_type(media_type, pictures)
description = schemathesis.openapi.from_asgi("/openapi.json", web.application(host="testserver"))


@description.parametrize()
@pytest.mark.slow
@hypothesis.settings(max_examples=30, derandomize=True, deadline=None, database=None)
def test_api_does_what_its_description_says(case: schemathesis.Case[Any]) -> None:
    # Hypothesis also tries constants of the package's code, such as a marker of JPEG's: no picture of a digit.
    body: Any = case.body
    picture = body.get("picture") if isinstance(body, dict) else None
    hypothesis.assume(b"PNG" in getattr(picture, "data", b"PNG"))
    case.call_and_validate()


@pytest.mark.slow
def test_server_says_where_it_is_and_ends_quietly_on_ctrl_c() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "serve.py"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        line = re.fullmatch(r"Draw at http://127\.0\.0\.1:(\d+)/ \(Ctrl-C ends it\)\n", server.stdout.readline())
        assert line
        with socket.create_connection(("127.0.0.1", int(line[1])), timeout=10) as connection:
            connection.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{line[1]}\r\n\r\n".encode())
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
            server.send_signal(signal.SIGINT)  # with a connection open
            assert server.communicate(timeout=10) == ("", "")
    assert server.returncode == 130


def test_a_place_to_listen_that_cannot_be_had_is_one_line(run_script: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_one_line_error(run_script("serve.py", "--port", port), f"127.0.0.1, port {port}", "in use")
    assert_one_line_error(run_script("serve.py", "--host", "192.0.2.1"), "192.0.2.1, port 8000", "assign")
    for host in ("no.such.host.invalid", "a..b", "", "127.0.0.1:8000"):
        assert_one_line_error(run_script("serve.py", "--host", host), f"cannot listen at {host}, port 8000")
    for port in (70000, -1):
        assert_one_line_error(run_script("serve.py", "--port", port), f"port {port}")


def test_a_network_that_cannot_be_read_is_one_line(run_script: Run, tmp_path: Path) -> None:
    assert_one_line_error(run_script("serve.py", "--checkpoint", tmp_path / "no.ckpt"), "there is no checkpoint")


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "python_multipart"])
def test_a_missing_extra_is_one_line(run_script: Run, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    for name in {package, *filter(re.compile(rf"{package}\.").match, sys.modules)}:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "torchdigits.web.app")
    monkeypatch.delitem(sys.modules, "torchdigits.web.protocol")
    assert_one_line_error(run_script("serve.py"), package, "pip install 'torchdigits[web]'")


def test_answers_are_timed(run_script: Run, client: httpx.Client, mnist_dir: Path) -> None:
    options = ["--data-dir", mnist_dir, "--url"]
    outcome = run_script("benchmark_page.py", *options, client.base_url, "--clients", 2, "--seconds", 1)
    figures = r"0 errors, ([\d,]+) recognised; median [\d.]+ ms, p95 [\d.]+ ms, longest [\d.]+ ms\n"
    assert re.fullmatch(r"[\d,]+ requests of 2 clients, \d+ a second: " + figures, outcome.out)
    assert_one_line_error(run_script("benchmark_page.py", *options, "http://127.0.0.1:1"), "http://127.0.0.1:1")
    assert_one_line_error(run_script("benchmark_page.py", *options, client.base_url, "--clients", 0), "--clients 0")
