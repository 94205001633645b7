//! The part of etcd's v3 protocol that a store needs: its messages (etcd's `api/etcdserverpb/rpc.proto` and
//! `api/mvccpb/kv.proto`) with the same field numbers, and the methods. Fields that weft never sets or reads are left out;
//! protobuf skips what a reader doesn't know. Written by hand so that no `protoc` is needed to build weft
//! (docs/decisions/0012).

use prost::Message;

/// A method: its path and what it takes and gives.
pub(super) trait Method: Message + Default + Clone + 'static {
    /// The gRPC path.
    const PATH: &'static str;
    /// The answer, or one of many when it is a stream.
    type Answer: Message + Default + 'static;
}

macro_rules! method {
    ($request:ident -> $answer:ident, $path:literal) => {
        impl Method for $request {
            const PATH: &'static str = concat!("/etcdserverpb.", $path);
            type Answer = $answer;
        }
    };
}

method!(RangeRequest -> RangeResponse, "KV/Range");
method!(DeleteRangeRequest -> DeleteRangeResponse, "KV/DeleteRange");
method!(PutRequest -> PutResponse, "KV/Put");
method!(TxnRequest -> TxnResponse, "KV/Txn");
method!(WatchRequest -> WatchResponse, "Watch/Watch");
method!(LeaseGrantRequest -> LeaseGrantResponse, "Lease/LeaseGrant");
method!(LeaseRevokeRequest -> LeaseRevokeResponse, "Lease/LeaseRevoke");
method!(LeaseKeepAliveRequest -> LeaseKeepAliveResponse, "Lease/LeaseKeepAlive");
method!(AuthenticateRequest -> AuthenticateResponse, "Auth/Authenticate");

