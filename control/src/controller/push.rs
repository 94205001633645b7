//! What a session tells its agent without being asked: the map, as far as it is the agent's business, and then what changes.
//!
//! The agent's revision grows only with the last message of a round: an agent that is cut off before it gets the round again.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::SendStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::Core;
use super::ledger::{STRIDE, View};
use super::session::Wish;
use crate::channel::messages::Push;
use crate::channel::{FrameError, Interest, codec, send};
use crate::model::{Change, ClusterMap, NetworkId, Object, Revision, Versioned};

/// An agent that no change concerns hears after this time how far the map is: it costs as many messages as there are agents.
const LAG: Duration = Duration::from_secs(30);
/// Objects or changes in one message.
const BATCH: usize = 256;
/// What they may take together; one alone may be longer, as long as the request was that brought it.
const BATCH_BYTES: usize = codec::MAX_MESSAGE_BYTES / 4;

/// Brings the agent's map up to date, for ever.
pub(super) async fn push(
    core: &Core,
    mut view: View,
    mut to: SendStream,
    (mut wishes, mut controllers): (watch::Receiver<Wish>, Vec<SocketAddr>),
) -> Result<(), FrameError> {
    let mut addresses = core.fellows.addresses();
    // How new the agent thinks that its map is, and since when.
    let (mut told, mut since) = (None, Instant::now());
    // The wish that it was told of last.
    let mut granted = None;
    loop {
        let wish = wishes.borrow_and_update().clone();
        let mut so_far = told.or(view.have()).unwrap_or_default();
        let Some(news) = core.ledger.news(&mut view, wish.interest.as_ref()) else {
            return Ok(());
        };
        let (mut changes, newest) = (news.changes, news.newest);
        let matters = !changes.is_empty() || wish.interest.is_none();
        if let Some(map) = news.everything {
            let interest = wish.interest.as_ref();
            let watched = interest.map(|interest| (view.networks(), interest.wish));
            granted = interest.map(|interest| interest.wish);
            so_far = push_everything(&mut to, map, watched).await?;
            told = Some(so_far);
        } else if news.other_networks {
            granted = None;
        }
        if let Some(Interest { wish, .. }) = wish.interest
            && granted != Some(wish)
        {
            if !changes.is_empty() {
                let changes = std::mem::take(&mut changes);
                push_changes(&mut to, changes, (so_far, so_far)).await?;
            }
            let networks = BTreeSet::clone(&view.networks());
            send(&mut to, &Push::Watched { networks, wish }).await?;
            granted = Some(wish);
        }
        let waits =
            told.is_none_or(|told| told < wish.reach || newest.saturating_sub(told) >= STRIDE);
        if told != Some(newest) && (matters || waits || since.elapsed() >= LAG) {
            push_changes(&mut to, changes, (so_far, newest)).await?;
            told = Some(newest);
        }
        if told == Some(newest) {
            since = Instant::now();
        }
        let newest = addresses.borrow_and_update().clone();
        if newest != controllers {
            push_controllers(&mut to, newest.clone(), told.unwrap_or_default()).await?;
            controllers = newest;
        }
        let changed = async {
            tokio::select! {
                () = view.seat.woken() => true,
                changed = wishes.changed() => changed.is_ok(),
                changed = addresses.changed() => changed.is_ok(),
            }
        };
        // It is told in time how far the map is, also if no change concerns it.
        if !timeout_at(since + LAG, changed).await.unwrap_or(true) {
            return Ok(());
        }
    }
}

/// Tells where the controllers are, to an agent whose map is as of `up_to`.
async fn push_controllers(
    to: &mut SendStream,
    controllers: Vec<SocketAddr>,
    up_to: Revision,
) -> Result<(), FrameError> {
    let news = Push::Changes {
        changes: Vec::new(),
        up_to,
        controllers: Some(controllers),
    };
    send(to, &news).await
}

/// Tells changes to an agent whose map stays as of `so_far` until the last of them; with none, only how far it is then.
async fn push_changes(
    to: &mut SendStream,
    mut changes: Vec<(Revision, Change)>,
    (so_far, then): (Revision, Revision),
) -> Result<(), FrameError> {
    loop {
        let rest = changes.split_off(batch_len(&changes));
        let up_to = if rest.is_empty() { then } else { so_far };
        let news = Push::Changes {
            changes,
            up_to,
            controllers: None,
        };
        send(to, &news).await?;
        if rest.is_empty() {
            return Ok(());
        }
        changes = rest;
    }
}

/// How many of the first fit into one message: at least one.
fn batch_len<T: serde::Serialize>(items: &[T]) -> usize {
    let mut bytes = 0;
    let fitting = items.iter().take(BATCH).take_while(|item| {
        bytes += codec::encoded_len(item);
        bytes <= BATCH_BYTES
    });
    fitting.count().max(1).min(items.len())
}

/// The map, and for which networks it is complete by which wish.
async fn push_everything(
    to: &mut SendStream,
    map: ClusterMap,
    watched: Option<(Arc<BTreeSet<NetworkId>>, u64)>,
) -> Result<Revision, FrameError> {
    let revision = map.revision;
    send(to, &Push::SnapshotStart).await?;
    let mut objects = map.into_objects().peekable();
    while objects.peek().is_some() {
        let mut batch: Vec<Versioned<Object>> = objects.by_ref().take(BATCH).collect();
        while !batch.is_empty() {
            let rest = batch.split_off(batch_len(&batch));
            send(to, &Push::Objects(batch)).await?;
            batch = rest;
        }
    }
    if let Some((networks, wish)) = watched {
        let networks = BTreeSet::clone(&networks);
        send(to, &Push::Watched { networks, wish }).await?;
    }
    send(to, &Push::SnapshotEnd { revision }).await?;
    Ok(revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_takes_what_fits_and_at_least_one() {
        let lengths = |items: &[String]| {
            let (mut rest, mut lengths) = (items, Vec::new());
            while !rest.is_empty() {
                let first = batch_len(rest);
                codec::encode(&rest[..first].to_vec()).unwrap();
                lengths.push(first);
                rest = &rest[first..];
            }
            lengths
        };
        assert_eq!(batch_len::<String>(&[]), 0);
        assert_eq!(lengths(&vec![String::new(); BATCH + 1]), [BATCH, 1]);
        // Together they are longer than any message may be.
        let long = "x".repeat(codec::MAX_MESSAGE_BYTES / 2 + 1);
        let items = ["a".to_owned(), long.clone(), long, "b".to_owned()];
        assert_eq!(lengths(&items), [1, 1, 1, 1]);
    }
}
