//! `weft port`: what can be changed of a port.

use std::time::Duration;

use hyper::Method;
use weft_control::api::{self, Impairment, Impairments, Limits, PortChange, RateLimit};

use super::Session;
use crate::args::port::{Direction, Impair, Limit, Port, PortName, RateFlags};
use crate::client::ApiPath;
use crate::failure::Failure;
use crate::render;

/// # Errors
/// No agent answers, or what was asked is refused.
pub(super) fn run(session: &Session, verb: Port) -> Result<(), Failure> {
    match verb {
        Port::Limit(flags) => limit(session, flags),
        Port::Impair(flags) => impair(session, flags),
    }
}

/// What the flags say of a rate.
pub(super) fn limits(flags: RateFlags, direction: Direction) -> Limits {
    let limit = flags.rate.map(|bits_per_sec| RateLimit {
        bits_per_sec,
        burst_bytes: flags.burst,
    });
    let [to_port, from_port] = ways(direction, limit, None);
    Limits { to_port, from_port }
}

fn ways<T: Copy>(direction: Direction, wanted: T, other: T) -> [T; 2] {
    match direction {
        Direction::Both => [wanted; 2],
        Direction::To => [wanted, other],
        Direction::From => [other, wanted],
    }
}

fn limit(session: &Session, flags: Limit) -> Result<(), Failure> {
    let limits = limits(flags.rate, flags.direction);
    let change = PortChange {
        limits: Some(limits),
        ..PortChange::default()
    };
    send(session, flags.port, change)
}

fn impair(session: &Session, flags: Impair) -> Result<(), Failure> {
    let impairment = Impairment {
        delay_us: micros(flags.delay),
        jitter_us: micros(flags.jitter),
        loss: flags.loss.unwrap_or_default(),
        duplicate: flags.duplicate.unwrap_or_default(),
        reorder: flags.reorder.unwrap_or_default(),
    };
    let [to_port, from_port] = ways(flags.direction, impairment, Impairment::default());
    let change = PortChange {
        impairments: Some(Impairments {
            to_port,
            from_port,
            seed: flags.seed,
        }),
        ..PortChange::default()
    };
    send(session, flags.port, change)
}

/// More than the agent takes stays more than it takes.
fn micros(time: Option<Duration>) -> u64 {
    u64::try_from(time.unwrap_or_default().as_micros()).unwrap_or(u64::MAX)
}

fn send(session: &Session, port: PortName, change: PortChange) -> Result<(), Failure> {
    let change = PortChange {
        network: port.network,
        ..change
    };
    let path = ApiPath::new("ports").segment(port.name);
    let now: api::Port = session.client.send(Method::PATCH, &path, &change)?;
    render::show(session.json, &now, |now| render::line(&now.name))
}
