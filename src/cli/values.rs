//! The values of the settings, as they are set one by one.

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr, time::Duration};

use http::HeaderMap;
use secrecy::SecretString;
use serde_json::Value;

use super::{
    config::{Config, Environment},
    lists::{AuthMode, AuthModes},
    value::ValueKind as _,
};
use crate::{
    commands::serve,
    identity::{self, Algorithms, JwksLocation, JwtSettings},
    responder::{
        self, grpc,
        openai::{self, Defaults, Endpoint, UpstreamSettings},
    },
    server::{self, TlsFiles},
    session::{self, Access},
    store, telemetry,
    transport::{self, Hosts, Origins},
};

/// The value of every setting. A new one holds the defaults.
#[derive(Debug)]
pub(super) struct Values {
    pub(super) environment: Environment,
    pub(super) config: Option<PathBuf>,
    pub(super) session: session::Settings,
    pub(super) store: store::Settings,
    pub(super) durability: store::Durability,
    pub(super) max_sessions: usize,
    pub(super) auth: Vec<AuthMode>,
    pub(super) api_keys: PathBuf,
    pub(super) jwt_issuer: Option<String>,
    pub(super) jwt_audiences: Vec<String>,
    pub(super) jwt_jwks: Option<JwksLocation>,
    pub(super) jwt_algorithms: Algorithms,
    pub(super) jwt_leeway: Duration,
    /// Its address is not used.
    pub(super) redis: store::RedisSettings,
    /// In bytes.
    pub(super) max_store_size: usize,
    /// In bytes. 0 is no limit.
    pub(super) max_file_size: usize,
    pub(super) responder: ResponderKind,
    pub(super) simulated_reply: String,
    pub(super) simulated_delay: Duration,
    pub(super) openai: OpenAi,
    pub(super) bot_endpoint: Option<grpc::Endpoint>,
    /// Its endpoint and `max_reply_size` are not used.
    pub(super) bot: grpc::Settings,
    pub(super) server: server::Settings,
    pub(super) tls_cert: Option<PathBuf>,
    pub(super) tls_key: Option<PathBuf>,
    /// Its origins, hosts are not used.
    pub(super) transport: transport::Settings,
    /// `None`: the default of the environment.
    pub(super) origins: Option<Origins>,
    pub(super) hosts: Option<Hosts>,
    pub(super) telemetry: telemetry::Settings,
    /// From the configuration file.
    pub(super) upstreams: Vec<UpstreamSettings>,
}

/// The settings of the `openai` responder.
#[derive(Debug)]
pub(super) struct OpenAi {
    pub(super) base_url: Option<String>,
    pub(super) api_key: Option<SecretString>,
    pub(super) ca_cert: Option<PathBuf>,
    pub(super) model: Option<String>,
    pub(super) headers: HeaderMap,
    pub(super) body: BTreeMap<String, Value>,
    pub(super) system_prompt: Option<String>,
    pub(super) context_tokens: u32,
    pub(super) total_timeout: Duration,
    pub(super) defaults: Defaults,
}

/// The name of a responder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResponderKind {
    Simulated,
    OpenAi,
    Grpc,
}

impl FromStr for ResponderKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "simulated" => Ok(Self::Simulated),
            "openai" => Ok(Self::OpenAi),
            "grpc" => Ok(Self::Grpc),
            _ => Err("expected `simulated`, `openai` or `grpc`".into()),
        }
    }
}

impl fmt::Display for ResponderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Simulated => "simulated",
            Self::OpenAi => "openai",
            Self::Grpc => "grpc",
        })
    }
}

