//! Frames and datagrams as no kernel would send them: forged, cut, tagged.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use etherparse::{EtherType, PacketBuilder};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, send, socket};
use weft_wire::MacAddr;

use super::{Namespace, must, sys};

/// UDP port of VXLAN (RFC 7348 section 5).
const VXLAN_PORT: u16 = 4789;

/// A packet socket on one interface: what is sent goes out as it is.
#[derive(Debug)]
pub struct FrameSocket(OwnedFd);

impl FrameSocket {
    /// Opens it on an interface of a namespace.
    #[track_caller]
    pub fn open(ns: &Namespace, ifname: &str) -> Self {
        let socket = ns.enter(|| {
            let index = must(
                nix::net::if_::if_nametoindex(ifname),
                &format!("find interface {ifname}"),
            );
            let kind = (AddressFamily::Packet, SockType::Raw);
            let socket = must(
                socket(kind.0, kind.1, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll),
                "open a packet socket",
            );
            must(
                sys::bind_to_interface(socket.as_fd(), index),
                &format!("bind to {ifname}"),
            );
            socket
        });
        Self(socket)
    }

    /// Sends one frame.
    #[track_caller]
    pub fn send(&self, frame: &[u8]) {
        assert!(self.offer(frame), "the interface's queue is full");
    }

    /// Sends one frame; false if the interface's queue is full.
    #[track_caller]
    pub fn offer(&self, frame: &[u8]) -> bool {
        match send(self.0.as_raw_fd(), frame, MsgFlags::empty()) {
            Err(Errno::ENOBUFS) => false,
            sent => {
                must(sent, &format!("send a frame of {} bytes", frame.len()));
                true
            }
        }
    }
}

/// An Ethernet frame of any type around any bytes, not padded.
pub fn ethernet(destination: MacAddr, source: MacAddr, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [
        &destination.octets()[..],
        &source.octets(),
        &ethertype.to_be_bytes(),
        payload,
    ]
    .concat()
}

/// The same behind one 802.1Q tag.
pub fn tagged(
    destination: MacAddr,
    source: MacAddr,
    (vlan, ethertype): (u16, u16),
    payload: &[u8],
) -> Vec<u8> {
    let inner = [&vlan.to_be_bytes()[..], &ethertype.to_be_bytes(), payload].concat();
    ethernet(destination, source, EtherType::VLAN_TAGGED_FRAME.0, &inner)
}

/// A UDP packet in an Ethernet frame, all checksums right.
#[track_caller]
pub fn udp_frame(macs: (MacAddr, MacAddr), ips: (Ipv4Addr, Ipv4Addr), payload: &[u8]) -> Vec<u8> {
    let (destination, source) = macs;
    let builder = PacketBuilder::ethernet2(source.octets(), destination.octets())
        .ipv4(ips.1.octets(), ips.0.octets(), 64)
        .udp(40_000, 40_000);
    let mut frame = Vec::new();
    must(builder.write(&mut frame, payload), "build a frame");
    frame
}

/// An ARP request in which `sender` says that it has `ips.0` and asks for `ips.1`.
pub fn arp_request(source: MacAddr, sender: MacAddr, ips: (Ipv4Addr, Ipv4Addr)) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, 1];
    let body = [
        &head[..],
        &sender.octets(),
        &ips.0.octets(),
        &[0; 6],
        &ips.1.octets(),
    ]
    .concat();
    ethernet(MacAddr::BROADCAST, source, EtherType::ARP.0, &body)
}

/// A VXLAN header (RFC 7348 section 5) with the given flags byte and the frame behind it.
pub fn vxlan(flags: u8, vni: u32, frame: &[u8]) -> Vec<u8> {
    let mut datagram = vec![flags, 0, 0, 0];
    datagram.extend_from_slice(&(vni << 8).to_be_bytes());
    datagram.extend_from_slice(frame);
    datagram
}

/// Sends datagrams to a VTEP from an address of a host's namespace, past its agent.
#[derive(Debug)]
pub struct VtepSocket {
    socket: UdpSocket,
    to: SocketAddr,
}

impl VtepSocket {
    /// Binds to `from` in the namespace and sends to `to`.
    #[track_caller]
    pub fn open(ns: &Namespace, from: IpAddr, to: IpAddr) -> Self {
        let socket = ns.enter(|| must(UdpSocket::bind((from, 0)), &format!("bind {from}")));
        Self {
            socket,
            to: SocketAddr::new(to, VXLAN_PORT),
        }
    }

    /// Sends one datagram.
    #[track_caller]
    pub fn send(&self, datagram: &[u8]) {
        must(
            self.socket.send_to(datagram, self.to),
            &format!("send to {}", self.to),
        );
    }
}
