"""Running a network on as many clips, windows or frames at a time as memory allows."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lumiere.errors import first_line

OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


class BatchSize:
    """The number of windows, clips or frames that go through a network at once.

    It starts at the requested number and halves whenever memory runs out. Use one object for all
    steps of a video, so that memory runs out once and not at every step.
    """

    def __init__(self, most: int | None) -> None:
        """`most`: the number to start at; None for all at once."""
        self.most = most

    def split(self, total: int, run: Callable[[int, int], None]) -> None:
        """Call `run(first, end)` on consecutive parts of `total`.

        A part that runs out of memory is halved and run again.

        Raises:
            torch.OutOfMemoryError: if a single clip, window or frame does not fit.
        """
        first = 0
        while first < total:
            end = total if self.most is None else min(total, first + self.most)
            try:
                run(first, end)
                first = end
                continue
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                reason = first_line(error)
            # Outside the handler, because the error keeps the tensors of its traceback's frames
            # alive.
            if end - first == 1:
                raise torch.OutOfMemoryError(
                    "out of memory with one clip, window or frame at a time; make window_size, "
                    "num_frames or height and width smaller, or load the pipeline in bfloat16 "
                    f"({reason})"
                )
            self.most = (end - first) // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error means that memory ran out, on a GPU, on the CPU or in one of CUDA's
    libraries.

    Torch has an exception class for the first case only. The others are recognised by their
    messages.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return any(part in str(error) for part in OUT_OF_MEMORY)
