"""``diag --help`` beside an empty typer app with as many commands, in turn, in one run."""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from diag.cli import app

EMPTY = """
import typer
app = typer.Typer()
{commands}
app()
"""
COMMAND = '''
@app.command()
def command_{number}() -> None:
    """One of them."""
'''
ROUNDS = 15


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "empty.py"
        count = len(app.registered_commands)
        empty.write_text(EMPTY.format(commands="".join(COMMAND.format(number=n) for n in range(count))))
        ours = [sys.executable, "-m", "diag.cli", "--help"]
        theirs = [sys.executable, str(empty), "--help"]
        seconds(ours), seconds(theirs)
        pairs = [(seconds(ours), seconds(theirs)) for _ in range(ROUNDS)]
    ratios = sorted(mine / other for mine, other in pairs)
    print(f"diag --help:            {statistics.median(mine for mine, _ in pairs):.3f} s")
    print(f"empty typer, {count} commands: {statistics.median(other for _, other in pairs):.3f} s")
    print(f"ratio: {statistics.median(ratios):.2f}, {ratios[0]:.2f} to {ratios[-1]:.2f} (aim: at most 1.5)")


if __name__ == "__main__":
    main()
