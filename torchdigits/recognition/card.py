"""The model card of the network that comes with torchdigits: README.md beside its checkpoint."""

import re

from torchdigits.files.networks import shipped_checkpoint


def card_facts(sha256: str) -> dict[str, str]:
    """What the model card says of a network in its table, by the rows' names.

    Args:
        sha256: of the network's file, in hexadecimal.

    Returns:
        The first sentence of each row. Nothing if the card is on another file, or is not there.
    """
    card = shipped_checkpoint().with_name("README.md")
    if not card.is_file():
        return {}
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", card.read_text(encoding="utf-8"), re.MULTILINE)
    facts = {name: text.partition(". ")[0] for name, text in rows}
    return facts if facts.get("SHA-256") == f"`{sha256}`" else {}
