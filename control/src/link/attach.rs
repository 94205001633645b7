//! The sequence that makes a TAP a container's interface, in as few netlink requests as it takes.
//!
//! Moving, naming, MAC, MTU and ring size are one request (the kernel's do_setlink takes them in this order), since each
//! waits for the kernel's one lock on interfaces. The name is looked up first: were it taken, the rename would fail
//! after the move. That still happens when somebody takes it in between, so a second try finds the TAP where it is.
//!
//! Of the 20 ms that all this takes on the test machine, with 1 port or with 120, the move takes 19: the kernel waits
//! for all pending RCU callbacks (rcu_barrier in __dev_change_net_namespace) with that lock held. So no more than 50
//! ports per second can be attached, in whatever order; only a TAP made inside would need no move, and its file
//! descriptors would keep the namespace alive.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};

use futures_util::{StreamExt, TryStreamExt};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags};
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::{RouteHeader, RouteMessage, RouteType};
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};
use weft_tunnel::superframe_max;
use weft_wire::Mtu;

use super::query::find_link;
use super::{AttachSpec, Attached, LinkError, connect, is_no_device, os_error, routes};
use crate::api::Route;
use crate::netns::Netns;

/// Runs on a thread of its own, which it leaves inside the namespace.
pub(super) async fn attach(netns: &Netns, spec: &AttachSpec) -> Result<Attached, LinkError> {
    let outside = connect()?;
    netns.enter()?;
    let inside = connect()?;
    if find_link(&inside, &spec.ifname).await?.is_some() {
        return Err(exists(netns, spec));
    }
    let ifindex = move_in(&outside, &inside, netns, spec).await?;
    let interface = Interface {
        handle: inside,
        ifindex,
        netns,
        spec,
    };
    interface.leave_queueing_to_the_ring().await;
    interface.leave_routers_unheard();
    for address in &spec.addresses {
        interface.add_address(*address).await?;
    }
    interface.bring_up().await?;
    let mut routes = Vec::new();
    for gateway in &spec.gateways {
        routes.extend(interface.add_default_route(*gateway).await?);
    }
    for route in &spec.routes {
        interface.add_route(route).await?;
        routes.push(route.clone());
    }
    Ok(Attached { ifindex, routes })
}

/// Moves the TAP, or finds that an earlier try did, and gives it all that needs no address.
async fn move_in(
    outside: &Handle,
    inside: &Handle,
    netns: &Netns,
    spec: &AttachSpec,
) -> Result<u32, LinkError> {
    let failed = |error| {
        let source: io::Error = os_error(error);
        if source.raw_os_error() == Some(libc::EEXIST) {
            return exists(netns, spec);
        }
        LinkError::System {
            what: "move into its namespace",
            ifname: spec.tap.clone(),
            source,
        }
    };
    let there = LinkUnspec::new_with_index(spec.ifindex).setns_by_fd(netns.as_fd().as_raw_fd());
    match outside
        .link()
        .change(properties(there, spec))
        .execute()
        .await
    {
        Ok(()) => {
            let link = find_link(inside, &spec.ifname).await?;
            Ok(link.ok_or_else(|| gone(netns, spec))?.ifindex)
        }
        Err(rtnetlink::Error::NetlinkError(error)) if is_no_device(&error.to_io()) => {
            let link = find_link(inside, &spec.tap).await?;
            let ifindex = link.ok_or_else(|| gone(netns, spec))?.ifindex;
            let message = properties(LinkUnspec::new_with_index(ifindex), spec);
            inside
                .link()
                .change(message)
                .execute()
                .await
                .map_err(failed)?;
            Ok(ifindex)
        }
        Err(error) => Err(failed(error)),
    }
}

fn properties(link: LinkMessageBuilder<LinkUnspec>, spec: &AttachSpec) -> LinkMessage {
    link.name(spec.ifname.clone())
        .mtu(spec.mtu.value())
        .append_extra_attribute(LinkAttribute::GsoMaxSize(superframe_max(
            spec.mtu,
            spec.carriage,
        )))
        .address(spec.mac.octets().to_vec())
        .txqueuelen(spec.tx_queue_len)
        .build()
}

/// An interface in its namespace, not yet in use.
struct Interface<'a> {
    handle: Handle,
    ifindex: u32,
    netns: &'a Netns,
    spec: &'a AttachSpec,
}

