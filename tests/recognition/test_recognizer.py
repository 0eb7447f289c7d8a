import subprocess
import sys


def test_to_recognise_digits_imports_neither_lightning_nor_what_only_commands_and_figures_need() -> None:
    code = (
        "import sys, torchdigits.recognition.recognizer, torchdigits.recognition.report;"
        "from torchdigits import Recognizer; Recognizer();"
        "print(sorted({'lightning', 'matplotlib', 'rich', 'torchmetrics', 'torchvision', 'tyro'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
