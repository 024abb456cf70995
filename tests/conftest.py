"""Four virtual CPU devices for every test, so that parallel code runs for real.

Without LLVM's optimisations: most of what a test of a tiny model does is compile it.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
)