impl Default for Values {
    fn default() -> Self {
        Self {
            environment: Environment::Development,
            config: None,
            session: session::Settings::default(),
            store: store::Settings::default(),
            durability: store::Durability::Full,
            max_sessions: store::Settings::MAX_SESSIONS,
            auth: vec![AuthMode::Open],
            api_keys: "data/keys.toml".into(),
            jwt_issuer: None,
            jwt_audiences: Vec::new(),
            jwt_jwks: None,
            jwt_algorithms: Algorithms::default(),
            jwt_leeway: JwtSettings::LEEWAY,
            redis: store::RedisSettings::new(store::RedisUrl::new(String::new())),
            max_store_size: store::Settings::MAX_SIZE,
            max_file_size: usize::try_from(store::Settings::MAX_FILE_SIZE).unwrap_or(usize::MAX),
            responder: ResponderKind::Simulated,
            simulated_reply: responder::Settings::SIMULATED_REPLY.into(),
            simulated_delay: Duration::ZERO,
            openai: OpenAi {
                base_url: None,
                api_key: None,
                ca_cert: None,
                model: None,
                headers: HeaderMap::new(),
                body: BTreeMap::new(),
                system_prompt: None,
                context_tokens: openai::Settings::CONTEXT_TOKENS,
                total_timeout: openai::Settings::TOTAL_TIMEOUT,
                defaults: Defaults::default(),
            },
            bot_endpoint: None,
            bot: grpc::Settings::default(),
            server: server::Settings::default(),
            tls_cert: None,
            tls_key: None,
            transport: transport::Settings::default(),
            origins: None,
            hosts: None,
            telemetry: telemetry::Settings { filter: telemetry::LogFilter::default(), json: false },
            upstreams: Vec::new(),
        }
    }
}

impl Values {
    /// Sets the environment, and the settings whose default depends on it.
    pub(super) fn set_environment(&mut self, environment: Environment) {
        let development = environment == Environment::Development;
        self.environment = environment;
        self.transport.docs = development;
        self.transport.reflection = development;
        self.telemetry.json = !development;
    }

    /// Builds the configuration and checks it.
    ///
    /// # Errors
    /// One line that names the settings that are impossible or contradict each other.
    pub(super) fn into_config(self) -> Result<Config, String> {
        // Checked whatever responder is chosen: `check-upstream` uses it too.
        let upstreams = self.upstreams()?;
        let config = Config {
            warnings: self.idle().into_iter().chain(self.idle_access()).collect(),
            telemetry: self.telemetry.clone(),
            serve: serve::Settings {
                responder: self.responder(&upstreams)?,
                identity: self.identity()?,
                key_file: self.api_keys.clone(),
                session: session::Settings { access: self.access(), ..self.session },
                store: self
                    .store
                    .bounded(self.max_sessions, self.max_store_size, self.max_file_size as u64)
                    .durable(self.durability)
                    .on_servers(self.redis),
                transport: transport::Settings {
                    origins: self.origins.unwrap_or_else(|| match self.environment {
                        Environment::Development => Origins::development(),
                        Environment::Production => Origins::default(),
                    }),
                    hosts: self.hosts.unwrap_or_default(),
                    ..self.transport
                },
                server: server::Settings {
                    tls: match (self.tls_cert, self.tls_key) {
                        (Some(cert), Some(key)) => Some(TlsFiles { cert, key }),
                        (None, None) => None,
                        (Some(_), None) => return Err("--tls-cert needs --tls-key".into()),
                        (None, Some(_)) => return Err("--tls-key needs --tls-cert".into()),
                    },
                    keep_alive: self.transport.heartbeat,
                    ..self.server
                },
            },
        };
        config.validate()?;
        Ok(config)
    }

    /// The settings of the `openai` responder, whatever responder is chosen.
    ///
    /// # Errors
    /// One line that names the setting.
    pub(super) fn openai(&self) -> Result<openai::Settings, String> {
        let settings = self.openai_of(self.upstreams()?);
        settings.validate()?;
        Ok(settings)
    }

    fn openai_of(&self, upstreams: Vec<UpstreamSettings>) -> openai::Settings {
        openai::Settings {
            upstreams,
            system_prompt: self.openai.system_prompt.clone(),
            context_tokens: self.openai.context_tokens,
            total_timeout: self.openai.total_timeout,
        }
    }

    fn responder(&self, upstreams: &[UpstreamSettings]) -> Result<responder::Settings, String> {
        Ok(match self.responder {
            ResponderKind::Simulated => responder::Settings::Simulated {
                reply: self.simulated_reply.clone(),
                delay: self.simulated_delay,
            },
            ResponderKind::OpenAi => responder::Settings::OpenAi(self.openai_of(upstreams.into())),
            ResponderKind::Grpc => responder::Settings::Grpc(grpc::Settings {
                endpoint: self
                    .bot_endpoint
                    .clone()
                    .ok_or("--responder grpc needs a --bot-endpoint")?,
                max_reply_size: self.session.max_reply_size,
                ..self.bot.clone()
            }),
        })
    }

