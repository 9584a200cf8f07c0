//! A model under a name that the operator chose.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;

use crate::{Embeddings, Error, Kind, Model, Series, SharedLimit};

/// The model, with another id.
#[derive(Debug)]
pub(crate) struct Named {
    id: String,
    model: Arc<dyn Model>,
}

impl Named {
    pub(crate) fn new(id: &str, model: Arc<dyn Model>) -> Self {
        Self { id: id.to_owned(), model }
    }
}

impl Model for Named {
    fn id(&self) -> &str {
        &self.id
    }

    fn dimensions(&self) -> usize {
        self.model.dimensions()
    }

    fn max_batch_items(&self) -> usize {
        self.model.max_batch_items()
    }

    fn max_batch_tokens(&self) -> usize {
        self.model.max_batch_tokens()
    }

    fn embed(&self, texts: Vec<String>, kind: Kind) -> BoxFuture<'_, Result<Embeddings, Error>> {
        self.model.embed(texts, kind)
    }

    fn embed_next<'a>(
        &'a self,
        texts: Vec<String>,
        kind: Kind,
        series: &'a mut Series,
    ) -> BoxFuture<'a, Result<Embeddings, Error>> {
        self.model.embed_next(texts, kind, series)
    }

    fn end_series(&self, series: Series) -> BoxFuture<'_, ()> {
        self.model.end_series(series)
    }

    fn verify(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.model.verify()
    }

    fn probe(&self) -> BoxFuture<'_, Result<Vec<f32>, Error>> {
        self.model.probe()
    }

    fn share_limits(&self, limits: Arc<dyn SharedLimit>) {
        self.model.share_limits(limits);
    }

    fn limited_for(&self) -> BoxFuture<'_, Option<Duration>> {
        self.model.limited_for()
    }
}
