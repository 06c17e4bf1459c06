"""Threads take turns on what pipelines share. No thread waits for ever, and no test waits by the
clock.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UniPCMultistepScheduler
from peft import LoraConfig

from lumiere.pipelines import LumierePipeline, LumiereUpscalePipeline, turns
from lumiere.pipelines.turns import changes_in_turn, in_turn
from tests.pipelines.test_adapters import shake_adapters
from tests.pipelines.test_diffusers_habits import BASE, FREEU
from tests.pipelines.test_modes import seed


class Part:
    """A scheduler or a network."""


@changes_in_turn(between_steps=["weigh"], after_calls=["load", "replace"])
class Plain:
    """A pipeline without anything but its parts."""

    def __init__(self, **parts: Part) -> None:
        vars(self).update(parts)

    @in_turn("scheduler", "unet")
    def __call__(self, callback: Callable[[], Any] = lambda: None) -> Any:
        return callback()

    def weigh(self) -> str:
        return "weighed"

    def load(self) -> str:
        return self.weigh() + ", loaded"

    def replace(
        self, before: Callable[[], Any] = lambda: None, after: Callable[[], Any] = lambda: None
    ) -> None:
        before()
        self.unet = Part()
        after()

    @in_turn("unet", within=True)
    def part_of_a_call(self) -> str:
        return "part"


def plain() -> Plain:
    return Plain(scheduler=Part(), unet=Part())


def until_waiting(threads: set[int], running: Future[Any]) -> None:
    """Return when one more thread waits for a turn, or `running` has ended."""
    while not running.done() and not set(turns._waiting) - threads:
        threading.Event().wait(0.001)


def test_calls_in_each_others_callbacks_never_wait_for_ever() -> None:
    pipes = [plain(), plain(), plain()]
    all_run = threading.Barrier(3)

    def call(index: int) -> Any:
        def nested() -> str:
            all_run.wait()  # now each thread has one pipeline, and wants the next one
            return pipes[(index + 1) % 3](lambda: "made")

        return pipes[index](nested)

    with ThreadPoolExecutor(3) as threads:
        running = [threads.submit(call, index) for index in range(3)]
    errors = [each.exception() for each in running]
    refused = [error for error in errors if error is not None]
    assert len(refused) == 1 and isinstance(refused[0], ValueError)
    assert "wait for each other for ever: a callback uses a pipeline that is busy" in str(
        refused[0]
    )
    assert [each.result() for each, error in zip(running, errors, strict=True) if not error] == [
        "made"
    ] * 2
    assert pipes[0](pipes[1]) is None and not turns._waiting  # all are free again


def test_a_callback_waits_for_a_pipeline_that_does_not_wait_for_it() -> None:
    one, other = plain(), plain()
    has_other, may_end = threading.Event(), threading.Event()

    def hold() -> str:
        has_other.set()
        may_end.wait()
        return "held"

    with ThreadPoolExecutor(2) as threads:
        holding = threads.submit(other, hold)
        has_other.wait()
        nested = threads.submit(one, lambda: other(lambda: "made"))
        until_waiting(set(), nested)
        # A third thread that waits for the first one is no circle.
        may_end.set()
        assert (holding.result(), nested.result()) == ("held", "made")


def test_a_waiting_thread_gets_the_component_that_took_the_place() -> None:
    pipe = plain()
    before, seen = pipe.unet, []
    with ThreadPoolExecutor(2) as threads:
        calls: list[Future[Any]] = []

        def submit() -> None:
            calls.append(threads.submit(pipe, lambda: seen.append(turns._turns[pipe.unet].owner)))
            until_waiting(set(), calls[0])

        threads.submit(pipe.replace, submit).result()
    assert pipe.unet is not before and seen[0] is not None


def test_no_call_sees_half_of_a_change() -> None:
    pipe, order = plain(), []
    with ThreadPoolExecutor(2) as threads:

        def submit() -> None:
            calls.append(threads.submit(pipe, lambda: order.append("called")))
            until_waiting(set(), calls[0])
            order.append("changed")

        calls: list[Future[Any]] = []
        threads.submit(pipe.replace, after=submit).result()
        calls[0].result()
    assert order == ["changed", "called"]


def test_changes_in_a_callback() -> None:
    pipe, other = plain(), plain()
    assert pipe(pipe.weigh) == "weighed" and pipe(pipe.part_of_a_call) == "part"
    with pytest.raises(ValueError, match=r"a callback uses load\(\), which changes the components"):
        pipe(pipe.load)
    with pytest.raises(ValueError, match="a callback calls the pipeline that called it"):
        pipe(pipe)
    assert pipe(other.load) == "weighed, loaded"


@pytest.mark.parametrize("method", ["weigh", "load"])
def test_a_change_waits_for_the_call_of_another_thread(method: str) -> None:
    pipe, order = plain(), []
    sharing = Plain(scheduler=Part(), unet=pipe.unet)
    with ThreadPoolExecutor(1) as threads:
        changes: list[Future[Any]] = []

        def callback() -> None:
            changes.append(threads.submit(getattr(sharing, method)))
            changes[0].add_done_callback(lambda _: order.append("changed"))
            until_waiting(set(), changes[0])
            order.append("called")

        pipe(callback)
        changes[0].result()
    assert order == ["called", "changed"]


# --- the real pipelines -----------------------------------------------------------------------------

# Public methods that change no component that a call uses, or are calls themselves.
OTHERS = {
    "__call__", "check_guidance", "check_mode", "encode_prompt", "enlarged_size",
    "extract_init_dict", "get_active_adapters", "get_list_adapters", "is_guided", "numpy_to_pil",
    "plan",
    "progress_bar", "push_to_hub", "reads_negative", "register_modules", "register_to_config",
    "save_config", "set_progress_bar_config", "to_json_file", "to_json_string", "upscale",
    "upscaler",
}  # fmt: skip


@pytest.mark.parametrize("kind", [LumierePipeline, LumiereUpscalePipeline])
def test_every_method_that_changes_components_takes_its_turn(
    kind: Any, pipe: LumierePipeline
) -> None:
    made = pipe if kind is LumierePipeline else pipe.upscaler()
    methods = set()
    for name, _ in inspect.getmembers(kind, inspect.isfunction):
        # Class and static methods have no components.
        if not name.startswith("_") and not isinstance(
            inspect.getattr_static(kind, name), (classmethod, staticmethod)
        ):
            methods.add(name)
    changing = methods - OTHERS
    assert {"to", "save_pretrained", "enable_group_offload"} <= changing
    if kind is LumierePipeline:
        assert {"set_adapters", "fuse_lora", "unload_lora_weights", "enable_freeu"} <= changing
    with ThreadPoolExecutor(1) as threads:
        for name in sorted(changing):
            running: list[Future[Any]] = []
            method = getattr(made, name)

            def submit(method: Any = method, running: list[Future[Any]] = running) -> bool:
                running.append(threads.submit(method))  # its arguments are missing
                until_waiting(set(), running[0])
                return running[0].done()

            with turns._holding(made, ["unet"], False, None):
                assert submit() is False, f"{name} did not wait"
            running[0].exception()


def test_adapters_change_after_the_call_of_another_thread(
    pipe: LumierePipeline, tmp_path: Path
) -> None:
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k"]), "ink")
    shake_adapters(pipe.unet, "ink")
    expected = pipe("a cat", generator=seed(), **BASE).frames
    with ThreadPoolExecutor(1) as threads:
        running: list[Future[Any]] = []

        def remove(*_: Any) -> None:
            if not running:
                running.append(threads.submit(pipe.unload_lora_weights))
                until_waiting(set(), running[0])

        made = pipe("a cat", generator=seed(), callback_on_step_end=remove, **BASE).frames
        running[0].result()
    assert torch.equal(made, expected)
    assert not any("lora" in name for name in pipe.unet.state_dict())


def test_a_component_is_set_after_the_call_of_another_thread(pipe: LumierePipeline) -> None:
    scheduler = pipe.scheduler
    with ThreadPoolExecutor(1) as threads:
        running: list[Future[Any]] = []

        def replace(*_: Any) -> None:
            if not running:
                other = type(scheduler).from_config(scheduler.config)
                running.append(threads.submit(setattr, pipe, "scheduler", other))
                until_waiting(set(), running[0])
            assert pipe.scheduler is scheduler

        pipe("a cat", callback_on_step_end=replace, **BASE)
        running[0].result()
    assert pipe.scheduler is not scheduler


def test_components_are_shared_during_a_call(pipe: LumierePipeline) -> None:
    """A server makes a pipeline for each request by from_pipe."""
    with ThreadPoolExecutor(1) as threads:

        def share(*_: Any) -> None:
            assert LumierePipeline.from_pipe(pipe).unet is pipe.unet
            running = threads.submit(LumierePipeline.from_pipe, pipe)
            until_waiting(set(), running)
            assert running.done() and running.result().unet is pipe.unet

        pipe("a cat", callback_on_step_end=share, **BASE)


def test_a_pipeline_that_is_saved_keeps_its_text_encoder(
    pipe: LumierePipeline, tmp_path: Path
) -> None:
    """Prompts are encoded, and pipelines are shared, at once, also while a thread saves."""
    text_encoder, save = pipe.text_encoder, pipe.scheduler.save_pretrained
    seen: list[Any] = []

    def spy(folder: str) -> None:
        seen.append(LumierePipeline.from_pipe(pipe).text_encoder)
        save(folder)

    pipe.scheduler.save_pretrained = spy
    pipe.save_pretrained(tmp_path)
    assert seen == [text_encoder] and pipe.text_encoder is text_encoder
    assert LumierePipeline.from_pretrained(tmp_path).text_encoder.name == text_encoder.name


def test_what_a_callback_may_change(pipe: LumierePipeline, tmp_path: Path) -> None:
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k"]), "ink")
    shake_adapters(pipe.unet, "ink")
    whole = pipe("a cat", generator=seed(), **BASE).frames
    off = pipe(
        "a cat", generator=seed(), callback_on_step_end=lambda pipe, *_: pipe.disable_lora(), **BASE
    )
    assert not torch.equal(off.frames, whole)
    pipe.enable_lora()
    assert torch.equal(pipe("a cat", generator=seed(), **BASE).frames, whole)
    pipe("a cat", callback_on_step_end=lambda pipe, *_: pipe.enable_freeu(**FREEU), **BASE)
    pipe.disable_freeu()
    for change in (
        lambda pipe, *_: pipe.fuse_lora(components=["unet"]),
        lambda pipe, *_: pipe.save_pretrained(tmp_path / "saved"),
        lambda pipe, *_: pipe.to(torch.float16),
    ):
        with pytest.raises(ValueError, match="use it after that call has ended"):
            pipe("a cat", callback_on_step_end=change, **BASE)
    assert not (tmp_path / "saved").exists() and pipe.unet.dtype == torch.float32
    assert torch.equal(pipe("a cat", generator=seed(), **BASE).frames, whole)


def test_a_refused_component_leaves_the_config_as_it_was(pipe: LumierePipeline) -> None:
    before = dict(pipe.config)

    def replace(*_: Any) -> None:
        pipe.register_modules(scheduler=UniPCMultistepScheduler.from_config(pipe.scheduler.config))

    with pytest.raises(ValueError, match=r"a callback uses register_modules\(\)"):
        pipe("a cat", callback_on_step_end=replace, **BASE)
    assert dict(pipe.config) == before
