//! The memory in which requests are handled. A request's future has several kilobytes; it is made in its place, never moved,
//! and the place is used again by the worker's next request.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use parking_lot::Mutex;
use pin_project_lite::pin_project;

/// One worker's places for the requests of one listener, whatever the type of their futures is: a handler has one type of
/// them, which cannot be named.
#[derive(Clone, Default)]
pub struct Workspaces(Arc<OnceLock<Arc<dyn Any + Send + Sync>>>);

impl Workspaces {
    /// The places for futures of this type.
    pub(super) fn of<F: Future + Send + 'static>(&self) -> Places<F> {
        let any = self.0.get_or_init(|| Arc::new(Free::<F>::default())).clone();
        // Another type than the first: places that nobody shares.
        Places(any.downcast().unwrap_or_default())
    }
}

/// Places that are free, the last used one on top: its memory is the likeliest to be in the processor's caches. The lock is
/// never contended: only this worker's thread takes it.
pub(super) struct Places<F>(Arc<Free<F>>);

type Free<F> = Mutex<Vec<Place<F>>>;
type Place<F> = Pin<Box<Space<F>>>;

pin_project! {
    struct Space<F> {
        #[pin]
        future: Option<F>,
    }
}

impl<F> Clone for Places<F> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<F: Future> Places<F> {
    /// Begins what `make` gives.
    pub(super) fn begin(&self, make: impl FnOnce() -> F) -> Working<F> {
        let free = self.0.lock().pop();
        let mut place = free.unwrap_or_else(|| Box::pin(Space { future: None }));
        place.as_mut().project().future.set(Some(make()));
        Working { place: Some(place), home: self.clone() }
    }
}

/// A future in its place. Dropped before its end, its memory goes, too.
pub(super) struct Working<F> {
    place: Option<Place<F>>,
    home: Places<F>,
}

impl<F: Future> Future for Working<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut place = self.place.take().expect("a future is not polled after its end");
        let future = place.as_mut().project().future.as_pin_mut().expect("it was made when the place was taken");
        let Poll::Ready(output) = future.poll(cx) else {
            self.place = Some(place);
            return Poll::Pending;
        };
        place.as_mut().project().future.set(None);
        let mut free = self.home.0.lock();
        if free.len() < MOST {
            free.push(place);
        }
        Poll::Ready(output)
    }
}

/// Free places that are kept: a worker that has more under way at once is busy enough to ask the allocator.
const MOST: usize = 64;

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;

    /// Where a future is, when it is polled.
    async fn place_of(mark: Arc<()>) -> usize {
        let here = 0u8;
        tokio::task::yield_now().await;
        drop(mark);
        std::ptr::from_ref(&here).addr()
    }

    #[tokio::test]
    async fn the_next_request_is_handled_where_the_last_one_was() {
        let workspaces = Workspaces::default();
        let mark = Arc::new(());
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.push(workspaces.of().begin(|| place_of(mark.clone())).await);
        }
        assert!(seen.iter().all(|place| *place == seen[0]), "{seen:?}");
        let places = workspaces.of();
        let (one, two) = tokio::join!(places.begin(|| place_of(mark.clone())), places.begin(|| place_of(mark.clone())));
        assert_ne!(one, two, "two at once are in two places");
        assert_eq!(places.0.lock().len(), 2);
        assert_eq!(Arc::strong_count(&mark), 1, "what has ended holds nothing");
    }

    #[tokio::test]
    async fn what_is_given_up_is_dropped_at_once() {
        let (workspaces, mark) = (Workspaces::default(), Arc::new(()));
        let places = workspaces.of();
        let mut given_up = Box::pin(places.begin(|| place_of(mark.clone())));
        assert!(futures_util::poll!(given_up.as_mut()).is_pending());
        assert_eq!(Arc::strong_count(&mark), 2);
        drop(given_up);
        assert_eq!((Arc::strong_count(&mark), places.0.lock().len()), (1, 0));
    }

    #[tokio::test]
    async fn no_more_places_are_kept_than_a_worker_needs() {
        let places = Workspaces::default().of();
        let mut all: Vec<_> = (0..MOST + 10).map(|at| places.begin(|| ready(at))).collect();
        for (at, one) in all.iter_mut().enumerate() {
            assert_eq!(one.now_or_never(), Some(at));
        }
        assert_eq!(places.0.lock().len(), MOST);
    }

    #[tokio::test]
    async fn another_type_of_futures_has_places_of_its_own() {
        let workspaces = Workspaces::default();
        assert_eq!(workspaces.of().begin(|| ready(1)).await, 1);
        let mut other = pin!(workspaces.of().begin(pending::<()>));
        assert!(futures_util::poll!(other.as_mut()).is_pending());
    }
}
