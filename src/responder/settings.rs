//! Which responder.

use std::{sync::Arc, time::Duration};

use super::{Simulated, grpc, openai};
use crate::session::Responder;

/// A responder and what it needs.
#[derive(Clone, Debug)]
pub enum Settings {
    /// A fixed text, as from a model.
    Simulated {
        /// The text; `{text}` and `{name}` stand for the message and the user's name.
        reply: String,
        /// Between words; zero sends the whole text as one delta.
        delay: Duration,
    },
    /// A model behind an OpenAI-compatible endpoint.
    OpenAi(openai::Settings),
    /// A bot that is called over gRPC.
    Grpc(grpc::Settings),
}

impl Settings {
    /// The tutorial's sentence.
    pub const SIMULATED_REPLY: &str = "Response: Simulating response from the GPT service";
}

impl Default for Settings {
    fn default() -> Self {
        Self::Simulated { reply: Self::SIMULATED_REPLY.into(), delay: Duration::ZERO }
    }
}

/// Makes the responder; must run on the runtime. Nothing is asked of an upstream yet.
///
/// # Errors
/// One sentence for the operator: a file that it needs cannot be used.
pub fn connect(settings: &Settings) -> Result<Arc<dyn Responder>, String> {
    Ok(match settings {
        Settings::Simulated { reply, delay } => Arc::new(Simulated::new(reply, *delay)),
        Settings::OpenAi(settings) => Arc::new(openai::OpenAi::new(settings)?),
        Settings::Grpc(settings) => Arc::new(grpc::Bot::new(settings.clone())?),
    })
}
