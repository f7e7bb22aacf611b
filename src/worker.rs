//! The data path's threads: N single-threaded runtimes. Only this file knows their shape.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// All workers. Dropping them ends their threads; their tasks should have ended before.
pub struct Workers {
    workers: Vec<Worker>,
    stop: CancellationToken,
}

/// One thread with its runtime.
pub struct Worker {
    pub runtime: Handle,
    /// Connections that it serves now, over all listeners.
    pub load: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Workers {
    /// # Errors
    /// When a thread or its reactor cannot be made.
    pub fn start(count: usize) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let workers = (0..count.max(1)).map(|at| Worker::start(at, stop.clone())).collect::<io::Result<_>>()?;
        Ok(Self { workers, stop })
    }

    pub fn iter(&self) -> impl Iterator<Item = &Worker> {
        self.workers.iter()
    }

    /// The worker that runs the accept loops.
    pub fn first(&self) -> &Worker {
        &self.workers[0]
    }
}

impl Worker {
    fn start(at: usize, stop: CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let thread = std::thread::Builder::new()
            .name(format!("worker-{at}"))
            .spawn(move || runtime.block_on(stop.cancelled_owned()))?;
        Ok(Self { runtime: handle, load: Arc::default(), thread: Some(thread) })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.cancel();
        for thread in self.workers.iter_mut().filter_map(|worker| worker.thread.take()) {
            // A panic of a worker has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}
