import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, Outcome, assert_one_line_error
from PIL import Image, ImageDraw

from torchdigits import Recognizer, SigmoidMLP
from torchdigits.data.datasets import DigitSplits
from torchdigits.errors import CheckpointError, ImageError
from torchdigits.files.networks import save_network
from torchdigits.proof.gradients import reference_of
from torchdigits.proof.reference import columns
from torchdigits.recognition.preparation import prepare

Run = Callable[..., Outcome]


@pytest.fixture
def pictures(tmp_path: Path, digits: DigitSplits) -> list[Path]:
    """Ten pictures of the embedded test digits, as files: black on white, 140 pixels wide."""
    paths = [tmp_path / f"{number} of ten.png" for number in range(10)]
    for path, image in zip(paths, digits.test.images, strict=False):
        Image.fromarray(255 - image.view(28, 28).numpy()).resize((140, 140)).save(path)
    return paths


@pytest.mark.parametrize("hidden", [(), (30,), (20, 15)])
def test_a_picture_is_recognised_alike_as_file_image_and_array(
    pictures: list[Path], tmp_path: Path, hidden: tuple[int, ...]
) -> None:
    network = SigmoidMLP((784, *hidden, 10)).double()
    save_network(network, tmp_path / "network.ckpt")
    recognizer = Recognizer(tmp_path / "network.ckpt")
    for path in pictures:
        with Image.open(path) as image, path.open("rb") as file:
            answers = [recognizer.recognize(p) for p in (path, str(path), file, image, np.asarray(image))]
        pixels = prepare(path)
        expected = reference_of(network).forward_pass(columns(pixels[np.newaxis]))[1]
        for answer in answers:
            np.testing.assert_array_equal(answer.pixels, pixels)
            assert len(answer.hidden) == len(hidden)
            for found, activations in zip((*answer.hidden, answer.activations), expected[1:], strict=True):
                np.testing.assert_allclose(found, activations[:, 0], rtol=1e-10)
            assert [answer.digit, answer.runner_up] == [*np.argsort(expected[-1][:, 0])[:-3:-1]]


def test_predict_prints_a_line_a_picture(run_script: Run, pictures: list[Path]) -> None:
    outcome = run_script("predict.py", *pictures)
    assert (outcome.status, outcome.err) == (0, "")
    recognizer = Recognizer()
    for path, line in zip(pictures, outcome.out.splitlines(), strict=True):
        digit, runner_up, activations, *_, sure = recognizer.recognize(path)
        guess = "" if sure else "unsure, perhaps "
        answers = f"{digit} ({activations[digit]:.3f}), then {runner_up} ({activations[runner_up]:.3f})"
        assert line == f"{path}: {guess}{answers}"


def test_predict_can_speak_json(run_script: Run, pictures: list[Path]) -> None:
    outcome = run_script("predict.py", *pictures, "--json")
    assert outcome.status == 0
    recognizer = Recognizer()
    for path, line in zip(pictures, outcome.out.splitlines(), strict=True):
        [[box, found]] = recognizer.read(path).digits
        activations = pytest.approx(found.activations, abs=1e-5)  # in a batch they are rounded otherwise
        answer = {"digit": found.digit, "runner_up": found.runner_up, "activations": activations}
        digit = answer | {"doubt": found.doubt, "sure": found.sure, "box": list(box)}
        expected = {"file": str(path), **answer, "text": str(found.digit), "digits": [digit]}
        assert json.loads(line) == expected


@pytest.fixture
def row(tmp_path: Path, mnist: DigitSplits) -> Path:
    """Six digits in two lines, the last of which is upside down, and so hardly one."""
    images = 255 - mnist.test.images[:6].view(-1, 28, 28).numpy()
    images[5] = images[5][::-1, ::-1]
    page = np.vstack([np.hstack([*images[:3]]), np.hstack([*images[3:]])])
    Image.fromarray(page).resize((336, 224)).save(path := tmp_path / "page.png")
    return path


@pytest.mark.slow
def test_a_page_is_printed_as_it_stands(run_script: Run, row: Path, pictures: list[Path], tmp_path: Path) -> None:
    page = Recognizer().read(row)
    assert page.text.startswith("721\n04")
    assert run_script("predict.py", row).out == f"{page.text}\n"
    both = run_script("predict.py", row, pictures[0]).out
    assert both.startswith(f"{row}:\n{page.text}\n{pictures[0]}: ")
    doubts = [found.recognition.doubt for found in page.digits]
    for level in (0, np.median(doubts), 1):
        text = "".join(
            str(found.recognition.digit) if doubt <= level else "?"
            for found, doubt in zip(page.digits, doubts, strict=True)
        )
        assert run_script("predict.py", row, "--unsure", level).out == f"{text[:3]}\n{text[3:]}\n"
    answer = json.loads(run_script("predict.py", row, "--json").out)
    assert (answer["text"], [found["box"] for found in answer["digits"]]) == (
        page.text,
        [[*f.box] for f in page.digits],
    )
    assert {"digit", "activations"}.isdisjoint(answer)
    show = tmp_path / "show.png"
    assert run_script("predict.py", row, "--show", show).status == 0
    with Image.open(show) as drawn:
        colours = {colour for _, colour in drawn.convert("RGB").getcolors(2**24) or ()}
    assert (0x18, 0x70, 0xBE) in colours  # the boxes
    for wrong in ("-0.1", "1.1", "nan"):
        assert_one_line_error(run_script("predict.py", row, f"--unsure={wrong}"), "--unsure", "0 to 1")


