//! Docker's remote driver protocol (libnetwork's `docs/remote.md` and `docs/ipam.md`, plugin API v1), as far as it can be
//! known without a network: pure, no IO. The agent's half, which carries the calls out, is `agent::docker`.
//!
//! | file | what |
//! |---|---|
//! | `wire` | a call's bytes -> [`wire::Call`]; replies and errors -> JSON |
//! | `options` | what `docker network create -o` may say |
//! | `wish` | such a network as the cluster is asked for it, and compared with the one that is there |
//! | `pools` | which range a network gets when nobody names one |
//! | `ledger` | what Docker was given on this host and hasn't given back: survives both daemons |
//! | `host` | what the Docker daemon itself says of its containers, for names and for what it forgot |
//!
//! The driver has local scope, so Docker makes a random network id on each host; what makes two of them one overlay is
//! the name that `-o weft.network` gives, or the range.

pub mod wire;
pub mod options;
pub mod wish;
pub mod pools;
pub mod ledger;
pub mod host;
