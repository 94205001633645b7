//! What other name servers said, for as long as they said it holds: a bounded table. Pure, time is an argument.
//!
//! What is full forgets the oldest: an answer is asked for again, nothing breaks. A failure to get any answer is kept for a
//! moment too, so that a dead server isn't asked by every retry (RFC 9520).

#![deny(clippy::disallowed_methods)]

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::message::Question;

/// Most answers that are kept.
const MAX_ENTRIES: usize = 4096;
/// Most records of an answer that is kept.
const MAX_RECORDS: usize = 128;
/// Longest that an answer is kept, whatever it says: what was changed is seen within the hour.
const MAX_TTL: Duration = Duration::from_secs(3600);
/// Longest that "no such name" is kept (RFC 2308 section 5 suggests one to three hours as a maximum; people wait for it).
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(300);
/// How long a failure is kept (RFC 9520 section 3.2 wants 1 s at least).
pub(crate) const FAILURE_TTL: Duration = Duration::from_secs(1);

/// What makes two questions one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    name: Name,
    record_type: RecordType,
    class: DNSClass,
    dnssec_ok: bool,
    checking_disabled: bool,
    recursion_desired: bool,
}

impl Key {
    /// Of a question.
    pub(crate) fn of(question: &Question) -> Self {
        Self {
            name: question.query.name().to_lowercase(),
            record_type: question.query.query_type(),
            class: question.query.query_class(),
            dnssec_ok: question.dnssec_ok(),
            checking_disabled: question.checking_disabled,
            recursion_desired: question.recursion_desired,
        }
    }
}

/// What came of asking others: their answer, or nothing.
pub(crate) type Heard = Option<Arc<Message>>;

#[derive(Clone, Debug)]
struct Entry {
    heard: Heard,
    since: Instant,
    lifetime: Duration,
    number: u64,
}

/// The table.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    entries: HashMap<Key, Entry>,
    /// In order of arrival; what was replaced meanwhile has another number.
    order: VecDeque<(u64, Key)>,
    number: u64,
}

impl Cache {
    /// What was heard, and how many seconds ago.
    pub(crate) fn lookup(&self, key: &Key, now: Instant) -> Option<(Heard, u32)> {
        let entry = self.entries.get(key)?;
        let age = now.saturating_duration_since(entry.since);
        let age_secs = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        (age < entry.lifetime).then(|| (entry.heard.clone(), age_secs))
    }

    /// Keeps what was heard, if it may be kept.
    pub(crate) fn insert(&mut self, key: Key, heard: Heard, now: Instant) {
        let lifetime = match &heard {
            Some(message) => lifetime(message),
            None => FAILURE_TTL,
        };
        if lifetime.is_zero() {
            return;
        }
        self.number += 1;
        let entry = Entry {
            heard,
            since: now,
            lifetime,
            number: self.number,
        };
        self.entries.insert(key.clone(), entry);
        self.order.push_back((self.number, key));
        // Twice as many, so that replacing one again and again doesn't push out the others before their time.
        while self.entries.len() > MAX_ENTRIES || self.order.len() > 2 * MAX_ENTRIES {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((number, key)) = self.order.pop_front() else {
            return;
        };
        if self
            .entries
            .get(&key)
            .is_some_and(|entry| entry.number == number)
        {
            self.entries.remove(&key);
        }
    }
}

/// How long an answer holds; zero: it isn't to be kept.
fn lifetime(message: &Message) -> Duration {
    let records = || {
        message
            .answers
            .iter()
            .chain(&message.authorities)
            .chain(&message.additionals)
    };
    if message.metadata.truncation || records().count() > MAX_RECORDS {
        return Duration::ZERO;
    }
    let secs = |ttl: u32| Duration::from_secs(u64::from(sane(ttl)));
    let code = message.metadata.response_code;
    match (code, message.answers.is_empty()) {
        (ResponseCode::NoError, false) => {
            let least = records().map(|record| secs(record.ttl)).min();
            least.unwrap_or_default().min(MAX_TTL)
        }
        (ResponseCode::NoError, true) | (ResponseCode::NXDomain, _) => {
            let least = message.authorities.iter().filter_map(negative_ttl).min();
            least.map(secs).unwrap_or_default().min(MAX_NEGATIVE_TTL)
        }
        _ => FAILURE_TTL,
    }
}

/// RFC 2308 section 5: the lesser of the SOA record's own time and its minimum field.
fn negative_ttl(record: &Record) -> Option<u32> {
    if let RData::SOA(soa) = &record.data {
        return Some(sane(record.ttl).min(sane(soa.minimum)));
    }
    None
}

/// RFC 2181 section 8: with the highest bit set it means zero.
fn sane(ttl: u32) -> u32 {
    if ttl > i32::MAX.unsigned_abs() {
        0
    } else {
        ttl
    }
}

#[cfg(test)]
mod tests;
