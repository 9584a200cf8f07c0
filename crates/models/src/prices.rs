//! What models cost.

use std::collections::BTreeMap;

use crate::Error;

/// Prices of a million tokens, by the model's name or id.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prices(BTreeMap<String, f64>);

impl Prices {
    /// The table of the configuration, which [`crate::load`] has checked.
    #[must_use]
    pub fn new(table: &BTreeMap<String, f64>) -> Self {
        Self(table.clone())
    }

    /// Refuses a price that is none.
    pub(crate) fn check(table: &BTreeMap<String, f64>) -> Result<(), Error> {
        match table.iter().find(|(_, price)| !price.is_finite() || **price < 0.0) {
            None => Ok(()),
            Some((model, price)) => {
                let reason = format!("models.prices.{model}: {price} is no price");
                Err(Error::Misconfigured { reason })
            }
        }
    }

    /// What so many tokens of a model cost, in thousand-millionths of the table's currency. The table is asked for the model's id
    /// (`openai/text-embedding-3-small@1536`), for that without its dimensions, and for its name; a model without a price costs nothing.
    #[must_use]
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn nanos(&self, model: &str, tokens: u64) -> u64 {
        let without_dimensions = model.rsplit_once('@').map_or(model, |(name, _)| name);
        let name = without_dimensions.split_once('/').map_or(without_dimensions, |(_, name)| name);
        let price = [model, without_dimensions, name].into_iter().find_map(|key| self.0.get(key));
        // A millionth of the price a token; what is beyond the range of u64 nobody pays.
        price.map_or(0, |price| (tokens as f64 * price * 1e3).round() as u64)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn table(prices: &[(&str, f64)]) -> BTreeMap<String, f64> {
        prices.iter().map(|(model, price)| ((*model).to_owned(), *price)).collect()
    }

    #[test]
    fn a_model_is_found_by_its_id_and_by_its_name() {
        let prices = Prices::new(&table(&[("text-embedding-3-small", 0.02), ("openai/other@8", 1.0)]));
        let of = |model| prices.nanos(model, 1_000_000);
        assert_eq!(of("openai/text-embedding-3-small@1536"), 20_000_000);
        assert_eq!(of("openai/text-embedding-3-small"), 20_000_000);
        assert_eq!(of("openai/other@8"), 1_000_000_000);
        assert_eq!((of("openai/other@16"), of("wordllama-l2-supercat-256")), (0, 0));
        assert_eq!(prices.nanos("text-embedding-3-small", 1), 20, "a token has a price too");
    }

    #[test]
    fn a_price_that_is_none_is_refused() {
        let error = Prices::check(&table(&[("a", -0.1)])).unwrap_err().to_string();
        assert!(error.contains("models.prices.a: -0.1"), "{error}");
        assert!(Prices::check(&table(&[("a", f64::NAN)])).is_err());
        assert!(Prices::check(&table(&[("a", 0.0)])).is_ok());
    }
}
