# SPDX-License-Identifier: BSD-3-Clause
"""Make the virtual environment and install the project into it, from nothing but Python and make.

    python3 tools/bootstrap.py [--venv DIR] [--extras dev] [--try aravis]

Standard library only. Where Debian ships no ensurepip (package python3-venv absent) the environment
is made without pip, and pip comes from the system's pip or, last, from the package index as a wheel
whose sha256 is checked. When nothing changed since the last run it only says so.
"""

from __future__ import annotations

import argparse
import base64
import configparser
import fcntl
import hashlib
import html.parser
import importlib.util
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
STAMP = "nightjar-bootstrap.json"
DEFAULT_INDEX = "https://pypi.org/simple"
INDEX_TIMEOUT_S = 20.0
# What pkg-config must know before an extra that is built from source is tried.
BUILT_WITH = {"aravis": ("gobject-introspection-1.0", "cairo")}
STEP_TIMEOUT_S = 1800.0
# Settings meant for the user's own pip that would send our packages elsewhere.
UNWANTED_SETTINGS = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PYTHONHOME", "PYTHONPATH")


class BootstrapError(Exception):
    """The environment could not be made; the text is one line that says what to do."""


def say(text: str) -> None:
    """Print one step."""
    print(f"bootstrap: {text}", flush=True)


# --- running things ----------------------------------------------------------------------------


def child_environment() -> dict[str, str]:
    """Return the environment for pip: never asking, never installing outside the venv."""
    environment = {k: v for k, v in os.environ.items() if k not in UNWANTED_SETTINGS}
    environment.update(PIP_USER="0", PIP_NO_INPUT="1", PIP_DISABLE_PIP_VERSION_CHECK="1")
    return environment


