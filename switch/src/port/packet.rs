//! A link of this host as a port: a packet socket (packet(7)) with a vnet header before each frame, so that what the NIC
//! coalesced comes as one superframe, and what containers left undone is left to the NIC.

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{setsockopt, sockopt};
use weft_wire::{MacAddr, VNET_HDR_LEN, VnetHdr};

use super::{Medium, PortKind, Queue};

/// As `sockaddr_ll` and `packet_mreq` want them.
const AF_PACKET: u16 = 17;
const ETH_P_ALL: u16 = 3;
const PROMISCUOUS: u16 = 1;
/// linux/if_packet.h; the libc crate has not all of them.
const PACKET_AUXDATA: c_int = 8;
const PACKET_VNET_HDR: c_int = 15;
const PACKET_IGNORE_OUTGOING: c_int = 23;
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
const TP_STATUS_VLAN_TPID_VALID: u32 = 1 << 6;

/// Kernel memory for frames on the way in and out, in bytes.
const BUFFER: usize = 8 << 20;
/// An IEEE 802.1Q tag, and where it stands in a frame.
const TAG_LEN: usize = 4;
const TAG_LEN_16: u16 = 4;
const TAG_AT: usize = 12;
/// The usual type of a tag, when the kernel doesn't say which.
const DOT1Q: u16 = 0x8100;

/// Opens a link of the caller's network namespace as a port: gets every frame that comes in there, also those for other
/// stations (the link goes promiscuous for as long), and not what the host itself sends.
///
/// # Errors
/// There is no such link; CAP_NET_RAW is missing; the kernel is older than 4.20.
pub fn open_link(name: &str) -> io::Result<Queue> {
    let index = c_int::try_from(if_nametoindex(name)?).map_err(io::Error::other)?;
    // SAFETY: no memory is passed. Without a protocol it hears nothing before it is bound.
    let fd = unsafe {
        libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
            0,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was opened just now and nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    for option in [PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING, PACKET_AUXDATA] {
        set(&fd, option, &1_i32)?;
    }
    if setsockopt(&fd, sockopt::SndBufForce, &BUFFER).is_err() {
        setsockopt(&fd, sockopt::SndBuf, &BUFFER)?;
    }
    if setsockopt(&fd, sockopt::RcvBufForce, &BUFFER).is_err() {
        setsockopt(&fd, sockopt::RcvBuf, &BUFFER)?;
    }
    let promiscuous = libc::packet_mreq {
        mr_ifindex: index,
        mr_type: PROMISCUOUS,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set(&fd, libc::PACKET_ADD_MEMBERSHIP, &promiscuous)?;
    bind(&fd, index)?;
    Ok(Queue {
        fd,
        kind: PortKind::Offload,
        medium: Medium::Link,
        takes_datagrams: true,
    })
}

/// The MAC of a link of the caller's network namespace; `None` if there is no such link, or it has none.
pub fn link_mac(name: &str) -> Option<MacAddr> {
    let links = nix::ifaddrs::getifaddrs().ok()?;
    let mut named = links.filter(|link| link.interface_name == name);
    let mac = named.find_map(|link| link.address?.as_link_addr()?.addr())?;
    Some(MacAddr(mac))
}

fn set<T>(fd: &OwnedFd, option: c_int, value: &T) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `len` bytes of `value`, which lives through the call.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            std::ptr::from_ref(value).cast::<c_void>(),
            len,
        )
    };
    check(done)
}

fn bind(fd: &OwnedFd, index: c_int) -> io::Result<()> {
    // SAFETY: all zeros are a sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { MaybeUninit::zeroed().assume_init() };
    address.sll_family = AF_PACKET;
    address.sll_protocol = ETH_P_ALL.to_be();
    address.sll_ifindex = index;
    let len =
        libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `len` bytes of `address`, which lives through the call.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) })
}

