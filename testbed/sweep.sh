# shellcheck shell=bash
# Removes what interrupted tests and benchmarks left: what ends by itself, well or not, cleans up after itself. Sourced.
# Names begin with wt and the number of the process that made them.

weft_sweep() {
    local ns dir pid
    for ns in $(ip netns list 2>/dev/null | awk '/^wt[0-9]+-/ { print $1 }'); do
        weft_is_orphan "$ns" || continue
        for pid in $(ip netns pids "$ns" 2>/dev/null); do kill "$pid" 2>/dev/null || true; done
        ip netns del "$ns" 2>/dev/null || true
    done
    for dir in "${TMPDIR:-/tmp}"/wt[0-9]*-[0-9]*-*; do
        if [ -d "$dir" ] && weft_is_orphan "${dir##*/}"; then rm -rf "$dir"; fi
    done
    # wireguard-go, which the benchmark starts, keeps its sockets here; its interfaces are called wbPIDnN.
    for dir in /var/run/wireguard/wb[0-9]*n[01].sock; do
        pid=${dir##*/wb}
        if [ -S "$dir" ] && [ ! -d "/proc/${pid%%n*}" ]; then rm -f "$dir"; fi
    done
}

weft_is_orphan() { # wtPID-...: whether that process is gone
    local owner=${1#wt}
    [ ! -d "/proc/${owner%%-*}" ]
}
