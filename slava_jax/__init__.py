"""sLAVA in JAX: a small vision-language assistant for electron micrographs."""

import os

# transformers announces at import that it found no torch, which this library does not need.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
