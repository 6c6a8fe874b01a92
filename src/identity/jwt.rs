//! Checks JSON Web Tokens: signature, issuer, audience, times and subject (RFC 7519; RFC 8725).

use std::sync::Arc;

use jsonwebtoken::{Header, Validation, decode, decode_header, errors::ErrorKind as JwtError};
use serde::Deserialize;

use super::{jwk_set::JwkSet, jwks_source::JwksSource, jwt_cache::JwtCache, settings::JwtSettings};
use crate::session::{Error, ErrorKind, Identity, IdentityKind, Name, Result, Timestamp};

/// Longest claim `sub`, in characters.
const MAX_SUBJECT: usize = 256;

/// Keys that are tried for one token: a signature costs time, and anybody can send one.
const MAX_TRIES: usize = 4;

/// Both are optional here, since the check of required claims has the better message.
#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    /// In seconds; may have a fraction (RFC 7519, section 2, NumericDate).
    exp: Option<f64>,
}

pub(super) struct JwtVerifier {
    settings: JwtSettings,
    validation: Validation,
    source: Arc<JwksSource>,
    cache: JwtCache,
}

impl JwtVerifier {
    /// Creates the verifier and follows the keys of the issuer. Must be called on a runtime.
    ///
    /// # Errors
    /// One line: the HTTP client cannot be built.
    pub(super) fn start(settings: JwtSettings) -> std::result::Result<Self, String> {
        let source = Arc::new(JwksSource::new(settings.jwks.clone())?);
        source.follow();
        let mut validation = Validation::default();
        validation.set_issuer(&[&settings.issuer]);
        validation.set_audience(&settings.audiences);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = settings.leeway.as_secs();
        Ok(Self { settings, validation, source, cache: JwtCache::default() })
    }

    /// Returns the identity that a token proves.
    pub(super) async fn identify(&self, token: &str, now: Timestamp) -> Result<Identity> {
        let keys = self.source.keys().await.ok_or_else(no_keys)?;
        if let Some(identity) = self.cache.get(token, &keys, now) {
            return Ok(identity);
        }
        let (claims, keys) = self.claims(token, keys).await?;
        let identity = self.identity(claims)?;
        self.cache.keep(token, &keys, &identity);
        Ok(identity)
    }

    /// Checks a token. Returns its claims, and the keys that it was checked with.
    async fn claims(&self, token: &str, keys: Arc<JwkSet>) -> Result<(Claims, Arc<JwkSet>)> {
        let header = decode_header(token).map_err(|error| refusal(error.kind()))?;
        if !self.settings.algorithms.contain(header.alg) {
            let message = format!("The JWT has the algorithm {:?}, which is refused", header.alg);
            return Err(unauthenticated(message));
        }
        match self.check(token, &header, &keys) {
            Some(claims) => Ok((claims?, keys)),
            // The issuer may have a new key.
            None => match self.source.newer_than(&keys).await {
                Some(newer) => {
                    let claims = self.check(token, &header, &newer).ok_or_else(unknown_key)??;
                    Ok((claims, newer))
                }
                None => Err(unknown_key()),
            },
        }
    }

    /// Checks a token with the keys that may have signed it. `None` if none of them has.
    fn check(&self, token: &str, header: &Header, keys: &JwkSet) -> Option<Result<Claims>> {
        let mut validation = self.validation.clone();
        validation.algorithms = vec![header.alg];
        let candidates = keys.candidates(header.kid.as_deref(), header.alg).take(MAX_TRIES);
        for key in candidates {
            match decode::<Claims>(token, key, &validation) {
                Ok(token) => return Some(Ok(token.claims)),
                Err(error) if matches!(error.kind(), JwtError::InvalidSignature) => {}
                Err(error) => return Some(Err(refusal(error.kind()))),
            }
        }
        None
    }

    fn identity(&self, Claims { sub, exp }: Claims) -> Result<Identity> {
        let sub = sub.unwrap_or_default();
        if sub.trim().is_empty() || sub.chars().count() > MAX_SUBJECT || sub.contains(Name::hides) {
            let message = format!(
                "The claim sub of the JWT must have 1 to {MAX_SUBJECT} characters, none of them \
                 invisible"
            );
            return Err(unauthenticated(message));
        }
        // The conversion saturates.
        let expires_at = Timestamp::from_millis((exp.unwrap_or(0.0) * 1000.0) as u64);
        let expires_at = expires_at.plus(self.settings.leeway);
        Ok(Identity {
            subject: format!("jwt:{}#{sub}", self.settings.issuer).into(),
            kind: IdentityKind::User,
            expires_at: Some(expires_at.min(Timestamp::NEVER)),
        })
    }
}

fn unauthenticated(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Unauthenticated, message)
}

fn unknown_key() -> Error {
    unauthenticated("The JWT is not signed with a key of the issuer")
}

fn no_keys() -> Error {
    Error::new(ErrorKind::Overloaded, "The keys of the issuer cannot be read at the moment")
}

/// Returns the refusal of a token. The sentence names the claim, not its value.
fn refusal(error: &JwtError) -> Error {
    match error {
        JwtError::ExpiredSignature => unauthenticated("The JWT has expired"),
        JwtError::ImmatureSignature => unauthenticated("The JWT is not valid yet (nbf)"),
        JwtError::InvalidIssuer => unauthenticated("The JWT is of another issuer (iss)"),
        JwtError::InvalidAudience => unauthenticated("The JWT is for another audience (aud)"),
        JwtError::MissingRequiredClaim(claim) => {
            unauthenticated(format!("The JWT lacks the claim {claim}"))
        }
        JwtError::InvalidClaimFormat(claim) => {
            unauthenticated(format!("The claim {claim} of the JWT has another type"))
        }
        _ => unauthenticated("The JWT is not valid"),
    }
}