def run(*command: str | Path) -> tuple[int, str]:
    """Run a command; return its exit code and all it wrote (shown only when it failed)."""
    try:
        done = subprocess.run(
            [str(part) for part in command],
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=STEP_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 124, f"ERROR: no end after {STEP_TIMEOUT_S:.0f} s"
    return done.returncode, done.stdout


def reason_in(output: str) -> str:
    """Return the line of a failed command's output that tells most."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(ERROR|error|\w*Error)\b", line)]
    return (errors or lines or ["no output"])[-1][:300]


# --- pip from the package index ----------------------------------------------------------------


class SimplePage(html.parser.HTMLParser):
    """The links of a page of the simple index (PEP 503) as attribute dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[dict[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect one link."""
        if tag == "a":
            self.links.append({name: value or "" for name, value in attrs})


def pip_setting(name: str) -> str | None:
    """Return a global setting of pip from the environment or its configuration files."""
    value = os.environ.get("PIP_" + name.upper().replace("-", "_"))
    if value:
        return value
    home = Path(os.environ.get("HOME", "/nonexistent"))
    config_home = Path(os.environ.get("XDG_CONFIG_HOME", home / ".config"))
    candidates = [
        Path(os.environ.get("PIP_CONFIG_FILE", "/nonexistent")),
        config_home / "pip" / "pip.conf",
        home / ".pip" / "pip.conf",
        Path("/etc/pip.conf"),
    ]
    for path in candidates:
        parser = configparser.RawConfigParser()
        try:
            parser.read(path)
        except (OSError, configparser.Error, UnicodeDecodeError):
            continue  # pip itself will complain about it
        for section in ("install", "global"):
            if parser.has_option(section, name):
                return parser.get(section, name).strip()
    return None


def index_urls() -> list[str]:
    """Return the package indexes in the order in which pip is told of them."""
    urls = [pip_setting("index-url") or DEFAULT_INDEX]
    urls += (pip_setting("extra-index-url") or "").split()
    return [url.rstrip("/") for url in urls]


def fetch(url: str) -> bytes:
    """Read one address, with the credentials in it and the certificates pip would use."""
    parts = urllib.parse.urlsplit(url)
    headers = {"Accept": "text/html"}
    if parts.username is not None and parts.hostname:
        secret = f"{urllib.parse.unquote(parts.username)}:"
        secret += urllib.parse.unquote(parts.password or "")
        headers["Authorization"] = "Basic " + base64.b64encode(secret.encode()).decode()
        netloc = parts.netloc.rpartition("@")[2]
        url = urllib.parse.urlunsplit(parts._replace(netloc=netloc))
    elif parts.scheme == "file" and parts.path.endswith("/"):
        url += "index.html"
    context = ssl.create_default_context(cafile=pip_setting("cert"))
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=INDEX_TIMEOUT_S, context=context) as reply:
        data: bytes = reply.read()
    return data


def allows_this_python(requirement: str) -> bool:
    """Tell whether a `data-requires-python` such as ``>=3.9,<4`` admits this interpreter."""
    here = sys.version_info[:3]
    for clause in filter(None, (part.strip() for part in requirement.split(","))):
        match = re.fullmatch(r"(>=|<=|>|<|==|!=)\s*(\d+(?:\.\d+)*)(\.\*)?", clause)
        if match is None:
            return False
        sign, number, _ = match.groups()
        wanted = tuple(int(part) for part in number.split("."))
        mine = here[: len(wanted)]
        if not {
            ">=": mine >= wanted,
            "<=": mine <= wanted,
            ">": mine > wanted,
            "<": mine < wanted,
            "==": mine == wanted,
            "!=": mine != wanted,
        }[sign]:
            return False
    return True


def newest_pip_wheel(page_url: str, page: bytes) -> tuple[str, str, str]:
    """Choose the newest released pip wheel on a simple page.

    Returns
    -------
    tuple of str
        Address, file name and the sha256 that the link promises.
    """
    parser = SimplePage()
    parser.feed(page.decode("utf-8", "replace"))
    best: tuple[tuple[int, ...], str, str, str] | None = None
    for link in parser.links:
        url, _, fragment = urllib.parse.urljoin(page_url, link.get("href", "")).partition("#")
        name = urllib.parse.unquote(url.rsplit("/", 1)[-1])
        match = re.fullmatch(r"pip-(\d+(?:\.\d+)*)-py3-none-any\.whl", name)
        digest = re.fullmatch(r"sha256=([0-9a-f]{64})", fragment)
        if match is None or digest is None or "data-yanked" in link:
            continue
        if not allows_this_python(link.get("data-requires-python", "")):
            continue
        version = tuple(int(part) for part in match[1].split("."))
        if best is None or version > best[0]:
            best = (version, url, name, digest[1])
    if best is None:
        raise BootstrapError(f"{page_url} offers no pip wheel with a sha256 for this Python")
    return best[1:]


def download_pip(folder: Path) -> Path:
    """Fetch the newest pip wheel from the first index that has one, and check it."""
    refusals = []
    for index in index_urls():
        page_url = f"{index}/pip/"
        try:
            url, name, digest = newest_pip_wheel(page_url, fetch(page_url))
            data = fetch(url)
        except (OSError, ValueError, BootstrapError) as error:
            refusals.append(f"{without_secret(index)}: {describe(error)}")
            continue
        if hashlib.sha256(data).hexdigest() != digest:
            raise BootstrapError(f"{without_secret(url)} does not have the sha256 of its link")
        wheel = folder / name
        wheel.write_bytes(data)
        return wheel
    raise BootstrapError("no pip to be had, the package index is needed: " + "; ".join(refusals))


def without_secret(url: str) -> str:
    """Return an address as it may be shown."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def describe(error: Exception) -> str:
    """Return the cause of a failed download in few words."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return str(cause) or type(cause).__name__


# --- the steps ---------------------------------------------------------------------------------


def make_environment(venv: Path) -> Path:
    """Make (or take over) the environment without pip; return its interpreter."""
    python = venv / "bin" / "python"
    if (venv / "pyvenv.cfg").exists():
        here = f"{sys.version_info[0]} {sys.version_info[1]} {venv}"
        question = "import sys; print(*sys.version_info[:2], sys.prefix)"
        if os.access(python, os.X_OK) and run(python, "-c", question) == (0, here + "\n"):
            return python
        say(f"{venv.name} belongs to another Python or place: made anew")
    elif venv.exists() and any(venv.iterdir()):
        raise BootstrapError(f"{venv} exists and is no virtual environment; give another --venv")
    say(f"making {venv} with Python {sys.version.split()[0]}")
    code, output = run(sys.executable, "-m", "venv", "--clear", "--without-pip", venv)
    if code != 0:
        raise BootstrapError(f"python -m venv failed: {reason_in(output)}")
    return python


def provide_pip(python: Path) -> None:
    """Put pip into the environment: from ensurepip, the system's pip, or the package index."""
    if run(python, "-m", "pip", "--version")[0] == 0:
        return
    if importlib.util.find_spec("ensurepip") is not None:
        code, output = run(python, "-m", "ensurepip", "--default-pip")
        if code == 0:
            say("pip from ensurepip")
            return
        say(f"ensurepip failed ({reason_in(output)})")
    if importlib.util.find_spec("pip") is not None:
        command = ("-m", "pip", "--python", str(python), "install", "--quiet", "pip")
        code, output = run(sys.executable, *command)
        if code == 0:
            say("no ensurepip here: pip installed by the system's pip")
            return
        say(f"the system's pip could not ({reason_in(output)})")
    with tempfile.TemporaryDirectory(prefix="nightjar-pip-") as folder:
        wheel = download_pip(Path(folder))
        # A pip wheel can run from inside itself, and installs itself without the network.
        options = ("--quiet", "--no-deps", "--no-index")
        code, output = run(python, wheel / "pip", "install", *options, wheel)
        if code != 0:
            raise BootstrapError(f"{wheel.name} could not install itself: {reason_in(output)}")
        say(f"no ensurepip and no pip here: {wheel.name} from the package index, sha256 checked")


def install_project(python: Path, extras: list[str], *, quiet: bool = False) -> None:
    """Install the project editable with its extras."""
    target = f"{ROOT}[{','.join(extras)}]" if extras else str(ROOT)
    say(f"installing nightjar[{','.join(extras)}] and what it needs (a minute or two at first)")
    started = time.monotonic()
    trouble = index_trouble()
    # By environment, not option: pip hands it on to the pip that fetches the build backend. With
    # the index away one try must do, which still succeeds where wheels lie in a local folder.
    os.environ["PIP_RETRIES"] = "0" if trouble else "3"
    code, output = run(python, "-m", "pip", "install", "--quiet", "-e", target)
    if code != 0:
        if trouble:
            raise BootstrapError(f"no package index, which is needed once: {trouble}")
        if not quiet:
            sys.stderr.write(output)
        raise BootstrapError(f"pip could not install the project: {reason_in(output)}")
    say(f"installed in {time.monotonic() - started:.0f} s")


def index_trouble() -> str:
    """Return why the main package index cannot be read, or nothing when it can."""
    index = index_urls()[0]
    try:
        fetch(f"{index}/pip/")
    except (OSError, ValueError) as error:
        return f"{without_secret(index)}: {describe(error)}"
    return ""


def fingerprint(venv: Path) -> str:
    """Return a hash over all that decides what is installed, but the extras."""
    parts = [(ROOT / "pyproject.toml").read_bytes(), Path(__file__).read_bytes()]
    parts += [str(item).encode() for item in (sys.version, ROOT, venv)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def contained_extras(names: list[str]) -> set[str]:
    """Return extras with those that they pull in (``dev`` holds ``nightjar[daemons,...]``)."""
    import tomllib  # not at the top: an older Python must get as far as the message about itself

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    table = project.get("optional-dependencies", {})
    found: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name in found:
            continue
        if name not in table:
            known = ", ".join(sorted(table))
            raise BootstrapError(f"no extra {name!r} in pyproject.toml; there are {known}")
        found.add(name)
        for line in table[name]:
            match = re.match(rf"{re.escape(project['name'])}\[([^]]*)\]", line)
            pending += [part.strip() for part in match[1].split(",")] if match else []
    return found


def bootstrap(venv: Path, extras: list[str]) -> None:
    """Bring the environment to the state asked for."""
    wanted = contained_extras(extras)
    stamp_path = venv / STAMP
    mark = fingerprint(venv)
    stamp = read_stamp(venv)
    present = list(stamp.get("extras", ())) if stamp.get("fingerprint") == mark else None
    usable = present is not None and os.access(venv / "bin/python", os.X_OK)
    if usable and wanted <= contained_extras(present or []):
        say(f"{venv.name} is up to date")
        return
    stamp_path.unlink(missing_ok=True)
    python = make_environment(venv)
    provide_pip(python)
    total = sorted({*extras, *(present or [])})
    install_project(python, total)
    stamp_path.write_text(json.dumps({"fingerprint": mark, "extras": total}) + "\n")


def read_stamp(venv: Path) -> dict[str, Any]:
    """Return what the last run noted; nothing where it cannot be read."""
    try:
        stamp: dict[str, Any] = json.loads((venv / STAMP).read_text())
    except (OSError, ValueError):
        return {}
    return stamp


def try_extra(venv: Path, name: str) -> None:
    """Add an extra that is built from source, where it can be; say why where it cannot.

    A build that failed is not tried again until pyproject.toml changes, or ``make clean``.
    """
    contained_extras([name])
    stamp = read_stamp(venv)
    if name in stamp["extras"]:
        return
    trouble = missing_for(name) or stamp.get("failed", {}).get(name, "")
    if not trouble:
        try:
            install_project(venv / "bin/python", sorted({*stamp["extras"], name}), quiet=True)
            stamp["extras"] = sorted({*stamp["extras"], name})
        except BootstrapError as error:
            trouble = str(error)
            stamp.setdefault("failed", {})[name] = trouble
        (venv / STAMP).write_text(json.dumps(stamp) + "\n")
    if trouble:
        say(f"without extra {name}, its tests are skipped: {trouble}")


def missing_for(name: str) -> str:
    """Return what must be installed before an extra can be built, or nothing."""
    needed = BUILT_WITH.get(name, ())
    missing = [tool for tool in ("pkg-config", "cc") if needed and shutil.which(tool) is None]
    if not missing:
        missing = [one for one in needed if run("pkg-config", "--exists", one)[0] != 0]
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if needed and not header.exists():
        missing.append(str(header))
    return f"not installed: {', '.join(missing)} (make debian-packages)" if missing else ""


def main(arguments: list[str] | None = None) -> int:
    """Parse the arguments, take the lock, do the steps; 0 on success, 1 with one line else."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--venv", default=str(ROOT / ".venv"), help="folder of the environment")
    parser.add_argument("--extras", default="dev", help="comma-separated extras of pyproject.toml")
    parser.add_argument(
        "--try", dest="tried", default="",
        help="comma-separated extras that are built from source: added where that can be done",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    if sys.version_info[:2] < OLDEST:
        needed = ".".join(map(str, OLDEST))
        print(
            f"bootstrap: Python {needed} or newer is needed and this is {sys.version.split()[0]};"
            f" try: make PYTHON=python{needed} ...",
            file=sys.stderr,
        )
        return 1
    extras = [name.strip() for name in options.extras.split(",") if name.strip()]
    lock = os.open(ROOT, os.O_RDONLY)
    try:
        # Two makes at once must not write the same environment; the kernel drops the lock with us.
        fcntl.flock(lock, fcntl.LOCK_EX)
        venv = Path(os.path.abspath(options.venv))
        bootstrap(venv, extras)
        for name in filter(None, (part.strip() for part in options.tried.split(","))):
            try_extra(venv, name)
    except (BootstrapError, OSError, shutil.Error) as error:
        print(f"bootstrap: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bootstrap: interrupted; run it again to finish", file=sys.stderr)
        return 130
    finally:
        os.close(lock)
    return 0


if __name__ == "__main__":
    sys.exit(main())
