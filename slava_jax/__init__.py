"""sLAVA in JAX: a small vision-language assistant for electron micrographs."""

import os

# transformers prints at import that torch is missing, but this library does not need it.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
