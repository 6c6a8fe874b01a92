//! Checks credentials: API keys of a file, and JSON Web Tokens of an issuer.

mod api_key;
mod credentials;
mod jwk_set;
mod jwks_source;
mod jwt;
mod jwt_cache;
mod key_file;
mod settings;

pub use api_key::ApiKey;
pub use credentials::Credentials;
pub use key_file::{KeyFile, KeyRecord};
pub use settings::{Algorithms, JwksLocation, JwtSettings, Settings};

/// Interval at which files are compared with their last state.
const RELOAD_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);
