#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Run a command beside a real `systemd --user` that sees, and can touch, only this sandbox.
#
#   systemd_sandbox.sh UNIT_FOLDER COMMAND [ARGUMENT...]
#
# UNIT_FOLDER holds units, and may hold a *-sysusers.conf and a *-tmpfiles.conf, which are applied,
# and a folder etc, which is copied over /etc.
# Exit code: that of COMMAND, or 77 with one line on stderr where a sandbox cannot be made here.
# Inside, the only network is a loopback (down), /etc and /tmp are copies, /dev/shm, /mnt, /run,
# /var/lib and /var/tmp are new, and processes have their own numbers; all of it vanishes with the
# last process. The manager runs as root, so that User= and the whole service sandbox work as under
# a system manager.
#
# Why the care with cgroups: a systemd that is started as root beside another (or no) init takes
# the top of the cgroup tree that it sees for its own, and moves every process of it into a scope
# of its own making. So it must see nothing but a sub-tree made here, and that is checked twice
# before it is started.
set -euo pipefail

cannot() { echo "systemd sandbox: $*" >&2; exit 77; }

outside() {
    [ "$(id -u)" = 0 ] || cannot "needs root for private namespaces"
    local needed top tree code=0
    for needed in unshare setpriv findmnt systemctl /lib/systemd/systemd; do
        command -v "$needed" >/dev/null || cannot "needs the program $needed"
    done
    top=$(findmnt --noheadings --types cgroup2 --output TARGET | head -n 1)
    [ -n "$top" ] || cannot "no cgroup2 file system is mounted"
    tree=$top/nightjar-test-$$
    mkdir "$tree" 2>/dev/null || cannot "may not make a cgroup in $top"
    (
        echo "$BASHPID" >"$tree/cgroup.procs" || cannot "may not move into $tree"
        # Dies with this shell, and takes the whole process namespace along.
        exec setpriv --pdeathsig KILL unshare --cgroup --mount --propagation private --net \
            --ipc --pid --fork --mount-proc --kill-child -- "$0" --inside "$@"
    ) || code=$?
    # The kernel needs a moment to empty the tree after the last process is gone.
    for _ in $(seq 100); do
        find "$tree" -depth -type d -exec rmdir {} + 2>/dev/null || true
        [ -d "$tree" ] || break
        sleep 0.05
    done
    exit "$code"
}

check_own_cgroup_tree() {
    [ "$(sed -n 's/^0:://p' /proc/self/cgroup)" = / ] ||
        cannot "the cgroup namespace does not begin at our own tree"
    # Only a cgroup that is not the machine's top has this file.
    [ -e /sys/fs/cgroup/cgroup.events ] || cannot "the cgroup tree seen is the machine's own"
    # Processes outside our namespace show as 0; only the unshare that made it may.
    local strangers
    strangers=$(find /sys/fs/cgroup -name cgroup.procs -exec cat {} + | grep -cx 0 || true)
    [ "$strangers" -le 1 ] || cannot "$strangers processes of others are in our cgroup tree"
}

private_folders() {
    local folder kind
    for folder in /dev/shm /var/tmp; do
        mount -t tmpfs -o mode=1777 tmpfs "$folder"
    done
    for folder in /mnt /run /var/lib; do
        mount -t tmpfs -o mode=0755 tmpfs "$folder"
    done
    # A clone may lie in /tmp, so it is covered and not replaced; where the kernel cannot, it stays.
    mkdir /mnt/tmp /mnt/work
    chmod 1777 /mnt/tmp
    mount -t overlay -o lowerdir=/tmp,upperdir=/mnt/tmp,workdir=/mnt/work overlay /tmp \
        2>/dev/null || true
    cp --archive /etc /mnt/etc
    mount --bind /mnt/etc /etc
    mkdir -p /run/systemd/system  # what programs look for to know that systemd runs
    # What a booted systemd keeps there to lay over files that a service must not see.
    mkdir /run/systemd/inaccessible /run/lock
    mkdir --mode=000 /run/systemd/inaccessible/dir
    for kind in "fifo p" "chr c 0 0" "blk b 0 0"; do
        # shellcheck disable=SC2086  # name and arguments on purpose
        mknod --mode=000 /run/systemd/inaccessible/$kind
    done
    touch /run/systemd/inaccessible/{reg,sock}
    chmod 000 /run/systemd/inaccessible/{reg,sock}
}

inside() {
    local units=$1 manager code=0
    shift
    umount --recursive /sys/fs/cgroup
    mount -t cgroup2 none /sys/fs/cgroup || cannot "cannot mount the private cgroup tree"
    check_own_cgroup_tree
    private_folders
    export HOME=/mnt/home XDG_RUNTIME_DIR=/mnt/run
    unset XDG_CONFIG_HOME XDG_STATE_HOME XDG_DATA_HOME DBUS_SESSION_BUS_ADDRESS
    mkdir -p "$HOME/.config/systemd" "$XDG_RUNTIME_DIR"
    cp -r "$units" "$HOME/.config/systemd/user"
    [ ! -d "$units/etc" ] || cp -r "$units/etc/." /etc/
    find "$units" -name '*-sysusers.conf' -exec systemd-sysusers {} +
    find "$units" -name '*-tmpfiles.conf' -exec systemd-tmpfiles --create {} +
    # Services of a user manager inherit its environment: a system manager's is as bare as this.
    env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
        HOME="$HOME" XDG_RUNTIME_DIR="$XDG_RUNTIME_DIR" \
        /lib/systemd/systemd --user --log-target=null &
    manager=$!
    for _ in $(seq 100); do
        systemctl --user is-system-running >/dev/null 2>&1 && break
        kill -0 "$manager" 2>/dev/null || break
        sleep 0.05
    done
    if systemctl --user is-system-running >/dev/null 2>&1; then
        # Services with a User= must reach the manager's folders and its notification socket.
        chmod 711 "$HOME" "$HOME/.config" "$XDG_RUNTIME_DIR" "$XDG_RUNTIME_DIR/systemd"
        chmod 666 "$XDG_RUNTIME_DIR/systemd/notify"
        "$@" || code=$?
    else
        code=1
    fi
    [ "$code" = 0 ] || tail -n 50 /var/tmp/*.log >&2 || true
    systemctl --user exit 2>/dev/null || true
    wait "$manager" 2>/dev/null || true
    exit "$code"
}

if [ "${1:-}" = --inside ]; then
    shift
    inside "$@"
else
    [ $# -ge 2 ] || { echo "usage: systemd_sandbox.sh UNIT_FOLDER COMMAND [ARGUMENT...]" >&2; exit 2; }
    outside "$@"
fi
