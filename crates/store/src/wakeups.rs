//! NOTIFY: the janitor is woken when something begins to wait. It also looks by itself once a second,
//! so a lost notice costs a second and nothing else.

use futures::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio_postgres::AsyncMessage;

use crate::{Error, Store, error::chain, tls};

/// Notices that something waits. Several may come as one.
#[derive(Debug)]
pub struct Wakeups {
    notices: mpsc::Receiver<()>,
    // Ends the connection when it is dropped.
    _client: tokio_postgres::Client,
}

impl Wakeups {
    /// The next notice; none once the connection is lost, and then a new one is to be asked for.
    pub async fn next(&mut self) -> Option<()> {
        self.notices.recv().await
    }
}

impl Store {
    /// Listens on a connection of its own.
    pub async fn listen(&self) -> Result<Wakeups, Error> {
        let config = &self.inner.config;
        let parsed = tls::parse_url(self.inner.url.expose(), config)?;
        let (client, mut connection) = parsed.connect(tls::connector(config.tls_ca_file.as_deref())?).await?;
        let (sender, notices) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut messages = stream::poll_fn(move |cx| connection.poll_message(cx));
            while let Some(message) = messages.next().await {
                match message {
                    // A full channel holds a notice that was not taken yet: one is enough.
                    Ok(AsyncMessage::Notification(_)) => drop(sender.try_send(())),
                    Ok(_) => {}
                    Err(error) => {
                        // The janitor looks by itself meanwhile, and says when that fails.
                        tracing::debug!(error = chain(&error), "the connection for notices broke");
                        return;
                    }
                }
            }
        });
        client.batch_execute("-- store::wakeups::listen\nLISTEN riacho_waiting").await?;
        Ok(Wakeups { notices, _client: client })
    }
}
