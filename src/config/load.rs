//! One load: file, flags and environment to a checked `Config`, or to every mistake. Can be repeated, for reloads.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::overrides::{self, Flags};
use super::problems::{Fault, Place, Problems};
use super::tree::{self, Node};
use super::{Config, Environment, check};

/// What a process was started with. Loads the same configuration again whenever it is asked to.
#[derive(Debug, Clone)]
pub struct Loader {
    file: Option<PathBuf>,
    flags: Flags,
    environment: Environment,
}

/// What `app` is told besides the configuration.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Where to write what the sidecar listens on, once it is ready.
    pub ready_file: Option<PathBuf>,
    /// The app as a child process, with its arguments; empty where the app runs by itself.
    pub command: Vec<OsString>,
    /// Loads the configuration again.
    pub loader: Loader,
}

impl Loader {
    /// `file` from `-c`, else OUTRIGGER_CONFIG; no file is looked for.
    pub fn new(file: Option<PathBuf>, flags: Flags, environment: Environment) -> Self {
        let file = file.or_else(|| environment.get("OUTRIGGER_CONFIG").map(PathBuf::from));
        Self { file, flags, environment }
    }

    /// The file that is read, as the user named it; what a watcher should watch.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// # Errors
    /// With every mistake of file, flags and variables.
    pub fn load(&self) -> Result<Config, Problems> {
        let Some(file) = &self.file else { return self.finish(Node::map(Place::START), Problems::of(None)) };
        match read(file) {
            Ok(bytes) => self.load_bytes(&bytes),
            Err(error) => {
                let mut problems = Problems::of(Some(file));
                let fault = Fault::new(format!("cannot be read: {error}"), "check the path and who may read it");
                problems.note(&Place::START, "", fault);
                Err(problems)
            }
        }
    }

    /// As `load`, with `bytes` as what stands in the file.
    pub(crate) fn load_bytes(&self, bytes: &[u8]) -> Result<Config, Problems> {
        let mut problems = Problems::of(self.file());
        match tree::parse(bytes, &self.environment, &mut problems) {
            Some(root) => self.finish(root, problems),
            None => Err(problems),
        }
    }

    fn finish(&self, mut root: Node, problems: Problems) -> Result<Config, Problems> {
        overrides::apply(&mut root, &self.flags, &self.environment);
        check::config(&root, self.file(), &self.environment, problems)
    }
}

/// Never more than a little over what `tree` accepts, whatever the file is.
fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(file)?.take(tree::LARGEST as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
