//! What an operator asks for, handed to the app, and what became of it. Every wait is limited.

use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::answer::{self, Answer};
use super::{Command, Phase, View};

pub(super) async fn drain(view: &View) -> Answer {
    if let Err(unsent) = send(view, Command::Drain).await {
        return unsent.answer();
    }
    // So that who asks `/readyz` next sees what was told here.
    let mut phase = view.status.watch();
    let _ = timeout(SEND, phase.wait_for(|phase| *phase == Phase::Draining)).await;
    answer::json(StatusCode::ACCEPTED, &json!({ "status": "draining" }))
}

pub(super) async fn quit(view: &View) -> Answer {
    match send(view, Command::Quit).await {
        Ok(()) => answer::json(StatusCode::ACCEPTED, &json!({ "status": "stopping" })),
        Err(unsent) => unsent.answer(),
    }
}

pub(super) async fn reload(view: &View) -> Answer {
    let (answer, answered) = oneshot::channel();
    if let Err(unsent) = send(view, Command::Reload(answer)).await {
        return unsent.answer();
    }
    match timeout(RELOAD, answered).await {
        Ok(Ok(Ok(()))) => answer::json(StatusCode::OK, &json!({ "status": "applied" })),
        Ok(Ok(Err(problems))) => {
            let refused = json!({ "status": "refused", "problems": problems });
            answer::json(StatusCode::UNPROCESSABLE_ENTITY, &refused)
        }
        Ok(Err(_)) => Unsent::Stopping.answer(),
        Err(_) => {
            let message = "The reload is not done yet; GET /config tells how it ends.";
            answer::error(StatusCode::GATEWAY_TIMEOUT, "deadline", message)
        }
    }
}

/// Why a command did not reach the app.
enum Unsent {
    Busy,
    Stopping,
}

impl Unsent {
    fn answer(&self) -> Answer {
        match self {
            Self::Busy => answer::busy("Earlier commands are still under way; try again soon."),
            Self::Stopping => answer::error(
                StatusCode::SERVICE_UNAVAILABLE,
                "stopping",
                "The sidecar stops; it takes no more commands.",
            ),
        }
    }
}

async fn send(view: &View, command: Command) -> Result<(), Unsent> {
    view.commands.send_timeout(command, SEND).await.map_err(|error| match error {
        SendTimeoutError::Timeout(_) => Unsent::Busy,
        SendTimeoutError::Closed(_) => Unsent::Stopping,
    })
}

const SEND: Duration = Duration::from_secs(1);
const RELOAD: Duration = Duration::from_secs(30);
