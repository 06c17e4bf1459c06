"""The command `lumiere`.

A module that needs torch is imported only when a command runs, so that help appears at once.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lumiere.cli.evaluate import evaluate
from lumiere.cli.generate import generate, tell
from lumiere.cli.inspect import inspect
from lumiere.cli.reproduce import reproduce
from lumiere.errors import LumiereError, sentence
from lumiere.start import check_interpreter
from lumiere.version import __version__

BAD_INPUT = 2
UsageError: Any = typer.BadParameter.__mro__[1]  # click's class, wherever this typer has it


class OneSentence(TyperGroup):
    """A group of commands that reports a wrong call or a bad input in one sentence."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the first word names."""
        word = args[0]
        if " " in word:
            ctx.fail(f'no command; did you mean: lumiere generate "{word}"')
        if word not in self.commands and not word.startswith("-"):
            ctx.fail(f"no command {word!r}; allowed: {', '.join(self.commands)}")
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **options: Any) -> Any:
        """Run a command and exit."""
        try:
            check_interpreter()
            code = super().main(*args, **{**options, "standalone_mode": False})
        except UsageError as error:
            message = error.format_message().rstrip(".")
            command = error.ctx.command_path if error.ctx else "lumiere"
            tell(f"error: {message[0].lower()}{message[1:]}; see {command} --help")
            code = BAD_INPUT
        except (LumiereError, ValueError, OSError) as error:
            tell(f"error: {sentence(error)}")
            code = BAD_INPUT
        sys.exit(code)


app = typer.Typer(
    cls=OneSentence,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 110},
)
app.command(context_settings={"allow_extra_args": True})(generate)
app.command()(evaluate)
app.command()(inspect)
app.command()(reproduce)


def _show_version(is_set: bool) -> None:
    if is_set:
        typer.echo(f"lumiere {__version__}")
        raise typer.Exit()


@app.callback()
def lumiere(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Text-to-video generation with a Space-Time U-Net.

    \b
    Make a first video, and see all options:
      lumiere generate "a yellow taxi with black checks bounces gently" -o taxi.mp4
      lumiere generate --help
    \b
    See what a training needs before you start it:
      lumiere inspect --params profiles/h100.yaml
    \b
    Make the outputs of a run in MLflow again:
      lumiere reproduce RUN_ID again/
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
