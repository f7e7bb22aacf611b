//! `bot-detection`: keeps out programs that say what they are, as Kong's plugin does it
//! (`kong/plugins/bot-detection/handler.lua`). No defence against those that lie.

use http::{StatusCode, header};

use super::expression::Expressions;
use super::{Call, Decision, Filter, Wording};
use crate::reason::Reason;

#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// User agents that pass, whatever else says.
    pub allow: Expressions,
    /// User agents that do not, beside those that are known.
    pub deny: Expressions,
}

pub(super) struct BotDetection {
    settings: Settings,
    known: Expressions,
}

impl BotDetection {
    pub(super) fn new(settings: Settings) -> Self {
        // Fixed texts, which a test compiles.
        let known = Expressions::compile(&KNOWN).unwrap_or_default();
        Self { settings, known }
    }

    fn refuses(&self, agent: &[u8]) -> Option<&'static str> {
        let Settings { allow, deny } = &self.settings;
        if allow.is_match(agent) {
            return None;
        }
        if deny.is_match(agent) {
            return Some("in deny");
        }
        self.known.is_match(agent).then_some("a known bot")
    }
}

impl Filter for BotDetection {
    fn request(&self, call: &mut Call<'_>) -> Decision {
        let refuse = |reason, detail: &str, status, message: &'static str| {
            let wording = Wording { status: Some(status), message: Some(message.into()) };
            Decision::refuse_with(reason, detail, wording)
        };
        let mut agents = call.head.headers.get_all(header::USER_AGENT).iter();
        let (first, second) = (agents.next(), agents.next());
        if second.is_some() {
            let message = "Only one User-Agent header allowed; send one.";
            return refuse(Reason::BadRequest, "several user agents", StatusCode::BAD_REQUEST, message);
        }
        match first.and_then(|agent| self.refuses(agent.as_bytes())) {
            None => Decision::PASS,
            Some(why) => {
                let message = "Forbidden; this service is not for bots.";
                refuse(Reason::Denied, why, StatusCode::FORBIDDEN, message)
            }
        }
    }
}

/// Crawlers, monitors and downloaders as they name themselves: words that any of them has in its name, and the names of
/// those without such a word. Libraries that ordinary programs use (curl, Go, Python's requests) are not among them.
const KNOWN: [&str; 4] = [
    // What ends in it: `Googlebot/2.1`, `bingbot`, `com_bot_version`. A CUBOT is a telephone.
    r"(?i)(^|[^u]|[^c]u)bot([^a-z]|$)",
    r"(?i)(crawl|spider|scrape|slurp|archiver|indexer|webcheck|link ?check)",
    r"(?i)(facebookexternalhit|mediapartners-google|google-http-java-client|feedfetcher|bingpreview|ia_archiver|wotbox)",
    r"(Apache-HttpClient|Python-urllib|HttpMonitor|WinHTTP|Pingdom|Nutch|Scrapy|heritrix|Teoma|Ask Jeeves|WordPress|ZyBorg|Yandex[A-Z]|NewsGator|SimplePie|Netvibes|larbin|htdig|WhatWeb|Web-sniffer|AppEngine-Google)",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn detection(allow: &[&str], deny: &[&str]) -> BotDetection {
        let compile = |texts: &[&str]| Expressions::compile(texts).unwrap();
        BotDetection::new(Settings { allow: compile(allow), deny: compile(deny) })
    }

    #[test]
    fn bots_that_say_so_are_known_and_browsers_are_not() {
        assert!(Expressions::compile(&KNOWN).is_ok());
        let detection = detection(&[], &[]);
        for bot in [
            "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
            "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
            "Twitterbot/1.0",
            "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)",
            "Mozilla/5.0 (compatible; Yahoo! Slurp; http://help.yahoo.com/help/us/ysearch/slurp)",
            "Mozilla/5.0 (compatible; Baiduspider/2.0)",
            "Pingdom.com_bot_version_1.4",
            "Scrapy/2.11",
            "Python-urllib/3.11",
            "LinkedInBot/1.0",
            "MJ12bot",
        ] {
            assert_eq!(detection.refuses(bot.as_bytes()), Some("a known bot"), "{bot}");
        }
        for person in [
            "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
            "Mozilla/5.0 (Linux; Android 9; CUBOT_X19) AppleWebKit/537.36 Chrome/124.0 Mobile Safari/537.36",
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 Version/17.5 Safari/604.1",
            "curl/8.7.1",
            "Go-http-client/2.0",
            "grpc-go/1.64.0",
            "robotics-app/2.0",
            "",
        ] {
            assert_eq!(detection.refuses(person.as_bytes()), None, "{person}");
        }
    }

    #[test]
    fn allow_wins_over_deny_and_both_over_what_is_known() {
        let detection = detection(&["^Twitterbot"], &["(?i)helloworld", "Twitterbot"]);
        assert_eq!(detection.refuses(b"Twitterbot/1.0"), None);
        assert_eq!(detection.refuses(b"HelloWorld/1"), Some("in deny"));
        assert_eq!(detection.refuses(b"bingbot"), Some("a known bot"));
        assert_eq!(detection.refuses(b"\xff\xfe"), None);
    }
}
