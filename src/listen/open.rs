//! The connections that a listener serves now, so that all of them can be asked to close.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::connection::{Connection, Peer};

#[derive(Clone, Default)]
pub struct OpenConnections {
    connections: Arc<Mutex<HashMap<usize, Arc<Connection>>>>,
}

/// Keeps a connection listed as long as it lives.
pub(super) struct Listed {
    connections: Arc<Mutex<HashMap<usize, Arc<Connection>>>>,
    key: usize,
}

impl OpenConnections {
    pub(super) fn list(&self, connection: &Arc<Connection>) -> Listed {
        let key = Arc::as_ptr(connection) as usize;
        self.connections.lock().insert(key, connection.clone());
        Listed { connections: self.connections.clone(), key }
    }

    /// Asks those connections to close in order whose peer is no longer wanted: those under way end, no more come.
    /// Whether there are any.
    pub fn close_where(&self, unwanted: impl Fn(&Peer) -> bool) -> bool {
        let mut any = false;
        for connection in self.connections.lock().values().filter(|connection| unwanted(&connection.peer)) {
            connection.begin_close();
            any = true;
        }
        any
    }

    /// Ends those connections where they stand.
    pub fn cut_where(&self, unwanted: impl Fn(&Peer) -> bool) {
        self.connections.lock().values().filter(|connection| unwanted(&connection.peer)).for_each(|c| c.cut());
    }

    pub(super) fn close_all(&self) {
        self.connections.lock().values().for_each(|connection| connection.begin_close());
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.key);
    }
}
