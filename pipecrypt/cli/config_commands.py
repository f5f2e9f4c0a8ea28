"""The commands `pipecrypt config ...`. Checking is left to config."""

from __future__ import annotations

import os
from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from pipecrypt.cli.options import JSONFlag, LogFormatOption, LogLevelOption
from pipecrypt.cli.render import show, write
from pipecrypt.cli.run import plan_lines

__all__ = ["config_app"]

config_app = typer.Typer(help="Check configurations.", rich_markup_mode=None, add_completion=False)


@config_app.command("check")
def check(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The YAML configuration.")],
    offline: Annotated[bool, typer.Option("--offline", help="Look at no key, no source and no sink.")] = False,
    json: JSONFlag = False,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = None,
) -> None:
    """Check a configuration and show what it would do; opens no key and writes nothing."""
    from pipecrypt.config.load import load_config
    from pipecrypt.config.run import plan_config

    plan = plan_config(load_config(config, os.environ), offline=offline)
    show(plan, lambda: plan_lines(plan))


@config_app.command("schema")
def schema(json: JSONFlag = False, log_level: LogLevelOption = None) -> None:
    """Print the JSON Schema of configurations, for editors."""
    from pipecrypt.config.model import config_schema

    write(dumps(config_schema(), indent=2) + "\n")
