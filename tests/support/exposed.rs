//! A sidecar that hostile bytes can reach from both sides: its app and its upstream `users` keep every byte they are sent,
//! and its inbound listener takes plain text.

use std::net::SocketAddr;
use std::ops::Deref;

use serde_json::json;

use super::certs::Authority;
use super::client::Connection;
use super::pair::sidecar;
use super::sidecar::{Builder, Sidecar};
use super::{Answer, Ask, Embedded, Recorder};

pub struct Exposed {
    sidecar: Sidecar,
    pub app: Recorder,
    pub users: Recorder,
    _authority: Authority,
    _registry: Embedded,
}

/// Where hostile bytes come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Inbound,
    /// The shared outbound port.
    Outbound,
}

pub const SIDES: [Side; 2] = [Side::Inbound, Side::Outbound];

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

impl Exposed {
    pub fn start() -> Self {
        Self::with(|web| web)
    }

    pub fn with(change: impl FnOnce(Builder) -> Builder) -> Self {
        Self::of(Recorder::start(), Recorder::start(), change)
    }

    pub fn of(app: Recorder, users: Recorder, change: impl FnOnce(Builder) -> Builder) -> Self {
        let (registry, authority) = (Embedded::start(), Authority::new("mesh.test"));
        let upstream = json!({ "mtls": "off", "endpoints": [users.address().to_string()] });
        let web = sidecar("web", registry.agent(), &authority)
            .set("service.port", json!(app.address().port()))
            .set("inbound.mtls", json!("off"))
            .upstream("users", upstream);
        let sidecar = change(web).start();
        Self { sidecar, app, users, _authority: authority, _registry: registry }
    }

    pub fn way_in(&self, side: Side) -> SocketAddr {
        match side {
            Side::Inbound => self.sidecar.inbound(),
            Side::Outbound => self.sidecar.outbound(),
        }
    }

    /// What is behind that side.
    pub fn behind(&self, side: Side) -> &Recorder {
        match side {
            Side::Inbound => &self.app,
            Side::Outbound => &self.users,
        }
    }

    /// Sends the bytes on a connection of their own; all answers until the sidecar closes or is silent.
    pub fn throw(&self, side: Side, bytes: &[u8]) -> Thrown {
        let mut connection = Connection::to(self.way_in(side)).unwrap();
        // A sidecar that has closed already may reset what is still being sent.
        let _ = connection.write(bytes);
        Self::answers(connection)
    }

    /// As `throw`, and says that no more comes.
    pub fn throw_all(&self, side: Side, bytes: &[u8]) -> Thrown {
        let mut connection = Connection::to(self.way_in(side)).unwrap();
        let _ = connection.write(bytes);
        connection.end_writing();
        Self::answers(connection)
    }

    fn answers(mut connection: Connection) -> Thrown {
        let mut answers = Vec::new();
        while let Ok(answer) = connection.read("GET") {
            let last = answer.header("connection").eq_ignore_ascii_case("close");
            answers.push(answer);
            if last || !connection.has_more() {
                // So that its last look for more bytes ends.
                connection.end_writing();
                break;
            }
        }
        Thrown { answers, connection }
    }

    /// Still alive: a good request comes through.
    #[track_caller]
    pub fn assert_lives(&self, side: Side) {
        let before = self.behind(side).count();
        let answer = Ask::get("/alive").host("users").send(self.way_in(side));
        assert_eq!((answer.status, answer.text().as_str()), (200, "/alive"), "{answer:?}");
        assert_eq!(self.behind(side).count(), before + 1);
    }
}

/// What came back.
pub struct Thrown {
    pub answers: Vec<Answer>,
    pub connection: Connection,
}

impl Thrown {
    pub fn statuses(&self) -> Vec<u16> {
        self.answers.iter().map(|answer| answer.status).collect()
    }
}

impl Deref for Exposed {
    type Target = Sidecar;

    fn deref(&self) -> &Sidecar {
        &self.sidecar
    }
}
