"""Work done on threads while the caller goes on: what releases the interpreter's lock gains by it."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator

# Not its executor: that is loaded at its first use, and not any more once the interpreter is ending.
from concurrent.futures import Future
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Yield `function(item)` for each of `items` in order, computed on `workers` threads before they are asked for.

    At most twice as many results as workers wait to be taken. An error is raised in its turn. Whoever stops early
    (closes the generator, or is interrupted) waits for what is under way, and nothing else is begun. The threads live
    no longer than the generator, so that there are none to mend in a forked process; nor than there is something to
    do, so that a generator that nobody ends keeps no process from ending.
    """
    waiting: deque[Future[Result]] = deque()
    team = _Team(function, workers)
    try:
        for item in items:
            waiting.append(team.submit(item))
            if len(waiting) > 2 * workers:
                yield team.result(waiting.popleft())
        while waiting:
            yield team.result(waiting.popleft())
    finally:
        team.end()


class _Team(Generic[Item, Result]):
    """At most `workers` threads, which end when nothing is left to do."""

    def __init__(self, function: Callable[[Item], Result], workers: int) -> None:
        self._function, self._workers = function, workers
        self._queue: deque[tuple[Future[Result], Item]] = deque()
        self._threads: list[threading.Thread] = []
        self._working = 0
        self._lock = threading.Lock()

    def submit(self, item: Item) -> Future[Result]:
        future: Future[Result] = Future()
        with self._lock:
            self._queue.append((future, item))
            if self._working == self._workers:
                return future
            self._working += 1
        thread = threading.Thread(target=self._work, name="torchless")
        self._threads = [*(thread for thread in self._threads if thread.is_alive()), thread]
        if not _start(thread):  # the others do it
            self._threads.remove(thread)
            with self._lock:
                self._working -= 1
        return future

    def result(self, future: Future[Result]) -> Result:
        """Wait for what `submit` gave; where there are no threads, the caller does it.

        Threads end only with the queue, so that without any it begins with `future`.
        """
        if not self._working and not future.done():
            self._do(*self._queue.popleft())
        return future.result()

    def end(self) -> None:
        """Begin nothing else, and return when nothing is under way."""
        self._queue.clear()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def _work(self) -> None:
        while True:
            with self._lock:
                try:
                    task = self._queue.popleft()
                except IndexError:
                    self._working -= 1
                    return
            self._do(*task)
            del task  # what waits for more work keeps nothing of the last

    def _do(self, future: Future[Result], item: Item) -> None:
        try:
            future.set_result(self._function(item))
        except BaseException as error:  # raised where the result is asked for
            future.set_exception(error)
            del future  # which holds the error, and the error this frame


class Begun(Generic[Result]):
    """What `function` gives, computed on a thread from now on."""

    def __init__(self, function: Callable[[], Result]) -> None:
        self._outcome: list[Result] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, args=(function,), name="torchless-begun")
        if not _start(self._thread):
            self._work(function)

    def _work(self, function: Callable[[], Result]) -> None:
        try:
            self._outcome.append(function())
        except BaseException as error:  # raised where the result is asked for
            self._error = error

    def wait(self) -> None:
        """Return when it is done, well or not."""
        if self._thread.ident is not None:
            self._thread.join()

    def result(self) -> Result:
        """Wait for it; raises what `function` raised."""
        self.wait()
        if self._error is not None:
            raise self._error
        return self._outcome[0]


def _start(thread: threading.Thread) -> bool:
    """Start `thread`; False where the interpreter is ending, or the system has no more of them."""
    if sys.is_finalizing():  # Python 3.11 would start it, and wait for ever for its first step
        return False
    try:
        thread.start()
    except RuntimeError:
        return False
    return True
