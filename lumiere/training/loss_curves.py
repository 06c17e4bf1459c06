"""Writes the losses of a training as JSON and as a plot."""

from __future__ import annotations

import json
from pathlib import Path

from lumiere.training.state import TrainingResult


def write_record(folder: Path, name: str, result: TrainingResult) -> None:
    """Write the losses by step as `<name>.json` and `<name>.png`.

    The files hold no times, so equal trainings write equal bytes.
    """
    # An eighth of the time that the imports of a training take, and it is needed at the end alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    losses = {"steps": result.steps, "loss": result.losses, "validation_loss": result.validation}
    (folder / f"{name}.json").write_text(json.dumps(losses, indent=1) + "\n", encoding="utf-8")
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    curves = {"training": result.losses, "held out, averaged weights": result.validation}
    for label, curve in curves.items():
        if curve:
            marker = "o" if len(curve) < 12 else None
            axes.plot(*zip(*curve, strict=True), label=label, marker=marker)
    axes.set(title=name, xlabel="step", ylabel="loss")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    figure.savefig(folder / f"{name}.png", dpi=100, metadata={"Software": None})
