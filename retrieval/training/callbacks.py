"""What Tandem adds to a transformers ``Trainer``: progress, and checkpoints by the clock. Both stages use it."""

import time
from collections.abc import Callable, Iterator
from itertools import repeat

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from corpus.progress import track


class TrainingProgress(TrainerCallback):  # type: ignore[misc]  # the library is untyped
    """A bar with rate and ETA on a terminal, one log line a minute elsewhere."""

    def __init__(self, description: str) -> None:
        """Take what is being trained, such as "training the retriever"."""
        self._description = description
        self._steps: Iterator[None] = iter(())

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Start the bar; a resumed training counts what is left."""
        left = max(state.max_steps - state.global_step, 0)
        done = f", resumed after step {state.global_step}" if state.global_step else ""
        self._steps = track(repeat(None, left), description=self._description + done, total=left)
        next(self._steps, None)  # the first step is under way

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Advance the bar."""
        next(self._steps, None)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """End the bar."""
        self.close()

    def close(self) -> None:
        """End the bar, also after an error."""
        close = getattr(self._steps, "close", None)
        if close is not None:
            close()


class CheckpointClock(TrainerCallback):  # type: ignore[misc]  # the library is untyped
    """Asks for a checkpoint whenever so much work would be lost in a kill."""

    def __init__(
        self, minutes: float, *, agree: Callable[[Callable[[], bool]], bool] = lambda decide: decide()
    ) -> None:
        """Set the clock.

        Args:
            minutes: The most work that may be lost; 0: every step is saved.
            agree: Makes one decision of those of several processes, whose clocks differ.
        """
        self._seconds = 60 * minutes
        self._agree = agree
        self._saved = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Start the clock."""
        self._saved = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Ask for a checkpoint if it is time."""
        if self._agree(lambda: time.monotonic() - self._saved >= self._seconds):
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Start the clock anew, after every checkpoint whoever asked for it."""
        self._saved = time.monotonic()
