# SPDX-License-Identifier: BSD-3-Clause
"""A rough night of the fast cameras in minutes: daemons, loggers and links killed and stopped.

    python tools/soak_streams.py [--minutes 5] [--seed N] [--rate 200] [--crop STANDARD]

Two simulated cameras are logged as they come and behind a link, at the same time. Loggers,
grabbers, ends of links and all the daemons are killed with -9 or stopped for seconds, the crop is
changed, sessions are paused and begun, streams removed. Somebody who is never killed notes each
frame that passes. In the end each of them must be in one cube, whole, or be counted as missed.
Cubes are verified and deleted meanwhile. Exit code 1 where a frame is unaccounted for, twice there,
or not what it was.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from stream_account import Account, CubeLook, Judge, Misfortune, Session, Watcher, look_at

from kit.site import Daemon, command_line, descendants, eventually, free_ports
from nightjar.errors import NightjarError
from nightjar.registry import Registry
from nightjar.rpc.client import Client
from nightjard.site.simulate_streams import FAR, PORTS, write_stream_site

CAMERAS = ("vcam1", "vcam2")
GROUPS = {"vcam": CAMERAS, "far": tuple(FAR)}
DAEMONS = {
    "vcam1": ("camd", "vcam1"), "vcam2": ("camd", "vcam2"), "fitslogd": ("fitslogd", "vampires"),
    "recv": ("streamlinkd", "recv"), "send": ("streamlinkd", "send"),
}  # fmt: skip
NAMES = {
    "vcam1": "localhost_vcam1", "vcam2": "localhost_vcam2", "fitslogd": "localhost_fitslogd",
    "send": "localhost_streamlink_send", "recv": "localhost_streamlink_recv",
}  # fmt: skip
MISFORTUNES = (
    "kill logger", "kill logger", "kill logger", "kill grabber", "kill fitslogd", "kill camd",
    "kill link", "kill link", "kill streamlinkd", "stop", "stop", "stop", "stop", "crop", "crop",
    "set", "set", "remove",
)  # fmt: skip
CROPS = ("STANDARD", "ONEARC", "TWOARC", "HALFARC")
DISK_LIMIT = 6_000_000_000


class Night:
    """The site, what is asked of it, and what happens to it."""

    def __init__(self, folder: Path, seed: int, rate: float, crop: str) -> None:
        self.random = random.Random(seed)
        self.root = folder / "site"
        write_stream_site(self.root, ports=free_ports(PORTS))
        self.etc = self.root / "etc"
        os.environ["NIGHTJAR_CONFIG_ROOT"] = str(self.etc)
        for camera in CAMERAS:
            path = self.etc / "camd" / f"{camera}.json"
            config = json.loads(path.read_text())
            path.write_text(json.dumps(config | {"rate": rate, "crop": crop, "autostart": True}))
        self.registry = Registry.load(self.etc / "nightjar" / "registry.json")
        self.logs = folder / "logs"
        self.logs.mkdir()
        noted = folder / "noted"
        noted.mkdir()
        self.watcher = Watcher(noted, [*CAMERAS, *FAR])
        self.daemons = {name: self._launch(name) for name in DAEMONS}
        for daemon in self.daemons.values():
            daemon.wait_ready()
        for stream in (*CAMERAS, *FAR):
            eventually(lambda s=stream: len(self.watcher.noted(s)), 60, f"frames of {stream}")
        self.misfortunes: list[Misfortune] = []
        self.sessions: list[Session] = []
        self.running: dict[str, Session] = {}
        self.due = dict.fromkeys(GROUPS, 0.0)
        self.totals: dict[tuple[str, str], tuple[int, int]] = {}
        self.looks: dict[Path, Future[CubeLook]] = {}
        self.bad: list[Path] = []
        self.pool = ProcessPoolExecutor(1)
        self.began = time.monotonic()

    def _launch(self, name: str) -> Daemon:
        program, config = DAEMONS[name]
        client = Client(self.registry.daemon(NAMES[name]))
        path = self.etc / program / f"{config}.json"
        return Daemon(program, path, client, self.logs / f"{name}.log")

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.began:6.1f} s  {text}", flush=True)

    # ------------------------------------------------------------ what people do

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Have the loggers do something, and wait for its end."""
        daemon = self.daemons["fitslogd"]
        reply: dict[str, Any] = daemon.call(command, **arguments)
        if reply.get("pending"):
            state = daemon.finish(reply, 60)
            if state["state"] != "done":
                raise NightjarError(f"{command}: {state.get('error') or state}")
            reply = state["result"]
        return reply

    def keep_busy(self) -> None:
        """Begin and end sessions."""
        self.look_at_cubes()
        for group in GROUPS:
            if time.monotonic() < self.due[group]:
                continue
            self.due[group] = time.monotonic() + 0.5
            try:
                if group in self.running:
                    self._pause(group)
                else:
                    self._start(group)
            except (NightjarError, AssertionError) as error:
                self.say(f"{group}: {str(error)[:150]}")

    def _states(self, group: str) -> set[str]:
        views = self.daemons["fitslogd"].status()["streams"]
        return {views[stream]["state"] for stream in GROUPS[group]}

    def _start(self, group: str) -> None:
        if self.disk_bytes() > DISK_LIMIT:
            return
        states = self._states(group)
        if states == {"idle"}:
            self.ask("prep", group=group, cube_frames=self.random.choice([100, 150, 250]),
                     cubes=None)  # fmt: skip
        elif states != {"armed"}:
            return
        reply = self.ask("start", group=group)
        since = time.time_ns() + 150_000_000  # the common time lies ahead
        self.running[group] = Session(str(reply["session"]), GROUPS[group], since)
        self.due[group] = time.monotonic() + self.random.uniform(8, 25)

    def _pause(self, group: str, *, is_last: bool = False) -> None:
        states = self._states(group)
        if states != {"saving"} and not is_last:
            return  # somebody is being brought back
        until = time.time_ns()
        finish = not is_last and self.random.random() < 0.3
        session = self.running[group]
        session.until, session.fills = until, finish
        self.ask("pause", group=group, finish=finish, wait=True)
        self.sessions.append(self.running.pop(group))
        views = self.daemons["fitslogd"].status()["streams"]
        for stream in GROUPS[group]:
            self.totals[session.name, stream] = (
                views[stream]["frames_saved"], views[stream]["missed"],
            )  # fmt: skip
        self.due[group] = time.monotonic() + self.random.uniform(0, 2)

    # ------------------------------------------------------------ what happens

    def _processes(self) -> dict[str, tuple[str, int]]:
        """Return kind and process of everything that can be killed, by name."""
        found = {}
        for name, daemon in self.daemons.items():
            kind = DAEMONS[name][0]
            found[f"{kind} {name}" if kind != "fitslogd" else kind] = (kind, daemon.process.pid)
            for pid in descendants(daemon.process.pid):
                line = command_line(pid)
                for camera in (*FAR, *CAMERAS):
                    if "fitslogd.logger" in line and f'"{camera}"' in line:
                        found[f"logger {camera}"] = ("logger", pid)
                if "fast.grabber" in line:
                    found[f"grabber {name}"] = ("grabber", pid)
                if "streamlinkd.worker" in line and '"all"' in line:
                    found[f"link {name}"] = ("link", pid)
        return found

    def misfortune(self) -> str:
        """Let something happen; returns what."""
        kind = self.random.choice(MISFORTUNES)
        began = time.time_ns()
        verb, _, what = kind.partition(" ")
        target = ""
        if verb in ("kill", "stop"):
            processes = self._processes()
            names = sorted(n for n, (k, _) in processes.items() if what in ("", k))
            if not names:
                return f"{kind}: none there"
            target = self.random.choice(names)
            self._harm(verb, target, processes[target][1])
        elif verb == "crop":
            target = self._change_crop()
        elif verb == "set":
            target = self._change_cubes()
        else:
            target = f"stream {self.random.choice(list(FAR))}"
            path = Path(os.environ["MILK_SHM_DIR"]) / f"{target.split()[1]}.im.shm"
            path.unlink(missing_ok=True)
        self.misfortunes.append(Misfortune(verb, target, began, time.time_ns()))
        return f"{verb} {target}"

    def _harm(self, verb: str, target: str, pid: int) -> None:
        if verb == "stop":
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                try:
                    time.sleep(self.random.uniform(0.5, 3.0))
                finally:
                    os.kill(pid, signal.SIGCONT)
            return
        for name, daemon in self.daemons.items():
            if daemon.process.pid == pid:
                daemon.kill()
                daemon.client.close()
                self.daemons[name] = self._launch(name).wait_ready()
                return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def _change_crop(self) -> str:
        camera, crop = self.random.choice(CAMERAS), self.random.choice(CROPS)
        try:
            daemon = self.daemons[camera]
            daemon.finish(daemon.call("set_crop", crop=crop, window=None), 20)
        except (NightjarError, AssertionError) as error:
            return f"{camera} {crop} failed: {str(error)[:100]}"
        return f"{camera} {crop}"

    def _change_cubes(self) -> str:
        group, frames = self.random.choice(list(GROUPS)), self.random.choice([60, 100, 150, 250])
        what = {"next_cube": True} if self.random.random() < 0.3 else {"cube_frames": frames}
        try:
            self.ask("set", group=group, **what)
        except (NightjarError, AssertionError) as error:
            return f"{group} failed: {str(error)[:100]}"
        return f"{group} {what}"

    # ------------------------------------------------------------ cubes

    def disk_bytes(self) -> int:
        """Return the size of the cubes that are there."""
        total = 0
        for path in (self.root / "fits").rglob("*"):
            with contextlib.suppress(OSError):
                total += path.stat().st_size
        return total

    def look_at_cubes(self) -> None:
        """Have finished cubes read, and delete those that were read and are good."""
        for path in sorted((self.root / "fits").rglob("*.fits")):
            if path.name.startswith("."):
                continue
            if path not in self.looks:
                # A journal beside it: its logger was killed, and the next one looks at it, too.
                if not list(path.parent.glob(f".{path.name}.*")):
                    self.looks[path] = self.pool.submit(look_at, path, len(self.looks) % 5 == 0)
            elif self.looks[path].done() and path not in self.bad:
                if self.looks[path].result().problems:
                    self.bad.append(path)
                else:
                    path.unlink()
                    path.with_suffix(".txt").unlink(missing_ok=True)

    # ------------------------------------------------------------ the end

    def come_to_rest(self) -> list[str]:
        """End sessions and daemons in order; return what is left over that should not."""
        faults = []
        for group in GROUPS:
            wanted = {"saving"} if group in self.running else {"armed", "idle"}
            eventually(lambda g=group, w=wanted: self._states(g) <= w, 60, f"{group} is {wanted}")
            if group in self.running:
                self._pause(group, is_last=True)
            self.ask("stop", group=group)
        time.sleep(1.0)  # the watcher writes down what it has
        for name in ("fitslogd", "recv", "send", *CAMERAS):
            code = self.daemons[name].stop(60)
            if code:
                faults.append(f"{name} ended with {code}")
        left = [path.name for path in (self.root / "fits").rglob(".*")]
        faults += [f"left over: {name}" for name in left]
        self.look_at_cubes()
        for future in self.looks.values():
            future.result(120)
        return faults

    def judge(self) -> list[str]:
        """Print the account; return what is wrong."""
        judge = Judge(self.misfortunes)
        looks = [future.result() for future in self.looks.values()]
        noted = {stream: self.watcher.noted(stream) for stream in (*CAMERAS, *FAR)}
        faults: list[str] = []
        accounts: list[Account] = []
        for stream in (*CAMERAS, *FAR):
            own = [look for look in looks if look.stream == stream]
            account = judge.stream(stream, noted[stream], own, self.sessions)
            if stream in FAR:
                near = FAR[stream]
                marks = ("link", "streamlinkd", f"stream {stream}")
                judge.link(account, noted[near], noted[stream], own, marks)
            for session in self.sessions:
                if stream in session.streams:
                    account.faults += self._check_totals(session.name, stream, own)
            accounts.append(account)
            faults += account.faults
        for account in accounts:
            for note in account.notes:
                print(f"   note: {note}")
        print(Account.TITLE)
        for account in accounts:
            print(account.text())
        return faults

    def _check_totals(self, session: str, stream: str, looks: list[CubeLook]) -> list[str]:
        own = [look for look in looks if look.session == session]
        counted = (sum(len(look.rows) for look in own), sum(look.missed for look in own))
        if session and self.totals.get((session, stream)) != counted:
            return [f"{stream} {session}: told are (saved, missed) "
                    f"{self.totals.get((session, stream))}, the cubes have {counted}"]  # fmt: skip
        return []

    def close(self) -> None:
        """End everything."""
        for daemon in self.daemons.values():
            for pid in (daemon.process.pid, *descendants(daemon.process.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            with contextlib.suppress(AssertionError):
                daemon.stop(30)
            daemon.client.close()
        self.watcher.close()
        self.pool.shutdown(cancel_futures=True)


def spend(night: Night, minutes: float) -> None:
    """Let the night pass."""
    deadline = time.monotonic() + 60 * minutes
    while time.monotonic() < deadline:
        pause = time.monotonic() + night.random.uniform(0.5, 4.0)
        while time.monotonic() < pause:
            night.keep_busy()
            time.sleep(0.1)
        began = time.monotonic()
        what = night.misfortune()
        night.say(f"{what} ({time.monotonic() - began:.1f} s)")


def main() -> int:
    """Run the soak; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--crop", default="STANDARD", choices=CROPS)
    parser.add_argument("--disk", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--keep", type=Path, help="where logs and bad cubes go")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"seed {options.seed}, {options.minutes:g} minutes", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="nightjar-soak-", dir=options.disk) as folder,
        tempfile.TemporaryDirectory(prefix="nightjar-soak-", dir="/dev/shm") as shared,
    ):
        os.environ["NIGHTJAR_STATE_ROOT"] = str(Path(folder) / "site" / "state")
        os.environ["MILK_SHM_DIR"] = shared
        night = Night(Path(folder), options.seed, options.rate, options.crop)
        try:
            spend(night, options.minutes)
            faults = night.come_to_rest()
            faults += night.judge()
        finally:
            night.close()
            if options.keep is not None:
                keep(night, Path(folder), options.keep)
    for fault in faults:
        print(f"FAULT: {fault}")
    return 1 if faults else 0


def keep(night: Night, folder: Path, where: Path) -> None:
    """Put logs and bad cubes aside."""
    import shutil

    where.mkdir(parents=True, exist_ok=True)
    for source in (night.logs, folder / "noted"):
        shutil.copytree(source, where / source.name, dirs_exist_ok=True)
    for path in night.bad[:5]:
        shutil.copy(path, where)


if __name__ == "__main__":
    sys.exit(main())
