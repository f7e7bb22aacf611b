//! Who comes in: each request, and each connection without HTTP, is judged by the gate in force at that moment.

use http::request;

use super::{Refusal, headers, passage};
use crate::access::{Ask, Gate, Request, Standing, Verdict};
use crate::listen::Connection;
use crate::published::Published;
use crate::reason::Reason;
use crate::route;
use crate::telemetry::{Authorization, AuthorizationCounts, Metrics};

/// The gate and what it decided so far.
pub struct Entry {
    pub gate: Published<Gate>,
    counts: AuthorizationCounts,
}

impl Entry {
    pub fn new(gate: Gate, metrics: &Metrics) -> Self {
        Self { gate: Published::new(gate), counts: metrics.authorization() }
    }

    /// Lets a request pass or not. Where paths are judged, its own is brought into its normal form first, so that the app
    /// sees what was judged.
    ///
    /// # Errors
    /// `denied`, or `not_identified` where a certificate might help.
    pub(super) fn admit(
        &self,
        connection: &Connection,
        standing: &Standing,
        head: &mut request::Parts,
    ) -> Result<(), Refusal> {
        let gate = self.gate.peek();
        if gate.is_open() {
            return Ok(());
        }
        if gate.reads_paths() {
            passage::normalise(head)?;
        }
        let judge = |path| {
            let (method, authority) = (&head.method, headers::host_of(head));
            gate.judge(ask(connection, Some(Request { method, path, authority, headers: &head.headers })), standing)
        };
        let path = head.uri.path();
        let mut verdict = judge(path);
        // What is denied stays so for an app that decodes slashes or cuts parameters off segments.
        if gate.reads_paths()
            && !matches!(verdict, Verdict::Denied(_))
            && let Some(widest) = route::widest(path)
        {
            verdict = judge(&widest);
        }
        self.settle(verdict)
    }

    /// As `admit`, for a connection without HTTP.
    ///
    /// # Errors
    /// As `admit`.
    pub(super) fn admit_raw(&self, connection: &Connection) -> Result<(), Refusal> {
        let gate = self.gate.peek();
        if gate.is_open() { Ok(()) } else { self.settle(gate.judge(ask(connection, None), &Standing::default())) }
    }

    fn settle(&self, verdict: Verdict<'_>) -> Result<(), Refusal> {
        match verdict {
            Verdict::Allowed => self.counts.count(Authorization::Allowed),
            Verdict::Unidentified => self.counts.count(Authorization::Unidentified),
            Verdict::Denied(denial) => {
                self.counts.count(Authorization::Denied);
                let reason = if denial.wants_identity() { Reason::NotIdentified } else { Reason::Denied };
                return Err(Refusal::new(reason, denial.to_string()));
            }
        }
        Ok(())
    }
}

fn ask<'a>(connection: &'a Connection, request: Option<Request<'a>>) -> Ask<'a> {
    Ask { caller: connection.peer.tls.as_ref().map(|tls| &tls.id), request }
}
