//! A request body that is kept as it passes, up to a limit, so that the request can be sent again.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::body::{StalledBody, Streaming};

/// One body, read by one try at a time. Its lock is not contended: a try and its connection live on one thread.
pub struct Recording<B = Streaming> {
    inner: Mutex<Inner<B>>,
}

struct Inner<B> {
    source: Box<B>,
    /// All that came, while it is within `limit`.
    kept: SmallVec<[Bytes; 4]>,
    trailers: Option<HeaderMap>,
    bytes: usize,
    limit: usize,
    state: State,
    /// The reader that may draw from the source. A connection that was given up may still hold an older one, whose polls
    /// must not eat what belongs to the next try.
    turn: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Everything is kept.
    Complete,
    /// Longer than the limit, or broken: what is not read yet can be read once.
    Spent,
}

/// A request body as one try reads it, from its first byte on.
pub struct Replayed<B = Streaming> {
    recording: Arc<Recording<B>>,
    turn: u64,
    at: usize,
    trailers_told: bool,
}

impl<B> Replayed<B> {
    pub(super) fn recording(&self) -> Arc<Recording<B>> {
        self.recording.clone()
    }
}

impl<B: Body<Data = Bytes, Error = StalledBody> + Unpin> Recording<B> {
    pub(super) fn new(source: Box<B>, limit: usize) -> Arc<Self> {
        let inner =
            Inner { source, kept: SmallVec::new(), trailers: None, bytes: 0, limit, state: State::Open, turn: 0 };
        Arc::new(Self { inner: Mutex::new(inner) })
    }

    /// The body for another try, which takes its place from the one before; `None` once more came than is kept.
    pub fn replay(self: &Arc<Self>) -> Option<Replayed<B>> {
        let mut inner = self.inner.lock();
        if inner.state == State::Spent {
            return None;
        }
        inner.turn += 1;
        Some(Replayed { recording: self.clone(), turn: inner.turn, at: 0, trailers_told: false })
    }

    /// The body beside the try that is under way; `None` unless all of it has come.
    pub fn copy(self: &Arc<Self>) -> Option<Replayed<B>> {
        let inner = self.inner.lock();
        (inner.state == State::Complete).then(|| Replayed {
            recording: self.clone(),
            turn: inner.turn,
            at: 0,
            trailers_told: false,
        })
    }

    pub fn is_replayable(&self) -> bool {
        self.inner.lock().state != State::Spent
    }

    pub fn is_complete(&self) -> bool {
        self.inner.lock().state == State::Complete
    }
}

impl<B: Body<Data = Bytes, Error = StalledBody> + Unpin> Inner<B> {
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StalledBody>>> {
        let polled = Pin::new(&mut *self.source).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.keep(frame);
                if self.state == State::Open && self.source.is_end_stream() {
                    self.state = State::Complete;
                }
            }
            Poll::Ready(Some(Err(_))) => self.give_up(),
            Poll::Ready(None) if self.state == State::Open => self.state = State::Complete,
            Poll::Ready(None) | Poll::Pending => {}
        }
        polled
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        if self.state != State::Open {
            return;
        }
        if let Some(data) = frame.data_ref() {
            self.bytes += data.len();
            if self.bytes > self.limit {
                self.give_up();
            } else {
                self.kept.push(data.clone());
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
    }

    fn give_up(&mut self) {
        self.state = State::Spent;
        self.kept = SmallVec::new();
        self.trailers = None;
    }
}

