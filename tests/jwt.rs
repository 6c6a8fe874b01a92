//! JSON Web Tokens as credentials: real signatures, checked with a key set in a file.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use duologue::{
    identity::{Algorithms, Credentials, JwksLocation, JwtSettings, Settings},
    proto::{self, chat_request::Request},
    session::{Access, Timestamp},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SignatureAlgorithm};
use serde_json::{Value, json};

use crate::{
    callers::rest_as,
    support::{Event, Log, Running, Setup, Transport, soon},
};

const ISSUER: &str = "https://login.example";
const AUDIENCE: &str = "https://chat.example";
const BOUND: Access = Access { open: false, credentials: true, bind_subject: true };

/// A key of the issuer.
struct IssuerKey {
    id: String,
    algorithm: Algorithm,
    key: EncodingKey,
    public: Vec<u8>,
}

impl IssuerKey {
    fn new(id: &str, algorithm: Algorithm) -> Self {
        let kind: &'static SignatureAlgorithm = match algorithm {
            Algorithm::EdDSA => &PKCS_ED25519,
            _ => &PKCS_ECDSA_P256_SHA256,
        };
        let pair = KeyPair::generate_for(kind).unwrap();
        let der = pair.serialize_der();
        let key = match algorithm {
            Algorithm::EdDSA => EncodingKey::from_ed_der(&der),
            _ => EncodingKey::from_ec_der(&der),
        };
        Self { id: id.into(), algorithm, key, public: pair.public_key_raw().to_owned() }
    }

    fn public(&self) -> Value {
        match self.algorithm {
            Algorithm::EdDSA => {
                let x = base64url(&self.public);
                json!({"kty": "OKP", "crv": "Ed25519", "kid": self.id, "use": "sig", "x": x})
            }
            _ => {
                // An uncompressed point (SEC 1, section 2.3.3).
                let (x, y) = self.public[1..].split_at(32);
                let (x, y) = (base64url(x), base64url(y));
                json!({"kty": "EC", "crv": "P-256", "kid": self.id, "x": x, "y": y})
            }
        }
    }

    fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.id.clone());
        encode(&header, claims, &self.key).unwrap()
    }
}

fn now() -> u64 {
    Timestamp::of_wall_clock().as_millis() / 1000
}

/// Returns the claims of a valid token.
fn claims(subject: &str) -> Value {
    json!({"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "exp": now() + 600})
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => claims[name] = value,
    }
    claims
}

struct Issuer {
    folder: tempfile::TempDir,
}

impl Issuer {
    fn publishing(keys: &[&IssuerKey]) -> Self {
        let issuer = Self { folder: tempfile::tempdir().unwrap() };
        issuer.publish(keys);
        issuer
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("jwks.json")
    }

    fn publish(&self, keys: &[&IssuerKey]) {
        let keys: Vec<_> = keys.iter().map(|key| key.public()).collect();
        fs::write(self.path(), json!({"keys": keys}).to_string()).unwrap();
    }

    async fn gateway(&self, access: Access) -> Running {
        let jwt = JwtSettings {
            issuer: ISSUER.into(),
            audiences: vec!["https://other.example".into(), AUDIENCE.into()],
            jwks: JwksLocation::File(self.path()),
            algorithms: Algorithms::default(),
            leeway: Duration::from_secs(1),
        };
        let settings = Settings { api_keys: None, jwt: Some(jwt) };
        let credentials = Arc::new(Credentials::start(&settings).unwrap());
        Setup::default().with_access(access, credentials).start().await
    }
}

async fn status(server: &Running, jwt: &str) -> (u16, String) {
    let answer = rest_as(server, jwt, "POST", "/token?name=Ada").await;
    (answer.status, answer.body)
}

#[tokio::test]
async fn a_token_of_the_issuer_proves_its_subject() {
    let keys = [IssuerKey::new("one", Algorithm::EdDSA), IssuerKey::new("two", Algorithm::ES256)];
    let issuer = Issuer::publishing(&[&keys[0], &keys[1]]);
    let server = issuer.gateway(BOUND).await;
    for key in &keys {
        let ada = key.sign(&claims("ada"));
        assert_eq!(status(&server, &ada).await.0, 200);
        let many = with(claims("ada"), "aud", json!(["https://x.example", AUDIENCE]));
        assert_eq!(status(&server, &key.sign(&many)).await.0, 200);
    }
    let listed = rest_as(&server, &keys[0].sign(&claims("ada")), "GET", "/sessions").await;
    assert_eq!(listed.json()["sessions"].as_array().unwrap().len(), 4);
    let foreign = rest_as(&server, &keys[0].sign(&claims("bob")), "GET", "/sessions").await;
    assert_eq!(foreign.json()["sessions"].as_array().unwrap().len(), 0);
    let ada = keys[0].sign(&claims("ada"));
    assert_eq!(rest_as(&server, &ada, "GET", "/sessions?subject=bob").await.status, 403);
}

#[tokio::test]
async fn a_wrong_token_is_refused_with_the_reason() {
    let key = IssuerKey::new("one", Algorithm::EdDSA);
    let stranger = IssuerKey::new("one", Algorithm::EdDSA);
    let issuer = Issuer::publishing(&[&key]);
    let server = issuer.gateway(BOUND).await;
    let valid = claims("ada");
    for (claims, reason) in [
        (with(valid.clone(), "exp", json!(now() - 10)), "The JWT has expired"),
        (with(valid.clone(), "nbf", json!(now() + 100)), "not valid yet"),
        (with(valid.clone(), "iss", json!("https://evil.example")), "another issuer"),
        (with(valid.clone(), "aud", json!("https://evil.example")), "another audience"),
        (with(valid.clone(), "exp", Value::Null), "lacks the claim exp"),
        (with(valid.clone(), "iss", Value::Null), "lacks the claim iss"),
        (with(valid.clone(), "aud", Value::Null), "lacks the claim aud"),
        (with(valid.clone(), "sub", Value::Null), "lacks the claim sub"),
        (with(valid.clone(), "sub", json!("")), "The claim sub"),
        (with(valid.clone(), "sub", json!("a\u{202e}b")), "The claim sub"),
        (with(valid.clone(), "sub", json!("a".repeat(257))), "The claim sub"),
        (with(valid.clone(), "sub", json!(7)), "The JWT is not valid"),
        (with(valid.clone(), "exp", json!("soon")), "The JWT is not valid"),
    ] {
        let (code, body) = status(&server, &key.sign(&claims)).await;
        assert_eq!(code, 401, "{claims}");
        assert!(body.contains(reason), "{claims}: {body}");
    }
    let (code, body) = status(&server, &stranger.sign(&valid)).await;
    assert_eq!((code, body.contains("not signed with a key of the issuer")), (401, true), "{body}");
    let token = key.sign(&valid);
    let (head, rest) = token.split_once('.').unwrap();
    let (_, signature) = rest.split_once('.').unwrap();
    let encoded = |text: &str| base64url(text.as_bytes());
    let none = encoded(r#"{"alg":"none","typ":"JWT"}"#);
    let other = encoded(&with(valid.clone(), "sub", json!("bob")).to_string());
    // A symmetric signature whose secret is the public key (RFC 8725, section 2.1).
    let public = key.public()["x"].as_str().unwrap().to_owned();
    let mut confused = Header::new(Algorithm::HS256);
    confused.kid = Some("one".into());
    let confused = encode(&confused, &valid, &EncodingKey::from_secret(public.as_bytes())).unwrap();
    for forged in [
        format!("{none}.{}.{signature}", encoded(&valid.to_string())),
        format!("{head}.{other}.{signature}"),
        confused,
        "a.b.c".into(),
        format!("{head}.{}.{signature}", "x".repeat(9000)),
    ] {
        assert_eq!(status(&server, &forged).await.0, 401, "{forged}");
    }
    assert_eq!(status(&server, &token).await.0, 200);
}

fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| (bits << 8) | u32::from(*byte));
        let bits = bits << (8 * (3 - chunk.len()));
        for at in 0..=chunk.len() {
            text.push(char::from(DIGITS[(bits >> (18 - 6 * at)) as usize & 63]));
        }
    }
    text
}

