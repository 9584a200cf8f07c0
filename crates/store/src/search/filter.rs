//! Filters on metadata: JSON to a jsonpath with variables. The statement never changes, and values
//! never stand in the path.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::condition::{Comparison, Condition};
use crate::Error;

const MAX_DEPTH: usize = 8;
/// Of every document, so many values are compared at most.
const MAX_COMPARISONS: usize = 500;
const MAX_TEXT: usize = 1_000;

/// A filter on the metadata of documents.
///
/// `{"author": "Ana"}` compares, `{"year": {"gte": 2020, "lt": 2024}}` is a range, `{"tag": {"in":
/// ["a", "b"]}}` is one of several, `{"x": {"ne": 1}}` is anything else or nothing, `{"x": {"exists":
/// true}}` asks for the key; `{"and": [..]}`, `{"or": [..]}` and `{"not": {..}}` combine, several keys
/// are all required. A dot in a key goes into objects. An array matches when one of its items does. There are at most 500
/// comparisons, each value of `in` being one.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    path: String,
    variables: Map<String, Value>,
}

impl Filter {
    /// Reads a filter and checks its limits.
    pub fn parse(json: &Value) -> Result<Filter, Error> {
        let mut builder = Builder { path: String::new(), variables: Map::new(), comparisons: 0 };
        builder.object(json, 0)?;
        Ok(Filter { path: builder.path, variables: builder.variables })
    }

    /// The filter that a condition is.
    pub fn of(condition: &Condition) -> Result<Filter, Error> {
        let mut builder = Builder { path: String::new(), variables: Map::new(), comparisons: 0 };
        builder.condition(condition, 0)?;
        Ok(Filter { path: builder.path, variables: builder.variables })
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn variables(&self) -> Value {
        Value::Object(self.variables.clone())
    }
}

struct Builder {
    path: String,
    variables: Map<String, Value>,
    comparisons: usize,
}

impl Builder {
    fn object(&mut self, json: &Value, depth: usize) -> Result<(), Error> {
        let Value::Object(object) = json else {
            return Err(invalid("is a JSON object"));
        };
        if object.is_empty() {
            return Err(invalid("names at least one key"));
        }
        if depth >= MAX_DEPTH {
            return Err(invalid("is nested at most 8 deep"));
        }
        self.joined(object.iter(), " && ", |builder, (key, value)| match (key.as_str(), value) {
            ("and", Value::Array(parts)) => builder.parts(parts, " && ", depth),
            ("or", Value::Array(parts)) => builder.parts(parts, " || ", depth),
            ("not", part @ Value::Object(_)) => {
                builder.path.push('!');
                builder.object(part, depth + 1)
            }
            _ => builder.leaf(key, value),
        })
    }

    fn parts(&mut self, parts: &[Value], operator: &str, depth: usize) -> Result<(), Error> {
        if parts.is_empty() {
            return Err(invalid("combines at least one part with and, or"));
        }
        self.joined(parts.iter(), operator, |builder, part| builder.object(part, depth + 1))
    }

    fn condition(&mut self, condition: &Condition, depth: usize) -> Result<(), Error> {
        if depth >= MAX_DEPTH {
            return Err(invalid("is nested at most 8 deep"));
        }
        match condition {
            Condition::Is(key, comparison, value) => {
                let path = whole_key_path(key)?;
                if *comparison == Comparison::NotIn {
                    self.path.push('!');
                }
                self.operator(&path, comparison.operator(), value)
            }
            Condition::All(parts) | Condition::Any(parts) if parts.is_empty() => {
                Err(invalid("combines at least one part with and, or"))
            }
            Condition::All(parts) => {
                self.joined(parts.iter(), " && ", |builder, part| builder.condition(part, depth + 1))
            }
            Condition::Any(parts) => {
                self.joined(parts.iter(), " || ", |builder, part| builder.condition(part, depth + 1))
            }
        }
    }

