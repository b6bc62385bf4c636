"""Work done on threads while the caller goes on: what releases the interpreter's lock gains by it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Yield `function(item)` for each of `items` in order, computed on `workers` threads before they are asked for.

    At most twice as many results as workers wait to be taken. An error is raised in its turn. Whoever stops early
    (closes the generator, or is interrupted) waits for what is under way, and nothing else is begun. The threads live
    as long as the generator, so that there are none to mend in a forked process.
    """
    from concurrent.futures import Future, ThreadPoolExecutor

    waiting: deque[Future[Result] | Item] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="torchless")

    def take() -> Result:
        first = waiting.popleft()
        return first.result() if isinstance(first, Future) else function(first)

    try:
        for item in items:
            try:
                waiting.append(pool.submit(function, item))
            except RuntimeError:  # the interpreter is ending and starts no thread any more
                waiting.append(item)
            if len(waiting) > 2 * workers:
                yield take()
        while waiting:
            yield take()
    finally:
        pool.shutdown(cancel_futures=True)


class Begun(Generic[Result]):
    """What `function` gives, computed on a thread from now on."""

    def __init__(self, function: Callable[[], Result]) -> None:
        self._outcome: list[Result] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, args=(function,), name="torchless-begun")
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter is ending and starts no thread any more
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
