//! Settings of the check of credentials.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use jsonwebtoken::Algorithm;

/// The credentials that the gateway accepts.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The file of API keys. `None`: no API keys are accepted.
    pub api_keys: Option<PathBuf>,
    /// `None`: no JWTs are accepted.
    pub jwt: Option<JwtSettings>,
}

/// The JSON Web Tokens that the gateway accepts (RFC 7519).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtSettings {
    /// The claim `iss` must be this.
    pub issuer: String,
    /// The claim `aud` must have one of these.
    pub audiences: Vec<String>,
    /// The keys of the issuer.
    pub jwks: JwksLocation,
    /// Signature algorithms that are accepted.
    pub algorithms: Algorithms,
    /// Tolerated difference between the clocks of the issuer and the gateway.
    pub leeway: Duration,
}

impl JwtSettings {
    /// Default of the tolerated difference between clocks.
    pub const LEEWAY: Duration = Duration::from_secs(30);
}

/// The location of a JSON Web Key Set (RFC 7517).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwksLocation {
    /// `https:`, or `http:` on the same machine.
    Url(String),
    /// A file, which is read again when it changes.
    File(PathBuf),
}

impl FromStr for JwksLocation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((scheme, _)) = text.split_once("://") else {
            return match text {
                "" => Err("the path is empty".into()),
                path => Ok(Self::File(path.into())),
            };
        };
        let url: reqwest::Url = text.parse().map_err(|error| format!("not a URL: {error}"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("the URL must have no user".into());
        }
        let is_local = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        match scheme {
            "https" => Ok(Self::Url(text.into())),
            "http" if is_local => Ok(Self::Url(text.into())),
            "http" => Err("expected https: anybody on the way could replace the keys".into()),
            _ => Err("expected an https URL or the path of a file".into()),
        }
    }
}

impl fmt::Display for JwksLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => f.write_str(url),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A list of signature algorithms (RFC 7518, section 3.1). Symmetric ones are not among them: their
/// key would have to be secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Algorithms(Vec<Algorithm>);

const ASYMMETRIC: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

impl Algorithms {
    pub(super) fn contain(&self, algorithm: Algorithm) -> bool {
        self.0.contains(&algorithm)
    }
}

impl Default for Algorithms {
    fn default() -> Self {
        Self(vec![Algorithm::RS256, Algorithm::PS256, Algorithm::ES256, Algorithm::EdDSA])
    }
}

impl FromStr for Algorithms {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        let algorithm = |name: &str| {
            let known = ASYMMETRIC.iter().find(|(known, _)| *known == name);
            known.map(|(_, algorithm)| *algorithm).ok_or_else(|| {
                let names: Vec<_> = ASYMMETRIC.iter().map(|(name, _)| *name).collect();
                format!("expected a comma-separated list of {}", names.join(", "))
            })
        };
        let algorithms = names.map(algorithm).collect::<Result<Vec<_>, _>>()?;
        if algorithms.is_empty() { Err("the list is empty".into()) } else { Ok(Self(algorithms)) }
    }
}

impl fmt::Display for Algorithms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = ASYMMETRIC.iter().filter(|(_, algorithm)| self.contain(*algorithm));
        let names: Vec<_> = names.map(|(name, _)| *name).collect();
        f.write_str(&names.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_from_a_file_or_an_encrypted_url() {
        for right in
            ["keys.json", "/etc/keys.json", "https://issuer.example/jwks", "http://localhost:1/"]
        {
            assert_eq!(right.parse::<JwksLocation>().map(|it| it.to_string()), Ok(right.into()));
        }
        for wrong in ["", "http://issuer.example/jwks", "ftp://a/b", "https://u:p@a/", "https://"] {
            assert!(wrong.parse::<JwksLocation>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_asymmetric_algorithms_are_accepted() {
        let both: Algorithms = "EdDSA, RS256".parse().unwrap();
        assert_eq!(both.to_string(), "RS256,EdDSA");
        for wrong in ["HS256", "none", "", "RS256,x"] {
            assert!(wrong.parse::<Algorithms>().is_err(), "{wrong}");
        }
    }
}
