//! The keys of the plugins that look at HTTP alone: who sends, how much, from which page, and what is changed. Names and
//! defaults are Kong's, unless said.

use super::shape::{Key, Leaf, Shape};

const BOOL: Shape = Shape::Leaf(Leaf::Bool);
const TEXT: Shape = Shape::Leaf(Leaf::Text);
const TEXTS: Shape = Shape::List(Leaf::Text);

pub(super) const IP_RESTRICTION: &[Key] = &[
    Key::new("allow", Shape::List(Leaf::Network), "[]", "Only these addresses and networks; all when empty."),
    Key::new("deny", Shape::List(Leaf::Network), "[]", "None of these, whatever `allow` says."),
    Key::new("status", Shape::Leaf(Leaf::Integer { min: 400, max: 599 }), "403", "The status of refusals."),
    Key::optional("message", TEXT, "The `message` of refusals; with the caller's address when absent."),
];

pub(super) const BOT_DETECTION: &[Key] = &[
    Key::new(
        "allow",
        TEXTS,
        "[]",
        "Expressions (RE2's syntax), found anywhere in User-Agent: these pass, whatever else says.",
    ),
    Key::new("deny", TEXTS, "[]", "These are kept out beside the bots that outrigger knows."),
];

pub(super) const CORRELATION_ID: &[Key] = &[
    Key::new("header_name", TEXT, "Kong-Request-ID", "The header of the id. One that a request brings stays."),
    Key::new(
        "generator",
        Shape::Leaf(Leaf::Choice { values: &["uuid#counter", "uuid", "tracker"], later: &[] }),
        "uuid#counter",
        "`uuid`: a random one each time. `uuid#counter`: one as long as the plugin is not changed, and a number that grows. `tracker`: `ADDRESS-PORT-PID-PEERPORT-NUMBER-TIME`.",
    ),
    Key::new("echo_downstream", BOOL, "false", "Whether the answer carries the id too."),
];

pub(super) const CORS: &[Key] = &[
    Key::new(
        "origins",
        TEXTS,
        "[]",
        "Origins as `https://a.example`, or expressions: for a whole origin where there is a `:`, for a host alone else; from beginning to end. All when empty or with `*`.",
    ),
    Key::new(
        "methods",
        Shape::List(Leaf::Method),
        "[GET, HEAD, PUT, PATCH, POST, DELETE, OPTIONS, TRACE, CONNECT]",
        "What Access-Control-Allow-Methods says.",
    ),
    Key::new(
        "headers",
        Shape::List(Leaf::HeaderName),
        "[]",
        "What Access-Control-Allow-Headers says; what the browser asks for when empty.",
    ),
    Key::new("exposed_headers", Shape::List(Leaf::HeaderName), "[]", "What Access-Control-Expose-Headers says."),
    Key::new(
        "credentials",
        BOOL,
        "false",
        "Whether scripts may send cookies and the like. With any origin allowed, every site may act as its visitor, which is logged as a warning.",
    ),
    Key::optional(
        "max_age",
        Shape::Leaf(Leaf::Integer { min: 0, max: 31_536_000 }),
        "Seconds that browsers remember a preflight.",
    ),
    Key::new(
        "private_network",
        BOOL,
        "false",
        "Whether sites may reach a private network through the browser, when it asks.",
    ),
    Key::new(
        "preflight_continue",
        BOOL,
        "false",
        "Whether the app answers preflights. Else they are answered 200 here, without any plugin that asks who calls.",
    ),
    Key::new("allow_origin_absent", BOOL, "true", "Whether answers to requests without Origin carry the headers, too."),
];

