import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from torchdigits import Recognizer, SigmoidMLP
from torchdigits.files.networks import save_network


def test_to_recognise_digits_imports_neither_lightning_nor_what_only_commands_and_figures_need() -> None:
    code = (
        "import sys, torchdigits.recognition.recognizer, torchdigits.recognition.report;"
        "from torchdigits import Recognizer; Recognizer();"
        "print(sorted({'lightning', 'matplotlib', 'rich', 'torchmetrics', 'torchvision', 'tyro'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_of_equal_activations_the_first_digit_is_the_answer(tmp_path: Path) -> None:
    """As argmax has it, by which images are counted."""
    network = SigmoidMLP((784, 10))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    save_network(network, tmp_path / "x.ckpt")
    found = Recognizer(tmp_path / "x.ckpt").answer(np.zeros(784, np.uint8))
    assert (found.digit, found.runner_up) == (0, 1)


def test_a_picture_may_come_as_bytes_and_pictures_in_a_list(tmp_path: Path) -> None:
    pixels = np.zeros((28, 28), np.uint8)
    pixels[4:24, 12:16] = 255
    Image.fromarray(pixels).save(tmp_path / "one.png")
    recognizer, file = Recognizer(), tmp_path / "one.png"
    expected = recognizer.recognize(file)
    found = recognizer.recognize([file, file.read_bytes(), Image.open(file), pixels, pixels.reshape(784)])
    assert [recognition.activations for recognition in found] == [expected.activations] * 5
    assert recognizer.recognize([]) == []
