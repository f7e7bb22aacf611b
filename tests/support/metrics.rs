//! Reads Prometheus' text format.

use std::net::SocketAddr;

use super::client::Ask;

/// Name, labels, value.
type Series = (String, Vec<(String, String)>, f64);

/// One scrape.
pub struct Scrape {
    series: Vec<Series>,
    pub text: String,
}

impl Scrape {
    #[track_caller]
    pub fn of(metrics: SocketAddr) -> Self {
        let answer = Ask::get("/metrics").host("metrics").send(metrics);
        assert_eq!(answer.status, 200, "{}", answer.text());
        Self::parse(&answer.text())
    }

    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        Self { series: lines.filter_map(series).collect(), text: text.to_owned() }
    }

    /// The sum of all series of that name that carry those labels; 0 where there is none.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |have: &[(String, String)]| labels.iter().all(|(k, v)| have.iter().any(|(a, b)| a == k && b == v));
        self.series.iter().filter(|(n, have, _)| n == name && fits(have)).map(|(_, _, value)| value).sum()
    }

    pub fn has(&self, name: &str) -> bool {
        self.series.iter().any(|(n, _, _)| n == name)
    }

    pub fn len(&self) -> usize {
        self.series.len()
    }
}

fn series(line: &str) -> Option<Series> {
    let (series, value) = line.rsplit_once(' ')?;
    let Some((name, labels)) = series.split_once('{') else {
        return Some((series.to_owned(), Vec::new(), value.parse().ok()?));
    };
    let mut pairs = Vec::new();
    let mut rest = labels.strip_suffix('}')?;
    while let Some((key, after)) = rest.split_once("=\"") {
        let end = after.char_indices().find(|(at, c)| *c == '"' && !after[..*at].ends_with('\\'))?.0;
        pairs.push((key.trim_start_matches(',').to_owned(), after[..end].to_owned()));
        rest = &after[end + 1..];
    }
    Some((name.to_owned(), pairs, value.parse().ok()?))
}

#[test]
fn labels_are_read_and_summed() {
    let scrape = Scrape::parse("# HELP a b\na{x=\"1\",y=\"two words\"} 3\na{x=\"1\",y=\"q\"} 4\nb 1.5\n");
    assert!((scrape.get("a", &[("x", "1")]) - 7.0).abs() < 1e-9);
    assert!((scrape.get("a", &[("y", "two words")]) - 3.0).abs() < 1e-9);
    assert!((scrape.get("b", &[]) - 1.5).abs() < 1e-9);
    assert!(!scrape.has("c"));
    assert_eq!(scrape.len(), 3);
}
