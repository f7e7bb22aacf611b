//! Bounds of connections and of those who wait for one.

use std::sync::Arc;

use futures_util::FutureExt;

use super::connections::{ConnectionLimit, Waited};
use super::policy::Limits;

fn limit(connections: u32, pending: u32) -> Arc<ConnectionLimit> {
    ConnectionLimit::new(Limits { connections, pending, ..Limits::default() })
}

fn nothing() -> Option<()> {
    None
}

#[test]
fn both_bounds_hold_and_what_ends_makes_room() {
    let limit = limit(1, 1);
    let open = limit.try_open().unwrap();
    assert!(limit.try_open().is_none());
    let waiting = limit.try_wait().unwrap();
    assert!(limit.try_wait().is_none(), "not queued beyond its bound");
    assert!(waiting.connection(nothing).now_or_never().is_none());
    drop(open);
    assert!(limit.try_open().is_none(), "who waits comes first");
    let slot = waiting.connection(nothing).now_or_never().unwrap();
    assert!(matches!(slot, Waited::Slot(_)));
    drop(waiting);
    assert!(limit.try_open().is_none());
    drop(slot);
    assert_eq!((limit.open(), limit.pending()), (0, 0));
    assert!(limit.try_open().is_some());
}

#[tokio::test]
async fn who_waits_is_woken_by_a_place_an_idle_connection_or_a_higher_bound() {
    let limit = limit(1, 8);
    let open = limit.try_open().unwrap();
    let (first, second) = (limit.try_wait().unwrap(), limit.try_wait().unwrap());
    let mut waits = Box::pin(first.connection(nothing));
    assert!((&mut waits).now_or_never().is_none());
    drop(open);
    let slot = waits.await;
    assert!(matches!(slot, Waited::Slot(_)));

    let idle = std::cell::Cell::new(None);
    let mut waits = Box::pin(second.connection(|| idle.take()));
    assert!((&mut waits).now_or_never().is_none());
    idle.set(Some(7));
    limit.note_idle();
    assert!(matches!(waits.await, Waited::AtHand(7)));

    let mut waits = Box::pin(second.connection(nothing));
    assert!((&mut waits).now_or_never().is_none());
    limit.follow(Limits { connections: 2, pending: 8, ..Limits::default() });
    assert!(matches!(waits.await, Waited::Slot(_)));
}

#[tokio::test]
async fn a_place_that_was_told_to_one_who_left_goes_to_the_next() {
    let limit = limit(1, 8);
    let open = limit.try_open().unwrap();
    let (first, second) = (limit.try_wait().unwrap(), limit.try_wait().unwrap());
    let mut leaves = Box::pin(first.connection(nothing));
    let mut stays = Box::pin(second.connection(nothing));
    assert!((&mut leaves).now_or_never().is_none() && (&mut stays).now_or_never().is_none());
    drop(open);
    drop(leaves);
    assert!(matches!(stays.await, Waited::Slot(_)));
}
