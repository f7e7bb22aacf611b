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
