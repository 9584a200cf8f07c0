//! Filters on metadata as a tree of comparisons, for callers that have another notation than [`Filter::parse`] reads.
//!
//! [`Filter::parse`]: crate::Filter::parse

use serde_json::Value;

/// A comparison of a key's value, or several conditions together.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// The value of this key, whose dots go into nothing, compared with this one.
    Is(String, Comparison, Value),
    /// All of them hold.
    All(Vec<Condition>),
    /// At least one of them holds.
    Any(Vec<Condition>),
}

/// How a value is compared. What is of another type is not equal, neither greater nor less, and in no list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Equal.
    Eq,
    /// Anything else, or nothing.
    Ne,
    /// Greater.
    Gt,
    /// Greater or equal.
    Gte,
    /// Less.
    Lt,
    /// Less or equal.
    Lte,
    /// One of a list.
    In,
    /// None of a list, or nothing.
    NotIn,
}

impl Comparison {
    /// The operator of a filter. That of `NotIn` is negated.
    pub(super) const fn operator(self) -> &'static str {
        match self {
            Comparison::Eq => "eq",
            Comparison::Ne => "ne",
            Comparison::Gt => "gt",
            Comparison::Gte => "gte",
            Comparison::Lt => "lt",
            Comparison::Lte => "lte",
            Comparison::In | Comparison::NotIn => "in",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::Filter;

    #[test]
    fn a_condition_is_the_filter_that_says_the_same() {
        let is = |key: &str, comparison, value| Condition::Is(key.to_owned(), comparison, value);
        let condition = Condition::All(vec![
            is("year", Comparison::Gte, json!(2020)),
            Condition::Any(vec![
                is("author", Comparison::Ne, json!("Ana")),
                is("tag", Comparison::In, json!(["a", 1])),
            ]),
        ]);
        let same = json!({"and": [{"year": {"gte": 2020}}, {"or": [{"author": {"ne": "Ana"}}, {"tag": {"in": ["a", 1]}}]}]});
        let written = |filter: Filter| filter.path().replace("((", "(").replace("))", ")");
        assert_eq!(
            written(Filter::of(&condition).unwrap()).replace(['(', ')'], ""),
            written(Filter::parse(&same).unwrap()).replace(['(', ')'], "")
        );
        let dotted = Filter::of(&is("a.b", Comparison::NotIn, json!([1]))).unwrap();
        assert_eq!(dotted.path(), "!exists($.\"a.b\" ? ((@ == $v0)))");
    }

    #[test]
    fn a_condition_has_the_limits_of_a_filter() {
        let one = Condition::Is("a".into(), Comparison::Eq, json!(1));
        let deep = (0..10).fold(one.clone(), |inner, _| Condition::All(vec![inner]));
        let list = Condition::Is("a".into(), Comparison::Eq, json!([1]));
        for bad in [Condition::Any(Vec::new()), Condition::All(vec![one; 501]), deep, list] {
            assert!(Filter::of(&bad).is_err(), "{bad:?}");
        }
    }
}