def test_what_is_hardly_a_digit_is_called_unsure(run_script: Run, tmp_path: Path) -> None:
    """A star; and a page of crosses."""
    star, crosses = Image.new("L", (200, 200), 255), Image.new("L", (600, 300), 255)
    draw = ImageDraw.Draw(star)
    for turn in range(4):
        x, y = 70 * np.cos(turn * np.pi / 4), 70 * np.sin(turn * np.pi / 4)
        draw.line([(100 - x, 100 - y), (100 + x, 100 + y)], 0, 12)
    draw = ImageDraw.Draw(crosses)
    for left in range(50, 550, 100):
        for top in (60, 180):
            draw.line([(left, top), (left + 50, top + 60)], 0, 8)
            draw.line([(left + 50, top), (left, top + 60)], 0, 8)
    star.save(tmp_path / "star.png")
    crosses.save(tmp_path / "crosses.png")
    assert ": unsure" in run_script("predict.py", tmp_path / "star.png").out
    assert re.search(r": unsure: (\d+) of \1 marks", run_script("predict.py", tmp_path / "crosses.png").out)
    assert re.fullmatch(r"\?+\n\?+\n", run_script("predict.py", tmp_path / "crosses.png", "--unsure", 0.9).out)


def test_formats_that_cannot_be_read_are_named(run_script: Run, tmp_path: Path) -> None:
    """In a folder too, where other files are passed over."""
    folder = tmp_path / "phone"
    folder.mkdir()
    for name, content in (
        ("a.heic", b"\0\0\0\x18ftypheic\0\0\0\0"),
        ("b.avif", b"\0\0\0\x18ftypavif\0\0\0\0"),
        ("c.pdf", b"%PDF-1.7\n"),
        ("d.txt", b"7"),
    ):
        (folder / name).write_bytes(content)
    outcome = run_script("predict.py", folder)
    assert outcome.status == 2
    errors = outcome.err.splitlines()
    assert len(errors) == 3
    for name, kind, line in zip("abc", ("HEIC", "AVIF", "PDF"), errors, strict=True):
        assert line.startswith(f"error: {folder / name}.")
        assert line.endswith(f": it is {kind}, which cannot be read: save it as JPEG or PNG")


