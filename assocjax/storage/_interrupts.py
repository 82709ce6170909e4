"""Ctrl-C during long work: the first one stops after the next save, the second one at once."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class Interrupts:
    """Counts interrupts (SIGINT) since `deferred_interrupts` began."""

    def __init__(self):
        self.count = 0

    def handle(self, *_: object) -> None:
        self.count += 1
        if self.count > 1:
            raise KeyboardInterrupt


@contextlib.contextmanager
def deferred_interrupts(enabled: bool = True) -> Iterator[Interrupts]:
    """Counts the first Ctrl-C instead of raising it, so that work can be saved before it stops.

    Python delivers signals to the main thread only. In another thread, or if `enabled` is false,
    Ctrl-C raises KeyboardInterrupt at once, as usual.
    """
    interrupts = Interrupts()
    if not enabled or threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    before = signal.signal(signal.SIGINT, interrupts.handle)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)