#[derive(Clone, PartialEq, Message)]
pub(super) struct ResponseHeader {
    /// Of the whole key space, at the time of the answer.
    #[prost(int64, tag = "3")]
    pub(super) revision: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct KeyValue {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    /// Of the last change of this key.
    #[prost(int64, tag = "3")]
    pub(super) mod_revision: i64,
    #[prost(bytes = "vec", tag = "5")]
    pub(super) value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    /// The first key that doesn't belong to the range; empty for the one key.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) range_end: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub(super) limit: i64,
    /// 0 for the newest.
    #[prost(int64, tag = "4")]
    pub(super) revision: i64,
    #[prost(bool, tag = "8")]
    pub(super) keys_only: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RangeResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
    #[prost(message, repeated, tag = "2")]
    pub(super) kvs: Vec<KeyValue>,
    #[prost(bool, tag = "3")]
    pub(super) more: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
    /// 0 for none.
    #[prost(int64, tag = "3")]
    pub(super) lease: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PutResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DeleteRangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) range_end: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DeleteRangeResponse {
    #[prost(int64, tag = "2")]
    pub(super) deleted: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RequestOp {
    #[prost(oneof = "Op", tags = "1, 2, 3")]
    pub(super) op: Option<Op>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Op {
    #[prost(message, tag = "1")]
    Range(RangeRequest),
    #[prost(message, tag = "2")]
    Put(PutRequest),
    #[prost(message, tag = "3")]
    Delete(DeleteRangeRequest),
}

impl From<Op> for RequestOp {
    fn from(op: Op) -> Self {
        Self { op: Some(op) }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ResponseOp {
    #[prost(oneof = "OpAnswer", tags = "1, 2, 3")]
    pub(super) answer: Option<OpAnswer>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum OpAnswer {
    #[prost(message, tag = "1")]
    Range(RangeResponse),
    #[prost(message, tag = "2")]
    Put(PutResponse),
    #[prost(message, tag = "3")]
    Delete(DeleteRangeResponse),
}

/// `Compare.CompareResult`: the only one needed.
const EQUAL: i32 = 0;
/// `Compare.CompareTarget`.
const VERSION: i32 = 0;
/// `Compare.CompareTarget`.
const MOD: i32 = 2;
/// `Compare.CompareTarget`.
const VALUE: i32 = 3;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Compare {
    #[prost(int32, tag = "1")]
    result: i32,
    #[prost(int32, tag = "2")]
    target: i32,
    #[prost(bytes = "vec", tag = "3")]
    key: Vec<u8>,
    #[prost(oneof = "CompareWith", tags = "4, 6, 7")]
    with: Option<CompareWith>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum CompareWith {
    #[prost(int64, tag = "4")]
    Version(i64),
    #[prost(int64, tag = "6")]
    ModRevision(i64),
    #[prost(bytes, tag = "7")]
    Value(Vec<u8>),
}

impl Compare {
    fn equal(key: &str, target: i32, with: CompareWith) -> Self {
        Self {
            result: EQUAL,
            target,
            key: key.as_bytes().to_vec(),
            with: Some(with),
        }
    }

    /// There is no such key.
    pub(super) fn is_absent(key: &str) -> Self {
        Self::equal(key, VERSION, CompareWith::Version(0))
    }

    /// The key was changed last at that revision.
    pub(super) fn is_unchanged_since(key: &str, mod_revision: i64) -> Self {
        Self::equal(key, MOD, CompareWith::ModRevision(mod_revision))
    }

    /// The key has that value.
    pub(super) fn is_value(key: &str, value: Vec<u8>) -> Self {
        Self::equal(key, VALUE, CompareWith::Value(value))
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TxnRequest {
    #[prost(message, repeated, tag = "1")]
    pub(super) compare: Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    pub(super) success: Vec<RequestOp>,
    #[prost(message, repeated, tag = "3")]
    pub(super) failure: Vec<RequestOp>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct TxnResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
    #[prost(bool, tag = "2")]
    pub(super) succeeded: bool,
    #[prost(message, repeated, tag = "3")]
    pub(super) responses: Vec<ResponseOp>,
}

impl TxnResponse {
    /// The key-values of each range of the branch that was taken, in its order.
    pub(super) fn ranges(self) -> impl Iterator<Item = RangeResponse> {
        self.responses.into_iter().filter_map(|op| match op.answer {
            Some(OpAnswer::Range(range)) => Some(range),
            Some(OpAnswer::Put(_) | OpAnswer::Delete(_)) | None => None,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WatchRequest {
    /// The one of the three requests that is needed.
    #[prost(message, optional, tag = "1")]
    pub(super) create: Option<WatchCreateRequest>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WatchCreateRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) range_end: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub(super) start_revision: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WatchResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
    #[prost(bool, tag = "4")]
    pub(super) canceled: bool,
    /// Not 0: what was to be watched from is compacted.
    #[prost(int64, tag = "5")]
    pub(super) compact_revision: i64,
    #[prost(string, tag = "6")]
    pub(super) cancel_reason: String,
    #[prost(message, repeated, tag = "11")]
    pub(super) events: Vec<Event>,
}

/// `Event.EventType`: the key is gone.
pub(super) const DELETE: i32 = 1;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Event {
    #[prost(int32, tag = "1")]
    pub(super) kind: i32,
    #[prost(message, optional, tag = "2")]
    pub(super) kv: Option<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LeaseGrantRequest {
    /// Seconds.
    #[prost(int64, tag = "1")]
    pub(super) ttl: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LeaseGrantResponse {
    #[prost(int64, tag = "2")]
    pub(super) id: i64,
    /// Seconds, as the server took it.
    #[prost(int64, tag = "3")]
    pub(super) ttl: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LeaseRevokeRequest {
    #[prost(int64, tag = "1")]
    pub(super) id: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LeaseRevokeResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LeaseKeepAliveRequest {
    #[prost(int64, tag = "1")]
    pub(super) id: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LeaseKeepAliveResponse {
    #[prost(int64, tag = "2")]
    pub(super) id: i64,
    /// Seconds; 0 when the lease is gone.
    #[prost(int64, tag = "3")]
    pub(super) ttl: i64,
}

/// Its `Debug` would show the password: never log it.
#[derive(Clone, PartialEq, Message)]
pub(super) struct AuthenticateRequest {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) password: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AuthenticateResponse {
    #[prost(string, tag = "2")]
    pub(super) token: String,
}

/// The first key after all that begin with `prefix`, as etcd's ranges want it.
pub(super) fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    // Keys are ASCII: the last byte is never 0xff.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}
