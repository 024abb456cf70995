"""`python -m slava_jax` is the program `slava`."""

from slava_jax.commands.cli import main

if __name__ == "__main__":
    main()