fn check(done: c_int) -> io::Result<()> {
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Room for the one control message that is asked for.
#[repr(align(8))]
struct Control([u8; 64]);

/// Reads a frame with its vnet header into `buffer` and says where in it. A VLAN tag, which the kernel takes out, is put
/// back where it was.
///
/// # Errors
/// As recvmsg(2).
pub(super) fn recv(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Range<usize>, Errno> {
    // The tag's room is left before the frame, so that only the two addresses have to be moved.
    let Some(room) = buffer.get_mut(TAG_LEN..) else {
        return Ok(0..0);
    };
    let mut part = libc::iovec {
        iov_base: room.as_mut_ptr().cast(),
        iov_len: room.len(),
    };
    let mut control = Control([0; 64]);
    // SAFETY: all zeros are a msghdr.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len();
    // SAFETY: the kernel writes at most what `part` and `control` have room for, and both live through the call.
    let len = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let len = usize::try_from(len).map_err(|_| Errno::last())?;
    // SAFETY: the kernel filled `message` and `control` just now.
    let tag = unsafe { tag_of(&message) };
    Ok(restore_tag(buffer, len, tag))
}

/// # Safety
/// `message` is as recvmsg left it, and its control buffer lives.
unsafe fn tag_of(message: &libc::msghdr) -> Option<(u16, u16)> {
    // SAFETY: the caller's word; CMSG_FIRSTHDR gives null or a header inside the control buffer.
    let first = unsafe { libc::CMSG_FIRSTHDR(message).as_ref() }?;
    if (first.cmsg_level, first.cmsg_type) != (libc::SOL_PACKET, PACKET_AUXDATA) {
        return None;
    }
    // SAFETY: such a message holds a tpacket_auxdata (the buffer is larger than one), which need not be aligned.
    let data = unsafe {
        libc::CMSG_DATA(first)
            .cast::<libc::tpacket_auxdata>()
            .read_unaligned()
    };
    if data.tp_status & TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let tpid = if data.tp_status & TP_STATUS_VLAN_TPID_VALID == 0 {
        DOT1Q
    } else {
        data.tp_vlan_tpid
    };
    Some((tpid, data.tp_vlan_tci))
}

/// Puts the tag that was taken out into `len` bytes that were received [`TAG_LEN`] bytes into the buffer.
fn restore_tag(buffer: &mut [u8], len: usize, tag: Option<(u16, u16)>) -> Range<usize> {
    const ADDRESSES: usize = VNET_HDR_LEN + TAG_AT;
    let received = TAG_LEN..TAG_LEN + len;
    let (Some((tpid, tci)), ADDRESSES..) = (tag, len) else {
        return received;
    };
    buffer.copy_within(TAG_LEN..TAG_LEN + ADDRESSES, 0);
    let tag = [tpid.to_be_bytes(), tci.to_be_bytes()];
    buffer[ADDRESSES..ADDRESSES + TAG_LEN].copy_from_slice(tag.as_flattened());
    if let Some(header) = buffer.first_chunk_mut::<VNET_HDR_LEN>() {
        // The kernel counted without the tag.
        let mut parsed = VnetHdr::parse(header);
        parsed.csum_start = parsed.csum_start.saturating_add(TAG_LEN_16);
        *header = parsed.to_bytes();
    }
    0..TAG_LEN + len
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(frame: &[u8], csum_start: u16) -> Vec<u8> {
        let header = VnetHdr {
            flags: 1,
            csum_start,
            csum_offset: 16,
            ..VnetHdr::default()
        };
        [&[0; TAG_LEN][..], &header.to_bytes(), frame].concat()
    }

    #[test]
    fn a_tag_is_put_back_and_the_checksum_moves_with_it() {
        let frame = [&[1; 6][..], &[2; 6], &[8, 0], &[3; 40]].concat();
        let mut buffer = received(&frame, 34);
        let len = buffer.len() - TAG_LEN;
        let range = restore_tag(&mut buffer, len, Some((0x8100, 0x2007)));
        let (header, tagged) = buffer[range].split_first_chunk().unwrap();
        assert_eq!(VnetHdr::parse(header).csum_start, 38);
        let expected = [&frame[..12], &[0x81, 0, 0x20, 7], &frame[12..]].concat();
        assert_eq!(tagged, expected);
    }

    #[test]
    fn without_a_tag_or_without_addresses_nothing_is_changed() {
        let mut buffer = received(&[9; 60], 34);
        let before = buffer.clone();
        let len = buffer.len() - TAG_LEN;
        assert_eq!(restore_tag(&mut buffer, len, None), TAG_LEN..TAG_LEN + len);
        let short = VNET_HDR_LEN + 11;
        let tag = Some((0x8100, 7));
        assert_eq!(
            restore_tag(&mut buffer, short, tag),
            TAG_LEN..TAG_LEN + short
        );
        assert_eq!(restore_tag(&mut buffer, 0, tag), TAG_LEN..TAG_LEN);
        assert_eq!(buffer, before);
    }
}
