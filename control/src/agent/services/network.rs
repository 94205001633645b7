//! The services of one network: a task that hears the frames that `demux` gives it and answers them.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use weft_switch::gateway::GATEWAY_LINK_LOCAL;
use weft_switch::port::Queue;
use weft_wire::{FrameRef, MacAddr};

use super::demux::{Class, DHCP6_SERVER_PORT, DNS_PORT, Datagram, classify};
use super::dns::tcp::{Asked, ConnectionId, TcpStack};
use super::dns::{Outcome, Room};
use super::place::Place;
use super::router::{self, ALL_NODES};
use super::{Services, dhcp4, dhcp6, frames};
use crate::model::NetworkId;

/// IP and UDP headers before a message: what the network's MTU doesn't leave for it. The larger of both families.
const UDP_HEADERS_LEN: usize = 48;
/// Nothing has to be done by itself for so long.
const LONG: Duration = Duration::from_secs(3600);

/// An answer to what was asked over a connection.
type Answer = (ConnectionId, Option<Vec<u8>>);

/// The task of one network.
pub(super) struct Task {
    services: Arc<Services>,
    network: NetworkId,
    queue: Arc<Queue>,
    tcp: Option<TcpStack>,
    answers: (
        mpsc::UnboundedSender<Answer>,
        mpsc::UnboundedReceiver<Answer>,
    ),
}

impl Task {
    /// A task that answers through that inside port.
    pub(super) fn new(services: Arc<Services>, network: NetworkId, queue: Arc<Queue>) -> Self {
        Self {
            services,
            network,
            queue,
            tcp: None,
            answers: mpsc::unbounded_channel(),
        }
    }

    /// Hears frames until nobody sends any more.
    pub(super) async fn run(mut self, mut frames: mpsc::Receiver<Vec<u8>>) {
        let mut again = tokio::time::interval(router::AGAIN);
        loop {
            let pause = self.tcp.as_mut().and_then(|tcp| tcp.pause(Instant::now()));
            tokio::select! {
                frame = frames.recv() => match frame {
                    Some(frame) => self.handle(&frame),
                    None => return,
                },
                Some((connection, message)) = self.answers.1.recv() => {
                    if let Some(tcp) = &mut self.tcp {
                        tcp.answer(connection, message.as_deref());
                    }
                }
                _ = again.tick() => self.advertise_all(),
                () = tokio::time::sleep(pause.unwrap_or(LONG)) => {}
            }
            self.turn_tcp();
        }
    }

    fn handle(&mut self, frame: &[u8]) {
        let Some(place) = self.services.place(&self.network) else {
            return;
        };
        match classify(frame, &place.gateways) {
            Class::DnsUdp(question) => self.handle_dns(&place, &question),
            Class::DnsTcp(mac, packet) => self.handle_segment(&place, mac, packet),
            Class::Dhcp4(message) => self.handle_dhcp4(&place, &message),
            Class::Dhcp6(message) => self.handle_dhcp6(&place, &message),
            Class::RouterSolicitation(mac, from) => {
                // One that has no address yet is answered where all hear it (RFC 4861 section 6.2.6).
                let to = if from.is_unspecified() {
                    ALL_NODES
                } else {
                    from
                };
                self.advertise(&place, mac, to);
            }
            Class::Other => {}
        }
    }

    fn handle_dhcp4(&self, place: &Place, message: &Datagram<'_>) {
        let answer = place
            .lease4(message.mac)
            .and_then(|lease| dhcp4::handle(message.mac, message.payload, &lease));
        if let Some(dhcp4::Answer { from, to, bytes }) = answer
            && let Some(frame) = frames::datagram(message.mac, from, to, &bytes)
        {
            send(&self.queue, &frame);
        }
    }

