#![expect(clippy::disallowed_methods, reason = "a test has a clock")]

use smoltcp::wire::IpCidr;

use super::*;

const SERVER: [u8; 4] = [10, 1, 0, 1];
const MTU: usize = 1450;

fn mac(last: u8) -> MacAddr {
    MacAddr([2, 0x57, 10, 1, 0, last])
}

/// A container with a TCP stack of its own.
struct Client {
    interface: Interface,
    wire: Wire,
    sockets: SocketSet<'static>,
    ip: [u8; 4],
}

impl Client {
    fn new(last: u8) -> Self {
        let mut wire = Wire {
            mtu: MTU,
            incoming: VecDeque::new(),
            outgoing: VecDeque::new(),
        };
        let ip = [10, 1, 0, last];
        let zero = smoltcp::time::Instant::ZERO;
        let mut interface = Interface::new(Config::new(HardwareAddress::Ip), &mut wire, zero);
        interface.update_ip_addrs(|addresses| {
            addresses
                .push(IpCidr::new(IpAddr::from(ip).into(), 24))
                .unwrap();
        });
        Self {
            interface,
            wire,
            sockets: SocketSet::new(Vec::new()),
            ip,
        }
    }

    fn connect(&mut self, port: u16) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; 100_000]);
        let handle = self.sockets.add(Socket::new(buffer(), buffer()));
        let socket = self.sockets.get_mut::<Socket<'_>>(handle);
        let remote = (IpAddress::from(IpAddr::from(SERVER)), DNS_PORT);
        socket
            .connect(self.interface.context(), remote, port)
            .unwrap();
        handle
    }

    fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    fn say(&mut self, handle: SocketHandle, message: &[u8]) {
        let len = u16::try_from(message.len()).unwrap().to_be_bytes();
        let socket = self.socket(handle);
        socket.send_slice(&[&len, message].concat()).unwrap();
    }

    fn heard(&mut self, handle: SocketHandle) -> Vec<u8> {
        let socket = self.socket(handle);
        let mut all = Vec::new();
        while socket.can_recv() {
            socket
                .recv(|bytes| (bytes.len(), all.extend_from_slice(bytes)))
                .unwrap();
        }
        all
    }
}

/// Lets both talk until nobody says anything; what was asked meanwhile.
fn talk(client: &mut Client, server: &mut TcpStack, now: Instant) -> Vec<Asked> {
    let mut asked = Vec::new();
    for _ in 0..200 {
        let time = server.time(now);
        client
            .interface
            .poll(time, &mut client.wire, &mut client.sockets);
        let mut quiet = true;
        while let Some(packet) = client.wire.outgoing.pop_front() {
            server.take(mac(client.ip[3]), &packet, now);
            quiet = false;
        }
        asked.extend(server.poll(now));
        for frame in server.frames() {
            assert_eq!(frame[..6], mac(client.ip[3]).0);
            assert!(frame.len() <= 14 + MTU);
            client.wire.incoming.push_back(frame[14..].to_vec());
            quiet = false;
        }
        if quiet {
            return asked;
        }
    }
    panic!("they talk for ever");
}

fn later(now: Instant, secs: u64) -> Instant {
    now + Duration::from_secs(secs)
}

#[test]
fn questions_are_answered_over_one_connection_which_then_ends() {
    let now = Instant::now();
    let (mut client, mut server) = (Client::new(2), TcpStack::new(MTU, 7, now));
    let handle = client.connect(5000);
    assert_eq!(talk(&mut client, &mut server, now), []);
    client.say(handle, b"first");
    client.say(handle, b"second");
    let asked = talk(&mut client, &mut server, now);
    let texts: Vec<&[u8]> = asked.iter().map(|asked| &*asked.bytes).collect();
    assert_eq!(texts, [&b"first"[..], b"second"]);
    assert!(asked.iter().all(|asked| asked.mac == mac(2)));
    // Longer than any segment, and than the socket's buffer.
    let long = vec![0x5a; 60_000];
    server.answer(asked[1].connection, Some(b"2"));
    server.answer(asked[0].connection, Some(&long));
    let mut heard = Vec::new();
    for _ in 0..20 {
        talk(&mut client, &mut server, now);
        heard.extend(client.heard(handle));
    }
    assert_eq!(heard[..5], [0, 1, b'2', 0xea, 0x60]);
    assert_eq!(heard[5..], long);
    client.socket(handle).close();
    talk(&mut client, &mut server, now);
    assert!(server.connections.is_empty());
    assert_eq!(server.sockets.iter().count(), 0);
}

#[test]
fn a_question_in_pieces_is_one_question() {
    let now = Instant::now();
    let (mut client, mut server) = (Client::new(2), TcpStack::new(MTU, 7, now));
    let handle = client.connect(5000);
    for byte in [0, 3, b'a', b'b'] {
        talk(&mut client, &mut server, now);
        client.socket(handle).send_slice(&[byte]).unwrap();
    }
    assert_eq!(talk(&mut client, &mut server, now), []);
    client.socket(handle).send_slice(b"c").unwrap();
    assert_eq!(talk(&mut client, &mut server, now)[0].bytes, b"abc");
}

