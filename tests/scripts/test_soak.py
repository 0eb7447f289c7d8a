from collections.abc import Callable
from importlib import import_module
from urllib.parse import urlsplit

import pytest
from conftest import ROOT, Outcome, assert_one_line_error, served

Run = Callable[..., Outcome]


@pytest.mark.slow
def test_the_servers_clients_are_answered_as_each_deserves(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchdigits.web.app import application

    monkeypatch.syspath_prepend(ROOT / "scripts")
    soak = import_module("soak")
    monkeypatch.setattr(soak, "PATIENCE", 0.5)
    with served(application()) as address:
        counts, times = soak._ask(urlsplit(address).port, 1)
    assert len(times) == counts["drawing 200"] > 0
    expected = ("large picture 200", "noise 422", "page 200", "run 201", "idle", "reads nothing")
    assert min(counts[what] for what in expected) > 0


def test_options_that_make_no_sense_are_one_line(run_script: Run) -> None:
    assert_one_line_error(run_script("soak.py", "--minutes", 0), "--minutes 0")
    assert_one_line_error(run_script("soak.py", "--part", "runs", "--runs", 0), "--runs 0")