    fn handle_dhcp6(&self, place: &Place, message: &Datagram<'_>) {
        let answer = place
            .lease6(message.mac)
            .and_then(|lease| dhcp6::handle(message.payload, &lease));
        let from = SocketAddr::from((GATEWAY_LINK_LOCAL, DHCP6_SERVER_PORT));
        let to = SocketAddr::new(message.source.ip(), dhcp6::CLIENT_PORT);
        if let Some(bytes) = answer
            && let Some(frame) = frames::datagram(message.mac, from, to, &bytes)
        {
            send(&self.queue, &frame);
        }
    }

    fn advertise(&self, place: &Place, mac: MacAddr, to: Ipv6Addr) {
        let frame = place
            .link(mac)
            .and_then(|link| router::advertise(mac, to, &link));
        if let Some(frame) = frame {
            send(&self.queue, &frame);
        }
    }

    /// Says again what would be forgotten.
    fn advertise_all(&self) {
        let Some(place) = self.services.place(&self.network) else {
            return;
        };
        for mac in place.stations.keys() {
            self.advertise(&place, *mac, ALL_NODES);
        }
    }

    fn handle_dns(&self, place: &Place, question: &Datagram<'_>) {
        let room = place.mtu.bytes().saturating_sub(UDP_HEADERS_LEN);
        let room = Room::Udp(u16::try_from(room).unwrap_or(u16::MAX));
        let asker = (self.network.clone(), question.mac);
        let back = Back {
            queue: Arc::clone(&self.queue),
            mac: question.mac,
            from: question.destination,
            to: question.source,
        };
        match self.services.names.handle(&asker, question.payload, room) {
            Outcome::Answer(message) => back.say(&message),
            Outcome::Wait(waiting) => {
                tokio::spawn(async move {
                    if let Some(message) = waiting.answer().await {
                        back.say(&message);
                    }
                });
            }
            Outcome::Nothing => {}
        }
    }

    fn handle_segment(&mut self, place: &Place, mac: MacAddr, packet: &[u8]) {
        let now = Instant::now();
        let tcp = self
            .tcp
            .get_or_insert_with(|| TcpStack::new(place.mtu.bytes(), rand::random(), now));
        if !tcp.take(mac, packet, now) {
            self.services.names.count_dropped();
        }
    }

    /// Runs the connections and asks what came over them.
    fn turn_tcp(&mut self) {
        let Some(mut tcp) = self.tcp.take() else {
            return;
        };
        loop {
            let asked = tcp.poll(Instant::now());
            for frame in tcp.frames() {
                send(&self.queue, &frame);
            }
            if asked.is_empty() {
                break;
            }
            for question in asked {
                self.ask(&mut tcp, question);
            }
        }
        // A stack without connections costs nothing, and the next has the network's MTU of then.
        if !tcp.is_idle() {
            self.tcp = Some(tcp);
        }
    }

    fn ask(&self, tcp: &mut TcpStack, question: Asked) {
        let Asked {
            connection,
            mac,
            bytes,
        } = question;
        let asker = (self.network.clone(), mac);
        match self.services.names.handle(&asker, &bytes, Room::Tcp) {
            Outcome::Answer(message) => tcp.answer(connection, Some(&message)),
            Outcome::Nothing => tcp.answer(connection, None),
            Outcome::Wait(waiting) => {
                let answers = self.answers.0.clone();
                tokio::spawn(async move {
                    // The network may have gone meanwhile.
                    let _ = answers.send((connection, waiting.answer().await));
                });
            }
        }
    }
}

/// The way back to who asked over UDP.
struct Back {
    queue: Arc<Queue>,
    mac: MacAddr,
    from: SocketAddr,
    to: SocketAddr,
}

impl Back {
    fn say(&self, message: &[u8]) {
        debug_assert_eq!(self.from.port(), DNS_PORT);
        if let Some(frame) = frames::datagram(self.mac, self.from, self.to, message) {
            send(&self.queue, &frame);
        }
    }
}

/// Whoever waits for a frame that was not taken asks again.
fn send(queue: &Queue, frame: &[u8]) {
    let _ = queue.send(FrameRef::plain(frame));
}
