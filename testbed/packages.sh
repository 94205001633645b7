# Debian packages that the demo and the tests need: installed when something is missing, silent otherwise. Sourced.

# program:package
WEFT_NEEDS=(
    ip:iproute2 ping:iputils-ping iperf3:iperf3 tcpdump:tcpdump ethtool:ethtool nft:nftables jq:jq cc:gcc make:make
    setsid:util-linux bridge:iproute2 nc:netcat-openbsd
)

weft_need_root() {
    if [ "$(id -u)" -ne 0 ]; then
        echo "$0: needs root: it makes network namespaces and TAP devices; run it with sudo" >&2
        exit 1
    fi
    if [ ! -c /dev/net/tun ]; then
        mkdir -p /dev/net && mknod /dev/net/tun c 10 200 2>/dev/null || {
            echo "$0: there is no /dev/net/tun: load the kernel module with 'modprobe tun'" >&2
            exit 1
        }
    fi
}

weft_install_missing() {
    local pair missing=()
    for pair in "${WEFT_NEEDS[@]}"; do
        command -v "${pair%%:*}" >/dev/null 2>&1 || missing+=("${pair##*:}")
    done
    if [ "${#missing[@]}" -gt 0 ]; then
        echo "installing ${missing[*]}" >&2
        export DEBIAN_FRONTEND=noninteractive
        { apt-get update -q && apt-get install -q -y --no-install-recommends "${missing[@]}"; } >&2
    fi
    if ! command -v cargo >/dev/null 2>&1; then
        [ -x "$HOME/.cargo/bin/cargo" ] && PATH="$HOME/.cargo/bin:$PATH"
    fi
    command -v cargo >/dev/null 2>&1 || {
        echo "$0: cargo is missing: install Rust (https://rustup.rs), then run this again" >&2
        exit 1
    }
}
