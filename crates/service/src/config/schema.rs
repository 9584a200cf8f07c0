//! The JSON Schema of a configuration, and what it tells about a key.

use schemars::{JsonSchema, generate::SchemaSettings};
use serde::Serialize;
use serde_json::Value;

/// The JSON Schema (draft 2020-12) of a configuration, as it stands in `schemas/config.schema.json`.
#[must_use]
pub fn json_schema<C: JsonSchema>() -> Value {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<C>().to_value()
}

/// The configuration as TOML, with every secret as `***`.
#[must_use]
pub fn redacted_toml<C: Serialize>(config: &C) -> String {
    // TOML has no null: a key that is not set is left out.
    let value = serde_json::to_value(config).map(without_nulls).unwrap_or_default();
    toml::to_string_pretty(&value).unwrap_or_default()
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            map.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, without_nulls(v))).collect()
        }
        other => other,
    }
}

/// What the schema says about one key.
pub(super) struct Known<'s> {
    root: &'s Value,
    node: &'s Value,
}

impl<'s> Known<'s> {
    pub(super) fn root(schema: &'s Value) -> Self {
        Known { root: schema, node: schema }
    }

    /// The key below this one; none where it is not known.
    pub(super) fn child(&self, key: &str) -> Option<Known<'s>> {
        self.alternatives().into_iter().find_map(|node| {
            let child = node.get("properties").and_then(|p| p.get(key)).or_else(|| {
                // A map with free keys.
                node.get("additionalProperties").filter(|free| free.is_object())
            })?;
            Some(Known { root: self.root, node: child })
        })
    }

    pub(super) fn names(&self) -> Vec<&'s str> {
        self.alternatives()
            .into_iter()
            .filter_map(|node| node.get("properties")?.as_object())
            .flat_map(|properties| properties.keys().map(String::as_str))
            .collect()
    }

    pub(super) fn is_secret(&self) -> bool {
        self.alternatives().iter().any(|node| node.get("format").is_some_and(|format| format == "password"))
    }

    /// Whether a text from the environment stays a text.
    pub(super) fn takes_text(&self) -> bool {
        self.has_type("string")
            || self.alternatives().iter().any(|n| n.get("enum").is_some() || n.get("const").is_some())
    }

    fn has_type(&self, name: &str) -> bool {
        self.alternatives().iter().any(|node| match node.get("type") {
            Some(Value::String(one)) => one == name,
            Some(Value::Array(many)) => many.iter().any(|one| one == name),
            _ => false,
        })
    }

    /// The node itself, and what `$ref`, `anyOf`, `oneOf` and `allOf` lead to.
    fn alternatives(&self) -> Vec<&'s Value> {
        let mut found = Vec::new();
        let mut open = vec![self.node];
        while let Some(node) = open.pop() {
            if let Some(target) = node.get("$ref").and_then(Value::as_str) {
                open.extend(self.root.pointer(target.trim_start_matches('#')));
            }
            for list in ["anyOf", "oneOf", "allOf"] {
                open.extend(node.get(list).and_then(Value::as_array).into_iter().flatten());
            }
            found.push(node);
        }
        found
    }
}
