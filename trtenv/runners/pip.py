"""Runs pip with the user's own indexes, proxies and certificates, and explains its failures."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from trtenv import console
from trtenv.errors import EnvironmentFailed
from trtenv.runners.protocol import LOG_TAIL_LINES
from trtenv.runners.wheels import CPU_INDEX, split_requirement

__all__ = [
    "bundled_wheel",
    "clean_variables",
    "explain",
    "find_cpu_build",
    "hint_for",
    "install",
    "install_locked",
    "progress",
    "user_settings",
]

# The caller's own Python must not reach into an environment.
LEAKS: Final = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE")
# Settings of pip that say where or what to install, not from where: those are this tool's choice.
DIVERSIONS: Final = (
    "PIP_DRY_RUN", "PIP_NO_DEPS", "PIP_PREFIX", "PIP_PYTHON", "PIP_QUIET", "PIP_REPORT",
    "PIP_REQUIRE_HASHES", "PIP_ROOT", "PIP_TARGET", "PIP_VERBOSE",
)  # fmt: skip
FIXED: Final = {
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_NO_INPUT": "1",
    "PIP_USER": "0",
    "PYTHONNOUSERSITE": "1",
}
# An unreachable index must cost seconds, and a name server that never answers not many more.
QUICK: Final = ("--retries", "0", "--timeout", "3")
QUICK_LIMIT_S: Final = 20

NO_INDEX: Final = (
    "no package index answers: check the network, `pip config list` and the proxy variables"
)
# Texts of pip, and what the user can do about them; the first that is found counts.
KNOWN_FAILURES: Final = (
    (
        "CERTIFICATE_VERIFY_FAILED",
        "hand pip the CA bundle of your proxy: `pip config set global.cert FILE`, or PIP_CERT=FILE",
    ),
    (
        "No space left on device",
        "free some space, or choose another disk with TRTENV_CACHE_DIR and TMPDIR",
    ),
    (
        "DO NOT MATCH THE HASHES",
        "the index now has another file under a locked version: remove {lock} to lock anew",
    ),
    (
        "after connection broken by|Max retries exceeded|didn't respond within",
        NO_INDEX,
    ),
    (
        "No matching distribution found|Could not find a version that satisfies",
        "your package index lacks it for this Python and platform; see `pip config list`",
    ),
    (
        "ResolutionImpossible",
        "a constraint of yours (`pip config list`, PIP_CONSTRAINT) or a requirement is at odds",
    ),
)


def clean_variables(base: Mapping[str, str]) -> dict[str, str]:
    """A caller's variables less its own Python's; where pip gets packages from stays the user's."""
    kept = {key: value for key, value in base.items() if key not in (*LEAKS, *DIVERSIONS)}
    return kept | FIXED


def install(
    python: Path,
    requirements: Sequence[str],
    step: console.Step,
    *,
    keep: Iterable[str] = (),
    dry: bool = False,
) -> Any:
    """Install; returns pip's report of exactly what it took from where.

    One step, not a `dry` run first: from an index without metadata files (PEP 658) the dry run
    downloads every wheel, and so would the second. `keep` pins what may not change.
    """
    with tempfile.TemporaryDirectory() as folder:
        report, pins = Path(folder, "report.json"), Path(folder, "constraints.txt")
        pins.write_text("".join(f"{each}\n" for each in keep), encoding="utf-8")
        flags = ["--report", str(report), "--constraint", str(pins)]
        flags += ["--dry-run"] if dry else []
        _run(python, ["install", *flags, *requirements], step)
        return json.loads(report.read_text(encoding="utf-8"))


def install_locked(
    python: Path, requirements: Iterable[str], step: console.Step, *, lock: Path
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        listing = Path(folder, "requirements.txt")
        listing.write_text("".join(f"{each}\n" for each in requirements), encoding="utf-8")
        flags = ["install", "--no-deps", "--require-hashes", "-r", str(listing)]
        _run(python, flags, step, lock=lock)


def _run(
    python: Path, arguments: Sequence[str], step: console.Step, *, lock: Path | None = None
) -> None:
    command = [str(python), "-m", "pip", *arguments, "--progress-bar", "raw"]
    console.command(shlex.join(command))
    tail: deque[str] = deque(maxlen=LOG_TAIL_LINES)
    file = ""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=clean_variables(os.environ),
        encoding="utf-8",
        errors="replace",
    ) as process:
        assert process.stdout
        try:
            for line in process.stdout:
                file, text = progress(line, file)
                if text:
                    step.update(text)
                if not line.startswith("Progress "):
                    tail.append(line.rstrip())
                    console.detail(line.rstrip())
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise explain(list(tail), lock=lock)


