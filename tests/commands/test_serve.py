"""The command serve, up to the server: where it listens, with which network, and what it says."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import httpx
import pytest
import torch
import uvicorn
from conftest import Outcome, assert_one_line_error
from starlette.types import ASGIApp

from torchdigits import SigmoidMLP
from torchdigits.files.networks import save_network

Run = Callable[..., Outcome]


async def sizes(application: ASGIApp, name: str) -> list[int]:
    """Of the network, as who asks by this name is told."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url=f"http://{name}") as client:
        return list((await client.get("/network")).json()["sizes"])


@pytest.mark.parametrize(
    ("host", "shown", "names"),
    [
        ("127.0.0.1", "127.0.0.1", []),
        ("localhost", "localhost", []),
        ("0.0.0.0", "127.0.0.1", ["192.0.2.1"]),
        ("::1", "[::1]", []),
        ("::", "[::1]", ["[2001:db8::1]"]),
    ],
)
def test_it_serves_the_network_where_it_says(
    run_script: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    host: str,
    shown: str,
    names: list[str],
) -> None:
    save_network(SigmoidMLP([784, 3, 10]), tmp_path / "some.ckpt")
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(2)
    served: list[tuple[ASGIApp, int]] = []

    def until_ctrl_c(server: uvicorn.Server, sockets: Sequence[socket.socket]) -> None:
        served.append((server.config.app, sockets[0].getsockname()[1]))  # type: ignore[arg-type]  # it is no text here
        raise KeyboardInterrupt

    monkeypatch.setattr(uvicorn.Server, "run", until_ctrl_c)
    outcome = run_script("serve.py", "--host", host, "--port", 0, "--checkpoint", tmp_path / "some.ckpt")
    ((application, port),) = served
    assert outcome == (130, f"Draw at http://{shown}:{port}/ (Ctrl-C ends it)\n", "")
    for name in [shown, *names]:
        assert asyncio.run(sizes(application, f"{name}:{port}")) == [784, 3, 10]
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("name", [".", "nowhere", "x" * 300, "a\0b"])
def test_a_folder_without_mnist_is_told(run_script: Run, tmp_path: Path, name: str) -> None:
    assert_one_line_error(run_script("serve.py", "--port", 0, "--data-dir", tmp_path / name), "--data-dir", "no MNIST")
    assert [*tmp_path.iterdir()] == []
