//! The corpora of `tests/fuzz`, as they are and with thousands of repeatable changes, on stable Rust and in seconds.

use std::collections::BTreeSet;
use std::fs;
use std::panic;
use std::path::Path;
use std::time::{Duration, Instant};

use fastrand::Rng;

/// Enough for thousands of inputs; a slow machine tries fewer of the same sequence.
const SPAN: Duration = Duration::from_millis(1500);
const MOST: usize = 20_000;
const SEED: u64 = 0x6f75_7472_6967;

macro_rules! targets {
    ($($target:ident),*) => {
        const TARGETS: &[&str] = &[$(stringify!($target)),*];
        $(
            #[test]
            fn $target() {
                exercise(stringify!($target), super::$target);
            }
        )*
    };
}
targets!(head, path, jwt, jwks, config, proxy_header, intentions);

fn folder(target: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target)
}

fn exercise(target: &str, function: fn(&[u8])) {
    let mut names: Vec<_> = fs::read_dir(folder(target)).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let corpus: Vec<Vec<u8>> = names.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(corpus.len() >= 5, "{target}: a corpus of {}", corpus.len());
    for (input, name) in corpus.iter().zip(&names) {
        attempt(function, input, &name.display().to_string());
    }
    attempt(function, b"", "nothing");
    let (begun, mut chance, mut rounds) = (Instant::now(), Rng::with_seed(SEED), 0);
    while rounds < MOST && begun.elapsed() < SPAN {
        let input = changed(&corpus, &mut chance);
        attempt(function, &input, &format!("round {rounds}"));
        rounds += 1;
    }
    println!("{target}: {rounds} rounds");
}

/// Says which input it was.
fn attempt(function: fn(&[u8]), input: &[u8], name: &str) {
    if let Err(cause) = panic::catch_unwind(|| function(input)) {
        eprintln!("{name}: b\"{}\"", input.escape_ascii());
        panic::resume_unwind(cause);
    }
}

/// One of the corpus with a few changes: bits, bytes that mean something, runs left out, doubled, or taken from another.
fn changed(corpus: &[Vec<u8>], chance: &mut Rng) -> Vec<u8> {
    const TELLING: &[u8] = b"\0\t\n\r \"#$%&'()*+,-./09:;=?@AZ[\\]_az{|}~\x1b\x7f\x80\xc3\xff";
    let pick = |chance: &mut Rng| &corpus[chance.usize(..corpus.len())];
    let mut input = pick(chance).clone();
    for _ in 0..chance.usize(1..6) {
        let at = chance.usize(..=input.len());
        let run = at..(at + chance.usize(..16)).min(input.len());
        match chance.u8(..7) {
            0 if at < input.len() => input[at] ^= 1 << chance.u8(..8),
            1 if at < input.len() => input[at] = TELLING[chance.usize(..TELLING.len())],
            2 => input.insert(at, TELLING[chance.usize(..TELLING.len())]),
            3 => drop(input.drain(run)),
            4 => {
                let doubled = input[run.clone()].repeat(chance.usize(1..4));
                input.splice(run, doubled);
            }
            5 => {
                let other = pick(chance);
                let from = chance.usize(..=other.len());
                let until = (from + chance.usize(..64)).min(other.len());
                input.splice(at..at, other[from..until].iter().copied());
            }
            _ => input.truncate(at),
        }
    }
    input
}

#[test]
fn every_target_is_a_program_with_a_corpus() {
    let named = |path: &str, extension: &str| -> BTreeSet<String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.map(|name| name.trim_end_matches(extension).to_owned()).collect()
    };
    let wanted: BTreeSet<String> = TARGETS.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(named("tests/fuzz/corpus", ""), wanted);
    assert_eq!(named("tests/fuzz/fuzz_targets", ".rs"), wanted);
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/Cargo.toml")).unwrap();
    for target in TARGETS {
        assert!(manifest.contains(&format!("name = \"{target}\"")), "tests/fuzz/Cargo.toml names {target}");
    }
}
