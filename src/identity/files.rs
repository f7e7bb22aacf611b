//! Identity from PEM files that something else keeps fresh, or from a development CA beside us that signs on demand.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::ca::{Ca, CaError, DEFAULT_TTL};
use super::rotate::{Backoff, InstallError, Keeper, Trouble};
use super::{IdentityError, Material, certificate};
use crate::file_watch::FileWatch;

/// Installs what the three files hold, at once and after each change. A half-written set is not installed: its key does
/// not fit, or its leaf is of no root. `[cert, key, roots]`.
pub(super) async fn follow_files(paths: [PathBuf; 3], mut keeper: Keeper) {
    let mut watch = FileWatch::new(paths.to_vec());
    let mut trouble = Trouble::new("reading the identity's files");
    let (mut backoff, mut seen) = (Backoff::new(), None);
    loop {
        let installed = install_files(&paths, &mut seen, &mut keeper);
        let pause = after(installed, &mut trouble, &mut backoff);
        keeper.mind_end();
        watch.changed(pause).await;
    }
}

fn install_files(paths: &[PathBuf; 3], seen: &mut Option<Digest>, keeper: &mut Keeper) -> Result<(), FilesError> {
    let [cert, key, roots] = [read(&paths[0])?, read(&paths[1])?, read(&paths[2])?];
    let now = digest_of(&[&cert, &key, &roots]);
    if *seen == Some(now) {
        return Ok(());
    }
    let material = material(paths, &cert, &key, &roots)?;
    keeper.install(material)?;
    *seen = Some(now);
    Ok(())
}

/// Signs a leaf of our own at two thirds of the last one's life, and anew when the CA's files change.
pub(super) async fn follow_ca(dir: &Path, mut keeper: Keeper) {
    let paths = ["ca.crt", "ca.key"].map(|name| dir.join(name));
    let mut watch = FileWatch::new(paths.to_vec());
    let mut trouble = Trouble::new("signing a leaf with the development CA");
    let (mut backoff, mut seen, mut due) = (Backoff::new(), None, None);
    loop {
        let signed = sign(dir, &paths, &mut seen, due, &mut keeper);
        if signed.as_ref().is_ok_and(|fresh| *fresh) {
            due = keeper.renew_in().map(|wait| std::time::SystemTime::now() + wait);
        }
        let pause = after(signed.map(drop), &mut trouble, &mut backoff);
        keeper.mind_end();
        watch.changed(pause).await;
    }
}

/// Whether there was a reason to sign.
fn sign(
    dir: &Path,
    paths: &[PathBuf; 2],
    seen: &mut Option<Digest>,
    due: Option<std::time::SystemTime>,
    keeper: &mut Keeper,
) -> Result<bool, FilesError> {
    let now = digest_of(&[&read(&paths[0])?, &read(&paths[1])?]);
    let early = due.is_some_and(|due| std::time::SystemTime::now() < due);
    if *seen == Some(now) && early {
        return Ok(false);
    }
    let ca = Ca::open(dir)?;
    keeper.install(ca.material(&keeper.service, DEFAULT_TTL.min(ca.remaining()))?)?;
    *seen = Some(now);
    Ok(true)
}

/// How long to wait for a change: failures are tried again, events or not.
fn after(outcome: Result<(), FilesError>, trouble: &mut Trouble, backoff: &mut Backoff) -> Duration {
    match outcome {
        Ok(()) => {
            trouble.over();
            backoff.reset();
            Duration::MAX
        }
        Err(error) => {
            trouble.is(&error);
            backoff.pause()
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum FilesError {
    #[error("{path}: {cause}", path = .path.display())]
    Read { path: PathBuf, cause: io::Error },
    #[error("{path}: {cause}", path = .path.display())]
    Pem { path: PathBuf, cause: String },
    #[error(transparent)]
    Ca(#[from] CaError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Install(#[from] InstallError),
}

fn read(path: &Path) -> Result<Vec<u8>, FilesError> {
    fs::read(path).map_err(|cause| FilesError::Read { path: path.into(), cause })
}

fn material(paths: &[PathBuf; 3], cert: &[u8], key: &[u8], roots: &[u8]) -> Result<Material, FilesError> {
    let [cert_path, key_path, roots_path] = paths;
    let chain = certificates(cert_path, cert)?;
    let roots = certificates(roots_path, roots)?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| FilesError::Pem { path: key_path.clone(), cause: error.to_string() })?;
    let leaf = chain.first().ok_or(IdentityError::NoLeaf)?;
    let id = certificate::spiffe_id(leaf).map_err(IdentityError::Leaf)?;
    Ok(Material { trust_domain: id.trust_domain().into(), chain, key, roots })
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, FilesError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| FilesError::Pem { path: path.into(), cause: error.to_string() })
}

type Digest = [u8; 32];

fn digest_of(parts: &[&[u8]]) -> Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        // Lengths, so that no byte can move from one file to the next unseen.
        context.update(&part.len().to_be_bytes());
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
