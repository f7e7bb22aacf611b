//! A second try beside a slow first one: whichever answers well first is the answer.

use std::future::Future;
use std::pin::{Pin, pin};

use futures_util::future::{Either, select};

use super::exchange::Exchange;
use super::tries::{Got, Tried, Tries};
use crate::upstream::Failed;

/// Waits for `first`, and once that takes longer than the route allows, for a second try as well. The one that is not
/// needed is cancelled. A first one that fails early is left to the ordinary retries.
pub(super) async fn race<'a>(
    tries: &mut Tries<'a>,
    mut first: Pin<&mut impl Future<Output = Tried<'a>>>,
    exchange: &mut Exchange,
) -> Tried<'a> {
    let Some(after) = tries.route().hedge.as_ref().and_then(|hedge| hedge.after()) else { return first.await };
    if let Either::Left((tried, _)) = select(first.as_mut(), pin!(tokio::time::sleep(after))).await {
        return tried;
    }
    let Some(second) = tries.begin_beside(exchange) else { return first.await };
    exchange.note("hedged");
    // Boxed: it is rare, and every request's future would carry its space about.
    let second = Box::pin(second);
    match select(first, second).await {
        Either::Left((tried, second)) if is_better_than_waiting(tries, &tried) => {
            drop(second);
            tried
        }
        Either::Right((tried, _)) if is_better_than_waiting(tries, &tried) => tried,
        Either::Left((tried, second)) => {
            tries.settle(tried, exchange);
            second.await
        }
        Either::Right((tried, first)) => {
            tries.settle(tried, exchange);
            first.await
        }
    }
}

fn is_better_than_waiting(tries: &Tries<'_>, (_, result): &(impl Sized, Result<Got, Failed>)) -> bool {
    result.as_ref().is_ok_and(|got| !tries.route().failures.contains(got.taken.status))
}
