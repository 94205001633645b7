//! Questions to the kernel about interfaces and addresses, here or in another namespace.

use std::net::IpAddr;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::{Handle, LinkUnspec};
use weft_wire::MacAddr;

use super::{LinkError, connect, is_no_device, os_error, with_runtime};
use crate::netns::Netns;

/// An interface of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalLink {
    /// Its name.
    pub ifname: String,
    /// Its index.
    pub ifindex: u32,
    /// Its MTU in bytes; loopback has 65,536.
    pub mtu: u32,
}

/// An interface as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub ifname: String,
    /// Its MAC; all zeros if it has none.
    pub mac: MacAddr,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is set up (not: whether it has a carrier).
    pub up: bool,
    /// Its addresses with prefixes, link-local ones included.
    pub addresses: Vec<IpNet>,
}

/// What an interface in a namespace is now; `None` if there is none of that name. Blocks.
///
/// # Errors
/// [`LinkError`].
pub fn read_back(netns: &Netns, ifname: &str) -> Result<Option<LinkState>, LinkError> {
    with_runtime(|runtime| {
        netns.enter()?;
        runtime.block_on(async {
            let handle = connect()?;
            let Some(mut state) = find_link(&handle, ifname).await? else {
                return Ok(None);
            };
            let addresses = addresses(&handle).await?;
            state.addresses = addresses
                .into_iter()
                .filter(|(ifindex, _)| *ifindex == state.ifindex)
                .map(|(_, address)| address)
                .collect();
            Ok(Some(state))
        })
    })
}

/// The interface of the caller's namespace that has this address; `None` if none has.
///
/// # Errors
/// [`LinkError::Netlink`].
pub async fn local_link_of_address(address: IpAddr) -> Result<Option<LocalLink>, LinkError> {
    let handle = connect()?;
    let addresses = addresses(&handle).await?;
    let Some((ifindex, _)) = addresses
        .into_iter()
        .find(|(_, held)| held.addr() == address)
    else {
        return Ok(None);
    };
    let mut links = Box::pin(handle.link().get().match_index(ifindex).execute());
    let link = links
        .try_next()
        .await
        .map_err(|error| LinkError::Netlink(os_error(error)))?;
    Ok(link.map(|link| {
        let state = state_of(&link);
        LocalLink {
            ifname: state.ifname,
            ifindex,
            mtu: state.mtu,
        }
    }))
}

/// All addresses of the caller's namespace, loopback and link-local ones included.
///
/// # Errors
/// [`LinkError::Netlink`].
pub async fn local_addresses() -> Result<Vec<IpAddr>, LinkError> {
    let addresses = addresses(&connect()?).await?;
    Ok(addresses
        .into_iter()
        .map(|(_, address)| address.addr())
        .collect())
}

/// Brings `lo` of the caller's namespace up; it is down in a fresh one.
///
/// # Errors
/// [`LinkError`].
pub async fn ensure_loopback_up() -> Result<(), LinkError> {
    let message = LinkUnspec::new_with_name("lo").up().build();
    connect()?
        .link()
        .change(message)
        .execute()
        .await
        .map_err(|error| LinkError::System {
            what: "bring up",
            ifname: "lo".to_owned(),
            source: os_error(error),
        })
}

/// Looks an interface up by name, without its addresses.
pub(super) async fn find_link(
    handle: &Handle,
    ifname: &str,
) -> Result<Option<LinkState>, LinkError> {
    let mut links = Box::pin(handle.link().get().match_name(ifname).execute());
    match links.try_next().await {
        Ok(link) => Ok(link.as_ref().map(state_of)),
        Err(error) => {
            let error = os_error(error);
            if is_no_device(&error) {
                Ok(None)
            } else {
                Err(LinkError::Netlink(error))
            }
        }
    }
}

async fn addresses(handle: &Handle) -> Result<Vec<(u32, IpNet)>, LinkError> {
    let messages: Vec<AddressMessage> = handle
        .address()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(|error| LinkError::Netlink(os_error(error)))?;
    Ok(messages.iter().filter_map(address_of).collect())
}

/// IFA_LOCAL is the interface's own address where both are there: IFA_ADDRESS is then the peer of a point-to-point
/// link. IPv6 has IFA_ADDRESS only.
fn address_of(message: &AddressMessage) -> Option<(u32, IpNet)> {
    let mut own = None;
    for attribute in &message.attributes {
        if let AddressAttribute::Local(address) = attribute {
            own = Some(*address);
        } else if let AddressAttribute::Address(address) = attribute {
            own = own.or(Some(*address));
        }
    }
    let net = IpNet::new(own?, message.header.prefix_len).ok()?;
    Some((message.header.index, net))
}

fn state_of(link: &LinkMessage) -> LinkState {
    let mut state = LinkState {
        ifindex: link.header.index,
        ifname: String::new(),
        mac: MacAddr::ZERO,
        mtu: 0,
        up: link.header.flags.contains(LinkFlags::Up),
        addresses: Vec::new(),
    };
    for attribute in &link.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            state.ifname.clone_from(name);
        } else if let LinkAttribute::Mtu(mtu) = attribute {
            state.mtu = *mtu;
        } else if let LinkAttribute::Address(address) = attribute
            && let Some(mac) = MacAddr::from_slice(address)
        {
            state.mac = mac;
        }
    }
    state
}
