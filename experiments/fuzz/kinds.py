"""All kinds of input, by name."""

from experiments.fuzz.pictures import PICTURES
from experiments.fuzz.saved import SAVED
from experiments.fuzz.tables import TABLES
from experiments.fuzz.weights import WEIGHTS

KINDS = {**PICTURES, **TABLES, **WEIGHTS, **SAVED}
