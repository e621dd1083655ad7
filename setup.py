"""Puts evidence/ into the package when a wheel is built; everything else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithEvidence(build_py):
    """In a source checkout `evidence/` lies beside `src/` and is read from there; a wheel carries a copy."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "stillhouse" / "evidence"
            target.mkdir(parents=True, exist_ok=True)
            for path in Path("evidence").glob("*.json"):
                shutil.copy(path, target)


setup(cmdclass={"build_py": BuildWithEvidence})
