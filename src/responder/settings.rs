//! Settings of the responders.

use std::{sync::Arc, time::Duration};

use super::{Simulated, grpc, openai};
use crate::session::Responder;

/// The responder and its settings.
#[derive(Clone, Debug)]
pub enum Settings {
    /// A fixed reply.
    Simulated {
        /// The reply. `{text}` stands for the message, `{name}` for the user's name.
        reply: String,
        /// Delay between words. Zero sends the reply as one delta.
        delay: Duration,
    },
    /// A model behind an OpenAI-compatible endpoint.
    OpenAi(openai::Settings),
    /// A bot that is called over gRPC.
    Grpc(grpc::Settings),
}

impl Settings {
    /// The reply of the tutorial's service.
    pub const SIMULATED_REPLY: &str = "Response: Simulating response from the GPT service";
}

impl Default for Settings {
    fn default() -> Self {
        Self::Simulated { reply: Self::SIMULATED_REPLY.into(), delay: Duration::ZERO }
    }
}

/// Builds the responder, without a request to an upstream. Must run on the runtime.
///
/// # Errors
/// One sentence for the operator: a certificate file cannot be used.
pub fn connect(settings: &Settings) -> Result<Arc<dyn Responder>, String> {
    Ok(match settings {
        Settings::Simulated { reply, delay } => Arc::new(Simulated::new(reply, *delay)),
        Settings::OpenAi(settings) => Arc::new(openai::OpenAi::new(settings)?),
        Settings::Grpc(settings) => Arc::new(grpc::Bot::new(settings.clone())?),
    })
}