def progress(line: str, file: str) -> tuple[str, str | None]:
    """The file that pip is at, and a few words for the terminal, from one line of its output."""
    if found := re.match(r"\s*(?:Downloading|Using cached|Processing) (\S+)", line):
        file = found[1].rsplit("/", 1)[-1].split("-")[0]
        return file, file
    if found := re.match(r"Progress (\d+) of (\d+)", line):
        done, total = (int(number) / 1e6 for number in found.groups())
        return file, f"{file} {done:.0f}/{total:.0f} MB"
    if line.startswith("Installing collected packages"):
        return file, f"unpacking {line.count(',') + 1} packages"
    return file, None


def explain(tail: Sequence[str], *, lock: Path | None = None) -> EnvironmentFailed:
    """What pip's last lines mean."""
    errors = [line.removeprefix("ERROR: ") for line in tail if line.startswith("ERROR: ")]
    return EnvironmentFailed(
        f"pip could not install the packages: {errors[-1] if errors else 'see above'}",
        hint=hint_for(tail, lock=lock),
        details=tail,
    )


def hint_for(tail: Sequence[str], *, lock: Path | None = None) -> str | None:
    text = "\n".join(tail)
    hint = next((hint for pattern, hint in KNOWN_FAILURES if re.search(pattern, text)), None)
    return hint and hint.format(lock=lock or "the lock")


def find_cpu_build(python: Path, requirement: str, index: str = CPU_INDEX) -> str | None:
    """What to give pip for `torch==2.13.0+cpu`; None where no source has it or answers in time.

    The extra index is asked about this one package only, and is no source for any other.
    """
    name, version = split_requirement(requirement)
    extra = ["--extra-index-url", index]
    listed = _ask(python, ["index", "versions", name, "--json", *extra, *QUICK], QUICK_LIMIT_S)
    if version not in (listed or {}).get("versions", ()):
        return None
    flags = ["--dry-run", "--no-deps", "--ignore-installed", "--quiet", "--report", "-"]
    report = _ask(python, ["install", *flags, *extra, requirement], None)
    if report is None:
        return None
    url = report["install"][0]["download_info"]["url"]
    if _site(url) != _site(index):
        return requirement
    # By its address: the index itself stays out of every other package's way.
    sha256 = report["install"][0]["download_info"]["archive_info"]["hashes"]["sha256"]
    return f"{name} @ {url.partition('#')[0]}#sha256={sha256}"


def _ask(python: Path, arguments: Sequence[str], limit: float | None) -> Any | None:
    """One JSON answer of pip, None where it has none."""
    command = [str(python), "-m", "pip", *arguments]
    console.command(shlex.join(command))
    try:
        asked = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit,
            check=True,
            env=clean_variables(os.environ),
        )
        return json.loads(asked.stdout)
    except (subprocess.SubprocessError, ValueError):
        return None


def _site(url: str) -> list[str]:
    """An index may keep its files on a sister host."""
    return (urlsplit(url).hostname or "").split(".")[-2:]


def user_settings() -> dict[str, list[str]]:
    """The user's settings of pip by name: files and PIP_* variables, as pip itself merges them."""
    command = [sys.executable, str(bundled_wheel() / "pip"), "config", "list"]
    listed = subprocess.run(
        command, capture_output=True, text=True, check=False, env=clean_variables(os.environ)
    )
    settings: dict[str, list[str]] = {}
    for section in ("global", "install", ":env:"):  # the order in which pip lets one override
        for key, value in re.findall(rf"^{section}\.(\S+?)='(.*)'$", listed.stdout, re.MULTILINE):
            settings[key] = shlex.split(value.replace("\\n", " "))
    return settings


def bundled_wheel(minor: str | None = None) -> Path:
    """pip as virtualenv carries it. This tool's own environment may hold none (uv tool, pipx); a
    wheel of pip runs as it is."""
    from virtualenv.seed.wheels.embed import get_embed_wheel

    wheel = get_embed_wheel("pip", minor)
    assert wheel
    return Path(wheel.path)
