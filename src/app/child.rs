//! The app as our child: started once we are ready, told to end once its exchanges are finished, its exit code ours.

use std::ffi::OsString;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::process::Command;

use super::Failure;

/// The app, where it is our child.
pub(super) struct Child {
    process: Option<tokio::process::Child>,
    ended: Option<ExitStatus>,
}

impl Child {
    pub(super) fn none() -> Self {
        Self { process: None, ended: None }
    }

    /// Starts `command`; an empty one is no child. It gets a process group of its own, so that Ctrl-C reaches us alone and
    /// the app ends in its turn.
    pub(super) fn start(command: &[OsString]) -> Result<Self, Failure> {
        let Some((program, arguments)) = command.split_first() else { return Ok(Self::none()) };
        let process = Command::new(program)
            .args(arguments)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("starting {}: {error}", program.display()))?;
        tracing::info!(command = %program.display(), pid = process.id(), "the app is started");
        Ok(Self { process: Some(process), ended: None })
    }

    /// Resolves with how the app ended; never where there is none, or it was reported already. Cancel safe.
    pub(super) async fn ended(&mut self) -> ExitStatus {
        match (&mut self.process, self.ended) {
            (Some(process), None) => match process.wait().await {
                Ok(status) => {
                    self.ended = Some(status);
                    status
                }
                Err(error) => {
                    tracing::error!(%error, "the app cannot be waited for");
                    std::future::pending().await
                }
            },
            _ => std::future::pending().await,
        }
    }

    /// SIGTERM, then SIGKILL when `limit` is over. `None` where there is no child.
    pub(super) async fn stop(&mut self, limit: Duration) -> Option<ExitStatus> {
        if self.ended.is_some() || self.process.is_none() {
            return self.ended;
        }
        self.terminate();
        if let Ok(status) = tokio::time::timeout(limit, self.ended()).await {
            return Some(status);
        }
        tracing::warn!(?limit, "the app did not end in time and is killed");
        self.kill().await
    }

    pub(super) async fn kill(&mut self) -> Option<ExitStatus> {
        if let Some(process) = &mut self.process {
            // It may have ended this moment.
            let _ = process.start_kill();
            let _ = tokio::time::timeout(Duration::from_secs(2), self.ended()).await;
        }
        self.ended
    }

    fn terminate(&self) {
        let pid = self.process.as_ref().and_then(tokio::process::Child::id).and_then(|pid| i32::try_from(pid).ok());
        let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) else { return };
        if let Err(error) = rustix::process::kill_process(pid, rustix::process::Signal::TERM) {
            tracing::warn!(%error, "the app could not be told to end");
        }
    }
}
