"""One line that says how far long work is and how much time is left."""

import os
import sys
import time


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    return bool(shell) and "IPKernelApp" in shell.config


def clock(seconds: float) -> str:
    """ "4 s", "3 min 20 s" or "2 h 05 min"."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


class Progress:
    """Shows a changing line: in place in a terminal, in one updating output in a notebook, every so often elsewhere.

    Set `KD_PROGRESS=sparse` for the last form everywhere (an executed notebook then keeps a few plain lines).

    Args:
        every: least seconds between two lines in the sparse form.
    """

    def __init__(self, every: float = 30.0):
        self.every, self.shown, self.handle = every, 0.0, None
        sparse = os.environ.get("KD_PROGRESS") == "sparse"
        self.form = (
            "sparse" if sparse else "notebook" if _in_notebook() else "terminal" if sys.stderr.isatty() else "sparse"
        )

    def show(self, line: str, *, last: bool = False) -> None:
        """Show the line; the last one always appears and stays."""
        if self.form == "terminal":
            width = os.get_terminal_size(sys.stderr.fileno()).columns - 1
            sys.stderr.write(f"\r\033[K{line[:width]}" + "\n" * last)
        elif self.form == "notebook":
            from IPython.display import display

            if self.handle is None:
                self.handle = display({"text/plain": line}, raw=True, display_id=True)
            else:
                self.handle.update({"text/plain": line}, raw=True)
        elif last or time.monotonic() - self.shown >= self.every:
            self.shown = time.monotonic()
            sys.stderr.write(line + "\n")
        sys.stderr.flush()