pub(super) const REQUEST_SIZE_LIMITING: &[Key] = &[
    Key::new(
        "allowed_payload_size",
        Shape::Leaf(Leaf::Integer { min: 0, max: 1 << 40 }),
        "128",
        "So much of a body passes, in `size_unit`s.",
    ),
    Key::new(
        "size_unit",
        Shape::Leaf(Leaf::Choice { values: &["megabytes", "kilobytes", "bytes"], later: &[] }),
        "megabytes",
        "`megabytes` (2^20), `kilobytes` (2^10) or `bytes`.",
    ),
    Key::new(
        "require_content_length",
        BOOL,
        "false",
        "Whether requests of HTTP/1.1 whose method has content must announce its length; others are answered 411, chunked ones too, which Kong lets pass.",
    ),
];

pub(super) const REQUEST_TERMINATION: &[Key] = &[
    Key::new(
        "status_code",
        Shape::Leaf(Leaf::Integer { min: 200, max: 599 }),
        "503",
        "The status; gRPC callers get the gRPC status that it maps to.",
    ),
    Key::optional(
        "message",
        TEXT,
        "The answer is `{\"message\": …}`; with Kong's words for the status when absent. Not beside `body`.",
    ),
    Key::optional("body", TEXT, "The whole body."),
    Key::optional("content_type", Shape::Leaf(Leaf::Visible), "Of `body`; none when absent."),
    Key::new(
        "echo",
        BOOL,
        "false",
        "Whether the answer shows the request as it stands behind all other plugins, credentials left out. Not beside `body`.",
    ),
    Key::optional("trigger", TEXT, "Only requests with this header or this query parameter. All when absent."),
];

/// What transformers of bodies would be told.
const BODY: &str = "Bodies pass as they are.";

/// A step of `request-transformer`.
macro_rules! step {
    ($about:literal $(, $more:expr)*) => {
        Shape::Section(&[
            Key::new("headers", TEXTS, "[]", $about),
            Key::new("querystring", TEXTS, "[]", "The same of query parameters."),
            Key::later("body", BODY),
            $($more,)*
        ])
    };
}

pub(super) const REQUEST_TRANSFORMER: &[Key] = &[
    Key::optional(
        "http_method",
        Shape::Leaf(Leaf::Method),
        "The method toward the app. Not HEAD or CONNECT: the answer would have another length than the client reads.",
    ),
    Key::optional("remove", step!("Names of headers that are taken away."), "The first step."),
    Key::optional("rename", step!("`old:new`: the values of `old` take the place of those of `new`."), "The second."),
    Key::optional(
        "replace",
        step!(
            "`name:value` where the header is there; `host` in any case (toward an upstream: with `rewrite_host: false`). Values may hold `$(headers.x)`, `$(headers['x'])`, `$(query_params.x)`: of the request as it came, empty where it has none. Framing and hop-by-hop headers and what tells the app of its caller (X-Forwarded-…, X-Consumer-…) cannot be written.",
            Key::optional(
                "uri",
                TEXT,
                "The path; the query stays. What fills a template is percent-encoded, and `..` refused."
            )
        ),
        "The third.",
    ),
    Key::optional("add", step!("`name:value` where the header is not there."), "The fourth."),
    Key::optional("append", step!("`name:value`, a further value in any case."), "The last."),
];

/// A step of `response-transformer`.
macro_rules! answer_step {
    ($about:literal) => {
        Shape::Section(&[
            Key::new("headers", TEXTS, "[]", $about),
            Key::later("json", BODY),
            Key::later("json_types", BODY),
        ])
    };
}

pub(super) const RESPONSE_TRANSFORMER: &[Key] = &[
    Key::optional("remove", answer_step!("Names of headers that are taken away."), "The first step."),
    Key::optional(
        "rename",
        answer_step!("`old:new`: the values of `old` take the place of those of `new`."),
        "The second.",
    ),
    Key::optional("replace", answer_step!("`name:value` where the header is there."), "The third."),
    Key::optional("add", answer_step!("`name:value` where the header is not there."), "The fourth."),
    Key::optional("append", answer_step!("`name:value`, a further value in any case."), "The last."),
];
