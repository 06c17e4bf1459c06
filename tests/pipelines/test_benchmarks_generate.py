"""The benchmark of generation runs, and counts what it says it counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import demo, generate
from benchmarks.overhead import Case
from lumiere.pipelines import LumierePipeline


def test_every_part_runs_and_bare_calls_are_as_many_as_the_pipelines(
    pipe: LumierePipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def here(device: str, threads: int, *job: Any) -> dict[str, Any]:
        return {
            "pass": job[0],
            "num_frames": job[1],
            "peak_bytes": 1000 + 20 * job[1],
            "video_bytes": 10 * job[1],
        }

    monkeypatch.setattr(demo, "demo_pipeline", lambda: pipe)
    monkeypatch.setattr(generate, "measure_memory", here)  # a process of its own takes seconds
    threads = torch.get_num_threads()
    generate.main(
        ["--quick", "--full", "--threads", str(threads), "--json", str(tmp_path / "figures.json")]
    )
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    # Two base steps; one step of super-resolution, whose window holds all four frames.
    assert [row["network_calls"] for row in figures["overhead"]] == [2, 2, 2, 3, 1]
    assert [row["windows"] for row in figures["windows"]] == ["1", "4", "all"]
    assert [row.get("videos") for row in figures["memory"]] == [None, 2.0, None, 2.0]
    parts = [
        figures["full"][name]
        for name in ("base network", "base sampler", "super-resolution network")
    ]
    assert 0 < sum(parts) < figures["full"]["seconds"]
    assert "need a GPU and were not measured" in capsys.readouterr().out


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="memory is read from Linux's /proc"
)
def test_memory_of_a_pass_holds_its_video(
    pipe: LumierePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "demo_pipeline", lambda: pipe)
    row = demo.memory_here(demo.Demo(torch.device("cpu")), "ssr", 64, 1, 4)
    assert row["video_bytes"] == 64 * 3 * 32 * 32 * 4
    assert row["peak_bytes"] >= row["video_bytes"]


def test_time_in_and_outside_the_networks() -> None:
    calls: list[torch.Size] = []

    class Network(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(x.shape)
            return x

    network = Network()
    case = Case(
        "", lambda: [network(torch.zeros(n)) for n in (2, 3, 2)], [network], torch.device("cpu")
    )
    case.record()
    total = case.time_run()
    assert 0 < case.in_network(0) <= case.span(0) <= total
    calls.clear()
    case.time_bare()
    assert calls == [(2,), (3,), (2,)]
    assert not network._forward_hooks and not network._forward_pre_hooks
