//! A listing as a snapshot's file holds it. Reading goes through the same parsing as everything else.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::consul::Snapshot;
use crate::names::ServiceName;
use crate::service::{Health, Listing, Wire};

/// The entry of one watch in the snapshot folder.
pub(super) struct Saved {
    folder: Snapshot,
    entry: String,
    failing: bool,
}

impl Saved {
    pub(super) fn new(folder: Snapshot, watch: &str) -> Self {
        Self { folder, entry: format!("endpoints/{watch}"), failing: false }
    }

    pub(super) fn load(&self) -> Option<Vec<Listing>> {
        let rows: Vec<Row> = self.folder.load(&self.entry)?;
        Some(rows.into_iter().filter_map(Row::into_listing).collect())
    }

    /// Best effort: a full disk must not stop the following. Says a change between working and failing once.
    pub(super) fn save(&mut self, listings: &[Listing]) {
        let rows: Vec<Row> = listings.iter().map(Row::from_listing).collect();
        let saved = self.folder.save(&self.entry, &rows);
        if let Err(error) = &saved
            && !self.failing
        {
            tracing::warn!(entry = %self.entry, %error, "snapshot cannot be written");
        }
        self.failing = saved.is_err();
    }
}

#[derive(Serialize, Deserialize)]
struct Row {
    id: String,
    address: SocketAddr,
    weight: u32,
    health: SavedHealth,
    /// Absent: plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    #[serde(default)]
    ours: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SavedHealth {
    Passing,
    Warning,
    Critical,
}

impl Row {
    fn from_listing(listing: &Listing) -> Self {
        let (peer, ours) = match &listing.wire {
            Wire::Plain => (None, false),
            Wire::Mesh { peer, ours } => (Some(peer.to_string()), *ours),
        };
        Self {
            id: listing.id.to_string(),
            address: listing.address,
            weight: listing.weight,
            health: match listing.health {
                Health::Passing => SavedHealth::Passing,
                Health::Warning => SavedHealth::Warning,
                Health::Critical => SavedHealth::Critical,
            },
            peer,
            ours,
            zone: listing.zone.as_deref().map(str::to_owned),
        }
    }

    /// `None` where the peer is no name: never plain text to what was a mesh endpoint.
    fn into_listing(self) -> Option<Listing> {
        let wire = match self.peer {
            None => Wire::Plain,
            Some(peer) => Wire::Mesh { peer: ServiceName::parse(&peer).ok()?, ours: self.ours },
        };
        Some(Listing {
            id: self.id.into(),
            address: self.address,
            weight: self.weight.max(1),
            health: match self.health {
                SavedHealth::Passing => Health::Passing,
                SavedHealth::Warning => Health::Warning,
                SavedHealth::Critical => Health::Critical,
            },
            wire,
            zone: self.zone.map(Into::into),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_a_listing_survives() {
        let dir = tempfile::tempdir().unwrap();
        let peer = ServiceName::parse("orders").unwrap();
        let listings = [
            Listing {
                id: "orders-1".into(),
                address: "10.0.0.1:20000".parse().unwrap(),
                weight: 7,
                health: Health::Warning,
                wire: Wire::Mesh { peer, ours: true },
                zone: Some("a".into()),
            },
            Listing {
                id: "orders-2".into(),
                address: "[fd00::1]:80".parse().unwrap(),
                weight: 1,
                health: Health::Critical,
                wire: Wire::Plain,
                zone: None,
            },
        ];
        let mut saved = Saved::new(Snapshot::new(dir.path()), "health/connect/orders");
        assert_eq!(saved.load(), None);
        saved.save(&listings);
        assert_eq!(saved.load().unwrap(), listings);
        assert_eq!(Saved::new(Snapshot::new(dir.path()), "health/connect/users").load(), None);
    }

    #[test]
    fn a_saved_peer_that_is_no_name_is_left_out_not_spoken_to_in_plain_text() {
        let row = r#"{"id":"x","address":"10.0.0.1:1","weight":0,"health":"passing","peer":"No Name"}"#;
        assert!(serde_json::from_str::<Row>(row).unwrap().into_listing().is_none());
        let row = r#"{"id":"x","address":"10.0.0.1:1","weight":0,"health":"passing"}"#;
        assert_eq!(serde_json::from_str::<Row>(row).unwrap().into_listing().unwrap().weight, 1);
    }
}