def test_folders_and_patterns_name_pictures(run_script: Run, pictures: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "more" / "scans [2026]"
    folder.mkdir(parents=True)
    for name in ("b.PNG", "a.png", "notes.txt"):
        (folder / name).write_bytes(pictures[0].read_bytes())
    (folder / "folder.png").mkdir()

    def named(*arguments: object) -> list[str]:
        return [line.split(": ")[0] for line in run_script("predict.py", *arguments).out.splitlines()]

    assert named(folder, tmp_path / "[12] of*") == [
        str(folder / "a.png"),
        str(folder / "b.PNG"),
        *map(str, pictures[1:3]),
    ]
    assert named(tmp_path / "more" / "**" / "*.png") == [str(folder / "a.png")]
    assert named(folder / "notes.txt") == [str(folder / "notes.txt")]  # who names a file means it
    (tmp_path / "empty").mkdir()
    for nothing in (tmp_path / "empty", tmp_path / "x*.png"):
        assert_one_line_error(run_script("predict.py", nothing), f"{nothing}: there are no pictures")
    assert_one_line_error(run_script("predict.py", tmp_path / ("a" * 300)), "File name too long")


def test_a_name_does_not_command_the_terminal(run_script: Run, pictures: list[Path], tmp_path: Path) -> None:
    named = pictures[0].rename(tmp_path / "a\n\x1b[31m\udcff.png")
    strip = tmp_path / "strip.png"
    outcome = run_script("predict.py", named, "--show", strip)
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.startswith(f"{tmp_path}/a??[31m?.png: ")
    assert outcome.out.count("\n") == 1
    named.write_text("no picture")
    assert_one_line_error(run_script("predict.py", named), "a??[31m?.png: it is not a picture")


def test_the_steps_are_drawn(run_script: Run, pictures: list[Path], tmp_path: Path) -> None:
    one, strip = tmp_path / "one.png", tmp_path / "two.png"
    assert run_script("predict.py", pictures[0], "--show", one).status == 0
    assert run_script("predict.py", *pictures[:2], "--show", strip).out.count("\n") == 2
    with Image.open(one) as single, Image.open(strip) as double:
        assert double.size == (single.width, 2 * single.height)
        assert double.convert("L").getextrema() == (0, 255)
    assert_one_line_error(run_script("predict.py", pictures[0], "--show", strip), "--show", "exists already")
    new = tmp_path / "new.png"
    assert_one_line_error(
        run_script("predict.py", *pictures * 2, "--show", new), "--show: it draws 12 pictures at most", "20"
    )
    assert not new.exists()


def test_the_steps_of_just_12_pictures_are_drawn(
    run_script: Run, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    monkeypatch.setattr("torchdigits.commands.predict.plot_preparation", lambda strips, _: drawn.append(len(strips)))
    twelve, new = [*pictures, *pictures[:2]], tmp_path / "new.png"
    assert run_script("predict.py", *twelve, "--show", new).status == 0
    assert drawn == [12]
    assert_one_line_error(
        run_script("predict.py", *twelve, pictures[0], "--show", new), "12 pictures at most", "there are 13"
    )


def test_a_picture_that_cannot_be_read_does_not_stop_the_others(
    run_script: Run, pictures: list[Path], tmp_path: Path
) -> None:
    outcome = run_script("predict.py", pictures[0], tmp_path / "missing.png", pictures[1])
    assert outcome.status == 2
    assert len(outcome.out.splitlines()) == 2
    assert outcome.err == f"error: cannot read {tmp_path / 'missing.png'}: No such file or directory\n"


def test_what_is_no_picture_of_a_digit_is_one_line(run_script: Run, pictures: list[Path], tmp_path: Path) -> None:
    text, empty, cut, blank, faint = (tmp_path / name for name in ("a.txt", "b.png", "c.png", "d.png", "e.png"))
    text.write_text("seven")
    empty.write_bytes(b"")
    cut.write_bytes(pictures[0].read_bytes()[:100])
    Image.new("RGB", (280, 280), "white").save(blank)
    Image.fromarray(np.random.default_rng(0).normal(200, 10, (200, 200)).astype(np.uint8)).save(faint)
    assert_one_line_error(run_script("predict.py", text), f"{text}: it is not a picture")
    assert_one_line_error(run_script("predict.py", empty), f"{empty}: it is not a picture")
    assert_one_line_error(run_script("predict.py", cut), f"{cut}: it cannot be read")
    assert_one_line_error(run_script("predict.py", blank), f"{blank}: there is no ink on it")
    assert_one_line_error(run_script("predict.py", faint), f"{faint}: there is nothing on it but specks")
    assert_one_line_error(run_script("predict.py"), "picture")


def test_a_damaged_image_that_is_already_open_is_refused(pictures: list[Path], tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(pictures[0].read_bytes()[:100])
    with Image.open(tmp_path / "cut.png") as image, pytest.raises(ImageError, match="the picture: it cannot be read"):
        Recognizer().recognize(image)


def test_a_picture_cannot_run_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary, ghostscript = tmp_path / "canary", tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {canary}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "x.eps").write_text(
        '%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n%%EndComments\n%%ImageData: 28 28 8 1 0 1 1 "x"\n'
    )
    with pytest.raises(ImageError, match="not a picture"):
        Recognizer().recognize(tmp_path / "x.eps")
    assert not canary.exists()


def test_checkpoints_that_read_no_digits_are_one_line(run_script: Run, pictures: list[Path], tmp_path: Path) -> None:
    missing, text, other = tmp_path / "missing.ckpt", tmp_path / "text.ckpt", tmp_path / "other.ckpt"
    text.write_text("weights")
    torch.save({"state_dict": {f"network.{k}": v for k, v in SigmoidMLP([9, 2]).state_dict().items()}}, other)
    for path, words in (
        (missing, "there is no checkpoint"),
        (text, "is not a checkpoint of DigitClassifier: damaged, or of another kind"),
        (other, "784 inputs"),
    ):
        for script, arguments in (("predict.py", pictures[:1]), ("evaluate.py", ["--dataset", "digits"])):
            outcome = run_script(script, *arguments, "--checkpoint", path)
            assert_one_line_error(outcome, str(path), words)
        with pytest.raises(CheckpointError):
            Recognizer(path)


@pytest.mark.slow
def test_predict_runs_from_any_folder_and_prints_past_its_progress_bar(pictures: list[Path], tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "predict.py"), *(path.name for path in pictures)]
    terminal, its_other_end = pty.openpty()
    with os.fdopen(terminal, "rb"), os.fdopen(its_other_end, "wb") as stderr:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=tmp_path, check=False)
        assert b"recognising" in os.read(terminal, 4096)
    assert done.returncode == 0
    assert [line.partition(": ")[0] for line in done.stdout.splitlines()] == [path.name for path in pictures]


@pytest.mark.slow
def test_nobody_has_to_read_all_answers(pictures: list[Path]) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "predict.py"), *map(str, pictures * 20)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(str(pictures[0]))
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1
