//! The secret that says who a caller is, and the identity that it proves.

use std::{fmt, sync::Arc};

use tokio::time::Instant;

use super::{Error, ErrorKind, Name, Result, Timestamp};

/// Prefix of an API key.
const KEY_PREFIX: &str = "dk_";

/// Longest subject that a service may set, in characters.
const MAX_SUBJECT: usize = 256;

/// The kinds of credentials. Their form tells them apart from each other and from tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialForm {
    /// An API key: `dk_` and a secret.
    ApiKey,
    /// A JSON Web Token: three parts in base64url, separated by dots (RFC 7519).
    Jwt,
}

/// A secret that says who a caller is. `Debug` redacts it, and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    form: CredentialForm,
    text: Arc<str>,
}

impl Credential {
    /// Longest credential, in bytes.
    pub const MAX_SIZE: usize = 8 << 10;

    /// Recognizes a credential by its form. `None` for any other text, which may be a token.
    #[must_use]
    pub fn recognize(text: &str) -> Option<Self> {
        let form = match text.starts_with(KEY_PREFIX) {
            true => CredentialForm::ApiKey,
            false if is_jwt(text) => CredentialForm::Jwt,
            false => return None,
        };
        Some(Self { form, text: text.into() })
    }

    /// Reads the credential of a place that holds nothing else.
    ///
    /// # Errors
    /// [`ErrorKind::Unauthenticated`] for a text that is neither an API key nor a JWT.
    pub fn parse(text: &str) -> Result<Self> {
        let message = "The credential is neither an API key nor a JWT";
        Self::recognize(text).ok_or_else(|| Error::new(ErrorKind::Unauthenticated, message))
    }

    /// Returns the form.
    #[must_use]
    pub const fn form(&self) -> CredentialForm {
        self.form
    }

    /// Returns the secret, for its check only.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }
}

fn is_jwt(text: &str) -> bool {
    let is_base64url =
        |part: &str| part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    let mut parts = text.split('.');
    let all = [parts.next(), parts.next(), parts.next()];
    parts.next().is_none()
        && all.iter().all(|part| part.is_some_and(|part| !part.is_empty() && is_base64url(part)))
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(redacted)")
    }
}

/// The kind of an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityKind {
    /// Acts for itself.
    User,
    /// Acts for its users: it may set the subject of a session.
    Service,
}

/// The identity that a credential proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `key:NAME` or `jwt:ISSUER#SUB`.
    pub subject: Arc<str>,
    /// The kind.
    pub kind: IdentityKind,
    /// The time at which the credential expires. `None`: it does not expire by itself.
    pub expires_at: Option<Timestamp>,
}

impl Identity {
    /// Returns the subject of a session that this identity creates or asks for. A service may name
    /// one of its users.
    ///
    /// # Errors
    /// `Forbidden` if it is not a service, `InvalidArgument` for a name that is blank, longer than
    /// 256 characters, or has invisible characters.
    pub fn subject_for(&self, user: Option<&str>) -> Result<Arc<str>> {
        let Some(user) = user else { return Ok(Arc::clone(&self.subject)) };
        if self.kind != IdentityKind::Service {
            return Err(Self::not_a_service());
        }
        let length = user.chars().count();
        if user.trim().is_empty() || length > MAX_SUBJECT || user.contains(Name::hides) {
            let message =
                format!("subject has 1 to {MAX_SUBJECT} characters, none of them invisible");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        Ok(format!("{}/{user}", self.subject).into())
    }

    /// Returns the time at which the credential expires, on the clock of the process.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let left = self.expires_at?.since(Timestamp::of_wall_clock());
        Instant::now().checked_add(left)
    }

    /// Returns true if sessions of a subject belong to this identity. Those of its users belong to
    /// a service.
    #[must_use]
    pub fn owns(&self, subject: &str) -> bool {
        match subject.strip_prefix(&*self.subject) {
            Some("") => true,
            Some(rest) => self.kind == IdentityKind::Service && rest.starts_with('/'),
            None => false,
        }
    }

    /// Returns the refusal of a subject that the caller may not name.
    #[must_use]
    pub fn not_a_service() -> Error {
        Error::new(ErrorKind::Forbidden, "Only the credential of a service may name a subject")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::model::Token;

    #[test]
    fn the_form_tells_credentials_and_tokens_apart() {
        let form = |text: &str| Credential::recognize(text).map(|found| found.form());
        assert_eq!(form("dk_0123"), Some(CredentialForm::ApiKey));
        assert_eq!(form("eyJh.eyJz.c2ln"), Some(CredentialForm::Jwt));
        for other in [&*Token::generate().expose(), "", "a.b", "a.b.c.d", "a..c", "a.b c.d", "DK_1"]
        {
            assert_eq!(form(other), None, "{other}");
        }
        assert_eq!(format!("{:?}", Credential::recognize("dk_0123")), "Some(Credential(redacted))");
    }

    #[test]
    fn a_service_owns_the_sessions_of_its_users_and_nobody_else_does() {
        let of = |subject: &str, kind| Identity { subject: subject.into(), kind, expires_at: None };
        let service = of("key:web", IdentityKind::Service);
        let user = of("key:web", IdentityKind::User);
        assert_eq!(service.subject_for(Some("ada")).ok().as_deref(), Some("key:web/ada"));
        assert_eq!(service.subject_for(None).ok().as_deref(), Some("key:web"));
        assert!(service.owns("key:web/ada") && service.owns("key:web"));
        assert!(!service.owns("key:web2/ada") && !service.owns("key:we") && !service.owns(""));
        assert!(user.owns("key:web") && !user.owns("key:web/ada"));
        let refused = |by: &Identity, name: &str| {
            by.subject_for(Some(name)).map(|_| ()).map_err(|error| error.kind())
        };
        assert_eq!(refused(&user, "ada"), Err(ErrorKind::Forbidden));
        for wrong in ["", "  ", "a\u{202e}b", &"a".repeat(257)] {
            assert_eq!(refused(&service, wrong), Err(ErrorKind::InvalidArgument), "{wrong}");
        }
    }
}
