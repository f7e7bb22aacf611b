//! A folder of last good answers, so that a restart works while Consul is down.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Named JSON values in one folder. Files may hold keys: only their owner can read them.
#[derive(Debug, Clone)]
pub struct Snapshot {
    dir: PathBuf,
}

impl Snapshot {
    /// The folder is made at the first `save`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Replaces what `name` holds, whole: a reader, or a crash, sees the old value or the new one. Blocks on the disk.
    ///
    /// # Errors
    /// What the file system says; the old value is still there.
    pub fn save(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let bytes = serde_json::to_vec(value)?;
        let path = self.path(name);
        let temporary = self.dir.join(format!(".{}.{}.tmp", file_name(name), fastrand::u64(..)));
        let written = write_new(&temporary, &bytes).and_then(|()| fs::rename(&temporary, &path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written?;
        // The rename itself must outlive a crash, too.
        File::open(&self.dir)?.sync_all()
    }

    /// What was last saved as `name`. A file that cannot be understood is logged and counts as none.
    #[must_use]
    pub fn load<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let path = self.path(name);
        let read = fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
        match read {
            Ok(value) => Some(value),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "snapshot cannot be used");
                None
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{}.json", file_name(name)))
    }
}

/// `create_new` with the mode: at no moment can another user open the file.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Any text as one safe file name; different texts stay different. `leaf/web` becomes `leaf%2Fweb`.
fn file_name(name: &str) -> String {
    super::path_segment(name).replace('.', "%2E")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_was_saved_is_loaded_and_only_its_owner_can_read_it() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("a/b");
        let snapshot = Snapshot::new(&dir);
        assert_eq!(snapshot.load::<Vec<u32>>("leaf/web"), None);
        snapshot.save("leaf/web", &vec![1, 2]).unwrap();
        snapshot.save("leaf/web", &vec![3]).unwrap();
        assert_eq!(snapshot.load::<Vec<u32>>("leaf/web"), Some(vec![3]));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir), 0o700);
        let files: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "no temporary file is left: {files:?}");
        assert_eq!(mode(&files[0]), 0o600);
    }

    #[test]
    fn a_broken_file_counts_as_none() {
        let base = tempfile::tempdir().unwrap();
        let snapshot = Snapshot::new(base.path());
        snapshot.save("roots", &"x").unwrap();
        fs::write(snapshot.path("roots"), "{half").unwrap();
        assert_eq!(snapshot.load::<String>("roots"), None);
    }

    #[test]
    fn names_cannot_leave_the_folder_or_meet() {
        let base = tempfile::tempdir().unwrap();
        let snapshot = Snapshot::new(base.path().join("in"));
        for (number, name) in ["../up", "..", ".", "a/b", "a%2Fb", "", "a.b", "\0"].iter().enumerate() {
            snapshot.save(name, &number).unwrap();
            assert_eq!(snapshot.load::<usize>(name), Some(number));
            assert_eq!(snapshot.path(name).parent().unwrap(), base.path().join("in"));
        }
        assert_eq!(fs::read_dir(base.path().join("in")).unwrap().count(), 8);
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 1);
    }
}
