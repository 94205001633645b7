# shellcheck shell=bash
# What the demo and the tests need beside Rust: installed by Debian package name when missing, silent otherwise. Sourced.

# program:package
WEFT_NEEDS=(
    ip:iproute2 ss:iproute2 bridge:iproute2 ping:iputils-ping iperf3:iperf3 tcpdump:tcpdump ethtool:ethtool jq:jq
    etcd:etcd-server etcdctl:etcd-client
    cc:build-essential traceroute:traceroute tracepath:iputils-tracepath arping:iputils-arping
    dig:bind9-dnsutils curl:curl musl-gcc:musl-tools busybox:busybox-static udhcpc:udhcpc dhclient:isc-dhcp-client
    dockerd:docker.io docker-compose:docker-compose
    iptables:iptables /usr/lib/cni/host-local:containernetworking-plugins podman:podman
    containerd:containerd runc:runc lintian:lintian dpkg-shlibdeps:dpkg-dev /lib/systemd/systemd:systemd man:man-db
)

weft_need_root() {
    if [ "$(id -u)" -ne 0 ]; then
        echo "$0: needs root: it makes network namespaces and TAP devices; run it with sudo" >&2
        exit 1
    fi
    if [ ! -c /dev/net/tun ]; then
        mkdir -p /dev/net
        if ! mknod /dev/net/tun c 10 200 2>/dev/null; then
            echo "$0: there is no /dev/net/tun: load the kernel module with 'modprobe tun'" >&2
            exit 1
        fi
    fi
}

weft_install_missing() {
    local pair missing=() log
    for pair in "${WEFT_NEEDS[@]}"; do
        command -v "${pair%%:*}" >/dev/null 2>&1 || missing+=("${pair##*:}")
    done
    if [ "${#missing[@]}" -gt 0 ]; then
        echo "installing ${missing[*]}" >&2
        log=$(mktemp)
        if ! {
            apt-get update -q &&
                DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
        } >"$log" 2>&1 </dev/null; then
            cat "$log" >&2
            echo "$0: cannot install ${missing[*]}: install these Debian packages, then run this again" >&2
            exit 1
        fi
        rm -f "$log"
    fi
    if ! command -v cargo >/dev/null 2>&1 && [ -x "$HOME/.cargo/bin/cargo" ]; then
        PATH="$HOME/.cargo/bin:$PATH"
    fi
    if ! command -v cargo >/dev/null 2>&1; then
        echo "$0: cargo is missing: install Rust (https://rustup.rs), then run this again" >&2
        exit 1
    fi
}