    /// Items between parentheses, with an operator between them.
    fn joined<T>(
        &mut self,
        items: impl Iterator<Item = T>,
        operator: &str,
        mut each: impl FnMut(&mut Self, T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.path.push('(');
        for (place, item) in items.enumerate() {
            if place > 0 {
                self.path.push_str(operator);
            }
            each(self, item)?;
        }
        self.path.push(')');
        Ok(())
    }

    fn leaf(&mut self, key: &str, value: &Value) -> Result<(), Error> {
        let path = key_path(key)?;
        let Value::Object(operators) = value else {
            return self.exists(&path, |builder| builder.compare("==", value));
        };
        if operators.is_empty() {
            return Err(invalid("compares with a value or an operator"));
        }
        self.joined(operators.iter(), " && ", |builder, (operator, value)| {
            builder.operator(&path, operator, value)
        })
    }

    fn operator(&mut self, path: &str, operator: &str, value: &Value) -> Result<(), Error> {
        let symbol = match operator {
            "eq" => "==",
            "gt" => ">",
            "gte" => ">=",
            "lt" => "<",
            "lte" => "<=",
            "ne" => {
                self.path.push('!');
                "=="
            }
            "in" => return self.one_of(path, value),
            "exists" => return self.key(path, value),
            other => {
                let name: String = other.chars().take(40).collect();
                return Err(invalid(&format!("knows eq, ne, gt, gte, lt, lte, in and exists, not {name:?}")));
            }
        };
        self.exists(path, |builder| builder.compare(symbol, value))
    }

    fn one_of(&mut self, path: &str, value: &Value) -> Result<(), Error> {
        let Value::Array(values) = value else {
            return Err(invalid("takes an array for in"));
        };
        if values.is_empty() {
            return Err(invalid("takes at least one value for in"));
        }
        self.exists(path, |builder| {
            builder.joined(values.iter(), " || ", |builder, value| builder.compare("==", value))
        })
    }

    fn key(&mut self, path: &str, value: &Value) -> Result<(), Error> {
        self.count()?;
        match value {
            Value::Bool(true) => {}
            Value::Bool(false) => self.path.push('!'),
            _ => return Err(invalid("takes true or false for exists")),
        }
        let _ = write!(self.path, "exists({path})");
        Ok(())
    }

    /// A comparison that is true or false, also for values of another type, where a bare comparison
    /// would be unknown.
    fn exists(
        &mut self,
        path: &str,
        condition: impl FnOnce(&mut Self) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let _ = write!(self.path, "exists({path} ? (");
        condition(self)?;
        self.path.push_str("))");
        Ok(())
    }

    /// One more comparison.
    fn count(&mut self) -> Result<(), Error> {
        self.comparisons += 1;
        match self.comparisons > MAX_COMPARISONS {
            true => Err(invalid("has at most 500 comparisons, each value of in being one")),
            false => Ok(()),
        }
    }

    fn compare(&mut self, symbol: &str, value: &Value) -> Result<(), Error> {
        self.count()?;
        match value {
            Value::Array(_) | Value::Object(_) => {
                return Err(invalid("compares with texts, numbers, true, false and null"));
            }
            Value::String(text) if text.chars().count() > MAX_TEXT || text.contains('\0') => {
                return Err(invalid("compares with texts of at most 1000 characters without U+0000"));
            }
            _ => {}
        }
        let name = format!("v{}", self.variables.len());
        let _ = write!(self.path, "@ {symbol} ${name}");
        self.variables.insert(name, value.clone());
        Ok(())
    }
}

/// `a.b` as `$."a"."b"`; keys are quoted as JSON, which jsonpath reads the same.
fn key_path(key: &str) -> Result<String, Error> {
    path_of(key, key.split('.'))
}

/// `a.b` as `$."a.b"`.
fn whole_key_path(key: &str) -> Result<String, Error> {
    path_of(key, std::iter::once(key))
}

fn path_of<'a>(key: &str, parts: impl Iterator<Item = &'a str>) -> Result<String, Error> {
    if key.is_empty() || key.chars().count() > 200 || key.contains('\0') {
        return Err(invalid("has keys of 1 to 200 characters without U+0000"));
    }
    let mut path = String::from("$");
    for part in parts {
        let _ = write!(path, ".{}", Value::String(part.to_owned()));
    }
    Ok(path)
}

fn invalid(what: &str) -> Error {
    Error::Invalid(format!("a filter {what}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn values_stand_in_variables_and_never_in_the_path() {
        let filter =
            Filter::parse(&json!({"author": "'; DROP TABLE documents; --", "year": {"gte": 2020}})).unwrap();
        assert!(!filter.path().contains("DROP"), "{}", filter.path());
        assert_eq!(filter.path(), r#"(exists($."author" ? (@ == $v0)) && (exists($."year" ? (@ >= $v1))))"#);
        let keyed = Filter::parse(&json!({"a\" ? (true)) || ($.\"b": 1})).unwrap();
        assert!(
            keyed.path().contains(r#"\" ? (true)) || ($"#),
            "quotes of keys are escaped: {}",
            keyed.path()
        );
    }

    #[test]
    fn what_is_no_filter_is_refused_with_the_reason() {
        let mut deep = json!({"a": 1});
        for _ in 0..10 {
            deep = json!({ "not": deep });
        }
        let many: Value = Value::Object((0..501).map(|i| (format!("k{i}"), json!(1))).collect());
        for bad in [
            json!([]),
            json!({}),
            json!({"a": {}}),
            json!({"a": {"like": "x"}}),
            json!({"a": [1]}),
            json!({"a": {"in": []}}),
            json!({"a": {"exists": 1}}),
            json!({"or": []}),
            json!({"": 1}),
            json!({"a": "x".repeat(2_000)}),
            json!({"a": "\0"}),
            deep,
            many,
        ] {
            assert!(matches!(Filter::parse(&bad), Err(Error::Invalid(_))), "{bad}");
        }
    }

    #[test]
    fn every_value_that_is_compared_counts() {
        let values = |count: usize| -> Vec<usize> { (0..count).collect() };
        let listed = |count| json!({"or": [{"a": {"in": values(count)}}, {"b": {"in": values(250)}}]});
        assert!(Filter::parse(&listed(250)).is_ok());
        let refused = Filter::parse(&listed(251)).unwrap_err().to_string();
        assert!(refused.contains("at most 500 comparisons"), "{refused}");
        let of = |lists: usize| {
            let list = |n: usize| Condition::Is(format!("k{n}"), Comparison::NotIn, json!(values(100)));
            Filter::of(&Condition::Any((0..lists).map(list).collect()))
        };
        assert!(of(5).is_ok() && of(6).is_err());
        let ranges = |keys: usize| -> Value {
            (0..keys).map(|n| (format!("k{n}"), json!({"gte": 1, "lt": 2}))).collect::<Map<_, _>>().into()
        };
        assert!(Filter::parse(&ranges(250)).is_ok() && Filter::parse(&ranges(251)).is_err());
    }
}
