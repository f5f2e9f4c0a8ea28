"""`python -m pipecrypt`. All work is left to cli."""

from pipecrypt.cli.main import run_and_exit

if __name__ == "__main__":
    run_and_exit()
