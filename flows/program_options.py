"""The command line of `python -m flows.pipeline`. It imports nothing that takes time."""

from __future__ import annotations

import argparse

from flows.second_tries import MAX_RETRIES


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line; print an error and exit with 2 if options exclude each other."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.max_parallel < 1:
        parser.error(f"argument --max-parallel: {options.max_parallel}; allowed: at least 1")
    if not 0 <= options.retries <= MAX_RETRIES:
        parser.error(f"argument --retries: {options.retries}; allowed: 0 to {MAX_RETRIES}")
    if options.timezone and options.schedule is None:
        parser.error("argument --timezone: needs --schedule")
    if options.only and not options.stages:
        parser.error("argument --only: needs --stages")
    if options.from_stage and options.stages:
        parser.error("argument --from: excludes --stages")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.pipeline",
        description="Bring every stage of the pipeline up to date, now or on a schedule.",
    )
    parser.add_argument(
        "--stages",
        nargs="+",
        metavar="STAGE",
        help="run only these stages and the stages they depend on (default: all)",
    )
    parser.add_argument(
        "--only", action="store_true", help="leave out the stages that these depend on"
    )
    parser.add_argument(
        "--from",
        dest="from_stage",
        default="",
        metavar="STAGE",
        help="run this stage and all stages that depend on it",
    )
    parser.add_argument(
        "--force", action="store_true", help="run these stages even if nothing has changed"
    )
    parser.add_argument(
        "--profile",
        default="",
        metavar="FILE",
        help="use this params file instead of params.yaml, as in profiles/h100.yaml",
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="use another value for one param, as in generate.seed=3; may be repeated",
    )
    parser.add_argument(
        "--wait",
        type=float,
        default=0.0,
        metavar="MINUTES",
        help="wait for another run of the project to end (default: 0)",
    )
    parser.add_argument(
        "--max-parallel",
        type=int,
        default=2,
        metavar="N",
        help="run at most N stages at the same time (default: 2)",
    )
    parser.add_argument(
        "--time-limit",
        dest="time_limits",
        action="append",
        default=[],
        metavar="STAGE=MINUTES",
        help="stop a stage that runs longer, as in evaluate=60; may be repeated (default: none)",
    )
    parser.add_argument(
        "--retries",
        type=int,
        default=2,
        metavar="N",
        help="try a stage again that was killed or found something busy, at most N times "
        "(default: 2)",
    )
    parser.add_argument(
        "--root", metavar="FOLDER", help="the project's folder (default: the one with this file)"
    )
    parser.add_argument(
        "--schedule",
        metavar="CRON",
        help="run on a schedule instead of now, as in '0 3 * * *' for 03:00 every day",
    )
    parser.add_argument(
        "--timezone",
        metavar="NAME",
        help="the time zone of --schedule, as in Europe/Berlin (default: UTC)",
    )
    return parser
