"""environment.yml and requirements/tested.txt say what pyproject.toml says."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def by_name(requirements: list[str]) -> dict[str, Requirement]:
    return {requirement.name: requirement for requirement in map(Requirement, requirements)}


def test_environment_yml_equals_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    assert conda == [f"python{PROJECT['requires-python']}", "pip"]
    options = [line for line in pip["pip"] if line.startswith("-")]
    assert options == ["-c requirements/tested.txt", "-e .[lab,grade]"]
    listed = [line for line in pip["pip"] if not line.startswith("-")]
    assert by_name(listed) == by_name(PROJECT["dependencies"] + EXTRAS["lab"] + EXTRAS["grade"])
    assert len(listed) == len(set(listed))


def test_one_range_for_one_package():
    ranges: dict[str, set[str]] = {}
    for line in PROJECT["dependencies"] + sum(EXTRAS.values(), []):
        ranges.setdefault(Requirement(line).name, set()).add(str(Requirement(line).specifier))
    assert {name: found for name, found in ranges.items() if len(found) > 1} == {}


def test_every_dependency_has_a_tested_version_within_its_range():
    tested = {}
    for line in (ROOT / "requirements" / "tested.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            assert re.fullmatch(r"[\w.]+", version), f"{line}: a plain version, without a local part"
            tested[canonical(name)] = version
    for line in PROJECT["dependencies"] + sum(EXTRAS.values(), []):
        requirement = Requirement(line)
        assert requirement.specifier.contains(tested[canonical(requirement.name)], prereleases=True), line


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_public_address_stands_in_one_place():
    address = PROJECT["urls"]["Repository"].removeprefix("https://")
    command = ["git", "grep", "--fixed-strings", "--files-with-matches", address, "--", ":!*.ipynb"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if result.returncode not in (0, 1):
        pytest.skip(f"not a git checkout: {result.stderr.strip()}")
    assert result.stdout.split() == ["pyproject.toml"]


def test_the_students_tests_need_no_library_beyond_lab_and_pytest():
    """On Windows, CI installs mechlib[lab], pytest and pytest-timeout: what dev or grade bring is missing there."""
    bring = set(by_name(EXTRAS["dev"] + EXTRAS["grade"])) - set(by_name(EXTRAS["lab"])) - {"pytest", "pytest-timeout"}
    modules = {name.replace("-", "_") for name in bring} - {"packaging", "nbclient", "nbconvert", "nbformat"}
    modules |= {"yaml", "sklearn"}
    code = (
        f"import sys\nfor name in {sorted(modules)}: sys.modules[name] = None\n"
        "import pytest\nsys.exit(pytest.main(['-m', 'student', '--collect-only', '-q', '-p', 'pytest_timeout']))"
    )
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
