//! Filters of a search, as OpenAI's API writes them: comparisons of an attribute, and `and` and `or` of those.
//!
//! They become a filter of the search itself, so what is counted and ranked is only what fits.

use riacho_store::{Comparison, Condition, Filter};
use serde_json::{Map, Value};

use super::super::problem::Problem;

/// Deeper ones are refused before they are looked at; the filter's own limit is lower.
const MAX_DEPTH: usize = 16;

/// Reads a filter.
pub(super) fn read(filters: &Value) -> Result<Filter, Problem> {
    let condition = condition(filters, "filters", 0)?;
    Filter::of(&condition).map_err(|error| Problem::field("filters", error.to_string()))
}

fn condition(value: &Value, place: &str, depth: usize) -> Result<Condition, Problem> {
    if depth > MAX_DEPTH {
        return Err(Problem::field("filters", "is nested too deep"));
    }
    let Value::Object(object) = value else {
        return Err(Problem::field(place, "must be an object"));
    };
    let kind = object.get("type").and_then(Value::as_str);
    let kind = kind.ok_or_else(|| Problem::field(format!("{place}.type"), "is missing"))?;
    match kind {
        "and" => Ok(Condition::All(parts(object, place, depth)?)),
        "or" => Ok(Condition::Any(parts(object, place, depth)?)),
        _ => leaf(object, kind, place),
    }
}

fn parts(object: &Map<String, Value>, place: &str, depth: usize) -> Result<Vec<Condition>, Problem> {
    knows(object, &["type", "filters"], place)?;
    let place = format!("{place}.filters");
    let Some(Value::Array(parts)) = object.get("filters") else {
        return Err(Problem::field(place, "must be a list of filters"));
    };
    let part = |(index, part): (usize, &Value)| condition(part, &format!("{place}[{index}]"), depth + 1);
    parts.iter().enumerate().map(part).collect()
}

fn leaf(object: &Map<String, Value>, kind: &str, place: &str) -> Result<Condition, Problem> {
    knows(object, &["type", "key", "value"], place)?;
    let comparison = match kind {
        "eq" => Comparison::Eq,
        "ne" => Comparison::Ne,
        "gt" => Comparison::Gt,
        "gte" => Comparison::Gte,
        "lt" => Comparison::Lt,
        "lte" => Comparison::Lte,
        "in" => Comparison::In,
        "nin" => Comparison::NotIn,
        _ => {
            let known = "must be eq, ne, gt, gte, lt, lte, in, nin, and, or";
            return Err(Problem::field(format!("{place}.type"), known));
        }
    };
    let key = object.get("key").and_then(Value::as_str);
    let key = key.ok_or_else(|| Problem::field(format!("{place}.key"), "must be a text"))?;
    let takes_list = matches!(comparison, Comparison::In | Comparison::NotIn);
    match object.get("value") {
        Some(value @ Value::Array(_)) if takes_list => {
            Ok(Condition::Is(key.into(), comparison, value.clone()))
        }
        Some(value @ (Value::String(_) | Value::Number(_) | Value::Bool(_))) if !takes_list => {
            Ok(Condition::Is(key.into(), comparison, value.clone()))
        }
        _ if takes_list => Err(Problem::field(format!("{place}.value"), "must be a list")),
        _ => Err(Problem::field(format!("{place}.value"), "must be a text, a number, true or false")),
    }
}

fn knows(object: &Map<String, Value>, known: &[&str], place: &str) -> Result<(), Problem> {
    match object.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(Problem::field(format!("{place}.{key}"), "is not a field of this filter")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_no_filter_is_refused_where_it_is_none() {
        let eq = json!({"type": "eq", "key": "a", "value": 1});
        assert!(read(&json!({"type": "and", "filters": [eq, {"type": "or", "filters": [eq, eq]}]})).is_ok());
        let deep = (0..40).fold(eq.clone(), |inner, _| json!({"type": "and", "filters": [inner]}));
        for (bad, place) in [
            (json!([]), "filters"),
            (json!({"key": "a", "value": 1}), "filters.type"),
            (json!({"type": "like", "key": "a", "value": 1}), "filters.type"),
            (json!({"type": "eq", "value": 1}), "filters.key"),
            (json!({"type": "eq", "key": "a"}), "filters.value"),
            (json!({"type": "eq", "key": "a", "value": [1]}), "filters.value"),
            (json!({"type": "in", "key": "a", "value": 1}), "filters.value"),
            (json!({"type": "in", "key": "a", "value": []}), "filters"),
            (json!({"type": "eq", "key": "a", "value": 1, "x": 2}), "filters.x"),
            (json!({"type": "and"}), "filters.filters"),
            (json!({"type": "and", "filters": []}), "filters"),
            (json!({"type": "and", "filters": [eq, {"type": "eq"}]}), "filters.filters[1].key"),
            (deep, "filters"),
        ] {
            let field = read(&bad).err().and_then(|problem| problem.first_field().map(str::to_owned));
            assert_eq!(field.as_deref(), Some(place), "{bad}");
        }
    }
}
