//! The names of everything in Redis.
//!
//! All keys of a partition share the hash tag `{p}`, so one script reaches them in a cluster.

use riacho_domain::{Lane, ReleaseId, StageName, TenantId};

/// Builds keys below the deployment's prefix.
#[derive(Debug, Clone)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// Keys that begin with `prefix`.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// The work of a stage in a lane.
    #[must_use]
    pub fn work(&self, partition: u16, stage: StageName, lane: Lane) -> String {
        format!("{}:{{{partition}}}:{stage}:{lane}", self.prefix)
    }

    /// A stage's streams in the order of [`Lane::ALL`].
    #[must_use]
    pub fn lanes(&self, partition: u16, stage: StageName) -> [String; 3] {
        Lane::ALL.map(|lane| self.work(partition, stage, lane))
    }

    /// Dead letters on their way to PostgreSQL.
    #[must_use]
    pub fn dead(&self, partition: u16) -> String {
        format!("{}:{{{partition}}}:dead", self.prefix)
    }

    /// The capped log that feeds server-sent events.
    #[must_use]
    pub fn notices(&self, partition: u16) -> String {
        format!("{}:{{{partition}}}:notices", self.prefix)
    }

    /// A hash of the bytes that stand on each stream of a partition.
    #[must_use]
    pub fn sizes(&self, partition: u16) -> String {
        format!("{}:{{{partition}}}:sizes", self.prefix)
    }

    /// A random text that is lost with a partition's data.
    #[must_use]
    pub fn epoch(&self, partition: u16) -> String {
        format!("{}:{{{partition}}}:epoch", self.prefix)
    }

    /// How often a group of a partition was made. A stream that is deleted takes its group with it, so this
    /// tells of it when it is made again.
    #[must_use]
    pub fn groups_made(&self, partition: u16) -> String {
        format!("{}:{{{partition}}}:groups-made", self.prefix)
    }

    /// Says that a release was added, for as long as it could be sent again.
    #[must_use]
    pub fn release_marker(&self, partition: u16, release: ReleaseId) -> String {
        format!("{}:{{{partition}}}:release:{release}", self.prefix)
    }

    /// A consumer's sign of life.
    #[must_use]
    pub fn beat(&self, consumer: &str) -> String {
        format!("{}:beat:{consumer}", self.prefix)
    }

    /// The bucket of a lane's rate.
    #[must_use]
    pub fn pace(&self, stage: StageName, lane: Lane) -> String {
        format!("{}:pace:{stage}:{lane}", self.prefix)
    }

    /// A bucket of tokens: what is left of a rate.
    #[must_use]
    pub fn bucket(&self, tenant: &TenantId, what: &str) -> String {
        format!("{}:bucket:{tenant}:{what}", self.prefix)
    }

    /// An answer that is kept for whoever asks the same again.
    #[must_use]
    pub fn answer(&self, key: &str) -> String {
        format!("{}:answer:{key}", self.prefix)
    }

    /// A session of the page, under the hash of what its cookie says.
    #[must_use]
    pub fn session(&self, hash: &str) -> String {
        format!("{}:session:{hash}", self.prefix)
    }

    /// The sessions of an API key, by the time that they began.
    #[must_use]
    pub fn sessions_of(&self, api_key: &str) -> String {
        format!("{}:sessions:{api_key}", self.prefix)
    }

    /// The figures of the last hour.
    #[must_use]
    pub fn history(&self) -> String {
        format!("{}:history", self.prefix)
    }

    /// How many bytes of answers were kept in a while.
    #[must_use]
    pub fn answers_bytes(&self, number: i64) -> String {
        format!("{}:answers:{number}", self.prefix)
    }

    /// The buckets of a provider's limits, and who used them lately.
    pub(crate) fn provider_limit(&self, bucket: &str) -> [String; 2] {
        let buckets = format!("{}:{{limit:{bucket}}}", self.prefix);
        let users = format!("{buckets}:replicas");
        [buckets, users]
    }

    /// A tenant's producers write here.
    #[must_use]
    pub fn intake(&self, tenant: &TenantId) -> String {
        format!("{}:{{intake}}:{tenant}", self.prefix)
    }

    /// A tenant's producers read answers here.
    #[must_use]
    pub fn intake_results(&self, tenant: &TenantId) -> String {
        format!("{}:{{intake}}:{tenant}:results", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_as_documented() {
        let keys = Keys::new("riacho");
        assert_eq!(keys.work(3, StageName::Embed, Lane::Bulk), "riacho:{3}:embed:bulk");
        assert_eq!(keys.dead(0), "riacho:{0}:dead");
        let tenant: TenantId = "acme".parse().unwrap_or_else(|_| unreachable!());
        assert_eq!(keys.intake_results(&tenant), "riacho:{intake}:acme:results");
        assert_eq!(keys.beat("h-1-a"), "riacho:beat:h-1-a");
        let [buckets, users] = keys.provider_limit("openai/small:0123");
        assert_eq!(buckets, "riacho:{limit:openai/small:0123}");
        assert_eq!(users, "riacho:{limit:openai/small:0123}:replicas");
    }
}
