"""What a training loop does beside training: its folder, progress, signals, and saving in time."""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import torch
from torch import Tensor

from cxr_common.training.accelerator import peak_memories
from cxr_common.training.processes import any_process, gather_per_process, highest_signal
from cxr_common.training.resume import StopSignal, load_state, save_state
from cxr_common.training.run_folder import RunFolder, open_run
from cxr_common.training.state import TrainState
from cxr_common.training.tracking import Tracker, check_tracker
from cxr_data.command_line.progress import Progress
from cxr_data.errors import BadInput

if TYPE_CHECKING:
    from accelerate import Accelerator

ASK_EVERY = 10
"""Steps of a run after which several processes ask one another whether any received a signal to stop."""
WARM_UP = 10
"""Steps of a start that are left out of its speed: kernels are chosen and threads started in them."""
LOST = ("gloo/transport", "Connection closed by peer", "Connection reset by peer", "NCCL error: remote process exited")
"""What torch says where a process that this one exchanges tensors with has ended."""

B = TypeVar("B")


@contextlib.contextmanager
def open_training_run(
    folder: Path,
    identity: dict[str, Any],
    config: dict[str, Any],
    accelerator: "Accelerator",
    *,
    restart: bool = False,
    extend: bool = False,
    track: str | None = None,
) -> Iterator[RunFolder]:
    """The run's folder, held until the block ends; says where the run is finished, or batches cannot be of equal parts.

    Args:
        folder: The folder.
        identity: What the result depends on.
        config: The command's config, for ``config.yaml``.
        accelerator: Its main process writes.
        restart: Set a run of another identity aside.
        extend: Continue a run that differs in its number of epochs alone.
        track: Experiment tracker that is told what is logged, see `cxr_common.training.tracking`; None for none.

    Raises:
        BadInput: As `open_run`; a tracker that is not there; or processes of different trainings.
    """
    check_tracker(track)
    if accelerator.num_processes > 1:
        _refuse_differing(identity, accelerator)
    main = accelerator.is_main_process
    with accelerator.main_process_first():
        run = open_run(folder, identity, config, restart=restart, extend=extend, main=main)
    with contextlib.closing(run):
        if run.finished and main:
            print(f"{folder}: already finished, nothing to do")
        if not run.finished and main and config.get("batch_size", 0) % accelerator.num_processes:
            processes = f"{accelerator.num_processes} processes, which take equal parts: batches are smaller"
            print(f"{folder.name}: --batch_size {config['batch_size']} is no multiple of {processes}", flush=True)
        if track is not None and main and not run.finished:
            run.tracker = Tracker(track, folder, config)
        yield run


