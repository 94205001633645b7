//! How QUIC is set up.
//!
//! Congestion: frames are mostly inner TCP's, which has a control loop of its own; a second one around it reacts to the
//! same losses later and with other constants, and its pacer needs timers finer than a runtime has. So there is none
//! ([`Open`]): no window, no pacing, the socket's buffer is the queue, and what doesn't fit is dropped for inner TCP to
//! see. The others are there to be measured.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{BbrConfig, Controller, ControllerFactory, CubicConfig};
use quinn::{AckFrequencyConfig, ClientConfig, MtuDiscoveryConfig, ServerConfig, TransportConfig};

use crate::args::{Congestion, Run};
use crate::tls;

/// UDP payload in an IPv4 packet of an Ethernet underlay: 1500 - 20 - 8.
const UDP_PAYLOAD_MAX: u16 = 1472;
/// The way through NATs stays open, and who is gone is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// quinn's pacer lets go of windows that don't fit in 32 bits.
const NO_WINDOW: u64 = 1 << 40;

/// The settings of either side.
fn transport(run: &Run) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    let mut discovery = MtuDiscoveryConfig::default();
    // To the byte: what is missing at the end is missing from the containers' MTU.
    discovery.upper_bound(UDP_PAYLOAD_MAX).minimum_change(1);
    config
        .mtu_discovery_config(Some(discovery))
        .keep_alive_interval(Some(KEEP_ALIVE));
    match run.congestion {
        Congestion::None => config.congestion_controller_factory(Arc::new(Open)),
        Congestion::Cubic => config.congestion_controller_factory(Arc::new(CubicConfig::default())),
        Congestion::Bbr => config.congestion_controller_factory(Arc::new(BbrConfig::default())),
    };
    if run.ack_every > 2 {
        let mut acks = AckFrequencyConfig::default();
        acks.ack_eliciting_threshold((run.ack_every - 1).into());
        config.ack_frequency_config(Some(acks));
    }
    Arc::new(config)
}

/// For the side that opens connections.
///
/// # Errors
/// A sentence: the certificates are of no use.
pub(crate) fn client(run: &Run) -> Result<ClientConfig, String> {
    let mut config = ClientConfig::new(tls::client(run)?);
    config.transport_config(transport(run));
    Ok(config)
}

/// For the side that takes them.
///
/// # Errors
/// A sentence: the certificates are of no use.
pub(crate) fn server(run: &Run) -> Result<ServerConfig, String> {
    let mut config = ServerConfig::with_crypto(tls::server(run)?);
    config.transport_config(transport(run));
    Ok(config)
}

/// No congestion control.
#[derive(Clone, Debug)]
struct Open;

impl Controller for Open {
    fn on_congestion_event(&mut self, _: Instant, _: Instant, _: bool, _: u64) {}

    fn on_mtu_update(&mut self, _: u16) {}

    fn window(&self) -> u64 {
        NO_WINDOW
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        NO_WINDOW
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

impl ControllerFactory for Open {
    fn build(self: Arc<Self>, _: Instant, _: u16) -> Box<dyn Controller> {
        Box::new(Self)
    }
}