#[tokio::test]
async fn the_keys_of_the_issuer_are_read_again_when_they_change() {
    let (old, new) =
        (IssuerKey::new("old", Algorithm::EdDSA), IssuerKey::new("new", Algorithm::EdDSA));
    let (issuer, log) = (Issuer::publishing(&[&old]), Log::begin());
    let server = issuer.gateway(BOUND).await;
    assert_eq!(status(&server, &old.sign(&claims("ada"))).await.0, 200);
    issuer.publish(&[&new]);
    soon("the new key", async {
        while status(&server, &new.sign(&claims("ada"))).await.0 != 200 {}
    })
    .await;
    assert_eq!(status(&server, &old.sign(&claims("ada"))).await.0, 401);
    // A wrong file changes nothing.
    fs::write(issuer.path(), r#"{"keys":[]}"#).unwrap();
    soon("the refusal of the file", async {
        while !log.text().contains("failed to read the keys of the issuer") {
            assert_eq!(status(&server, &new.sign(&claims("ada"))).await.0, 200);
        }
    })
    .await;
    assert_eq!(status(&server, &new.sign(&claims("ada"))).await.0, 200);
}

#[tokio::test]
async fn a_gateway_without_the_keys_of_the_issuer_says_try_again() {
    let issuer = Issuer { folder: tempfile::tempdir().unwrap() };
    let server = issuer.gateway(BOUND).await;
    let key = IssuerKey::new("one", Algorithm::EdDSA);
    let (code, body) = status(&server, &key.sign(&claims("ada"))).await;
    assert_eq!((code, body.contains("cannot be read at the moment")), (503, true), "{body}");
    issuer.publish(&[&key]);
    soon("the keys", async { while status(&server, &key.sign(&claims("ada"))).await.0 != 200 {} })
        .await;
}

#[tokio::test]
async fn a_newer_token_keeps_a_bound_stream_open_past_the_end_of_the_first() {
    let key = IssuerKey::new("one", Algorithm::EdDSA);
    let issuer = Issuer::publishing(&[&key]);
    let server = issuer.gateway(BOUND).await;
    let short = key.sign(&with(claims("ada"), "exp", json!(now() + 2)));
    let long = key.sign(&claims("ada"));
    let created = rest_as(&server, &long, "POST", "/token?name=Ada").await.json();
    let token = created["token"].as_str().unwrap();
    let mut kept = Vec::new();
    for transport in [Transport::Grpc, Transport::Json, Transport::Proto] {
        let mut client = transport.connect_as(&server, token, Some(&short)).await.unwrap();
        assert!(matches!(client.next().await, Event::Opened(_)));
        let open = proto::Open { credential: Some(long.clone()), ..Default::default() };
        client.ask(Request::Open(open)).await;
        assert!(matches!(client.next().await, Event::Opened(_)), "opened again");
        kept.push(client);
    }
    let lost = Transport::Json.connect_as(&server, token, Some(&short)).await.unwrap();
    let (code, _) = soon("the end of the credential", lost.ended()).await;
    assert_eq!(code.as_deref(), Some("credential_expired"));
    for mut client in kept {
        client.say("still here", None).await.unwrap();
    }
}
