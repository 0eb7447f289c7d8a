import hashlib
import io
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
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

from torchdigits import Recognizer, SigmoidMLP, load_network
from torchdigits.checkpoints import save_network
from torchdigits.datasets import DigitSplits
from torchdigits.parity import reference_of
from torchdigits.reference import columns
from torchdigits.web import app as web
from torchdigits.web.guard import MAX_BYTES

Run = Callable[..., Outcome]
PNG = {"Content-Type": "image/png"}
PATHS = ("/", "/style.css", "/page.js", "/network", "/openapi.json", "/nowhere", "/recognize")


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
        expected = {"digit": found.digit, "runner_up": found.runner_up, "outputs": found.activations}
        expected |= {"hidden": found.hidden, "pixels": found.pixels.reshape(28, 28).tolist()}
        for answer in (
            client.post("/recognize", files={"picture": ("a picture", content, media_type)}),
            client.post("/recognize", content=content, headers={"Content-Type": media_type}),
            client.post("/recognize", content=content, headers={"Content-Type": "application/octet-stream"}),
        ):
            assert answer.status_code == 200
            assert answer.json() == expected


@pytest.mark.parametrize("sizes", [[784, 10], [784, 30, 10], [784, 40, 20, 10]])
def test_api_gives_the_activations_of_every_layer(tmp_path: Path, picture: bytes, sizes: list[int]) -> None:
    torch.manual_seed(0)
    save_network(network := SigmoidMLP(sizes), tmp_path / "some.ckpt")
    with asked(web.application(tmp_path / "some.ckpt")) as client:
        answer = client.post("/recognize", content=picture, headers=PNG).json()
    _, activations = reference_of(network).forward_pass(columns(np.array(answer["pixels"], np.uint8).reshape(1, 784)))
    assert [len(layer) for layer in answer["hidden"]] == sizes[1:-1]
    for found, expected in zip([*answer["hidden"], answer["outputs"]], activations[1:], strict=True):
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


def test_shipped_network_is_described_as_on_its_card(client: httpx.Client) -> None:
    card = (ROOT / "checkpoints" / "README.md").read_text()
    told = client.get("/network").json()
    assert told["sizes"] == list(load_network().sizes)
    assert told["sha256"] in card
    for name, fact in told["card"].items():
        assert re.search(rf"^\| {name} \| {re.escape(fact)}", card, re.MULTILINE)


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("content_type", ["image/png", "multipart/form-data; boundary=x"])
def test_a_body_over_the_limit_is_refused(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, announced: bool, content_type: str
) -> None:
    monkeypatch.setattr(Recognizer, "recognize", lambda *_: pytest.fail("it was recognised"))
    start = b'--x\r\nContent-Disposition: form-data; name="picture"; filename="x"\r\n\r\n'
    rest = blank(MAX_BYTES + 1 - len(start))
    body = start + b"".join(rest) if announced else (part for parts in ([start], rest) for part in parts)
    answer = client.post("/recognize", content=body, headers={"Content-Type": content_type})
    assert answer.status_code == 413
    assert answer.json() == {"error": "the body is larger than 10,000,000 bytes"}


def test_a_body_of_just_the_limit_is_read(client: httpx.Client, picture: bytes) -> None:
    content = picture + bytes(MAX_BYTES - len(picture))  # what follows the picture does not matter
    assert client.post("/recognize", content=content, headers=PNG).status_code == 200


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
    ],
)
def test_what_is_no_picture_of_a_digit_is_one_line(client: httpx.Client, status: int, request_: dict[str, str]) -> None:
    answer = client.request("POST", "/recognize", **request_)  # type: ignore[arg-type]  # of several kinds
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert re.fullmatch(r"[^\n<>]+", answer.json()["error"])


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
    for path, media_type in (("/", "html"), ("/style.css", "css"), ("/page.js", "javascript")):
        answer = client.get(path)
        assert answer.text == (Path(web.__file__).parent / (path[1:] or "index.html")).read_text()
        assert answer.headers["content-type"] == f"text/{media_type}; charset=utf-8"
    for path in ("/app.py", "/docs", "/redoc", "/style.css/", "/%2e%2e/app.py", "/..%2fapp.py", "/page.js%00"):
        assert client.get(path).status_code == 404, path
    for path in (
        "/../app.py",
        "//etc/passwd",
        "/style.css/../app.py",
        "http://evil.example/app.py",
    ):  # as httpx would not
        with socket.create_connection(("127.0.0.1", client.base_url.port or 80), timeout=10) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {client.base_url.netloc.decode()}\r\n\r\n".encode())
            assert connection.recv(12) == b"HTTP/1.1 404", path


def test_page_names_no_other_host_and_has_no_code_in_line() -> None:
    page = (Path(web.__file__).parent / "index.html").read_text()
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
@hypothesis.settings(max_examples=30, derandomize=True, deadline=None, database=None)
def test_api_does_what_its_description_says(case: schemathesis.Case[Any]) -> None:
    case.call_and_validate()


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
    assert_one_line_error(run_script("serve.py"), package, "pip install -e '.[web]'")


def test_answers_are_timed(run_script: Run, client: httpx.Client, mnist_dir: Path) -> None:
    options = ["--data-dir", mnist_dir, "--url"]
    outcome = run_script("benchmark_page.py", *options, client.base_url, "--pictures", 20)
    assert re.fullmatch(r"median [\d.]+ ms, p95 [\d.]+ ms, longest [\d.]+ ms; (19|20) of 20 recognised\n", outcome.out)
    assert_one_line_error(run_script("benchmark_page.py", *options, "http://127.0.0.1:1"), "http://127.0.0.1:1")
    assert_one_line_error(run_script("benchmark_page.py", *options, client.base_url, "--pictures", 1), "--pictures 1")
