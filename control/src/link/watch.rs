//! Changes of this host's interfaces and their addresses, as the kernel announces them.

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;

use super::LinkError;

const GROUPS: [MulticastGroup; 3] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
];

/// Hears of changes in the namespace it was made in, from then on.
pub struct LinkWatch {
    /// Index of the interface that changed; `None`: the kernel had more to say than there was room for.
    changes: BoxStream<'static, Option<u32>>,
}

impl LinkWatch {
    /// Begins to listen. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`LinkError::Netlink`].
    pub fn start() -> Result<Self, LinkError> {
        let (connection, handle, messages) =
            rtnetlink::new_multicast_connection(&GROUPS).map_err(LinkError::Netlink)?;
        tokio::spawn(connection);
        let changes = messages.filter_map(move |(message, _)| {
            // The connection ends with its last handle.
            let _alive = &handle;
            let change = if let NetlinkPayload::InnerMessage(change) = &message.payload {
                interface(change).map(Some)
            } else {
                matches!(message.payload, NetlinkPayload::Overrun(_)).then_some(None)
            };
            std::future::ready(change)
        });
        Ok(Self {
            changes: changes.boxed(),
        })
    }

    /// Waits until the interface of that index, or any if `None`, may have changed; `false`: the kernel says nothing
    /// any more.
    pub async fn changed(&mut self, ifindex: Option<u32>) -> bool {
        while let Some(change) = self.changes.next().await {
            if change.is_none() || ifindex.is_none() || change == ifindex {
                return true;
            }
        }
        false
    }
}

/// The interface that a message is about.
fn interface(change: &RouteNetlinkMessage) -> Option<u32> {
    if let RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) = change {
        Some(link.header.index)
    } else if let RouteNetlinkMessage::NewAddress(address) = change {
        Some(address.header.index)
    } else {
        None
    }
}

impl std::fmt::Debug for LinkWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkWatch").finish_non_exhaustive()
    }
}