def _refuse_differing(identity: dict[str, Any], accelerator: "Accelerator") -> None:
    """Refuse processes that would each train on another order of the images."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    own = torch.tensor(int(digest[:12], 16), device=accelerator.device)
    if gather_per_process({"identity": own}, accelerator)["identity"].unique().numel() > 1:
        do = "start all with the same command and environment (CXR_CACHE_GB)"
        raise BadInput("the same training in all processes", "different data, options or sizes of the cache", do=do)


class TrainingSession:
    """Progress, signals and saving of one start of a training, within a ``with`` block.

    Leaving is decided by all processes together: a signal to any of them makes all save and leave after the same
    step. Saving takes at most a tenth of the time, however short the epochs; after a signal it always happens.

    Args:
        run: The folder; what it saved is loaded into ``state``.
        state: The state that the loop changes.
        epochs: Epochs of the whole run.
        steps: Steps of an epoch.
        batch_size: Images of a step, over all processes.

    Raises:
        BadInput: What was saved is damaged, or of another batch size, as another number of processes may bring it.
    """

    def __init__(self, run: RunFolder, state: TrainState[Any], *, epochs: int, steps: int, batch_size: int):
        self.run, self.state, self.epochs, self.steps, self.batch_size = run, state, epochs, steps, batch_size
        self.resumed = self._resume()
        self.name = run.path.name
        self.progress = Progress(
            self.name, epochs, steps, start_epoch=state.epoch, start_step=state.step, show=run.main
        )
        self._stop = StopSignal()
        self._began = self._saved = time.perf_counter() - state.seconds
        self._cost_of_saving = 0.0
        self._sent: tuple[Tensor, Any] | None = None
        self._steps, self._timed_images, self._waited, self._passed = 0, 0, 0.0, 0.0

    def __enter__(self) -> Self:
        """Catch signals and show progress."""
        self._stop.__enter__()
        self.progress.__enter__()
        if self.resumed:
            self.say(f"resumes in epoch {self.state.epoch + 1}, step {self.state.step + 1}")
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Restore the previous signal handlers; say plainly where another process has ended."""
        self.progress.__exit__(kind, error, trace)
        self._stop.__exit__(kind, error, trace)
        processes = self.state.accelerator.num_processes
        if processes > 1 and isinstance(error, RuntimeError) and any(sign in str(error) for sign in LOST):
            do = "see what that one said; the same command resumes from what was saved last"
            raise BadInput(f"{processes} processes", "one of them has ended", where=self.run.path, do=do) from error

    def say(self, text: str) -> None:
        """Print a line of this run."""
        self.progress.say(f"{self.name}: {text}")

    def end_step(self, images: int, loss: Tensor) -> None:
        """Count a step; save and leave where any process received a signal.

        Args:
            images: Images of the step, over all processes.
            loss: Shown every tenth step; on a GPU once it has arrived, so that no step waits for it.

        Raises:
            SystemExit: 143, after SIGTERM.
            KeyboardInterrupt: After SIGINT.
        """
        state = self.state
        self.progress.step(images, **(self._arrived(loss) if state.step % 10 == 0 else {}))
        state.step += 1
        state.images += images
        alone = state.accelerator.num_processes == 1
        if alone or (state.epoch * self.steps + state.step) % ASK_EVERY == 0:
            self._leave_after_signal()

    def timed(self, batches: Iterable[B], sample: Callable[[B], Tensor]) -> Iterator[B]:
        """The batches of an epoch, with the clock of `speed` running.

        Args:
            batches: Of one epoch; the step on each must have ended, with `end_step`, before the next is asked for.
            sample: Function of a batch: images (B, 1, H, W) for a tracker, which is shown some of the first batch.
        """
        waiting = iter(batches)
        while True:
            asked, images = time.perf_counter(), self.state.images
            try:
                batch = next(waiting)
            except StopIteration:
                self._synchronise()
                self._passed += time.perf_counter() - asked if self._timed_images else 0.0
                return
            waited = time.perf_counter() - asked
            if self.run.tracker is not None and not self._steps:
                self.run.tracker.images("training views", sample(batch))
            yield batch
            self._steps += 1
            if self._steps == WARM_UP:
                self._synchronise()
            if self._steps > WARM_UP:
                self._timed_images += self.state.images - images
                self._waited += waited
                self._passed += time.perf_counter() - asked

    def speed(self) -> dict[str, float | None]:
        """Speed of the steps of this start without its first `WARM_UP` and without validation; None for too few steps.

        Returns:
            "training_images_per_second" over all processes, and "waiting_share", the share of this process's time in
            [0, 1] in which no batch was ready.
        """
        if not self._timed_images:
            return {"training_images_per_second": None, "waiting_share": None}
        rate, share = self._timed_images / self._passed, self._waited / self._passed
        return {"training_images_per_second": round(rate, 1), "waiting_share": round(share, 4)}

    def facts(self) -> dict[str, Any]:
        """The run in a few numbers, for ``done.json``: time, speed, memory and precision."""
        state = self.state
        return {
            "seconds": round(state.seconds, 1),
            "images_per_second": round(state.images / state.seconds, 1),
            **self.speed(),
            **peak_memories(),
            "precision": state.accelerator.mixed_precision.replace("no", "fp32"),
        }

    def end_epoch(self, line: dict[str, Any], shown: Mapping[str, Any] | None = None) -> None:
        """Log the epoch and say its numbers.

        Args:
            line: For ``metrics.jsonl``.
            shown: The numbers that are printed; all when None.
        """
        self.run.log(line)
        self.progress.epoch(line if shown is None else shown)

    def save_in_time(self) -> None:
        """Save after an epoch, unless too little time has passed; leave where any process received a signal.

        The clock of the main process decides for all, since all must save together.
        """
        self._leave_after_signal()
        now = time.perf_counter()
        self.state.seconds = now - self._began
        due = self.run.main and self.state.epoch < self.epochs and now - self._saved >= 10 * self._cost_of_saving
        if any_process(due, self.state.accelerator):
            self.save()
            self._saved = time.perf_counter()
            self._cost_of_saving = self._saved - now

    def save(self) -> None:
        """Write the state; all processes must call this together."""
        self.state.seconds = time.perf_counter() - self._began
        state = {**self.state.state_dict(), "lines": len(self.run.lines()), "batch_size": self.batch_size}
        if self.run.main:
            save_state(self.run.state, state, self.state.accelerator.num_processes)

    def _arrived(self, loss: Tensor) -> dict[str, float]:
        """The loss; on a GPU the one sent before this, if it has arrived, while this one is sent."""
        if loss.device.type != "cuda":
            return {"loss": float(loss)}
        arrived = {"loss": float(self._sent[0])} if self._sent and self._sent[1].query() else {}
        if arrived or self._sent is None:
            event = torch.cuda.Event()
            self._sent = loss.detach().to("cpu", non_blocking=True), event
            event.record()
        return arrived

    def _synchronise(self) -> None:
        """Wait for the steps that the device has yet to do."""
        if self.state.accelerator.device.type == "cuda":
            torch.cuda.synchronize()

    def _leave_after_signal(self) -> None:
        if number := highest_signal(self._stop.received, self.state.accelerator):
            self.save()
            self._stop.leave(number)

    def _resume(self) -> bool:
        """Load what an earlier start saved; drop what it logged later."""
        state, now = load_state(self.run.state), self.state.accelerator.num_processes
        if state is not None and (before := state["processes"]) != now:
            if state["batch_size"] != self.batch_size:
                do = f"resume with {before} processes, or another number of which the batch is a multiple"
                expected, found = f"a batch of {state['batch_size']} images, as before", str(self.batch_size)
                raise BadInput(expected, found, where=self.run.path, do=do)
            if self.run.main:
                print(
                    f"warning: {self.run.path.name}: begun with {before} processes, resumed with {now}: each computes "
                    "its own batch statistics, so the result differs from that of an unchanged number"
                )
        self.run.truncate_log(0 if state is None else state["lines"])
        if state is not None:
            self.state.load_state_dict(state)
        return state is not None
