//! Interfaces, by rtnetlink: plugging a TAP into a container's namespace, changing its MTU, and looking up what this
//! host has. The TAP was made before ([`weft_switch::port::create_tap`]); the switch reads and writes its frames after.
//!
//! Nothing here is undone on failure: a TAP whose file descriptors are closed is destroyed with its addresses and
//! routes, wherever it is, so dropping them is how a caller takes an attach back.

mod attach;
mod query;
mod remove;
mod routes;
mod watch;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use ipnet::IpNet;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::{Handle, LinkUnspec};
use weft_switch::port;
use weft_tunnel::{Carriage, superframe_max};
use weft_wire::{MacAddr, Mtu};

use crate::api::Route;
use crate::netns::{Netns, NetnsError, on_own_thread, small_runtime};

pub use query::{
    LinkState, LocalLink, ensure_loopback_up, local_addresses, local_link_of_address, read_back,
};
pub use remove::remove_tap;
pub use routes::missing_routes;
pub use watch::LinkWatch;

/// What a container's interface is to be.
#[derive(Clone, Debug)]
pub struct AttachSpec {
    /// The TAP's name in the caller's namespace.
    pub tap: String,
    /// The TAP's index in the caller's namespace.
    pub ifindex: u32,
    /// The name it gets inside: 1 to 15 bytes.
    pub ifname: String,
    /// Its MAC.
    pub mac: MacAddr,
    /// Its MTU.
    pub mtu: Mtu,
    /// How its network's frames travel between hosts: says how long superframes best are.
    pub carriage: Carriage,
    /// Frames that each queue's ring holds for us. More are dropped.
    pub tx_queue_len: u32,
    /// Addresses with the prefix of their subnet.
    pub addresses: Vec<IpNet>,
    /// Next hops of the default routes; one is not set when the namespace has a default route of that family.
    pub gateways: Vec<IpAddr>,
    /// Further routes; one that is there already stays as it is.
    pub routes: Vec<Route>,
}

/// An attached interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its index inside the namespace.
    pub ifindex: u32,
    /// Routes that it has beside those of its addresses.
    pub routes: Vec<Route>,
}

