# shellcheck shell=bash
# Removes namespaces that interrupted tests and benchmarks left: what ends by itself, well or not, cleans up after itself.
# Sourced.

weft_sweep() {
    local ns owner pid
    for ns in $(ip netns list 2>/dev/null | awk '/^wt[0-9]+-/ { print $1 }'); do
        owner=${ns#wt}
        [ ! -d "/proc/${owner%%-*}" ] || continue
        for pid in $(ip netns pids "$ns" 2>/dev/null); do kill "$pid" 2>/dev/null || true; done
        ip netns del "$ns" 2>/dev/null || true
    done
}
