//! DNS messages at the door: what is a question that can be answered, what is refused and how, and answers made to fit
//! what the asker takes. Pure; hickory-proto does the wire format (RFC 1035, RFC 6891).

#![deny(clippy::disallowed_methods)]

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Record, RecordType};

/// Bytes of a message's header (RFC 1035 section 4.1.1).
const HEADER_LEN: usize = 12;
/// What an asker without EDNS takes over UDP (RFC 1035 section 4.2.1).
const PLAIN_UDP_MAX: u16 = 512;
/// What is taken and said over UDP: fits into a packet of IPv6's minimum MTU, so that it is not fragmented (DNS flag day
/// 2020).
pub(crate) const UDP_MAX: u16 = 1232;

/// A question that is to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// The asker's number for it.
    pub(crate) id: u16,
    /// What is asked, as it was spelt.
    pub(crate) query: Query,
    /// It is to be asked on.
    pub(crate) recursion_desired: bool,
    /// The asker validates itself (RFC 4035 section 3.2.2).
    pub(crate) checking_disabled: bool,
    /// The asker wants to know whether the answer was validated (RFC 6840 section 5.7).
    pub(crate) authentic_data: bool,
    /// What the asker takes over UDP and whether it wants DNSSEC records; `None` without EDNS.
    pub(crate) edns: Option<(u16, bool)>,
}

/// What bytes came to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Parsed {
    /// A question.
    Question(Question),
    /// It is refused with that message.
    Refused(Box<Message>),
    /// It is no question: nothing is said to it.
    Ignored,
}

/// Reads a question.
pub(crate) fn parse(bytes: &[u8]) -> Parsed {
    let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
        return Parsed::Ignored;
    };
    let number = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let is_answer = header[2] & 0x80 != 0;
    if is_answer {
        return Parsed::Ignored;
    }
    let id = number(0);
    let op_code = OpCode::from_u8((header[2] >> 3) & 0x0f);
    let refuse = |code| Parsed::Refused(Box::new(Message::error_msg(id, op_code, code)));
    if op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp);
    }
    // One question and nothing else; the count of additional records is left to the decoder.
    if [number(4), number(6), number(8)] != [1, 0, 0] {
        return refuse(ResponseCode::FormErr);
    }
    let Ok(message) = Message::from_vec(bytes) else {
        return refuse(ResponseCode::FormErr);
    };
    let Some(query) = message.queries.first().cloned() else {
        return refuse(ResponseCode::FormErr);
    };
    let question = Question {
        id,
        query,
        recursion_desired: message.metadata.recursion_desired,
        checking_disabled: message.metadata.checking_disabled,
        authentic_data: message.metadata.authentic_data,
        edns: message
            .edns
            .as_ref()
            .map(|edns| (edns.max_payload(), edns.flags().dnssec_ok)),
    };
    let refuse = |code| Parsed::Refused(Box::new(question.reply(code)));
    if message.edns.is_some_and(|edns| edns.version() > 0) {
        return refuse(ResponseCode::BADVERS);
    }
    let class = question.query.query_class();
    let transfer = matches!(
        question.query.query_type(),
        RecordType::AXFR | RecordType::IXFR
    );
    if !matches!(class, DNSClass::IN | DNSClass::ANY) || transfer {
        return refuse(ResponseCode::Refused);
    }
    Parsed::Question(question)
}

impl Question {
    /// The longest answer that fits into one datagram; `room` is what the network's packets have for a UDP payload.
    pub(crate) fn udp_limit(&self, room: u16) -> u16 {
        let taken = self.edns.map_or(PLAIN_UDP_MAX, |(taken, _)| taken);
        taken.clamp(PLAIN_UDP_MAX, UDP_MAX).min(room)
    }

    /// Whether the asker wants DNSSEC records.
    pub(crate) fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|(_, dnssec_ok)| dnssec_ok)
    }

    /// An answer without records.
    pub(crate) fn reply(&self, code: ResponseCode) -> Message {
        let mut message = Message::new(self.id, MessageType::Response, OpCode::Query);
        message.metadata.response_code = code;
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.checking_disabled = self.checking_disabled;
        message.add_query(self.query.clone());
        if let Some((_, dnssec_ok)) = self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_MAX).set_version(0);
            edns.set_dnssec_ok(dnssec_ok);
            message.set_edns(edns);
        }
        message
    }

    /// What somebody else answered, as this asker's answer. `age` seconds have gone by since.
    pub(crate) fn pass_on(&self, heard: &Message, age: u32) -> Message {
        let mut message = self.reply(heard.metadata.response_code);
        let wants = self.dnssec_ok() || self.authentic_data;
        message.metadata.authentic_data = heard.metadata.authentic_data && wants;
        let aged = |records: &[Record]| -> Vec<Record> {
            let older = |record: &Record| {
                let mut record = record.clone();
                record.ttl = record.ttl.saturating_sub(age);
                record
            };
            records.iter().map(older).collect()
        };
        message.answers = aged(&heard.answers);
        message.authorities = aged(&heard.authorities);
        message.additionals = aged(&heard.additionals);
        message
    }
}

/// The bytes of a message, at most `limit`. What is too long loses all but as many answers as fit, and says so (TC): some
/// resolvers never ask again over TCP, and take what they got.
pub(crate) fn encode(mut message: Message, limit: u16) -> Option<Vec<u8>> {
    let fits = |message: &Message| {
        message
            .to_vec()
            .ok()
            .filter(|bytes| bytes.len() <= usize::from(limit))
    };
    if let Some(bytes) = fits(&message) {
        return Some(bytes);
    }
    // What nobody asked for may be left out without a word (RFC 2181 section 9).
    message.additionals.clear();
    if let Some(bytes) = fits(&message) {
        return Some(bytes);
    }
    message.metadata.truncation = true;
    let answers = std::mem::take(&mut message.answers);
    let authorities = std::mem::take(&mut message.authorities);
    if answers.is_empty() && !authorities.is_empty() {
        // The proof that there is nothing didn't fit: without it that isn't known.
        return fits(&message);
    }
    let with = |count: usize| {
        let mut cut = message.clone();
        cut.answers.extend_from_slice(&answers[..count]);
        fits(&cut)
    };
    // The largest number that fits, by halving.
    let (mut low, mut high) = (0, answers.len());
    while low < high {
        let middle = (low + high).div_ceil(2);
        if with(middle).is_some() {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    with(low)
}

#[cfg(test)]
mod tests;
