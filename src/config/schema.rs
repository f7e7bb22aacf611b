//! The JSON Schema (draft 2020-12) of the file, from the table of keys. What the checker takes, it takes; that
//! several keys fit together, only the checker knows.

use serde_json::{Map, Value, json};

use super::shape::{Key, Leaf, Shape, json_of};
use super::tree::parse_default;
use super::{keys, route_keys};

/// The schema of the whole file.
pub fn schema() -> Value {
    let mut schema = section(keys::ROOT, &mut String::new());
    let head = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "outrigger",
        "description": "The config file of an outrigger sidecar.",
        "$defs": {
            "reference": {
                "description": "A text with ${NAME} or ${NAME:-default} from the environment.",
                "type": "string",
                "pattern": "\\$\\{",
            },
        },
    });
    if let (Value::Object(schema), Value::Object(head)) = (&mut schema, head) {
        schema.extend(head);
    }
    schema
}

fn section(keys: &'static [Key], path: &mut String) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for key in keys {
        let length = path.len();
        path.push('.');
        path.push_str(key.name);
        // The file may leave to flags what flags can give.
        if key.required && !matches!(path.as_str(), ".service" | ".service.name" | ".service.port") {
            required.push(key.name);
        }
        properties.insert(key.name.to_owned(), property(key, path));
        path.truncate(length);
    }
    let mut schema = json!({ "type": ["object", "null"], "additionalProperties": false, "properties": properties });
    if !required.is_empty() {
        schema["required"] = json!(required);
        schema["type"] = json!("object");
    }
    schema
}

fn property(key: &'static Key, path: &mut String) -> Value {
    let mut schema = shape(&key.shape, path);
    let later = if matches!(key.shape, Shape::Later) { " Not supported yet." } else { "" };
    schema["description"] = json!(format!("{}{later}", key.about));
    if let Some(default) = key.default.and_then(parse_default) {
        schema["default"] = json_of(&default);
    }
    schema
}

fn shape(shape: &'static Shape, path: &mut String) -> Value {
    match shape {
        Shape::Leaf(one) => leaf(*one),
        Shape::List(one) => json!({ "type": "array", "items": leaf(*one) }),
        Shape::Texts => json!({
            "type": ["object", "null"],
            "propertyNames": { "pattern": "^[A-Za-z0-9_-]{1,128}$" },
            "additionalProperties": { "type": "string" },
        }),
        Shape::Section(keys) => section(keys, path),
        Shape::OneOf(keys) => {
            let mut one = section(keys, path);
            one["type"] = json!("object");
            one["minProperties"] = json!(1);
            one["maxProperties"] = json!(1);
            one
        }
        Shape::WordOr(word, section) => json!({ "anyOf": [leaf(*word), self::shape(section, path)] }),
        Shape::Sections(keys) => json!({ "type": "array", "items": section(keys, path) }),
        Shape::Conditions => json!({ "type": ["object", "null"], "additionalProperties": { "anyOf": [
            { "type": "string" },
            { "type": "object", "additionalProperties": false, "required": ["regex"], "properties": { "regex": { "type": "string" } } },
            { "type": "object", "additionalProperties": false, "required": ["present"], "properties": { "present": { "type": "boolean" } } },
        ] } }),
        Shape::Fields => json!({ "type": ["object", "null"], "additionalProperties": { "type": "string" } }),
        Shape::Plugins => {
            let each: Vec<Value> = route_keys::PLUGINS.iter().map(|(_, keys)| section(keys, path)).collect();
            json!({ "type": "array", "items": { "anyOf": each } })
        }
        Shape::Any => json!({}),
        Shape::Later => json!({ "not": {} }),
    }
}

fn leaf(leaf: Leaf) -> Value {
    const TIME: &str = "([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?";
    let own = match leaf {
        Leaf::TextOrEmpty => return json!({ "type": "string" }),
        Leaf::Text | Leaf::Path | Leaf::Secret => return json!({ "type": "string", "minLength": 1 }),
        Leaf::Visible => pattern("^[!-~]([ -~]*[!-~])?$"),
        Leaf::Millis => json!({ "anyOf": [
            { "type": "integer", "minimum": 1, "maximum": 3_600_000 },
            { "type": "string", "minLength": 2, "pattern": format!("^{TIME}$") },
        ] }),
        Leaf::Service => pattern("^[a-z0-9]([a-z0-9._-]{0,126}[a-z0-9])?$"),
        Leaf::Host => pattern(r"^[A-Za-z0-9._:\[\]-]+$"),
        Leaf::HostPort { .. } => pattern("^.+:[0-9]{1,5}$"),
        Leaf::Endpoint => pattern(r"^[A-Za-z0-9._:\[\]-]+$"),
        Leaf::Listen => pattern(r"^([0-9.]+|\[[0-9a-fA-F:.%]+\]):[0-9]{1,5}$"),
        Leaf::ConsulAddress => pattern(r"^(https?://[^/]+/?|unix:///.*|[^/]+)$"),
        Leaf::RequestPath => pattern("^/[^#]*$"),
        Leaf::Network => pattern("^[0-9a-fA-F.:]+(/[0-9]{1,3})?$"),
        Leaf::Bool => json!({ "type": "boolean" }),
        Leaf::OnlyTrue => json!({ "const": true }),
        Leaf::Integer { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Leaf::Workers => json!({ "anyOf": [{ "type": "integer", "minimum": 1, "maximum": 256 }, { "const": "auto" }] }),
        Leaf::Percent => json!({ "type": "number", "minimum": 0, "maximum": 100 }),
        Leaf::Fraction => json!({ "type": "number", "minimum": 0, "maximum": 1 }),
        Leaf::Duration { off: false, .. } => {
            json!({ "type": "string", "minLength": 2, "pattern": format!("^{TIME}$") })
        }
        Leaf::Duration { off: true, .. } => {
            json!({ "type": "string", "minLength": 2, "pattern": format!("^(off|{TIME})$") })
        }
        Leaf::Size { min, max } => json!({ "anyOf": [
            { "type": "integer", "minimum": min, "maximum": max },
            { "type": "string", "pattern": "^[0-9]+ *([kKMG]B|[KMG]iB|B)?$" },
        ] }),
        Leaf::Choice { values, .. } => json!({ "enum": values }),
        Leaf::Method => pattern("^[A-Z-]+$"),
        Leaf::RetryOn => {
            json!({ "anyOf": [{ "enum": ["unsent", "reset"] }, { "type": "integer", "minimum": 400, "maximum": 599 }] })
        }
        Leaf::HeaderName | Leaf::CookieName => pattern("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"),
        Leaf::Datacenter => pattern("^[A-Za-z0-9_-]+$"),
        Leaf::Filter => json!({ "type": "string", "minLength": 1, "maxLength": 2048 }),
        Leaf::HedgeAfter => {
            json!({ "type": "string", "minLength": 2, "pattern": format!("^(p50|p90|p95|p99|{TIME})$") })
        }
    };
    json!({ "anyOf": [own, { "$ref": "#/$defs/reference" }] })
}

fn pattern(pattern: &str) -> Value {
    json!({ "type": "string", "pattern": pattern })
}
