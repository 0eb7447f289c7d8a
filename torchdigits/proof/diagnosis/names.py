"""What names stand for in other people's programs: of methods, attributes and arguments."""

import re

BACKPROP = re.compile(r"back_?prop\w*|backward\w*|(compute_|get_|calc\w*_)?grad(ient)?s?", re.IGNORECASE)
FORWARD = re.compile(r"feed_?forward|forward|predict_proba|__call__", re.IGNORECASE)
COST = re.compile(r"(quadratic_)?(cost|loss)", re.IGNORECASE)
ETA_NAME = r"eta|alpha|lr|learning_?rate|step_?size|rate"
UPDATE = re.compile(r"(update|train|step)_?(mini_?)?(batch|step|weights)?|update\w*", re.IGNORECASE)
OUTPUTS = r"o|out\w*|a|activations?|y_?hat|y_?pred\w*|pred\w*"
BATCH = r"(mini_?)?batch|(mini_?)?batch_?data|data|examples|samples"
DESCENT = re.compile(r"sgd|(stochastic_)?gradient_descent|train|fit", re.IGNORECASE)
ATTRIBUTES = {"weights": r"w|weights?|ws", "biases": r"b|bias(es)?|bs"}
PARAMETERS = {
    "weights": r"w\w*|weights?",
    "biases": r"b\w*|bias(es)?",
    "x": r"x\w*|images?|inputs?",
    "y": r"y\w*|targets?|labels?|t",
}


def meant(name: str) -> str:
    """What an argument of this name is."""
    kinds = {"params": r"param\w*|theta|model|network"} | PARAMETERS
    return next((kind for kind, pattern in kinds.items() if re.fullmatch(pattern, name, re.IGNORECASE)), "")


def is_eta(name: str) -> bool:
    return re.fullmatch(ETA_NAME, name, re.IGNORECASE) is not None