impl Interface<'_> {
    /// A TAP never makes its sender wait, so a qdisc only costs: with several queues the default one allocates a
    /// pfifo_fast with three rings of `tx_queue_len` for each of 256 possible queues, 1.9 MiB of kernel memory at 256
    /// and 4.8 at 1000, and `up` takes three and nine times as long. Only before the interface is up can they be
    /// spared. A kernel that refuses keeps its default, which works as well.
    async fn leave_queueing_to_the_ring(&self) {
        let Ok(index) = i32::try_from(self.ifindex) else {
            return;
        };
        let mut message = TcMessage::with_index(index);
        message.header.parent = TcHandle::ROOT;
        message
            .attributes
            .push(TcAttribute::Kind("noqueue".to_owned()));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let Ok(mut answers) = self.handle.clone().request(request) else {
            return;
        };
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.code.is_some()
            {
                tracing::debug!(ifname = self.spec.ifname, %error, "default qdisc kept");
            }
        }
    }

    /// Where the control plane gives addresses and routes, the spoof check lets no others pass; an address that a router
    /// advertisement made would be chosen by applications and reach nobody. Without the right to write there, that is
    /// left to the switch.
    fn leave_routers_unheard(&self) {
        if self.spec.addresses.is_empty() {
            return;
        }
        if let Err(error) = self.set_ipv6("accept_ra", "0") {
            tracing::debug!(ifname = self.spec.ifname, %error, "router advertisements are heard");
        }
    }

    /// Sets an address before the interface is up. The control plane gave it to nobody else, so IPv6 need not ask the
    /// network for a second (RFC 4862 section 5.4 exempts nobody, but allows to switch it off).
    async fn add_address(&self, address: IpNet) -> Result<(), LinkError> {
        if matches!(address, IpNet::V6(_)) && self.spec.mtu < Mtu::IPV6_MIN {
            let why = format!(
                "IPv6 needs an MTU of {}, this is {}",
                Mtu::IPV6_MIN,
                self.spec.mtu
            );
            return Err(self.address_error(address, io::Error::other(why)));
        }
        match self.try_address(address).await {
            Err(source)
                if matches!(address, IpNet::V6(_))
                    && source.raw_os_error() == Some(libc::EACCES) =>
            {
                // IPv6 is off inside, as Docker has it unless a network has IPv6. This one has.
                self.set_ipv6("disable_ipv6", "0")
                    .map_err(|source| self.address_error(address, source))?;
                self.try_address(address)
                    .await
                    .map_err(|source| self.address_error(address, source))
            }
            result => result.map_err(|source| self.address_error(address, source)),
        }
    }

    async fn try_address(&self, address: IpNet) -> io::Result<()> {
        let mut request =
            self.handle
                .address()
                .add(self.ifindex, address.addr(), address.prefix_len());
        if let IpNet::V6(_) = address {
            let message = request.message_mut();
            message.header.flags |= AddressHeaderFlags::Nodad;
            message
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request.execute().await.map_err(os_error)
    }

    /// Changes one of the interface's settings. The thread is inside: /proc/sys/net shows it the namespace's own.
    fn set_ipv6(&self, setting: &str, value: &str) -> io::Result<()> {
        std::fs::write(
            format!("/proc/sys/net/ipv6/conf/{}/{setting}", self.spec.ifname),
            value,
        )
    }

    async fn bring_up(&self) -> Result<(), LinkError> {
        let message = LinkUnspec::new_with_index(self.ifindex).up().build();
        self.handle
            .link()
            .change(message)
            .execute()
            .await
            .map_err(|error| LinkError::System {
                what: "bring up",
                ifname: self.spec.ifname.clone(),
                source: os_error(error),
            })
    }

    /// Returns the route; `None` when the namespace has a default route already.
    async fn add_default_route(&self, gateway: IpAddr) -> Result<Option<Route>, LinkError> {
        if self.has_default_route(gateway).await? {
            return Ok(None);
        }
        let everything = match gateway {
            IpAddr::V4(_) => IpNet::V4(Ipv4Net::default()),
            IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
        };
        let route = Route::new(everything, Some(gateway));
        self.add_route(&route).await?;
        Ok(Some(route))
    }

    async fn add_route(&self, route: &Route) -> Result<(), LinkError> {
        routes::add(&self.handle, self.ifindex, route)
            .await
            .map_err(|source| LinkError::Route {
                dst: route.dst,
                gateway: route.gateway,
                ifname: self.spec.ifname.clone(),
                netns: self.netns.name().to_owned(),
                source,
            })
    }

    /// Whether the main table has a default route of `family`'s kind, through whatever interface.
    async fn has_default_route(&self, family: IpAddr) -> Result<bool, LinkError> {
        let query = match family {
            IpAddr::V4(_) => RouteMessageBuilder::<Ipv4Addr>::new().build(),
            IpAddr::V6(_) => RouteMessageBuilder::<Ipv6Addr>::new().build(),
        };
        let mut routes = Box::pin(self.handle.route().get(query).execute());
        let mut found = false;
        while let Some(route) = routes
            .try_next()
            .await
            .map_err(|error| LinkError::Netlink(os_error(error)))?
        {
            found |= is_default(&route);
        }
        Ok(found)
    }

    fn address_error(&self, address: IpNet, source: io::Error) -> LinkError {
        LinkError::Address {
            address,
            ifname: self.spec.ifname.clone(),
            netns: self.netns.name().to_owned(),
            source,
        }
    }
}

fn is_default(route: &RouteMessage) -> bool {
    route.header.destination_prefix_length == 0
        && route.header.table == RouteHeader::RT_TABLE_MAIN
        && route.header.kind == RouteType::Unicast
}

fn exists(netns: &Netns, spec: &AttachSpec) -> LinkError {
    LinkError::InterfaceExists {
        name: spec.ifname.clone(),
        netns: netns.name().to_owned(),
    }
}

fn gone(netns: &Netns, spec: &AttachSpec) -> LinkError {
    LinkError::NoSuchInterface {
        name: spec.tap.clone(),
        netns: netns.name().to_owned(),
    }
}
