"""The examples of docs/deploy are what their tools take, and call commands that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipecrypt.cli.main import main

_DEPLOY = Path(__file__).parents[1] / "docs" / "deploy"


def _check(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([arguments[0], "--help"]) == 0
    shown = capsys.readouterr().out
    for option in arguments[1:]:
        assert not option.startswith("--") or option in shown, option


def test_the_job_parses_and_calls_what_exists(capsys: pytest.CaptureFixture[str]) -> None:
    job = YAML(typ="safe").load(_DEPLOY / "job.yaml")
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (rule,) = job["spec"]["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    _check(container["args"], capsys)


def test_the_dag_compiles_and_calls_what_exists(capsys: pytest.CaptureFixture[str]) -> None:
    text = (_DEPLOY / "airflow_dag.py").read_text(encoding="utf-8")
    compile(text, "airflow_dag.py", "exec")
    found = re.search(r"^COMMAND = (\[.*\])$", text, re.MULTILINE)
    assert found is not None
    program, *arguments = ast.literal_eval(found[1])
    assert program == "pipecrypt"
    _check(arguments, capsys)


def test_the_image_copies_what_exists(capsys: pytest.CaptureFixture[str]) -> None:
    text = (_DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
        for name in line.split():
            assert (_DEPLOY.parents[1] / name).exists(), name
    project = (_DEPLOY.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    for extra in re.findall(r"\[([a-z0-9,-]+)\]\"", text)[0].split(","):
        assert f"\n{extra} = [" in project
    assert 'ENTRYPOINT ["pipecrypt"]' in text
