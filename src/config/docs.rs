//! The text of `docs/config.md`, from the table of keys and the table of flags.

use super::overrides::{CONSUL_VARIABLES, OVERRIDES, UPSTREAM_FLAG, UPSTREAM_VARIABLE};
use super::shape::{Key, Leaf, Shape, spelled};
use super::{keys, route_keys};

/// The text of `docs/config.md`; a test compares.
pub fn markdown() -> String {
    let mut page = String::from(HEAD);
    tables(keys::ROOT, "", &mut page);
    page += PLUGINS;
    for (name, keys) in route_keys::PLUGINS {
        tables(keys, &format!("plugin {name}"), &mut page);
    }
    page += "\n## Flags and variables\n\n";
    page += ORDER;
    page += "\n| flag of `outrigger run` | variable | key |\n|---|---|---|\n";
    for over in OVERRIDES {
        page += &format!("| `{}` | `{}` | `{}` |\n", over.flag, over.variable, over.key);
    }
    page += &format!(
        "| `{UPSTREAM_FLAG} NAME[=LISTEN]`, repeated | `{UPSTREAM_VARIABLE}`, separated by commas | \
         one more of `outbound.upstreams`, or the `listen` of a declared one; LISTEN may be a bare port of 127.0.0.1 |\n"
    );
    page += OTHER_FLAGS;
    page += "\nConsul's own variables, for what the file leaves out:\n\n| variable | key |\n|---|---|\n";
    for (variable, key) in CONSUL_VARIABLES {
        page += &format!("| `{variable}` | `consul.{key}` |\n");
    }
    page += CONSUL_OTHERS;
    page
}

fn tables(keys: &'static [Key], path: &str, page: &mut String) {
    let title = if path.is_empty() { "The file".to_owned() } else { format!("`{path}`") };
    *page += &format!("\n## {title}\n\n");
    if keys.is_empty() {
        *page += "No keys: write `{}`.\n";
        return;
    }
    *page += "| key | value | default | meaning |\n|---|---|---|---|\n";
    for key in keys {
        let default = match (key.default, key.required) {
            (Some(default), _) => format!("`{default}`"),
            (None, true) => "required".into(),
            (None, false) => String::new(),
        };
        *page += &format!("| `{}` | {} | {default} | {} |\n", key.name, kind(&key.shape), key.about);
    }
    for key in keys {
        let below = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
        let shape = if let Shape::WordOr(_, section) = &key.shape { *section } else { &key.shape };
        match shape {
            // The keys of an upstream are told once.
            Shape::Section(_) if below == "outbound.defaults" => {}
            Shape::Section(keys) if below == "outbound.timeouts" || below == "outbound.limits" => {
                *page += &format!("\n## `{below}`\n\nThe keys of `inbound.{}`: {}.\n", key.name, names(keys));
            }
            // A route's keys are its own and those of an upstream, and what is below them is told once.
            Shape::Sections(keys) if below == "outbound.routes" => {
                let own = keys.iter().position(|key| key.name == "protocol").unwrap_or(keys.len());
                tables(&keys[..own], "outbound.routes[]", page);
                *page += &format!(
                    "\nAnd any key of `outbound.upstreams[]` but `service` and `listen`: {}.\n",
                    names(&keys[own..])
                );
            }
            Shape::Section(keys) if SAME_AS.contains(&&*below) => {
                *page += &format!("\n## `{below}`\n\nThe keys of `outbound.routes[].{}`: {}.\n", key.name, names(keys));
            }
            Shape::OneOf(keys) if key.name == "maglev" || key.name == "sticky" => {
                *page += &format!("\n## `{below}`\n\nThe keys of `ring_hash`: {}.\n", names(keys));
            }
            Shape::Section(keys) | Shape::OneOf(keys) => tables(keys, &below, page),
            Shape::Sections(keys) => tables(keys, &format!("{below}[]"), page),
            _ => {}
        }
    }
}

fn names(keys: &[Key]) -> String {
    keys.iter().map(|key| format!("`{}`", key.name)).collect::<Vec<_>>().join(", ")
}

