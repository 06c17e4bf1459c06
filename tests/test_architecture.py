"""Who may import whom, and whether dvc.yaml names the code that each stage really uses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from radon.complexity import cc_visit

from lumiere import staleness
from lumiere.staleness import ROOT, WITHOUT_EFFECT, deciding_files, imported_names
from tests.stale_stages import (
    code_dependencies,
    code_files,
    downstream,
    listed_code,
    render_table,
    stages,
    stored_table,
    used_code,
    write_files,
)
from tests.tree_listing import (
    helpers_of_stages,
    packages,
    read_listing,
    read_modules,
    single_modules,
)

REFRESH = "run `python -m tests.stale_stages`"
PACKAGES = ("lumiere", "stages", "flows")
ORCHESTRATION = {"dvc", "prefect", "mlflow"}


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def offenders(paths: list[Path], *forbidden: str) -> list[str]:
    """`file imports module` for each import of a forbidden package or of a part of it."""
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in paths
        for name in sorted(imported_names(path, with_types=True))
        if any(name == bad or name.startswith(f"{bad}.") for bad in forbidden)
    ]


@pytest.mark.parametrize("package", ["lumiere/models", "lumiere/diffusion", "lumiere/data"])
def test_the_core_knows_nothing_of_its_users(package: str) -> None:
    above = (
        "lumiere.training",
        "lumiere.pipelines",
        "lumiere.config",
        "lumiere.tracking",
        "stages",
        "flows",
    )
    assert offenders(files(package), *above, *ORCHESTRATION) == []


def test_only_tracking_imports_mlflow() -> None:
    tracking = ROOT / "lumiere" / "tracking"
    paths = [
        path for package in PACKAGES for path in files(package) if not path.is_relative_to(tracking)
    ]
    assert offenders(paths, "mlflow") == []


def test_lumiere_knows_nothing_of_stages_and_flows() -> None:
    assert offenders(files("lumiere"), "stages", "flows", "dvc", "prefect") == []


def test_evaluation_and_curation_stand_beside_training() -> None:
    paths = files("lumiere/evaluation") + files("lumiere/curation")
    assert offenders(paths, "lumiere.training", "lumiere.tracking") == []
    assert (
        offenders(
            files("lumiere/curation"), "lumiere.models", "lumiere.pipelines", "lumiere.evaluation"
        )
        == []
    )


def test_baselines_are_for_benchmarks_alone() -> None:
    paths = [
        path
        for package in PACKAGES
        for path in files(package)
        if ROOT / "lumiere" / "baselines" not in path.parents
    ]
    assert offenders(paths, "lumiere.baselines") == []


def test_only_what_reads_params_files_imports_the_config() -> None:
    allowed = ("training", "pipelines", "curation", "inspection", "cli")
    folders = [ROOT / "lumiere" / name for name in allowed]
    paths = [path for path in files("lumiere") if not set(folders) & set(path.parents)]
    assert offenders(paths, "lumiere.config") == []


def test_flows_start_stages_and_never_import_them() -> None:
    assert offenders(files("flows"), "stages") == []
    assert offenders(files("stages"), "flows", *ORCHESTRATION) == []


def test_only_dag_reads_dvcs_internals() -> None:
    paths = [path for path in files("flows") if path.name != "dag.py"]
    assert [line for line in offenders(paths, "dvc") if "dvc.exceptions" not in line] == []


@pytest.mark.parametrize("stage", stages())
def test_dvc_tracks_the_code_and_the_params_that_a_stage_uses(stage: str) -> None:
    path = ROOT / "stages" / f"{stage}.py"
    if not path.exists():
        pytest.fail(f"dvc.yaml has a stage {stage}, but there is no stages/{stage}.py")
    entry = stages()[stage]
    missing, unused = used_code(stage) - listed_code(stage), listed_code(stage) - used_code(stage)
    assert (missing, unused) == (set(), set()), f"(missing, unused) in dvc.yaml's deps: {REFRESH}"
    code = [dep for dep in entry["deps"] if dep.split("/")[0] in ("lumiere", "stages")]
    assert sorted(code) == code_dependencies(stage), f"dependencies that do not exist: {REFRESH}"

    sections = set(stages()) & set(
        re.findall(r"(?:params|\))\.(\w+)\b", path.read_text(encoding="utf-8"))
    )
    trains = "lumiere/training/loop.py" in used_code(stage)
    assert sections | ({"launch"} if trains else set()) == {
        name.partition(".")[0] for name in entry["params"]
    }, "sections that the stage reads"


@pytest.mark.parametrize("stage", stages())
def test_a_stage_is_thin_and_named_like_its_file(stage: str) -> None:
    assert f"python -m stages.{stage} " in stages()[stage]["cmd"]
    path = ROOT / "stages" / f"{stage}.py"
    if path.exists():
        assert len(path.read_text(encoding="utf-8").splitlines()) < 120


# --- what an edit makes stale -----------------------------------------------------------------------------------------


def test_the_table_of_what_an_edit_makes_stale_is_up_to_date() -> None:
    assert stored_table() == render_table(), f"docs/architecture.md: {REFRESH}"


def test_files_without_effect_exist_and_no_stage_depends_on_them() -> None:
    gone = [name for name in WITHOUT_EFFECT if not (ROOT / name).is_file()]
    assert gone == []
    for stage in stages():
        assert not listed_code(stage) & set(WITHOUT_EFFECT)


def test_the_number_of_threads_decides_what_every_stage_writes() -> None:
    for stage in stages():
        assert "lumiere/threads.py" in used_code(stage)


def test_text_encoders_decide_only_what_reads_text() -> None:
    # Curation counts the words that the encoder does not read.
    reading = {"curate", "decode", "prepare_t2i", "train_style", "generate", "evaluate"}
    users = {
        stage
        for stage in stages()
        if any(name.startswith("lumiere/text/") for name in used_code(stage))
    }
    assert users == reading


def test_sampling_pictures_and_metrics_retrain_nothing() -> None:
    harmless = {
        name
        for name in code_files()
        if name.startswith(("lumiere/pipelines/", "lumiere/evaluation/", "lumiere/cli/"))
    }
    harmless |= {
        "lumiere/data/contact_sheets.py",
        "lumiere/diffusion/denoising.py",
        "lumiere/diffusion/guidance.py",
        "lumiere/diffusion/long_noise.py",
        "lumiere/diffusion/projection.py",
        "lumiere/diffusion/schedulers.py",
        "lumiere/training/preview.py",
    }
    trainings = [stage for stage in stages() if "launch" in stages()[stage]["params"]]
    assert len(trainings) == 6
    # A distilled network has learned a sampler, so the code of that sampler decides its weights.
    sampler = {f"lumiere/diffusion/{name}.py" for name in ("guidance", "projection", "schedulers")}
    for stage in [*trainings, "decode", "blend_style"]:
        allowed = sampler if stage == "distil" else set()
        assert used_code(stage) & harmless == allowed, stage


def test_stages_that_read_an_output_come_after_it() -> None:
    later = downstream()
    assert later["evaluate"] == set() and later["generate"] == {"evaluate"}
    assert later["train_ssr"] == {"generate", "evaluate"}
    assert later["decode"] == set(stages()) - {"curate", "decode"}


def test_what_a_file_imports_decides_but_not_what_it_imports_for_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {
        "stages/work.py": "from lumiere import used\ndef main():\n    from lumiere.part import late\n",
        "lumiere/__init__.py": "",
        "lumiere/used.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from lumiere import typed\n",
        "lumiere/part/__init__.py": '"""A docstring alone."""\n',
        "lumiere/part/late.py": "import lumiere.config\n",
        "lumiere/config.py": "import lumiere.behind\n",
        "lumiere/behind.py": "x = 1\n",
        "lumiere/typed.py": "x = 1\n",
    }
    write_files(tmp_path, contents)
    monkeypatch.setattr(staleness, "ROOT", tmp_path)
    deciding = deciding_files(tmp_path / "stages" / "work.py")
    names = [path.relative_to(tmp_path).as_posix() for path in deciding]
    assert names == ["lumiere/part/late.py", "lumiere/used.py", "stages/work.py"]


def test_of_a_package_those_names_count_that_are_imported_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {
        "stages/one.py": "from lumiere.part import late\n",
        "stages/two.py": "import lumiere.part.early\n",
        "stages/all.py": "from lumiere import part\n",
        "lumiere/part/__init__.py": (
            '"""Offers names."""\nfrom lumiere.part.early import x\n'
            'from lumiere.part.module import late\n__all__ = ["late", "x"]\n'
        ),
        "lumiere/part/early.py": "x = 1\n",
        "lumiere/part/module.py": "late = 1\n",
        "lumiere/__init__.py": "",
    }
    write_files(tmp_path, contents)
    monkeypatch.setattr(staleness, "ROOT", tmp_path)
    for stage, modules in {"one": {"module"}, "two": {"early"}, "all": {"early", "module"}}.items():
        deciding = deciding_files(tmp_path / "stages" / f"{stage}.py")
        assert {path.stem for path in deciding} == {stage, *modules}
    # Which object has the name `late` is decided by the package itself.
    renamed = "from lumiere.part.early import x\nfrom lumiere.part.module import late as y\n"
    (tmp_path / "lumiere/part/__init__.py").write_text(renamed)
    staleness.offered_names.cache_clear()
    staleness.has_code.cache_clear()
    staleness.imported_names.cache_clear()
    deciding = deciding_files(tmp_path / "stages" / "two.py")
    assert {path.stem for path in deciding} == {"two", "early", "module", "__init__"}


def test_metrics_do_not_make_curation_stale() -> None:
    used = {name for name in used_code("curate") if name.startswith("lumiere/evaluation/")}
    assert used and all(name.startswith("lumiere/evaluation/backbones/") for name in used)


# --- the listing of the tree ------------------------------------------------------------------------------------------


def test_no_function_has_a_cyclomatic_complexity_above_15() -> None:
    blocks = [
        (block.complexity, f"{path.relative_to(ROOT)}: {block.fullname}")
        for package in ("lumiere", "stages", "flows")
        for path in sorted((ROOT / package).rglob("*.py"))
        for block in cc_visit(path.read_text(encoding="utf-8"))
    ]
    assert [block for block in blocks if block[0] > 15] == []


def test_no_two_modules_have_one_name() -> None:
    places: dict[str, list[str]] = {}
    for path in sorted((ROOT / "lumiere").rglob("*.py")):
        if path.name not in ("__init__.py", "__main__.py"):  # Python gives them these names
            places.setdefault(path.name, []).append(str(path.relative_to(ROOT)))
    assert [paths for paths in places.values() if len(paths) > 1] == []


def test_the_listing_names_every_package_and_module_once() -> None:
    entries, hint = read_listing(), "run `python -m tests.tree_listing`"
    missing = [name for name in [*packages(), *single_modules()] if name not in entries]
    gone = [name for name in entries if not (ROOT / name).exists()]
    assert (missing, gone) == ([], []), f"docs/architecture.md: {hint}"
    for folder, modules in packages().items():
        assert sorted(read_modules(entries[folder])) == modules, f"{folder}: {hint}"
    for name in helpers_of_stages():
        assert re.search(rf"\b{name}\b", entries["stages/"]), f"stages/{name}.py"
    assert all(text for name, text in entries.items() if name != "lumiere/")