/// Why an interface is not as wanted.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The name is taken inside; nothing was changed.
    #[error("network namespace {netns} has an interface {name} already")]
    InterfaceExists {
        /// The name.
        name: String,
        /// The namespace, as the caller named it.
        netns: String,
    },
    /// There is no such interface, or it went while it was worked on.
    #[error("there is no interface {name} in {netns}")]
    NoSuchInterface {
        /// The name.
        name: String,
        /// The namespace, as the caller named it.
        netns: String,
    },
    /// An address could not be set.
    #[error("cannot set address {address} on interface {ifname} of {netns}: {source}")]
    Address {
        /// The address.
        address: IpNet,
        /// The interface.
        ifname: String,
        /// The namespace, as the caller named it.
        netns: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// A default route could not be set.
    #[error(
        "cannot set the route to {dst}{} on interface {ifname} of {netns}: {source}",
        gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default()
    )]
    Route {
        /// Where to.
        dst: IpNet,
        /// The next hop.
        gateway: Option<IpAddr>,
        /// The interface.
        ifname: String,
        /// The namespace, as the caller named it.
        netns: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// The kernel refuses anything else.
    #[error("cannot {what} interface {ifname}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The interface.
        ifname: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// No netlink socket, or no answer on it.
    #[error("cannot ask the kernel for its interfaces: {0}")]
    Netlink(#[source] io::Error),
    /// The namespace cannot be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
}

/// Moves a TAP into `netns`, configures it and brings it up. Blocks; may be called on any thread, and does its work on
/// another.
///
/// After [`LinkError::InterfaceExists`] it may be called again with another name. After any other error the TAP may be
/// half-configured, inside or outside: drop its file descriptors.
///
/// # Errors
/// [`LinkError`].
pub fn attach(netns: &Netns, spec: &AttachSpec) -> Result<Attached, LinkError> {
    with_runtime(|runtime| runtime.block_on(attach::attach(netns, spec)))
}

/// What a TAP gets before somebody else moves it into a container, names it and gives it addresses.
#[derive(Clone, Copy, Debug)]
pub struct Equipment {
    /// Its index in the caller's namespace.
    pub ifindex: u32,
    /// Its MAC.
    pub mac: MacAddr,
    /// Its MTU, which the move leaves as it is.
    pub mtu: Mtu,
    /// How its frames travel: how long superframes best are.
    pub carriage: Carriage,
    /// Frames that each queue's ring holds for us. More are dropped.
    pub tx_queue_len: u32,
}

/// Sets what survives a move on a TAP of the caller's namespace, which stays down. Blocks.
///
/// # Errors
/// [`LinkError`]; `ifname` is for messages.
pub fn equip(ifname: &str, what: Equipment) -> Result<(), LinkError> {
    with_runtime(|runtime| {
        runtime.block_on(async {
            let message = LinkUnspec::new_with_index(what.ifindex)
                .mtu(what.mtu.value())
                .append_extra_attribute(LinkAttribute::GsoMaxSize(superframe_max(
                    what.mtu,
                    what.carriage,
                )))
                .address(what.mac.octets().to_vec())
                .txqueuelen(what.tx_queue_len)
                .build();
            let changed = connect()?.link().change(message).execute().await;
            changed.map_err(|error| LinkError::System {
                what: "set MTU and MAC of",
                ifname: ifname.to_owned(),
                source: os_error(error),
            })
        })
    })
}

/// Changes an interface's MTU; how frames travel says how long superframes best are.
///
/// # Errors
/// [`LinkError`].
pub fn set_mtu(
    netns: &Netns,
    ifname: &str,
    (mtu, carriage): (Mtu, Carriage),
) -> Result<(), LinkError> {
    with_runtime(|runtime| {
        netns.enter()?;
        runtime.block_on(async {
            let message = LinkUnspec::new_with_name(ifname)
                .mtu(mtu.value())
                .append_extra_attribute(LinkAttribute::GsoMaxSize(superframe_max(mtu, carriage)))
                .build();
            connect()?
                .link()
                .change(message)
                .execute()
                .await
                .map_err(|error| {
                    let source = os_error(error);
                    let (name, netns) = (ifname.to_owned(), netns.name().to_owned());
                    if is_no_device(&source) {
                        return LinkError::NoSuchInterface { name, netns };
                    }
                    LinkError::System {
                        what: "set the MTU of",
                        ifname: name,
                        source,
                    }
                })
        })
    })
}

/// Changes the MTU of a TAP wherever it was moved and whatever it is called there now; `ifname` is for messages.
///
/// # Errors
/// [`LinkError`]; `NoSuchInterface` when the device is gone.
pub fn set_mtu_of_tap(
    tap: &impl AsFd,
    ifname: &str,
    mtu: (Mtu, Carriage),
) -> Result<(), LinkError> {
    let failed = |source: io::Error| {
        if source.raw_os_error() == Some(libc::EBADFD) {
            let netns = format!(
                "any namespace (file descriptor {})",
                tap.as_fd().as_raw_fd()
            );
            return LinkError::NoSuchInterface {
                name: ifname.to_owned(),
                netns,
            };
        }
        LinkError::System {
            what: "find the namespace of",
            ifname: ifname.to_owned(),
            source,
        }
    };
    let netns = port::device_netns(tap.as_fd()).map_err(failed)?;
    let name = port::device_name(tap.as_fd()).map_err(failed)?;
    let netns = Netns::from_fd(netns, format!("the namespace of port {ifname}"))?;
    set_mtu(&netns, &name, mtu)
}

/// A thread and a runtime for netlink work in another namespace. Both are gone when this returns, and with them every
/// socket that `work` made.
fn with_runtime<T: Send>(
    work: impl FnOnce(&tokio::runtime::Runtime) -> Result<T, LinkError> + Send,
) -> Result<T, LinkError> {
    on_own_thread(|| work(&small_runtime().map_err(LinkError::Netlink)?))
        .unwrap_or_else(|error| Err(LinkError::Netlink(error)))
}

/// A netlink socket in the namespace of the calling thread. It lives as long as the handle, or the runtime.
fn connect() -> Result<Handle, LinkError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(LinkError::Netlink)?;
    tokio::spawn(connection);
    Ok(handle)
}

fn os_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other @ (rtnetlink::Error::UnexpectedMessage(_)
        | rtnetlink::Error::RequestFailed
        | rtnetlink::Error::NamespaceError(_)
        | rtnetlink::Error::InvalidHardwareAddress(_)
        | rtnetlink::Error::InvalidIp(_)
        | rtnetlink::Error::InvalidAddress(..)
        | rtnetlink::Error::InvalidNla(_)) => io::Error::other(other.to_string()),
    }
}

fn is_no_device(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENODEV)
}

#[cfg(test)]
mod tests;
