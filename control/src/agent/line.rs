//! Ports behind a line: limits and impairments, and what becomes of them.

use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tracing::info;
use weft_switch::impair::{Impairment, Impairments, LineStats, Rate, Relay};
use weft_switch::port::{PortKind, Queue};

use super::attach::blocking;
use super::state::PortRecord;
use super::views::port_view;
use super::{Agent, ApiError, Port};
use crate::api;
use crate::model::EndpointId;

/// What passes at once unless somebody says otherwise: so much time's worth, and at least a superframe.
const BURST: Duration = Duration::from_millis(10);
const LEAST_BURST: u64 = 64 << 10;

impl Agent {
    /// `weft port limit`, `weft port impair`.
    ///
    /// # Errors
    /// [`ApiError`]; the port is as before then.
    pub(super) async fn port_change(
        self: &Arc<Self>,
        name: String,
        change: api::PortChange,
    ) -> Result<api::Port, ApiError> {
        check(change.limits.as_ref(), change.impairments.as_ref())?;
        let id = self.port_named(&name, change.network.as_deref())?;
        let (agent, of) = (Arc::clone(self), id.clone());
        blocking(move || agent.change_line(&of, &change)).await?;
        self.save_ports().await?;
        let inner = self.inner();
        let port = inner.ports.get(&id).ok_or_else(|| unknown(&name))?;
        info!(port = %name, limits = ?port.record.limits, impairments = ?port.record.impairments, "the port's line is another");
        Ok(port_view(port, self.fabric().port_traffic(port.id)))
    }

    fn port_named(&self, name: &str, network: Option<&str>) -> Result<EndpointId, ApiError> {
        let inner = self.inner();
        let fits = |port: &&Port| {
            port.record.endpoint.name == name
                && network.is_none_or(|network| port.record.network_name == network)
        };
        let found: Vec<&Port> = inner.ports.values().filter(fits).collect();
        match found.as_slice() {
            [port] => Ok(port.record.endpoint.id.clone()),
            [] => Err(unknown(name)),
            several => {
                let networks: Vec<&str> = several
                    .iter()
                    .map(|port| port.record.network_name.as_str())
                    .collect();
                Err(ApiError::conflict(
                    "ambiguous",
                    format!(
                        "this host has a port {name} on each of the networks {}",
                        networks.join(", ")
                    ),
                )
                .hint("say which one with --network"))
            }
        }
    }

    fn change_line(&self, id: &EndpointId, change: &api::PortChange) -> Result<(), ApiError> {
        let mut inner = self.inner();
        let Some(port) = inner.ports.get_mut(id) else {
            return Err(unknown(&id.0));
        };
        let mut record = port.record.clone();
        record.limits = change.limits.unwrap_or(record.limits);
        record.impairments = change.impairments.unwrap_or(record.impairments);
        match (&port.relay, impairments(&record)) {
            (Some(relay), Some(wanted)) => relay.set(wanted),
            (None, Some(wanted)) => {
                let tap = queues(&record, &port.fds)?;
                let (relay, queue) = Relay::start(tap, wanted).map_err(|error| failed(&error))?;
                self.fabric()
                    .set_queues(id, vec![queue])
                    .map_err(|error| failed(&error))?;
                port.relay = Some(relay);
            }
            (Some(_), None) => {
                let tap = queues(&record, &port.fds)?;
                // What is on its way arrives before the switch reads the TAP itself.
                port.relay = None;
                self.fabric()
                    .set_queues(id, tap)
                    .map_err(|error| failed(&error))?;
            }
            (None, None) => {}
        }
        port.record = record;
        Ok(())
    }
}

/// Refuses limits and impairments that can't be.
pub(super) fn check(
    limits: Option<&api::Limits>,
    impairments: Option<&api::Impairments>,
) -> Result<(), ApiError> {
    let limits = limits.map_or(Ok(()), api::Limits::check);
    limits
        .and_then(|()| impairments.map_or(Ok(()), api::Impairments::check))
        .map_err(|why| ApiError::bad_request("bad_line", why))
}

fn unknown(name: &str) -> ApiError {
    ApiError::not_found("unknown_port", format!("this host has no port {name}"))
        .hint("see `weft ports`; a port is changed on its own host")
}

fn failed(error: &dyn std::fmt::Display) -> ApiError {
    ApiError::internal(format!("the port's line can't be changed: {error}"))
}

/// The queues of a TAP by its file descriptors.
pub(super) fn queues(record: &PortRecord, fds: &[OwnedFd]) -> Result<Vec<Queue>, ApiError> {
    let kind = if record.plain {
        PortKind::Plain
    } else {
        PortKind::Offload
    };
    let adopted = fds
        .iter()
        .map(|fd| Queue::from_fd(fd.try_clone()?, kind))
        .collect::<Result<Vec<Queue>, std::io::Error>>();
    adopted.map_err(|error| {
        ApiError::internal(format!(
            "cannot plug in port {}: {error}",
            record.endpoint.name
        ))
    })
}

/// What a port is plugged into the switch by: its TAP's queues, or a line before them.
pub(super) fn behind_line(
    record: &PortRecord,
    fds: &[OwnedFd],
) -> Result<(Vec<Queue>, Option<Relay>), ApiError> {
    let tap = queues(record, fds)?;
    let Some(wanted) = impairments(record) else {
        return Ok((tap, None));
    };
    let (relay, queue) = Relay::start(tap, wanted).map_err(|error| failed(&error))?;
    Ok((vec![queue], Some(relay)))
}

/// What a port's line is to do; `None` when it needs none.
fn impairments(record: &PortRecord) -> Option<Impairments> {
    let wanted = &record.impairments;
    let both = Impairments {
        to_port: way(wanted.to_port, record.limits.to_port),
        from_port: way(wanted.from_port, record.limits.from_port),
        seed: wanted.seed,
    };
    let nothing = both.to_port.is_nothing() && both.from_port.is_nothing();
    (!nothing).then_some(both)
}

fn way(impairment: api::Impairment, limit: Option<api::RateLimit>) -> Impairment {
    let mut way = Impairment {
        delay: Duration::from_micros(impairment.delay_us),
        jitter: Duration::from_micros(impairment.jitter_us),
        loss: impairment.loss,
        duplicate: impairment.duplicate,
        reorder: impairment.reorder,
        rate: limit.and_then(|limit| {
            let bits = NonZeroU64::new(limit.bits_per_sec)?;
            let usual = u128::from(bits.get()) / 8 * BURST.as_millis() / 1000;
            let usual = u64::try_from(usual).unwrap_or(u64::MAX).max(LEAST_BURST);
            let burst = limit.burst_bytes.unwrap_or(usual);
            Some(Rate { bits, burst })
        }),
        limit: usize::MAX,
    };
    way.limit = way.fitting_limit();
    way
}

/// The line of a port as `weft ports` shows it.
pub(super) fn line_view(port: &Port) -> Option<api::PortLine> {
    let stats = port.relay.as_ref()?.stats();
    Some(api::PortLine {
        limits: port.record.limits,
        impairments: port.record.impairments,
        to_port: traffic(stats.to_port),
        from_port: traffic(stats.from_port),
        not_taken: stats.not_taken,
        refused: stats.refused,
    })
}

const fn traffic(stats: LineStats) -> api::LineTraffic {
    api::LineTraffic {
        frames: stats.frames,
        lost: stats.lost,
        duplicated: stats.duplicated,
        reordered: stats.reordered,
        limited: stats.overflowed,
    }
}
