//! Tests of `files`: real files, real watching.

use std::os::unix::fs::symlink;
use std::sync::Arc;

use rcgen::CertificateParams;
use tokio::time::timeout;

use super::*;
use crate::identity::testing::{Authority, Leaf, valid};
use crate::identity::{Current, Identity, Source, keep};
use crate::lifecycle::Lifecycle;
use crate::names::ServiceName;
use crate::telemetry::Metrics;

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

fn write(dir: &Path, leaf: &Leaf, roots: &[&Authority]) {
    fs::write(dir.join("ca.crt"), roots.iter().map(|r| pem("CERTIFICATE", &r.der)).collect::<String>()).unwrap();
    fs::write(dir.join("tls.key"), pem("PRIVATE KEY", leaf.key().secret_der())).unwrap();
    fs::write(dir.join("tls.crt"), pem("CERTIFICATE", &leaf.chain[0])).unwrap();
}

struct Kept {
    current: Arc<Current>,
    _tasks: Lifecycle,
}

fn kept(source: Source) -> Kept {
    let (current, tasks) = (Arc::<Current>::default(), Lifecycle::new());
    let service = ServiceName::parse("web").unwrap();
    tasks.spawn("identity", keep(source, service, None, None, current.clone(), Metrics::new()));
    Kept { current, _tasks: tasks }
}

fn files(dir: &Path) -> Kept {
    kept(Source::Files { cert: dir.join("tls.crt"), key: dir.join("tls.key"), roots: dir.join("ca.crt") })
}

impl Kept {
    /// The first identity that `wanted` likes; far sooner than the 30 s of the poll.
    async fn until(&self, wanted: impl Fn(&Identity) -> bool) -> Arc<Identity> {
        let mut versions = self.current.versions();
        let found = timeout(Duration::from_secs(10), async {
            loop {
                let now = self.current.snapshot();
                if let Some(identity) = now.as_ref().as_ref().filter(|identity| wanted(identity)) {
                    return identity.clone();
                }
                versions.changed().await.unwrap();
            }
        });
        found.await.expect("the identity is installed in time")
    }
}

fn later(params: &mut CertificateParams) {
    valid(params, -30, 7200);
}

#[tokio::test]
async fn rewritten_files_are_installed() {
    let (root, dir) = (Authority::root("root"), tempfile::tempdir().unwrap());
    write(dir.path(), &root.leaf("web", |_| ()), &[&root]);
    let kept = files(dir.path());
    let first = kept.until(|_| true).await;
    write(dir.path(), &root.leaf("web", later), &[&root]);
    let second = kept.until(|identity| identity.serial != first.serial).await;
    assert!(second.not_after > first.not_after);
}

#[tokio::test]
async fn half_a_set_is_not_installed_and_the_whole_one_is() {
    let (root, dir) = (Authority::root("root"), tempfile::tempdir().unwrap());
    let next = root.leaf("web", later);
    write(dir.path(), &root.leaf("web", |_| ()), &[&root]);
    fs::write(dir.path().join("tls.crt"), pem("CERTIFICATE", &next.chain[0])).unwrap();
    let kept = files(dir.path());
    // The key's file comes a moment later, as from a tool that writes one file after the other.
    write(dir.path(), &next, &[&root]);
    let installed = kept.until(|_| true).await;
    assert_eq!(installed.serial, certificate::facts(&next.chain[0]).unwrap().serial);
}

#[tokio::test]
async fn a_swapped_kubernetes_symlink_is_seen() {
    let (root, dir) = (Authority::root("root"), tempfile::tempdir().unwrap());
    let volume = |name: &str, leaf: &Leaf| {
        let real = dir.path().join(name);
        fs::create_dir(&real).unwrap();
        write(&real, leaf, &[&root]);
    };
    volume("..1", &root.leaf("web", |_| ()));
    symlink("..1", dir.path().join("..data")).unwrap();
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        symlink(format!("..data/{name}"), dir.path().join(name)).unwrap();
    }
    let kept = files(dir.path());
    let mut last = kept.until(|_| true).await;
    // Twice: the second swap is lost if only the first target is watched.
    for name in ["..2", "..3"] {
        volume(name, &root.leaf("web", later));
        symlink(name, dir.path().join("..data_tmp")).unwrap();
        fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
        last = kept.until(|identity| identity.serial != last.serial).await;
    }
}

#[tokio::test]
async fn files_that_come_after_the_start_are_found() {
    let (root, dir) = (Authority::root("root"), tempfile::tempdir().unwrap());
    let late = dir.path().join("late");
    let kept = files(&late);
    fs::create_dir(&late).unwrap();
    write(&late, &root.leaf("web", |_| ()), &[&root]);
    kept.until(|_| true).await;
}

#[tokio::test]
async fn a_development_ca_signs_our_leaf_and_again_when_it_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("certs");
    Ca::init(&ca, "one.local").unwrap();
    let kept = kept(Source::Ca { dir: ca.clone() });
    let first = kept.until(|_| true).await;
    assert_eq!(first.id.as_str(), "spiffe://one.local/ns/default/dc/dc1/svc/web");
    fs::remove_dir_all(&ca).unwrap();
    Ca::init(&ca, "two.local").unwrap();
    kept.until(|identity| identity.id.trust_domain() == "two.local").await;
}

#[test]
fn keys_of_all_three_pem_forms_are_read() {
    let root = Authority::root("root");
    let leaf = root.leaf("web", |_| ());
    let paths = ["c", "k", "r"].map(PathBuf::from);
    let cert = pem("CERTIFICATE", &leaf.chain[0]);
    let roots = pem("CERTIFICATE", &root.der);
    let keys = [
        ("PRIVATE KEY", PrivateKeyDer::Pkcs8(leaf.key().secret_der().to_vec().into())),
        ("EC PRIVATE KEY", PrivateKeyDer::Sec1(vec![1].into())),
        ("RSA PRIVATE KEY", PrivateKeyDer::Pkcs1(vec![1].into())),
    ];
    for (label, expected) in keys {
        let key = pem(label, expected.secret_der());
        let read = material(&paths, cert.as_bytes(), key.as_bytes(), roots.as_bytes()).unwrap();
        assert_eq!(read.key, expected);
    }
    let none = material(&paths, cert.as_bytes(), b"no key", roots.as_bytes());
    assert!(matches!(none, Err(FilesError::Pem { .. })));
    let none = material(&paths, b"", b"", roots.as_bytes());
    assert!(none.is_err());
}