    fn upstreams(&self) -> Result<Vec<UpstreamSettings>, String> {
        let model = &self.openai;
        if !self.upstreams.is_empty() {
            let of_one_upstream = [
                ("--openai-base-url", model.base_url.is_some()),
                ("--openai-api-key", model.api_key.is_some()),
                ("--openai-ca-cert", model.ca_cert.is_some()),
                ("--openai-model", model.model.is_some()),
                ("--openai-headers", !model.headers.is_empty()),
                ("--openai-body", !model.body.is_empty()),
            ];
            if let Some((name, _)) = of_one_upstream.into_iter().find(|(_, is_set)| *is_set) {
                return Err(format!(
                    "the [[upstream]] tables of --config and {name} contradict: upstreams come \
                     from one place"
                ));
            }
            return Ok(self.upstreams.clone());
        }
        let Some(base_url) = &model.base_url else { return Ok(Vec::new()) };
        let endpoint =
            Endpoint::parse(base_url).map_err(|line| format!("--openai-base-url: {line}"))?;
        Ok(vec![UpstreamSettings {
            api_key: model.api_key.clone(),
            ca_cert: model.ca_cert.clone(),
            model: model.model.clone(),
            headers: model.headers.clone(),
            body: model.body.clone(),
            defaults: model.defaults.clone(),
            ..UpstreamSettings::new("openai", endpoint)
        }])
    }

    fn access(&self) -> Access {
        Access {
            open: self.auth.contains(&AuthMode::Open),
            credentials: self.auth.iter().any(|mode| *mode != AuthMode::Open),
            bind_subject: self.session.access.bind_subject,
        }
    }

    fn identity(&self) -> Result<identity::Settings, String> {
        let accepts = |mode| self.auth.contains(&mode);
        let jwt = || {
            let missing = |name: &str| format!("--auth jwt needs --{name}");
            let issuer = self.jwt_issuer.clone().ok_or_else(|| missing("jwt-issuer"))?;
            if issuer.is_empty() || issuer.contains('#') {
                return Err("--jwt-issuer must not be empty or have a `#`".to_owned());
            }
            if self.jwt_audiences.is_empty() {
                return Err(missing("jwt-audience"));
            }
            Ok(JwtSettings {
                issuer,
                audiences: self.jwt_audiences.clone(),
                jwks: self.jwt_jwks.clone().ok_or_else(|| missing("jwt-jwks"))?,
                algorithms: self.jwt_algorithms.clone(),
                leeway: self.jwt_leeway,
            })
        };
        Ok(identity::Settings {
            api_keys: accepts(AuthMode::ApiKey).then(|| self.api_keys.clone()),
            jwt: accepts(AuthMode::Jwt).then(jwt).transpose()?,
        })
    }

    /// Names a setting that has no effect without credentials.
    fn idle_access(&self) -> Option<String> {
        let has_credentials = self.access().credentials;
        let of_jwt = self.jwt_issuer.is_some() || self.jwt_jwks.is_some();
        let name = if of_jwt && !self.auth.contains(&AuthMode::Jwt) {
            "--jwt-issuer"
        } else if self.session.access.bind_subject && !has_credentials {
            "--bind-subject"
        } else if self.session.retention.is_some() && !has_credentials {
            "--retention"
        } else {
            return None;
        };
        let auth = AuthModes::show(&self.auth);
        Some(format!("{name} has no effect with --auth {auth}"))
    }

    /// Names a setting that has no effect with the chosen responder.
    fn idle(&self) -> Option<String> {
        let model = if self.openai.base_url.is_some() {
            Some("--openai-base-url")
        } else {
            (!self.upstreams.is_empty()).then_some("[[upstream]] of --config")
        };
        let bot = self.bot_endpoint.as_ref().map(|_| "--bot-endpoint");
        let name = match self.responder {
            ResponderKind::Simulated => model.or(bot),
            ResponderKind::OpenAi => bot,
            ResponderKind::Grpc => model,
        };
        Some(format!("{} has no effect with --responder {}", name?, self.responder))
    }
}
