//! The token that goes with each call: fixed, or from a file that something else keeps fresh.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use parking_lot::Mutex;
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};

use super::{ConsulError, Settings};

pub(super) struct Token {
    fixed: Option<HeaderValue>,
    file: Option<TokenFile>,
}

struct TokenFile {
    path: PathBuf,
    read: Mutex<Read>,
}

#[derive(Default)]
struct Read {
    /// Time and length of the file as last read.
    stamp: Option<(SystemTime, u64)>,
    token: Option<HeaderValue>,
}

impl Token {
    pub(super) fn new(settings: &Settings) -> Result<Self, ConsulError> {
        let fixed = settings.token.as_ref().map(SecretString::expose_secret).filter(|text| !text.is_empty());
        let fixed = fixed.map(|text| header(text).ok_or_else(|| ConsulError::Local(NO_TOKEN.into()))).transpose()?;
        let file = settings.token_file.clone().map(|path| TokenFile { path, read: Mutex::default() });
        Ok(Self { fixed, file })
    }

    /// The token as of now. A file that cannot be read any more leaves the last token in force.
    pub(super) fn current(&self) -> Result<Option<HeaderValue>, ConsulError> {
        let Some(file) = &self.file else { return Ok(self.fixed.clone()) };
        Ok(file.current()?.or_else(|| self.fixed.clone()))
    }

    /// Reads the file again whatever its time says; the token only if it differs from `refused`.
    pub(super) fn other_than(&self, refused: Option<&HeaderValue>) -> Option<HeaderValue> {
        let file = self.file.as_ref()?;
        file.read.lock().stamp = None;
        file.current().ok().flatten().filter(|token| Some(token) != refused)
    }
}

impl TokenFile {
    fn current(&self) -> Result<Option<HeaderValue>, ConsulError> {
        let stamp = stamp(&self.path);
        let mut read = self.read.lock();
        if stamp.is_some() && read.stamp == stamp {
            return Ok(read.token.clone());
        }
        match std::fs::read_to_string(&self.path) {
            Ok(text) => {
                let token = match text.trim() {
                    "" => None,
                    text => Some(header(text).ok_or_else(|| self.fault(&NO_TOKEN))?),
                };
                *read = Read { stamp, token };
                Ok(read.token.clone())
            }
            Err(error) if read.token.is_some() => {
                tracing::debug!(file = %self.path.display(), %error, "token file cannot be read; last token kept");
                Ok(read.token.clone())
            }
            Err(error) => Err(self.fault(&error)),
        }
    }

    fn fault(&self, cause: &dyn std::fmt::Display) -> ConsulError {
        ConsulError::Local(format!("token file {}: {cause}", self.path.display()))
    }
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let facts = std::fs::metadata(path).ok()?;
    Some((facts.modified().ok()?, facts.len()))
}

/// Marked sensitive, so that no log of headers shows it and HTTP/2 never puts it in its table.
fn header(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(token).ok()?;
    value.set_sensitive(true);
    Some(value)
}

const NO_TOKEN: &str = "the token holds characters that a header cannot carry";

#[cfg(test)]
mod tests {
    use super::*;

    fn text(token: Option<HeaderValue>) -> Option<String> {
        token.map(|value| value.to_str().unwrap().to_owned())
    }

    fn from_file(path: &Path, fixed: Option<&str>) -> Token {
        let settings =
            Settings { token: fixed.map(SecretString::from), token_file: Some(path.to_owned()), ..Settings::default() };
        Token::new(&settings).unwrap()
    }

    #[test]
    fn a_changed_file_gives_the_new_token_and_a_lost_one_keeps_the_old() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let token = from_file(&path, None);
        assert!(matches!(token.current(), Err(ConsulError::Local(_))));
        std::fs::write(&path, "one\n").unwrap();
        assert_eq!(text(token.current().unwrap()).as_deref(), Some("one"));
        std::fs::write(&path, "three\n").unwrap();
        assert_eq!(text(token.current().unwrap()).as_deref(), Some("three"));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(text(token.current().unwrap()).as_deref(), Some("three"));
    }

    #[test]
    fn a_refused_token_is_looked_up_again_even_if_the_file_looks_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "one").unwrap();
        let token = from_file(&path, None);
        let refused = token.current().unwrap();
        assert_eq!(text(token.other_than(refused.as_ref())), None, "the same token is not worth a second try");
        let written = std::fs::metadata(&path).unwrap().modified().unwrap();
        std::fs::write(&path, "two").unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(written).unwrap();
        assert_eq!(text(token.other_than(refused.as_ref())).as_deref(), Some("two"));
    }

    #[test]
    fn the_file_beats_the_fixed_token_unless_it_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "").unwrap();
        let token = from_file(&path, Some("fixed"));
        assert_eq!(text(token.current().unwrap()).as_deref(), Some("fixed"));
        std::fs::write(&path, "file").unwrap();
        assert_eq!(text(token.current().unwrap()).as_deref(), Some("file"));
    }

    #[test]
    fn a_token_that_no_header_can_carry_is_refused() {
        let settings = Settings { token: Some("a\nb".into()), ..Settings::default() };
        assert!(matches!(Token::new(&settings), Err(ConsulError::Local(_))));
    }
}
