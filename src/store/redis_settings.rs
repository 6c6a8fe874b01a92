//! Settings of a store in Redis or Valkey.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use super::RedisUrl;

/// The servers that have a write when it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acknowledgement {
    /// The master.
    Master,
    /// The master and one replica.
    Replica,
}

impl fmt::Display for Acknowledgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Master => "master",
            Self::Replica => "replica",
        })
    }
}

impl FromStr for Acknowledgement {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "master" => Ok(Self::Master),
            "replica" => Ok(Self::Replica),
            _ => Err("must be `master` or `replica`".into()),
        }
    }
}

/// The servers of a store in Redis or Valkey.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisSettings {
    /// Their address.
    pub url: RedisUrl,
    /// The user, if the address has none.
    pub username: Option<String>,
    /// The password, if the address has none.
    pub password: Option<String>,
    /// The password of the sentinels.
    pub sentinel_password: Option<String>,
    /// The beginning of the name of every key.
    pub key_prefix: String,
    /// Longest time that an operation waits for a server that is away.
    pub timeout: Duration,
    /// Longest time to connect, TLS included.
    pub connect_timeout: Duration,
    /// When a write is acknowledged.
    pub acknowledgement: Acknowledgement,
    /// File with the CA certificates to trust instead of those of the system, PEM.
    pub ca_cert: Option<PathBuf>,
}

impl RedisSettings {
    /// Default beginning of the name of every key.
    pub const KEY_PREFIX: &str = "duo:";

    /// Returns the defaults for an address.
    #[must_use]
    pub fn new(url: RedisUrl) -> Self {
        Self {
            url,
            username: None,
            password: None,
            sentinel_password: None,
            key_prefix: Self::KEY_PREFIX.to_owned(),
            timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(2),
            acknowledgement: Acknowledgement::Master,
            ca_cert: None,
        }
    }
}

/// Does not show passwords.
impl fmt::Debug for RedisSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSettings").field("url", &self.url).finish_non_exhaustive()
    }
}
