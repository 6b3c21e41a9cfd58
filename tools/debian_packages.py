# SPDX-License-Identifier: BSD-3-Clause
"""The programs that the real parts of the tests need, and the Debian packages that hold them.

    python3 tools/debian_packages.py            # list what is missing
    python3 tools/debian_packages.py --install  # and install it: root or passwordless sudo

The one table of this is `PACKAGES`; ``@pytest.mark.needs("program")`` looks its names up here.
Standard library only.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from glob import glob

# program (or, where it begins with a slash, a pattern of files) -> Debian package
PACKAGES = {
    "indiserver": "indi-bin",
    "indi_simulator_ccd": "indi-bin",
    "indi_simulator_wheel": "indi-bin",
    "indi_simulator_rotator": "indi-bin",
    "indi_simulator_telescope": "indi-bin",
    "indi_pyxis_rotator": "indi-bin",
    "indi_getprop": "indi-bin",
    "indi_setprop": "indi-bin",
    "fitsverify": "fitsverify",
    "fpack": "libcfitsio-bin",
    "funpack": "libcfitsio-bin",
    "gcc": "gcc",
    "cc": "gcc",
    "/usr/include/stdio.h": "libc6-dev",
    "initdb": "postgresql",
    "pg_ctl": "postgresql",
    "postgres": "postgresql",
    "psql": "postgresql-client",
    "systemctl": "systemd",
    "systemd-analyze": "systemd",
    "/lib/systemd/systemd": "systemd",
    "openssl": "openssl",
    "/usr/sbin/sshd": "openssh-server",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "rsync": "rsync",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "faketime": "faketime",
    "ncdump": "netcdf-bin",
    "ds9": "saods9",
    "xpaset": "xpa-tools",
    "xpaget": "xpa-tools",
    "Xvfb": "xvfb",
    "pdftotext": "poppler-utils",
    "pdftoppm": "poppler-utils",
    "socat": "socat",
    "arv-fake-gv-camera-0.8": "aravis-tools",
    "/usr/lib/*/girepository-1.0/Aravis-0.8.typelib": "gir1.2-aravis-0.8",
    # What PyGObject (extra aravis) is built with.
    "/usr/include/gobject-introspection-1.0/girepository.h": "libgirepository1.0-dev",
    "/usr/include/cairo/cairo.h": "libcairo2-dev",
    "pkg-config": "pkg-config",
    f"{sysconfig.get_path('include')}/Python.h": "python3-dev",
}
# Debian keeps the server programs of PostgreSQL off the PATH, newest version last.
_FURTHER_FOLDERS = "/usr/lib/postgresql/*/bin"
_APT_TIMEOUT_S = 900.0


def find_program(name: str) -> str | None:
    """Return the path of a program (or file) of the table, or None where it is not installed."""
    if name.startswith("/"):
        return next(iter(glob(name)), None)
    further = sorted(glob(_FURTHER_FOLDERS), reverse=True)
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *further]))


def package_of(name: str) -> str:
    """Return the Debian package of a program.

    Raises
    ------
    KeyError
        Not in the table: add it there.
    """
    return PACKAGES[name]


def missing_packages(names: Iterable[str] = tuple(PACKAGES)) -> list[str]:
    """Return the packages of those programs that are not installed, each once."""
    return sorted({PACKAGES[name] for name in names if find_program(name) is None})


def _root_prefix() -> list[str] | None:
    """Return what makes a command run as root without a question, or None."""
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo is None:
        return None
    probe = subprocess.run(
        [sudo, "-n", "true"], stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False
    )
    return [sudo, "-n"] if probe.returncode == 0 else None


def _apt(prefix: list[str], *arguments: str) -> str:
    """Run apt-get without questions; return nothing, or the line that says why it failed."""
    command = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
    try:
        done = subprocess.run(
            [*command, "-o", "DPkg::Lock::Timeout=120", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_APT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no end after {_APT_TIMEOUT_S:.0f} s"
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stdout.splitlines() if line.startswith("E:")]
    return (lines or done.stdout.splitlines() or [f"exit code {done.returncode}"])[-1]


def install(packages: list[str]) -> str:
    """Install packages where that is allowed; return nothing, or why it was not done."""
    if shutil.which("apt-get") is None:
        return "this is no Debian (no apt-get)"
    prefix = _root_prefix()
    if prefix is None:
        return "neither root nor passwordless sudo"
    # A failed update is no end: the lists of a third-party source may be away, Debian's there.
    update_trouble = _apt(prefix, "update")
    command = ("install", "-y", "--no-install-recommends")
    trouble = _apt(prefix, *command, *packages)
    if trouble and len(packages) > 1:
        # One name that this release does not have must not keep the others away.
        trouble = "; ".join(filter(None, (_apt(prefix, *command, name) for name in packages)))
    return f"apt-get: {trouble} {update_trouble}".strip() if trouble else ""


def main(arguments: list[str] | None = None) -> int:
    """List or install what is missing; 0 also when something stays missing (tests skip then)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--install", action="store_true", help="install what is missing")
    parser.add_argument("--strict", action="store_true", help="exit 1 when something stays missing")
    options = parser.parse_args(arguments)
    missing = missing_packages()
    if not missing:
        print("debian packages: all there")
        return 0
    names = " ".join(missing)
    reason = ""
    if options.install:
        print(f"debian packages: installing {names}", flush=True)
        reason = install(missing)
        missing = missing_packages()
        if not missing:
            return 0
        names = " ".join(missing)
    print(f"debian packages: tests that need them will be skipped: {names}")
    if reason:
        print(f"debian packages: not installed: {reason}")
    print(f"debian packages: by hand: sudo apt-get install --no-install-recommends {names}")
    return 1 if options.strict else 0


if __name__ == "__main__":
    sys.exit(main())
