//! Which answer belongs to which path and method, on admin and on the metrics listener.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Body;
use serde_json::json;

use super::answer::{self, Answer};
use super::guard::{self, Foreign};
use super::{Phase, View, certificates, commands, endpoints, topology};

/// One listener's handler.
pub(super) struct Desk {
    view: Arc<View>,
    surface: Surface,
}

#[derive(Debug, Clone, Copy)]
enum Surface {
    Admin { bound: IpAddr },
    Metrics,
}

/// What a path shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    Livez,
    Readyz,
    Metrics,
    Config,
    Endpoints,
    Certs,
    Topology,
    Page,
    Script,
    Style,
}

/// What a path asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Drain,
    Reload,
    Quit,
}

enum Place {
    Sight(Sight),
    Wish(Wish),
}

impl Desk {
    pub(super) fn admin(view: Arc<View>, bound: IpAddr) -> Self {
        Self { view, surface: Surface::Admin { bound } }
    }

    pub(super) fn metrics(view: Arc<View>) -> Self {
        Self { view, surface: Surface::Metrics }
    }

    pub(super) async fn answer<B>(&self, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let (head, body) = request.into_parts();
        if let Surface::Admin { bound } = self.surface
            && let Err(foreign) = guard::check(&head, bound)
        {
            return refuse(foreign);
        }
        match (self.place(head.uri.path()), head.method) {
            (None, _) => answer::error(StatusCode::NOT_FOUND, "not_found", self.paths()),
            (Some(Place::Sight(sight)), Method::GET | Method::HEAD) => self.show(sight, head.uri.query()),
            (Some(Place::Sight(_)), _) => answer::method_not_allowed("GET, HEAD"),
            (Some(Place::Wish(wish)), Method::POST) => match read_off(body).await {
                Ok(()) => self.grant(wish).await,
                Err(answer) => *answer,
            },
            (Some(Place::Wish(_)), _) => answer::method_not_allowed("POST"),
        }
    }

    fn place(&self, path: &str) -> Option<Place> {
        let common = match path {
            "/livez" => Some(Sight::Livez),
            "/readyz" => Some(Sight::Readyz),
            "/metrics" => Some(Sight::Metrics),
            _ => None,
        };
        match self.surface {
            Surface::Metrics => common.map(Place::Sight),
            Surface::Admin { .. } => common.map(Place::Sight).or_else(|| admin_place(path)),
        }
    }

    fn paths(&self) -> &'static str {
        match self.surface {
            Surface::Metrics => "There is /metrics, /livez and /readyz here.",
            Surface::Admin { .. } => {
                "There is /livez, /readyz, /config, /endpoints, /certs, /topology and /metrics here, a page at /, and POST \
                 on /drain, /reload and /quit."
            }
        }
    }

    fn show(&self, sight: Sight, query: Option<&str>) -> Answer {
        let view = &self.view;
        match sight {
            Sight::Livez => answer::json(StatusCode::OK, &json!({ "status": "alive" })),
            Sight::Readyz => readiness(view.status.phase()),
            Sight::Metrics => {
                endpoints::count(view, Instant::now());
                answer::text(PROMETHEUS, view.metrics.render())
            }
            Sight::Config => answer::json(StatusCode::OK, &*view.config.snapshot()),
            Sight::Endpoints => answer::json(StatusCode::OK, &endpoints::Listed::of(view, Instant::now())),
            Sight::Certs => {
                let identity = view.identity.snapshot();
                let shown = identity.as_ref().as_ref().map(|one| certificates::Shown::of(one, SystemTime::now()));
                answer::json(StatusCode::OK, &shown)
            }
            Sight::Topology => topology::answer(view, query, Instant::now()),
            Sight::Page => answer::text("text/html; charset=utf-8", include_str!("ui/index.html")),
            Sight::Script => answer::text("text/javascript; charset=utf-8", include_str!("ui/app.js")),
            Sight::Style => answer::text("text/css; charset=utf-8", include_str!("ui/app.css")),
        }
    }

    async fn grant(&self, wish: Wish) -> Answer {
        match wish {
            Wish::Drain => commands::drain(&self.view).await,
            Wish::Reload => commands::reload(&self.view).await,
            Wish::Quit => commands::quit(&self.view).await,
        }
    }
}

fn admin_place(path: &str) -> Option<Place> {
    Some(match path {
        "/config" => Place::Sight(Sight::Config),
        "/endpoints" => Place::Sight(Sight::Endpoints),
        "/certs" => Place::Sight(Sight::Certs),
        "/topology" => Place::Sight(Sight::Topology),
        "/" => Place::Sight(Sight::Page),
        "/app.js" => Place::Sight(Sight::Script),
        "/app.css" => Place::Sight(Sight::Style),
        "/drain" => Place::Wish(Wish::Drain),
        "/reload" => Place::Wish(Wish::Reload),
        "/quit" => Place::Wish(Wish::Quit),
        _ => return None,
    })
}

fn readiness(phase: Phase) -> Answer {
    match phase {
        Phase::Ready => answer::json(StatusCode::OK, &json!({ "status": "ready" })),
        Phase::Starting { missing } => {
            answer::json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": "starting", "missing": missing }))
        }
        Phase::Draining => answer::json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": "draining" })),
    }
}

fn refuse(foreign: Foreign) -> Answer {
    let message = foreign.to_string();
    match foreign {
        Foreign::BadHost => answer::error(StatusCode::BAD_REQUEST, "bad_request", &message),
        Foreign::Host | Foreign::Origin | Foreign::Site => answer::error(StatusCode::FORBIDDEN, "forbidden", &message),
    }
}

/// Takes a command's body off the connection and forgets it: closing over unread bytes would take the answer along (RFC 9112
/// §9.6).
async fn read_off<B>(body: B) -> Result<(), Box<Answer>>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let too_large = || answer::error(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "A command takes no body.");
    if body.size_hint().lower() > BODY_SIZE as u64 {
        return Err(Box::new(too_large()));
    }
    let reading = Limited::new(body, BODY_SIZE).collect();
    let refused = match tokio::time::timeout(BODY, reading).await {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => too_large(),
        Ok(Err(_)) => answer::error(StatusCode::BAD_REQUEST, "bad_request", "The body was cut short."),
        Err(_) => answer::error(StatusCode::REQUEST_TIMEOUT, "request_timeout", "The body did not come in time."),
    };
    Err(Box::new(refused))
}

const BODY_SIZE: usize = 64 * 1024;
const BODY: Duration = Duration::from_secs(5);
/// The content type of the text format, as Prometheus itself names it.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
