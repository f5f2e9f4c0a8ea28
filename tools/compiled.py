"""Build hook of hatchling: compiles the engine's hot rooms with mypyc into the wheel, where that is asked for.

Which rooms those are stands in `pyproject.toml`. Their sources go into the wheel as well, and an interpreter for which
nothing was compiled runs them as they are.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from mypyc.build import mypycify
from setuptools import Distribution


class CompiledEngine(BuildHookInterface[Any]):
    """Adds the compiled modules to a wheel; an editable installation runs the sources."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and tell hatchling which files to add."""
        if version == "editable":
            return
        self._scratch = mkdtemp(prefix="pipecrypt-compiled-")
        built = Path(self._scratch, "lib")
        # An empty configuration: the types were checked before, with what only the checker needs.
        sources = ["--config-file=", "--ignore-missing-imports", *self.config["modules"]]
        level = os.environ.get("MYPYC_OPT_LEVEL", "3")  # of the C compiler; as mypyc's own builds have it
        extensions = mypycify(
            sources, target_dir=str(Path(self._scratch, "c")), group_name="pipecrypt", opt_level=level, debug_level="0"
        )
        command = Distribution({"name": "pipecrypt", "ext_modules": extensions}).get_command_obj("build_ext")
        command.build_lib, command.build_temp = str(built), str(Path(self._scratch, "o"))
        command.ensure_finalized()
        command.run()
        for path in built.rglob("*"):
            if path.is_file():
                build_data["force_include"][str(path)] = path.relative_to(built).as_posix()
        build_data["pure_python"], build_data["infer_tag"] = False, True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled, which the wheel holds by now."""
        if version != "editable":
            shutil.rmtree(self._scratch)