impl<B: Body<Data = Bytes, Error = StalledBody> + Unpin> Body for Replayed<B> {
    type Data = Bytes;
    type Error = StalledBody;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StalledBody>>> {
        let this = &mut *self;
        let mut inner = this.recording.inner.lock();
        if let Some(data) = inner.kept.get(this.at) {
            this.at += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        if inner.state == State::Complete {
            if this.trailers_told {
                return Poll::Ready(None);
            }
            this.trailers_told = true;
            return Poll::Ready(inner.trailers.clone().map(|map| Ok(Frame::trailers(map))));
        }
        if inner.turn != this.turn {
            return Poll::Ready(Some(Err(StalledBody::Superseded)));
        }
        let polled = inner.poll_source(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) if frame.is_data() => this.at = inner.kept.len(),
            Poll::Ready(Some(Ok(_))) => this.trailers_told = true,
            Poll::Ready(_) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let inner = self.recording.inner.lock();
        match inner.state {
            State::Complete => self.at >= inner.kept.len() && (self.trailers_told || inner.trailers.is_none()),
            State::Open | State::Spent => self.at >= inner.kept.len() && inner.source.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let inner = self.recording.inner.lock();
        if inner.trailers.is_some() {
            return SizeHint::default();
        }
        let ahead: u64 = inner.kept.iter().skip(self.at).map(|data| data.len() as u64).sum();
        let rest = inner.source.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(ahead + upper);
        }
        hint.set_lower(ahead + rest.lower());
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use futures_util::FutureExt;
    use http_body_util::BodyExt;

    use super::*;

    /// Frames as they come; `None` is a pause.
    struct Script(VecDeque<Option<Frame<Bytes>>>);

    impl Body for Script {
        type Data = Bytes;
        type Error = StalledBody;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, StalledBody>>> {
            match self.0.pop_front() {
                Some(Some(frame)) => Poll::Ready(Some(Ok(frame))),
                Some(None) => Poll::Pending,
                None => Poll::Ready(None),
            }
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_empty()
        }
    }

    fn recording(frames: Vec<Option<Frame<Bytes>>>, limit: usize) -> Arc<Recording<Script>> {
        Recording::new(Box::new(Script(frames.into())), limit)
    }

    fn data(text: &'static str) -> Frame<Bytes> {
        Frame::data(Bytes::from_static(text.as_bytes()))
    }

    fn next(body: &mut Replayed<Script>) -> Option<String> {
        let frame = body.frame().now_or_never()??.ok()?;
        frame.into_data().ok().map(|data| String::from_utf8(data.to_vec()).unwrap())
    }

    #[test]
    fn another_try_reads_what_came_and_then_what_comes() {
        let recording = recording(vec![Some(data("a")), Some(data("b")), None, Some(data("c"))], 100);
        let mut first = recording.replay().unwrap();
        assert_eq!((next(&mut first), next(&mut first)), (Some("a".into()), Some("b".into())));
        assert_eq!(next(&mut first), None, "nothing yet");
        let mut second = recording.replay().unwrap();
        assert_eq!((next(&mut second), next(&mut second)), (Some("a".into()), Some("b".into())));
        assert!(matches!(first.frame().now_or_never(), Some(Some(Err(StalledBody::Superseded)))), "no longer its turn");
        assert_eq!(next(&mut second), Some("c".into()));
        assert!(second.is_end_stream() && recording.is_complete());
        assert_eq!(second.frame().now_or_never().map(|frame| frame.is_none()), Some(true));
    }

    #[test]
    fn more_than_the_limit_passes_and_is_not_kept() {
        let recording = recording(["abc", "de", "f"].map(|text| Some(data(text))).into(), 4);
        let mut first = recording.replay().unwrap();
        assert_eq!(next(&mut first), Some("abc".into()));
        assert!(recording.is_replayable());
        assert_eq!((next(&mut first), next(&mut first)), (Some("de".into()), Some("f".into())));
        assert!(first.is_end_stream());
        assert!(recording.replay().is_none() && recording.copy().is_none());
    }

    #[test]
    fn trailers_are_kept_too_and_a_copy_waits_for_the_end() {
        let trailers: HeaderMap = [(http::header::ETAG, http::HeaderValue::from_static("x"))].into_iter().collect();
        let recording = recording(vec![Some(data("a")), Some(Frame::trailers(trailers.clone()))], 100);
        let mut first = recording.replay().unwrap();
        assert_eq!(next(&mut first), Some("a".into()));
        assert!(recording.copy().is_none(), "more may come");
        assert!(first.frame().now_or_never().flatten().is_some_and(|frame| frame.unwrap().is_trailers()));
        let copy = recording.copy().unwrap().collect().now_or_never().unwrap().unwrap();
        assert_eq!(copy.trailers(), Some(&trailers));
        assert_eq!(copy.to_bytes(), "a");
    }

    #[test]
    fn what_is_left_to_send_is_announced() {
        let recording = recording(vec![Some(data("abc"))], 100);
        let mut first = recording.replay().unwrap();
        assert_eq!(next(&mut first), Some("abc".into()));
        assert_eq!(recording.replay().unwrap().size_hint().lower(), 3);
    }
}
