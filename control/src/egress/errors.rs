//! What the kernel knows of ICMP errors for a socket (`IP_RECVERR`, ip(7)).

use std::io::IoSliceMut;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use nix::libc::{SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6, SO_EE_ORIGIN_LOCAL, sock_extended_err};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};

use super::answer::IcmpError;

/// An error, and who said so; `None`: this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) error: IcmpError,
    pub(super) from: Option<IpAddr>,
}

/// ICMP's "packet too big": destination unreachable, fragmentation needed (RFC 1191); ICMPv6 type 2.
const TOO_BIG: (u8, u8) = (3, 4);
const TOO_BIG_V6: (u8, u8) = (2, 0);

/// Takes the next error that a container can be told of from a socket's error queue.
pub(super) fn next(socket: &impl AsRawFd) -> Option<Told> {
    let mut payload = [0; 64];
    let mut room = nix::cmsg_space!([u8; 128]);
    loop {
        let mut parts = [IoSliceMut::new(&mut payload)];
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let message =
            recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut room), flags)
                .ok()?;
        let told = message.cmsgs().ok()?.find_map(|control| read(&control));
        if told.is_some() {
            return told;
        }
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the kernel's other messages were not asked for"
)]
fn read(control: &ControlMessageOwned) -> Option<Told> {
    match control {
        ControlMessageOwned::Ipv4RecvErr(error, from) => {
            let from =
                from.map(|from| IpAddr::from(u32::from_be(from.sin_addr.s_addr).to_be_bytes()));
            told(error, from, TOO_BIG)
        }
        ControlMessageOwned::Ipv6RecvErr(error, from) => {
            let from = from.map(|from| IpAddr::from(from.sin6_addr.s6_addr));
            told(error, from, TOO_BIG_V6)
        }
        _ => None,
    }
}

fn told(error: &sock_extended_err, from: Option<IpAddr>, too_big: (u8, u8)) -> Option<Told> {
    let is_too_big = (error.ee_type, error.ee_code) == too_big;
    match error.ee_origin {
        SO_EE_ORIGIN_ICMP | SO_EE_ORIGIN_ICMP6 => Some(Told {
            error: IcmpError {
                kind: error.ee_type,
                code: error.ee_code,
                rest: if is_too_big { error.ee_info } else { 0 },
            },
            from,
        }),
        // A datagram longer than the path takes: `ee_info` is what it takes.
        SO_EE_ORIGIN_LOCAL if error.ee_errno == nix::libc::EMSGSIZE.unsigned_abs() => Some(Told {
            error: IcmpError {
                kind: too_big.0,
                code: too_big.1,
                rest: error.ee_info,
            },
            from: None,
        }),
        _ => None,
    }
}