fn kind(shape: &Shape) -> String {
    match shape {
        Shape::Leaf(leaf) => leaf_kind(*leaf),
        Shape::List(leaf) => format!("list: {}", leaf_kind(*leaf)),
        Shape::Texts => "names and texts".into(),
        Shape::Section(_) => "section".into(),
        Shape::OneOf(_) => "section, one key".into(),
        Shape::WordOr(word, section) => format!("{}, or {}", leaf_kind(*word), kind(section)),
        Shape::Sections(_) => "list of sections".into(),
        Shape::Conditions => "names and conditions".into(),
        Shape::Fields => "header fields".into(),
        Shape::Plugins => "list of plugins".into(),
        Shape::Any => "anything".into(),
        Shape::Later => "not supported yet".into(),
    }
}

fn leaf_kind(leaf: Leaf) -> String {
    match leaf {
        Leaf::Choice { values, .. } => values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", "),
        Leaf::RetryOn => "`unsent`, `reset`, 400 to 599".into(),
        Leaf::OnlyTrue => "`true`".into(),
        Leaf::Integer { min, max } => format!("{min} to {max}"),
        Leaf::Size { min, max } => format!("size, {min} to {max} bytes"),
        Leaf::Duration { min_ms, .. } if min_ms > 1 => format!("duration, {} or more", spelled(min_ms)),
        Leaf::Percent => "0 to 100".into(),
        Leaf::Fraction => "0.0 to 1.0".into(),
        other => other.noun().into(),
    }
}

const HEAD: &str = "# The config file

`outrigger run -c FILE` reads it, `outrigger check -c FILE` finds every mistake in it at once, and `outrigger schema` prints its
JSON Schema. Generated from `src/config/keys.rs`: run the tests with `UPDATE_DOCS=1`.

- The file is YAML 1.2, so JSON works too: UTF-8, one document, at most 1 MiB. Unknown keys and keys that stand twice are mistakes.
- Text that looks like a number, or like true or false, needs quotes: `meta: { version: \"2.0\" }`.
- Durations are `250ms`, `5s`, `1m`, `1h` or `1m30s`; sizes are `64KiB`, `10MB` or a number of bytes.
- `${NAME}` and `${NAME:-default}` come from the environment, in plain and quoted values alike, and are then whatever type the key wants.
  A variable that is not set and has no default is a mistake. The default stands in for an empty variable too. `$${` is `${`.
- A relative path is relative to the config file; in a flag or variable it is relative to the working directory.
- A mistake is one line: `FILE:LINE:COL: key.path: what is wrong; how to mend it`. In flags and variables: `flag --port: …`,
  `env OUTRIGGER_PORT: …`. `outrigger run` prints all of them and exits 2 with nothing started.
- Two listeners on one address are a mistake, and so is a listener on the app's own. Port 0 takes a free port.
- Files of certificates, keys and tokens may appear later, so a missing one is not a mistake of the config but told at run time;
  the folder of `identity.ca` must be there.
";

/// Sections of `inbound.routes` that are those of `outbound.routes`.
const SAME_AS: [&str; 3] = ["inbound.routes[].match", "inbound.routes[].redirect", "inbound.routes[].respond"];

const PLUGINS: &str = "\n## Plugins\n
A list of plugins stands at `inbound.plugins`, at each of `inbound.routes`, `outbound.defaults`, `outbound.upstreams` and `outbound.routes`.
Each runs once: of several with one name, a route's replaces the upstream's, and that the defaults'. They run in Kong's order of
priority, whatever their order in the file.
";

const ORDER: &str = "A flag is stronger than its variable, the variable stronger than the file, the file stronger than Consul's own variables, and
those stronger than the defaults. An empty variable counts as not set. No file is looked for: it is named by `-c` or
`OUTRIGGER_CONFIG`, or flags and variables alone make the configuration.
";

const OTHER_FLAGS: &str = "| `-c`, `--config` | `OUTRIGGER_CONFIG` | |
| `--log` | `OUTRIGGER_LOG` | |
| `--log-format` | `OUTRIGGER_LOG_FORMAT` | |
| `--ready-file` | `OUTRIGGER_READY_FILE` | |
";

const CONSUL_OTHERS: &str = "| `CONSUL_HTTP_TOKEN` | the ACL token itself; a token file is stronger |
| `CONSUL_HTTP_SSL` | `true`: https where the address names no scheme, or comes from CONSUL_HTTP_ADDR |
| `CONSUL_HTTP_SSL_VERIFY` | `false`: any certificate of Consul is accepted |
";