#[test]
fn what_is_no_dns_or_says_nothing_is_ended() {
    let now = Instant::now();
    let (mut client, mut server) = (Client::new(2), TcpStack::new(MTU, 7, now));
    let garbage = client.connect(5000);
    talk(&mut client, &mut server, now);
    client
        .socket(garbage)
        .send_slice(b"GET / HTTP/1.1\r\n\r\n")
        .unwrap();
    assert_eq!(talk(&mut client, &mut server, now), []);
    assert_eq!(client.socket(garbage).state(), State::Closed);
    assert!(server.connections.is_empty());
    let silent = client.connect(5001);
    talk(&mut client, &mut server, now);
    assert_eq!(server.connections.len(), 1);
    assert!(server.pause(now).unwrap() <= IDLE);
    let end = now + IDLE;
    server.poll(end);
    talk(&mut client, &mut server, end);
    assert_eq!(client.socket(silent).state(), State::Closed);
    assert!(server.connections.is_empty());
    assert_eq!(server.pause(end), None);
}

#[test]
fn one_port_does_not_take_the_connections_of_others() {
    let now = Instant::now();
    let mut server = TcpStack::new(MTU, 7, now);
    let (mut greedy, mut other) = (Client::new(2), Client::new(3));
    for port in 0..20 {
        greedy.connect(5000 + port);
        talk(&mut greedy, &mut server, now);
    }
    assert_eq!(server.connections.len(), MAX_PER_PORT);
    let handle = other.connect(5000);
    talk(&mut other, &mut server, now);
    other.say(handle, b"hello");
    assert_eq!(talk(&mut other, &mut server, now).len(), 1);
    // Half-open ones end as well.
    for last in 4..40 {
        let mut half = Client::new(last);
        half.connect(6000);
        let time = server.time(now);
        half.interface.poll(time, &mut half.wire, &mut half.sockets);
        let syn = half.wire.outgoing.pop_front().unwrap();
        assert!(server.take(mac(last), &syn, now));
        // Said again, it is the same.
        assert!(server.take(mac(last), &syn, now));
    }
    assert_eq!(server.connections.len(), MAX_PER_PORT + 1 + 36);
    for secs in 1..60 {
        server.poll(later(now, secs));
        server.frames();
    }
    assert!(server.connections.is_empty());
}

#[test]
fn an_asker_does_not_get_ahead_of_its_answers() {
    let now = Instant::now();
    let (mut client, mut server) = (Client::new(2), TcpStack::new(MTU, 7, now));
    let handle = client.connect(5000);
    talk(&mut client, &mut server, now);
    for _ in 0..10 {
        client.say(handle, b"question");
    }
    let asked = talk(&mut client, &mut server, now);
    assert_eq!(asked.len(), MAX_PIPELINED);
    server.answer(asked[0].connection, None);
    assert_eq!(talk(&mut client, &mut server, now).len(), 1);
    // To a connection that has gone there is nothing to say.
    server.answer(ConnectionId(99), Some(b"x"));
}

#[test]
fn what_belongs_to_no_connection_is_reset_and_garbage_is_nothing() {
    let now = Instant::now();
    let mut server = TcpStack::new(MTU, 7, now);
    let mut client = Client::new(2);
    client.connect(5000);
    let time = server.time(now);
    client
        .interface
        .poll(time, &mut client.wire, &mut client.sockets);
    let mut ack = client.wire.outgoing.pop_front().unwrap();
    for len in 0..ack.len() {
        server.take(mac(2), &ack[..len], now);
    }
    assert_eq!((server.poll(now), server.frames().len()), (vec![], 0));
    // ACK instead of SYN.
    ack[20 + 13] = 0x10;
    server.take(mac(2), &ack, now);
    server.poll(now);
    let frames = server.frames();
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0][14 + 20 + 13] & 0x04, 0x04);
    assert!(server.connections.is_empty());
    // A SYN that is also a RST opens nothing.
    ack[20 + 13] = 0x06;
    server.take(mac(2), &ack, now);
    assert!(server.connections.is_empty());
}

#[test]
fn ipv6_too() {
    let now = Instant::now();
    let mut server = TcpStack::new(MTU, 7, now);
    let mut syn = Vec::new();
    etherparse::PacketBuilder::ipv6([0xfd; 16], [0xfe; 16], 64)
        .tcp(5000, DNS_PORT, 1, 1000)
        .syn()
        .write(&mut syn, &[])
        .unwrap();
    assert!(server.take(mac(2), &syn, now));
    server.poll(now);
    let frames = server.frames();
    assert_eq!((frames.len(), &frames[0][12..14]), (1, &[0x86, 0xdd][..]));
}
