//! The generated pages of `docs/` are what the program says. `UPDATE_DOCS=1 cargo test docs` rewrites them.

use std::path::Path;

use crate::{config, reason, telemetry};

#[test]
fn docs_config_md_is_the_table_of_keys() {
    same("config.md", &config::markdown());
}

#[test]
fn docs_reasons_md_is_the_table_of_reasons() {
    same("reasons.md", &reason::markdown());
}

#[test]
fn docs_metrics_md_is_what_the_registry_holds() {
    same("metrics.md", &telemetry::Metrics::new().markdown());
}

fn same(page: &str, wanted: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, wanted).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == wanted, "docs/{page} is out of date: run UPDATE_DOCS=1 cargo test docs");
}
